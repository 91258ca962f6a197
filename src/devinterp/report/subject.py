"""What a report is about: a store, opened once, whatever its kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

from devinterp.errors import StoreError
from devinterp.slt.runs.grid import grid_of
from devinterp.slt.runs.run import Samples, is_samples, study_members
from devinterp.slt.sweep import compute_sweep
from devinterp.slt.sweep.criteria import sampled_cells
from devinterp.slt.sweep.recommend import recommend
from devinterp.store.location import locate
from devinterp.store.reading.open import open_tree
from devinterp.store.reading.status import StoreStatus, read_status

if TYPE_CHECKING:
    from devinterp.schema import Report

__all__ = ["Subject", "open_subject"]


@dataclass(frozen=True)
class Subject:
    """A store under report.

    Attributes
    ----------
    name : str
        What the page calls it.
    status : StoreStatus
        How far its runs have come.
    validation : Report
    tree : DataTree
        The whole store.
    checkpoints : mapping of str to DataTree
        The studies of a series by checkpoint, else empty.
    main : DataTree
        What single pictures are about: the store, the last checkpoint of a series, or the recommended cell of a sweep.
    tokenizer : optional
        See `devinterp.plot.tokens.decode.token_strings`.
    sweep : Dataset or None
        The summary of a sweep.
    """

    name: str
    status: StoreStatus
    validation: Report
    tree: xr.DataTree
    checkpoints: Mapping[str, xr.DataTree]
    main: xr.DataTree
    tokenizer: Any
    sweep: xr.Dataset | None = None

    @property
    def partial(self) -> bool:
        """Whether the run has not completed, so that analyses take what there is."""
        return not self.status.completed

    @cached_property
    def members(self) -> dict[str, Any] | None:
        """The runs of the main study by restriction, None for a single run."""
        return study_members(self.main)

    @cached_property
    def full(self) -> Samples:
        """The run that single pictures show."""
        return Samples.of(self.run, label=self._name, allow_partial=True)

    @property
    def run(self) -> Any:
        """The tree of that run; whoever is given the study looks for it among all restrictions, over and over."""
        return self.main if self.members is None else self.members[self._name]

    @property
    def _name(self) -> str:
        members = self.members or {}
        return "full" if "full" in members else next(iter(members), "")


def open_subject(
    store: Any,
    *,
    tokenizer: Any = None,
    profile: str = "strict",
    level: Literal["structure", "completeness", "values"] = "completeness",
    follow_links: bool = False,
) -> Subject:
    """Validate and open a store of runs.

    Raises
    ------
    StoreError
        There is no run in it.
    """
    from devinterp.schema.validation import validate

    location = locate(store)
    status = read_status(location)
    if not status.runs:
        raise StoreError(
            f"There is no run to report on in {location.name}.",
            expected="a store that sample() or sample_restrictions() wrote",
            found=status.schema or "a Zarr group without settings of a sampler",
        )
    validation = validate(location.store, profile=profile, level=level, follow_links=follow_links)
    tree = open_tree(location)
    grid = grid_of(tree)
    if grid is not None:
        summary = compute_sweep(tree, allow_partial=True)
        chosen = recommend(summary).cell if sampled_cells(summary) else next(iter(grid.cells))
        return Subject(location.name, status, validation, tree, {}, grid.cells[chosen], tokenizer, summary)
    checkpoints: dict[str, xr.DataTree] = {}
    if not is_samples(tree) and study_members(tree) is None:
        inner = {str(n): c for n, c in tree.children.items() if study_members(c) is not None}
        checkpoints = dict(sorted(inner.items(), key=lambda item: (not item[0].isdecimal(), item[0].zfill(20))))
    main = list(checkpoints.values())[-1] if checkpoints else tree
    return Subject(location.name, status, validation, tree, checkpoints, main, tokenizer)
