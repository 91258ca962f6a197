"""Which parameters a numpydoc docstring describes."""

from __future__ import annotations

import inspect
import re
from typing import Any

__all__ = ["documented_parameters"]


def documented_parameters(function: Any) -> list[str]:
    """Names under ``Parameters`` (and ``Other Parameters``), stars included."""
    text = inspect.getdoc(function) or ""
    found: list[str] = []
    for section in re.findall(r"(?:^|\n)(?:Other )?Parameters\n-+\n(.*?)(?=\n\w[\w ]*\n-+\n|\Z)", text, flags=re.S):
        for line in section.splitlines():
            if line and not line.startswith(" "):
                found += [name.strip() for name in line.split(" : ")[0].split(",")]
    return found
