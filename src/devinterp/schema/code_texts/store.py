"""Codes of the store as such: DI0xx."""

from __future__ import annotations

from devinterp.schema.code_texts.text import CodeText

__all__ = ["TEXTS"]

TEXTS: dict[str, CodeText] = {
    "DI001": CodeText(
        "structure",
        "error",
        "the store cannot be read",
        "Reading an object of the store ended in an error of the file system, the network or the store itself; or what "
        "lies there is no regular file; or the store can neither be listed nor has consolidated metadata, so that "
        "nobody can say what is in it.",
        "Check that the path is reachable and readable, and that the copy has come to its end.",
    ),
    "DI002": CodeText(
        "structure",
        "error",
        "there is no store",
        "Nothing lies at the path, or what lies there has no zarr.json of a group. Where it is a folder (or an "
        "archive) of stores, the finding names the first of them.",
        "Give the path of the .zarr folder itself. A store that lost its zarr.json must be copied again.",
    ),
    "DI003": CodeText(
        "structure",
        "error",
        "a Zarr v2 store",
        "The store has .zgroup or .zarray documents. The formats are defined for Zarr v3 alone.",
        "Rewrite it: xr.open_datatree(path, engine='zarr').map_over_datasets(lambda ds: "
        "ds.drop_encoding()).to_zarr(new_path, zarr_format=3), and validate what that wrote.",
    ),
    "DI004": CodeText(
        "structure",
        "error",
        "of no known kind",
        "The root has no attribute devinterp_schema, and its arrays and groups fit no schema.",
        "Say which it should be, as in validate(path, schema='samples'); validate the folder of the store itself, not "
        "one above or below it.",
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
        "The store breaks the profile it was validated under, and plainly was written for another one: there it has no "
        "error, or less than a third as many.",
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
}
