"""What each code means and how to mend it, in words, one module per family; see `devinterp.schema.codes`."""

from __future__ import annotations

from devinterp.schema.code_texts import chunks, relations, storage, store, structure, values
from devinterp.schema.code_texts.text import CodeText

__all__ = ["TEXTS", "CodeText"]

TEXTS: dict[str, CodeText] = {
    code: text
    for family in (store, structure, storage, values, relations, chunks)
    for code, text in family.TEXTS.items()
}
