"""Codes of values of one variable: DI3xx."""

from __future__ import annotations

from devinterp.schema.code_texts.text import COPY_AGAIN, CodeText

__all__ = ["TEXTS"]

TEXTS: dict[str, CodeText] = {
    "DI301": CodeText(
        "values",
        "error",
        "a value is not finite",
        "NaN or infinity where every value must be a number: among the draws that are said to be written.",
        f"A lost chunk reads as NaN: see the findings of level completeness. {COPY_AGAIN}",
    ),
    "DI302": CodeText(
        "values",
        "error",
        "a value is too small",
        "A value lies below its smallest legal value. A token id of -1 is fill: the chunk was never written.",
        COPY_AGAIN,
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
}
