"""Codes of chunks, and the validator's own limits: DI5xx, DI9xx."""

from __future__ import annotations

from devinterp.schema.code_texts.text import COPY_AGAIN, CodeText

__all__ = ["TEXTS"]

TEXTS: dict[str, CodeText] = {
    "DI501": CodeText(
        "completeness",
        "error",
        "a chunk is missing",
        "A chunk that must exist is not there. It would read as fill: NaN for losses, a bogus id for tokens.",
        COPY_AGAIN,
    ),
    "DI502": CodeText(
        "completeness",
        "error",
        "a stray chunk",
        "There is an object under the array that none of its chunks is: of another shape, or another array. In a group "
        "it is whatever is no node of Zarr v3 (a file, an array of Zarr v2), and weighs as a warning.",
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
        f"{COPY_AGAIN} Of a run that cannot be had again, `devinterp repair` marks what is lost, so that the rest can "
        "be used.",
    ),
    "DI901": CodeText(
        "structure",
        "error",
        "a rule could not be evaluated",
        "The Python function behind a rule raised an exception. Rules of ours leave out what other findings are about; "
        "one of an extension may have a bug, or expect something that the schema does not require.",
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
