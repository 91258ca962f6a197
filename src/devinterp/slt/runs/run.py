"""What an analysis reads from a run: its variables, settings and observables. No estimate is computed here."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import DataError, IncompleteStoreError, MissingVariableError, ProvenanceError, SettingError
from devinterp.names import sanitize_observable_name
from devinterp.plain_json import dig, in_order
from devinterp.slt.runs.positions import target_positions, token_positions
from devinterp.slt.runs.results import no_text, of_tokens, with_plain_coords
from devinterp.steps import StepLayout
from devinterp.store.reading.fast_chunks import refuse_gone_tree
from devinterp.wording import one_of

__all__ = ["Samples", "is_samples", "metadata_of", "series_members", "study_members"]

Tree = xr.DataTree | xr.Dataset


def metadata_of(node: Tree) -> Mapping[str, Any]:
    """Return ``attrs["metadata"]`` of a node, or an empty mapping."""
    found = node.attrs.get("metadata")
    return found if isinstance(found, Mapping) else {}


def is_samples(node: Tree) -> bool:
    """Whether the arrays of a run lie on this very node."""
    names = {str(name) for name in node.data_vars}
    # A result has a loss trace and a loss at the start too, and what to_arviz() returns has means of losses.
    if "llc_mean" in names or "inference_library" in node.attrs:
        return False
    return bool(names & {"sampling_loss", "sampling_loss_micro", "step_loss", "init_loss"}) or any(
        name.startswith("loss_") for name in names
    )


def study_members(obj: Tree | Mapping[str, Tree]) -> dict[str, Tree] | None:
    """Return the runs of a study by restriction name, in the caller's order, or None where ``obj`` is not a study."""
    if isinstance(obj, xr.Dataset):
        return None
    if not isinstance(obj, xr.DataTree):
        # What is not a mapping either is refused by whoever takes it for a run.
        return dict(obj.items()) if isinstance(obj, Mapping) else None  # type: ignore[arg-type]  # not a Dataset here
    if is_samples(obj):
        return None
    if "checkpoint" in obj.coords and obj.coords["checkpoint"].ndim == 0:
        # series.sel(checkpoint=7) drops the other coordinates and keeps every group
        chosen = obj.children.get(str(obj.coords["checkpoint"].item()))
        return None if chosen is None else study_members(chosen)
    members: dict[str, Tree] = {str(name): child for name, child in obj.children.items() if is_samples(child)}
    return {name: members[name] for name in in_order(members, dig(metadata_of(obj), "config.restrictions"))} or None


def series_members(obj: Tree | Mapping[str, Tree]) -> dict[int, xr.DataTree] | None:
    """Return the studies of a series by training step, in the store's order, or None where ``obj`` is not a series.

    A selection along the root's ``checkpoint`` leaves every group in the tree, so that the coordinate decides. What
    ``sel(checkpoint=7)`` leaves is one study, and no series.
    """
    if not isinstance(obj, xr.DataTree) or is_samples(obj):
        return None
    members = {
        int(name): child
        for name, child in obj.children.items()
        if str(name).isdecimal() and study_members(child) is not None
    }
    if not members:
        return None
    if "checkpoint" in obj.coords:
        chosen = obj.coords["checkpoint"]
        return None if chosen.ndim == 0 else {int(s): members[int(s)] for s in chosen.values if int(s) in members}
    return {step: members[step] for step in in_order(members, dig(metadata_of(obj), "config.checkpoints"))}


def _completion(node: Tree) -> tuple[bool, bool]:
    """Return (does the store promise to tell whether it completed, did it)."""
    lineage: list[Mapping[Any, Any]] = [node.attrs]
    if isinstance(node, xr.DataTree):
        lineage += [parent.attrs for parent in node.parents]
    ours = any("devinterp_schema" in attrs for attrs in lineage)
    flags = [attrs["completed"] for attrs in lineage if "completed" in attrs]
    promises = ours or bool(flags)
    return promises, bool(flags) and all(flag == 1 for flag in flags)


def _what_instead(obj: Tree) -> Any:
    steps, members = series_members(obj), study_members(obj)
    if steps is not None:
        return f"a series of {len(steps)} checkpoints"
    if members is not None:
        return f"a study of {len(members)} weight restrictions"
    return sorted(map(str, obj.data_vars)) or "no variables"


def _one_of(obj: Tree) -> str:
    """Say how to get at one run of a study or of a series."""
    steps, members = series_members(obj), study_members(obj)
    if steps:
        step, study = list(steps.items())[-1]
        names = list(study_members(study) or ())
        name = "full" if "full" in names else names[0]
        return f"It takes one run. Pass one restriction of one checkpoint: tree['{step}/{name}']."
    if members and isinstance(obj, xr.DataTree):
        run = members.get("full", next(iter(members.values())))
        path = run.relative_to(obj) if isinstance(run, xr.DataTree) else "full"
        return f"It takes one run. Pass one restriction: tree['{path}']."
    return "Pass the tree that sample() returned, or one restriction of a study: tree['full']."


@dataclass(frozen=True)
class Samples:
    """One run, as an analysis sees it.

    Attributes
    ----------
    dataset : xarray.Dataset
        The arrays of the run, lazily loaded or not, or a selection of them.
    metadata : mapping
        ``attrs["metadata"]``; empty where there is none.
    label : str
        The restriction's name within a study, for messages.
    root_metadata : mapping
        Metadata of the study the run belongs to; empty outside a study.
    """

    dataset: xr.Dataset
    metadata: Mapping[str, Any]
    label: str = ""
    root_metadata: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, obj: Tree, *, label: str = "", allow_partial: bool = False) -> Samples:
        """Take a samples tree, a node of a study, or a dataset.

        Raises
        ------
        SettingError
            ``obj`` is neither a tree nor a dataset.
        MissingVariableError
            ``obj`` holds no arrays of a run.
        IncompleteStoreError
            The store says that its run has not completed, and ``allow_partial`` is false.
        """
        if not isinstance(obj, xr.DataTree | xr.Dataset):
            raise SettingError(
                "An analysis needs the tree that sample() returns.",
                expected="an xarray.DataTree or xarray.Dataset",
                found=type(obj).__name__,
                remedy="Open a store with xarray.open_datatree(path, engine='zarr', consolidated=False).",
            )
        where = f"the run {label!r}" if label else "the tree"
        if not is_samples(obj):
            raise MissingVariableError(
                f"There are no losses on the root of {where}.",
                expected="the variables that sample() writes (sampling_loss, init_loss, loss_*)",
                found=_what_instead(obj),
                remedy=_one_of(obj),
            )
        promises, completed = _completion(obj)
        if promises and not completed and not allow_partial:
            raise IncompleteStoreError(
                f"The run of {where} has not completed.",
                expected="the root attribute completed = 1",
                found=obj.attrs.get("completed", "no such attribute"),
                remedy="Run the same sample() call again to resume it, or pass allow_partial=True.",
            )
        dataset = obj.to_dataset() if isinstance(obj, xr.DataTree) else obj
        refuse_gone_tree(dataset)
        dataset = with_plain_coords(dataset)
        inside = isinstance(obj, xr.DataTree) and obj.root is not obj
        return cls(dataset, metadata_of(obj), label, metadata_of(obj.root) if inside else {})

    @property
    def of_label(self) -> str:
        """For messages: `` of the run 'l0h0'`` within a study, else nothing."""
        return f" of the run {self.label!r}" if self.label else ""

    def setting(self, name: str) -> Any:
        """Return a sampler setting by its ``sample()`` argument name, or None where it is not recorded."""
        return dig(self.metadata, f"config.sampler.{name}")

    @property
    def micro_batches_per_step(self) -> int:
        """Minibatches whose gradients make one step; 1 where that is not recorded."""
        return int(self.setting("gradient_accumulation_steps") or 1)

    @property
    def micro_batches_per_pass(self) -> int | None:
        """Minibatches of one pass over the sampling dataset; None where their size or the dataset's is not recorded."""
        length, size = dig(self.metadata, "provenance.dataset.length"), self.setting("batch_size")
        return None if length is None or size is None else max(1, int(length) // int(size))

    @property
    def has_tokens(self) -> bool:
        """Whether the rows are of token ids."""
        return of_tokens(self.metadata)

    @property
    def step_layout(self) -> StepLayout | None:
        """How the draws of a chain lay among its steps when it was sampled; None where that is not recorded."""
        return StepLayout.of(dig(self.metadata, "config.sampler") or {})

    @property
    def n_beta(self) -> float:
        """Inverse temperature: the variable ``n_beta``, else the sampler's setting.

        Raises
        ------
        MissingVariableError
            Neither is there.
        ProvenanceError
            Runs of different temperatures were combined into this one.
        """
        if "n_beta" in self.dataset:
            return float(self.variable("n_beta", ()))
        recorded = self.setting("n_beta")
        if recorded is None:
            raise MissingVariableError(
                "The inverse temperature of the run is not known.",
                expected="a variable n_beta, or metadata.config.sampler.n_beta",
                found=sorted(map(str, self.dataset.data_vars)),
                remedy="Add it: tree['n_beta'] = 30.0.",
            )
        return float(recorded)

    @property
    def observables(self) -> tuple[str, ...]:
        """Ids of the observables, in the caller's order where it is recorded, else in the dataset's."""
        found = [str(name)[len("loss_") :] for name in self.dataset.data_vars if str(name).startswith("loss_")]
        listed = dig(self.metadata, "config.observables") or []
        return tuple(in_order(found, [o["obs_id"] for o in listed if isinstance(o, Mapping) and "obs_id" in o]))

    def observable(self, name: str) -> str:
        """Return the id of one observable, given by its name or its id.

        Raises
        ------
        MissingVariableError
            There is no such observable.
        """
        ids = self.observables
        if name in ids:
            return name
        for listed in dig(self.metadata, "config.observables") or []:
            if isinstance(listed, Mapping) and listed.get("name") == name and listed.get("obs_id") in ids:
                return str(listed["obs_id"])
        if sanitize_observable_name(str(name)) in ids:
            return sanitize_observable_name(str(name))
        within = f" in the run {self.label!r}" if self.label else ""
        raise MissingVariableError(
            f"There is no observable {name!r}{within}.",
            expected=one_of(sorted(ids)) if ids else "a variable loss_{observable}",
            remedy="Sample with it among the observables, or choose one that is there.",
        )

    def resolve(self, names: Iterable[str] | str | None) -> tuple[str, ...]:
        """Return observable ids: sorted for None or ``"all"``, else in the order given.

        Raises
        ------
        MissingVariableError
            One is not there, or there is none at all.
        SettingError
            One is named twice.
        """
        if names is None or isinstance(names, str):
            chosen = tuple(sorted(self.observables)) if names in (None, "all") else (self.observable(str(names)),)
        else:
            chosen = tuple(self.observable(name) for name in names)
        if len(set(chosen)) != len(chosen):
            raise SettingError("An observable is named twice.", found=list(chosen), remedy="Name each once.")
        if not chosen:
            raise MissingVariableError(
                "There is no observable to analyse.",
                expected="at least one variable loss_{observable}",
                found=sorted(map(str, self.dataset.data_vars)),
                remedy="Sample with at least one observable.",
            )
        return chosen

    def sampling_task(self, name: str | None = None) -> str | None:
        """Return the id of the observable whose rows come from the sampling dataset, or None where that is not known.

        In this order: ``name``; the study's ``sampling_task``; the observable whose dataset has the identity that
        the sampling dataset has.
        """
        if name is not None:
            return self.observable(name)
        for source in (self.metadata, self.root_metadata or {}):
            recorded = dig(source, "config.sampling_task")
            if isinstance(recorded, str):
                return self.observable(recorded)
        dataset = dig(self.metadata, "provenance.dataset")
        identity = dataset.get("rows") if isinstance(dataset, Mapping) else dataset
        known = dig(self.metadata, "provenance.observables")
        if identity is not None and isinstance(known, Mapping):
            for obs_id, entry in known.items():
                same = entry.get("rows") if isinstance(entry, Mapping) else entry
                if same == identity and obs_id in self.observables:
                    return str(obs_id)
        return None

    def variable(self, name: str, dims: Sequence[str]) -> xr.DataArray:
        """Return a variable with exactly ``dims``, transposed where need be.

        A ``chain``, ``draw`` or ``step`` that an integer selection dropped comes back with size 1; one that combining
        runs added (`xarray.concat` repeats what is not of chains for each) goes again where all copies are equal.

        Raises
        ------
        MissingVariableError
            There is no such variable.
        DataError
            It has other dimensions, or none along one of them.
        """
        if name not in self.dataset:
            within = f" in the run {self.label!r}" if self.label else ""
            raise MissingVariableError(
                f"The variable {name!r} is missing{within}.", found=sorted(map(str, self.dataset.data_vars))
            )
        array = self.dataset[name]
        lost = [d for d in ("chain", "draw", "step") if d in dims and d not in array.dims]
        lost = [d for d in lost if d not in array.coords or not array.coords[d].dims]  # another's levels, if stacked
        array = array.expand_dims(lost) if lost else array
        array = self._without_copies(name, array, [dim for dim in ("chain", "draw", "step") if dim not in dims])
        if set(array.dims) != set(dims):
            more = [str(dim) for dim in array.dims if dim not in dims]
            several = "Keep every dimension: select by a list (isel(token_pos=[3])), undo stack() by unstack()."
            if set(dims) < set(array.dims):
                places = ", ".join(f"{dim}=0" for dim in more)
                several = f"It holds several along {' and '.join(more)}: take one at a time, isel({places}, drop=True)."
            raise DataError(
                f"The variable {name!r} has the wrong dimensions.",
                expected=tuple(dims),
                found=tuple(array.dims),
                remedy=several,
            )
        if 0 in array.shape:
            raise DataError(
                f"The variable {name!r} is empty.",
                expected="at least one element along every dimension",
                found=dict(zip(map(str, array.dims), array.shape, strict=True)),
                remedy="Widen the selection.",
            )
        return array.transpose(*dims) if array.dims != tuple(dims) else array

    def _without_copies(self, name: str, array: xr.DataArray, added: Sequence[str]) -> xr.DataArray:
        for dim in [dim for dim in added if dim in array.dims and array.sizes[dim]]:
            if array.dtype.kind == "f":  # where(chain != 1) leaves nothing of a copy
                there = array.notnull().any([d for d in array.dims if d != dim]).values
                array = array.isel({dim: there}) if there.any() else array
            first = array.isel({dim: 0}, drop=True)
            values, wanted = array.transpose(dim, ...).values, np.asarray(first.values)
            if not all(np.array_equal(own, wanted, equal_nan=wanted.dtype.kind == "f") for own in values):
                found = sorted(set(values.tolist())) if values.ndim == 1 else f"other values at other places of {dim!r}"
                raise ProvenanceError(
                    f"The runs that were combined along {dim!r} differ in {name!r}{self.of_label}.",
                    expected="the same value in all of them",
                    found=found,
                    remedy="Combine runs of the same settings and rows, or analyse them one by one.",
                )
            array = first
        return array

    def coords_along(self, **kept: Any) -> dict[Hashable, xr.Variable]:
        """Return the coordinates that a user put on these dimensions alone, at the kept places of each."""
        own = {name: c.variable for name, c in self.dataset.coords.items() if c.dims and set(c.dims) <= set(kept)}
        return {name: v.isel({d: kept[str(d)] for d in v.dims}) for name, v in own.items()}

    def loss(self, obs_id: str) -> xr.DataArray:
        """Return ``loss_{obs}``, dims (chain, draw, batch_{obs}, token_pos)."""
        return self.variable(f"loss_{obs_id}", ("chain", "draw", f"batch_{obs_id}", "token_pos"))

    def target_positions(self) -> npt.NDArray[np.int64]:
        """Return the position of the token that each loss predicts; see `devinterp.slt.runs.positions`."""
        return target_positions(self.dataset, has_tokens=self.has_tokens)

    def token_positions(self, *, beside_losses: bool = True) -> npt.NDArray[np.int64]:
        """Return the position of each token in the sampled row; see `devinterp.slt.runs.positions`."""
        return token_positions(self.dataset, beside_losses=beside_losses)

    def input_ids(self, obs_id: str) -> np.ndarray[Any, Any]:
        """Return the token ids of an observable, (batch, token) int64."""
        if not self.has_tokens:
            raise no_text(f"The rows of {obs_id!r}")
        name, array = f"input_ids_{obs_id}", self.dataset.get(f"input_ids_{obs_id}")
        if array is not None and array.ndim > 2:  # ids repeated per chain and draw
            array = self._without_copies(name, array, ("chain", "draw", "step"))
        if array is not None and array.ndim == 2 and array.size:
            return np.asarray(array.transpose(f"batch_{obs_id}", ...).values, dtype=np.int64)
        return np.asarray(self.variable(name, (f"batch_{obs_id}", "token")).values, dtype=np.int64)
