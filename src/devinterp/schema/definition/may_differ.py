"""What may differ between runs that are put together: the table ``schemas/runs/may_differ.yaml``, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

import yaml

from devinterp.schema.definition.load import schemas_folder

__all__ = ["Combined", "Entry", "entries", "overridable", "settings_that", "that"]

Combined = Literal["study", "series", "sweep"]
SETTING = "config.sampler."
MAY = ("asked", "noted", "freely")
"""The answers that let an entry differ between the runs of a valid store."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One setting of ``sample()``, or one entry of a run's provenance; the table explains the words.

    Attributes
    ----------
    path : str
        Where it stands in ``metadata``.
    study, series, sweep : {"never", "asked", "noted", "freely"}
        Whether it may differ between the runs of one.
    resume : {"never", "grows", "follows", "freely"}
        Whether it may differ between a stored run and the call that resumes it.
    own : {"restriction", "checkpoint", ""}
        What may have a value of its own when several runs are sampled in one call.
    rows : bool
        It decides which rows of the sampling dataset are visited.
    unknown : bool
        None says that nobody told.
    default : optional
        What is meant where nothing is written.
    why : str
        The reason.
    """

    path: str
    study: str
    series: str
    sweep: str
    resume: str
    why: str
    own: str = ""
    rows: bool = False
    unknown: bool = False
    default: Any = None

    @property
    def name(self) -> str:
        """The argument's name of a setting; the path of anything else."""
        return self.path.removeprefix(SETTING)


@cache
def entries() -> Mapping[str, Entry]:
    """Return the table by path, in its order."""
    text = (schemas_folder() / "runs" / "may_differ.yaml").read_text(encoding="utf-8")
    return MappingProxyType({path: Entry(path=path, **row) for path, row in yaml.safe_load(text).items()})


def that(column: str, *answers: object) -> tuple[Entry, ...]:
    """Return the entries that have one of ``answers`` in a column."""
    assert column in {field.name for field in fields(Entry)}, column
    return tuple(entry for entry in entries().values() if getattr(entry, column) in answers)


def settings_that(column: str, *answers: object) -> tuple[str, ...]:
    """Return the names of the settings that have one of ``answers`` in a column."""
    return tuple(entry.name for entry in that(column, *answers) if entry.path.startswith(SETTING))


def overridable(part: Literal["restriction", "checkpoint"]) -> tuple[str, ...]:
    """Return the settings that a restriction, or a checkpoint, may have for itself when several are sampled."""
    return settings_that("own", *(("restriction",) if part == "restriction" else ("restriction", "checkpoint")))
