"""The form that the words of a code have."""

from __future__ import annotations

from typing import NamedTuple

from devinterp.schema.spec import Level, Severity

__all__ = ["COPY_AGAIN", "CodeText"]

COPY_AGAIN = "Copy the store again from where it is whole, or sample again: sample() with the same arguments resumes."


class CodeText(NamedTuple):
    """The words of one code."""

    level: Level
    severity: Severity
    title: str
    meaning: str
    remedy: str
