"""Codes of how arrays are stored, and what a store must not do to its reader: DI2xx."""

from __future__ import annotations

from devinterp.schema.code_texts.text import CodeText

__all__ = ["TEXTS"]

TEXTS: dict[str, CodeText] = {
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
        "The shape and the chunks of the array make more chunks than the limit, or (at the level completeness) all "
        "arrays together have more than theirs; the array was left out.",
        "Restore the array's zarr.json, or rechunk; the limits can be raised: validate(..., limits=Limits(chunks=..., "
        "all_chunks=...)).",
    ),
    "DI255": CodeText(
        "structure",
        "error",
        "oversized metadata",
        "A zarr.json is larger, or nested deeper, than the limit, and was not read; or all documents together would "
        "take more memory than a validation may; or more observables are listed than variables are looked for.",
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
        "A name in the store would lead out of it (.., an absolute path), or can be no file's name, or a symbolic link "
        "leads out. It was not followed.",
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
}
