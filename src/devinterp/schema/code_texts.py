"""What each code means and how to mend it, in words; see `devinterp.schema.codes`."""

from __future__ import annotations

from typing import NamedTuple

from devinterp.schema.spec import Level, Severity

__all__ = ["TEXTS", "CodeText"]


class CodeText(NamedTuple):
    """The words of one code."""

    level: Level
    severity: Severity
    title: str
    meaning: str
    remedy: str


_COPY_AGAIN = "Copy the store again from where it is whole, or sample again: sample() with the same arguments resumes."

TEXTS: dict[str, CodeText] = {
    "DI001": CodeText(
        "structure",
        "error",
        "the store cannot be read",
        "Reading a document of the store ended in an error of the file system, the network or the store itself.",
        "Check that the path is reachable and readable, and that the copy has come to its end.",
    ),
    "DI002": CodeText(
        "structure",
        "error",
        "there is no store",
        "Nothing lies at the path, or what lies there has no zarr.json of a group.",
        "Give the path of the .zarr folder itself. A store that lost its zarr.json must be copied again.",
    ),
    "DI003": CodeText(
        "structure",
        "error",
        "a Zarr v2 store",
        "The store has .zgroup or .zarray documents. The formats are defined for Zarr v3 alone.",
        "Rewrite it: xr.open_datatree(path, engine='zarr').to_zarr(new_path, zarr_format=3).",
    ),
    "DI004": CodeText(
        "structure",
        "error",
        "of no known kind",
        "The root has no attribute devinterp_schema, and its arrays and groups fit no schema.",
        "Say which it should be, as in validate(path, schema='samples'); validate the folder of the store itself, "
        "not one above or below it.",
    ),
    "DI005": CodeText(
        "structure",
        "error",
        "schema not installed",
        "The attribute devinterp_schema names a schema, or a version of one, that cannot be loaded here.",
        "Install the package that registers the schema, give its document with schema=, or update devinterp.",
    ),
    "DI006": CodeText(
        "structure",
        "error",
        "the run has not completed",
        "The attribute completed is absent or 0: sampling was interrupted, is still going on, or failed its own "
        "validation. Later draws may be missing.",
        "Call sample() again with the same arguments and output_path: it resumes. To look at it as it stands, open it "
        "with allow_partial=True.",
    ),
    "DI007": CodeText(
        "structure",
        "warning",
        "a chain failed",
        "The run completed, but a chain ended early (a loss was not finite). Analysis leaves it out and says so.",
        "Nothing is wrong with the store. A smaller lr or a larger localization keeps chains from diverging.",
    ),
    "DI008": CodeText(
        "structure",
        "note",
        "of another profile",
        "The store breaks the profile it was validated under, and is clean under another one.",
        "Validate it with that profile; all analysis accepts both.",
    ),
    "DI009": CodeText(
        "structure",
        "error",
        "of another schema",
        "The attribute devinterp_schema names another schema than the one asked for, or than the one that belongs at "
        "this place of the tree, and does not extend it.",
        "Validate without schema=, or mend the attribute.",
    ),
    "DI010": CodeText(
        "completeness",
        "error",
        "consolidated metadata differ",
        "The metadata gathered in the root's zarr.json differ from the documents of the groups and arrays: the store "
        "reads differently with consolidated=True and consolidated=False.",
        "Consolidate again: zarr.consolidate_metadata(path).",
    ),
    "DI101": CodeText(
        "structure",
        "error",
        "a variable is missing",
        "The schema requires the variable (under the store's own settings) and the group does not have it.",
        "Where the finding suggests a misspelt name, rename that array. Otherwise write the variable, or sample again.",
    ),
    "DI102": CodeText(
        "structure",
        "error",
        "a variable that is not declared",
        "The group has an array that the schema does not declare; under the profile `open` this is a warning.",
        "Rename it where it is misspelt, remove it, or declare it in a schema of your own that extends this one.",
    ),
    "DI103": CodeText(
        "structure",
        "error",
        "wrong dimensions",
        "The variable's dimensions, by name and in order, are not those that the schema declares.",
        "Rename or transpose: ds[name].rename(...).transpose(...), and write the variable again.",
    ),
    "DI104": CodeText(
        "structure",
        "error",
        "wrong data type",
        "The variable's data type is not the declared one. int64 ids read as float64 usually carry a _FillValue.",
        "Write the variable again with the declared type: ds[name].astype(...).",
    ),
    "DI105": CodeText(
        "structure",
        "error",
        "coordinate or data variable",
        "The schema declares a coordinate and the store has a data variable of that name, or the other way round. In "
        "Zarr a variable is a coordinate if it is named like its dimension or stands in a `coordinates` attribute.",
        "Use ds.set_coords(name) or ds.reset_coords(name), and write the group again.",
    ),
    "DI106": CodeText(
        "structure",
        "error",
        "a group is missing",
        "The schema requires a group that the tree does not have.",
        "Write the group, or copy the whole store again.",
    ),
    "DI107": CodeText(
        "structure",
        "error",
        "a group that is not declared",
        "The tree has a group that the schema does not declare; under the profile `open` this is a warning.",
        "Remove it, or declare it in a schema of your own that extends this one.",
    ),
    "DI108": CodeText(
        "structure",
        "error",
        "wrong size",
        "A dimension's size does not follow from the settings in the attributes, or from another dimension, as the "
        "schema says.",
        "Either the array or the settings in metadata.config were changed afterwards: restore what was changed.",
    ),
    "DI109": CodeText(
        "structure",
        "error",
        "a dimension with two sizes",
        "Two variables of a group disagree about the size of a dimension, so xarray cannot open the group.",
        "Write the variable that differs again.",
    ),
    "DI110": CodeText(
        "structure",
        "error",
        "an attribute is missing or wrong",
        "The attributes break the JSON Schema that the schema declares for them.",
        "Mend the attribute: zarr.open_group(path, mode='r+').attrs.update(...), then consolidate again.",
    ),
    "DI111": CodeText(
        "structure",
        "error",
        "wrong unit",
        "The attribute units of a variable is not the declared unit.",
        "Set units as declared; if the values are in another unit, convert them.",
    ),
    "DI112": CodeText(
        "structure",
        "error",
        "a variable that must not be there",
        "The schema knows the variable and forbids it here: the store's own settings say that it was not kept, or the "
        "profile's writer never wrote it.",
        "Remove it, mend the setting, or validate under the profile of the writer.",
    ),
    "DI113": CodeText(
        "structure",
        "error",
        "a group where an array belongs",
        "There is a group where the schema declares an array, or an array where it declares a group.",
        "Write the node again as what it should be.",
    ),
    "DI201": CodeText(
        "structure",
        "error",
        "wrong fill value",
        "The fill value is what a missing chunk reads as. With another one than declared, lost data look like data.",
        "Write the array again with the declared fill value.",
    ),
    "DI202": CodeText(
        "structure",
        "error",
        "wrong chunks",
        "Chunks are one chain by at most 50 draws (or steps), all other dimensions whole: what writers resume by and "
        "analysis streams by.",
        "Rechunk and write again; or validate under the profile of the writer.",
    ),
    "DI203": CodeText(
        "structure",
        "error",
        "wrong chunk keys",
        "Chunks must lie under the default keys (c/0/1), so that every reader finds them.",
        "Write the array again with the default chunk key encoding.",
    ),
    "DI204": CodeText(
        "structure",
        "error",
        "wrong codecs",
        "The codecs that chunks pass through are not the declared ones, in their order.",
        "Write the array again with the declared codecs.",
    ),
    "DI205": CodeText(
        "structure",
        "error",
        "no checksum",
        "Without crc32c after the compression, a flipped bit reads as data.",
        "Write the array again with crc32c as its last codec.",
    ),
    "DI206": CodeText(
        "structure",
        "error",
        "sharded",
        "Several chunks share one object. Two writers in one shard lose data silently, so shards are written only "
        "where they were asked for.",
        "Write the array again without shards.",
    ),
    "DI207": CodeText(
        "structure",
        "error",
        "_FillValue on integers",
        "xarray reads an integer array with the attribute _FillValue as floating point: token ids lose their type.",
        "Remove the attribute: del group[name].attrs['_FillValue'], then consolidate again.",
    ),
    "DI208": CodeText(
        "structure",
        "error",
        "broken metadata",
        "A zarr.json is no metadata document of Zarr v3: a member is missing, of another type, or not known and not "
        "optional.",
        "Restore the document from a copy; sample() with the same arguments restores those of an interrupted run.",
    ),
    "DI209": CodeText(
        "structure",
        "error",
        "no dimension names",
        "xarray cannot open an array whose dimensions have no names, or that names one twice.",
        "Write dimension_names into the array's zarr.json.",
    ),
    "DI251": CodeText(
        "structure",
        "error",
        "a codec that is not safe",
        "The array names a codec outside the list that is known to run no code and to bound its output. Chunks of the "
        "array were not decoded.",
        "Do not open the store with a library that would run the codec; ask for it in plain codecs.",
    ),
    "DI252": CodeText(
        "structure",
        "error",
        "a data type that is not safe",
        "The array's data type may hold objects, or is not known. Its chunks were not decoded.",
        "Do not open the store; ask for the data as numbers or strings.",
    ),
    "DI253": CodeText(
        "structure",
        "error",
        "an absurd shape",
        "A size is negative, not a number, or beyond what any store holds: opening it could exhaust memory.",
        "Restore the array's zarr.json.",
    ),
    "DI254": CodeText(
        "structure",
        "error",
        "too many chunks",
        "The shape and the chunks of the array make more chunks than the limit.",
        "Restore the array's zarr.json, or rechunk; the limit can be raised: validate(..., limits=Limits(chunks=...)).",
    ),
    "DI255": CodeText(
        "structure",
        "error",
        "oversized metadata",
        "A zarr.json is larger, or nested deeper, than the limit. It was not read.",
        "Attributes are no place for data: move them into an array. The limit can be raised with limits=.",
    ),
    "DI256": CodeText(
        "structure",
        "error",
        "too many or too deep groups",
        "The store has more groups and arrays, or deeper ones, than the limit. The rest was not read.",
        "Check for folders that contain themselves; the limit can be raised with limits=.",
    ),
    "DI257": CodeText(
        "structure",
        "error",
        "a path out of the store",
        "A name in the store would lead out of it (.., an absolute path) or a symbolic link does. It was not followed.",
        "Replace the link by what it points to, or ask for an honest copy.",
    ),
    "DI258": CodeText(
        "structure",
        "error",
        "not JSON",
        "A zarr.json is not valid JSON. Bare NaN and Infinity, as some writers put into attributes, are not JSON: "
        "readers in other languages stop at them.",
        "Write null or a string instead, or restore the document.",
    ),
    "DI259": CodeText(
        "values",
        "error",
        "a decompression bomb",
        "A chunk declares that it decompresses to more than its array's chunks hold. It was not decompressed.",
        "Do not open the store.",
    ),
    "DI301": CodeText(
        "values",
        "error",
        "a value is not finite",
        "NaN or infinity where every value must be a number: among the draws that are said to be written.",
        f"A lost chunk reads as NaN: see the findings of level completeness. {_COPY_AGAIN}",
    ),
    "DI302": CodeText(
        "values",
        "error",
        "a value is too small",
        "A value lies below its smallest legal value. A token id of -1 is fill: the chunk was never written.",
        _COPY_AGAIN,
    ),
    "DI303": CodeText(
        "values",
        "error",
        "a token id outside the vocabulary",
        "A token id is not below the size of the vocabulary that the attributes state.",
        "The ids were made with another tokenizer, or the chunk is damaged: sample again from the right tokens.",
    ),
    "DI304": CodeText(
        "values",
        "error",
        "a value occurs twice",
        "The values of the variable must differ from each other.",
        "Remove or rename what is there twice.",
    ),
    "DI305": CodeText(
        "values",
        "error",
        "values do not ascend",
        "The values must not decrease along the dimension (the lower end of an interval comes first).",
        "Sort along the dimension, and write the variable again.",
    ),
    "DI306": CodeText(
        "values",
        "error",
        "a coordinate does not count",
        "The coordinate must count its positions without a gap: target positions from 1.",
        "Compute the result again; a selection of it is a view, not a store of its own.",
    ),
    "DI307": CodeText(
        "values",
        "error",
        "values behind the last draw",
        "A chain has values in rows behind those that are said to be written, where only fill belongs.",
        "Either draws_written is too small or the rows are leftovers of a killed writer: resume the run with sample().",
    ),
    "DI308": CodeText(
        "values",
        "error",
        "a value is too large",
        "A value lies above its largest legal value.",
        "Compute or write the variable again.",
    ),
    "DI401": CodeText(
        "completeness",
        "error",
        "draws_written disagrees",
        "draws_written and the state of a chain contradict each other: a complete chain has every draw.",
        "Resume the run with sample(): it sets both.",
    ),
    "DI402": CodeText(
        "values",
        "error",
        "metrics contradict each other",
        "Norms and dot products of one update must obey the Cauchy-Schwarz inequality, and the distance from the start "
        "is 0 at the start.",
        "The metrics were mixed up, rescaled or damaged: sample again with save_metrics=True.",
    ),
    "DI403": CodeText(
        "structure",
        "error",
        "observable names",
        "obs_id is the observable's name made safe for a variable name; no two may be the same up to case, and none "
        "may be `sampling`.",
        "Rename the observable and its variables.",
    ),
    "DI404": CodeText(
        "values",
        "error",
        "a scalar differs from its setting",
        "The variable repeats a setting of the attributes, and the two differ.",
        "Restore the one that was changed.",
    ),
    "DI405": CodeText(
        "structure",
        "error",
        "chain states",
        "metadata.run.chains must have one entry per chain, and no chain of a completed store may be interrupted.",
        "Resume the run with sample(): it sets them.",
    ),
    "DI406": CodeText(
        "values",
        "warning",
        "the distance grows too fast",
        "From one step to the next the distance from the start grew by more than the update's terms together: some "
        "parameter was moved by something that is not in the metrics, or precision was lost.",
        "Expected where parameters are not float32. Otherwise check what else writes to the model while it is sampled.",
    ),
    "DI411": CodeText(
        "structure",
        "error",
        "no `full`",
        "A study compares weight restrictions with the run without any, `full`, which is not there.",
        "Sample `full` too, from the same weights and rows.",
    ),
    "DI412": CodeText(
        "structure",
        "error",
        "restrictions are not as listed",
        "metadata.config.restrictions of the root and the groups of the study are not the same names.",
        "Mend the list, or copy the whole store again.",
    ),
    "DI413": CodeText(
        "structure",
        "error",
        "runs that do not belong together",
        "The runs of a study differ in what must be equal to compare them: settings, observables, rows or weights.",
        "Sample the run that differs again, with the settings of the others.",
    ),
    "DI414": CodeText(
        "structure",
        "error",
        "the sampling task is not observed",
        "The study's sampling task must be among the observables of every run.",
        "Mend metadata.config.sampling_task, or sample again with it among the observables.",
    ),
    "DI421": CodeText(
        "values",
        "error",
        "LLC identities",
        "llc_mean and llc_std are the mean and the deviation of llc_per_chain, over the chains used.",
        "Compute the result again.",
    ),
    "DI431": CodeText(
        "values",
        "error",
        "BIF indices",
        "batch_1 and batch_2 index the concatenated sequences, and target positions lie inside them.",
        "Compute the result again.",
    ),
    "DI432": CodeText(
        "values",
        "error",
        "not a correlation",
        "A correlation lies in [-1, 1], is 1 on the diagonal (0 for a constant loss) and symmetric; a covariance is "
        "symmetric.",
        "Compute the result again; set the attribute compute_covariance where it is a covariance.",
    ),
    "DI441": CodeText(
        "values",
        "error",
        "flat index",
        "Every (observable, row, position) must occur exactly once along the flat dimension.",
        "Compute the result again; a selection of it is a view, not a store of its own.",
    ),
    "DI443": CodeText(
        "values",
        "error",
        "groups disagree",
        "The groups susceptibilities and context must speak of the same observables and rows, one position apart.",
        "Compute the result again, both groups from the same observables.",
    ),
    "DI501": CodeText(
        "completeness",
        "error",
        "a chunk is missing",
        "A chunk that must exist is not there. It would read as fill: NaN for losses, a bogus id for tokens.",
        _COPY_AGAIN,
    ),
    "DI502": CodeText(
        "completeness",
        "error",
        "a stray chunk",
        "There is an object under the array that none of its chunks is: of another shape, or another array.",
        "The array's zarr.json or its chunks were changed: restore the one that was. Otherwise remove the object.",
    ),
    "DI503": CodeText(
        "completeness",
        "warning",
        "a leftover of a killed writer",
        "A temporary file that was never renamed to its key. No reader sees it.",
        "Remove it; resuming the run with sample() does so.",
    ),
    "DI504": CodeText(
        "completeness",
        "note",
        "state of a run",
        "The folder .devinterp holds checkpoints and locks of a run. In a completed store it is there only where it "
        "was asked to stay.",
        "Remove the folder once no run is to go on from it.",
    ),
    "DI505": CodeText(
        "completeness",
        "note",
        "an omitted chunk",
        "A chunk is absent whose values may all be fill, and the store's writer omits such chunks: it may have been "
        "omitted, or lost.",
        "If in doubt, write the store again with write_empty_chunks=True.",
    ),
    "DI506": CodeText(
        "values",
        "error",
        "a damaged chunk",
        "A chunk cannot be decoded: its checksum, its compression or its length is wrong. The rest was still checked.",
        f"devinterp repair marks what is lost. {_COPY_AGAIN}",
    ),
    "DI901": CodeText(
        "structure",
        "error",
        "a rule could not be evaluated",
        "A rule of the schema came upon something that it could not work with, usually the cause of another finding.",
        "Mend the other findings first. If there are none, report it as a bug of the schema or of devinterp.",
    ),
    "DI902": CodeText(
        "values",
        "warning",
        "more than the memory limit",
        "A chunk, or what a rule needs at once, is larger than the memory limit. It was not checked.",
        "Raise the limit: validate(..., limits=Limits(memory=...)).",
    ),
}
