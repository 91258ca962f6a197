"""What a BIF was asked to be: every argument checked, nothing read yet."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import DataError, SettingError
from devinterp.schema import load
from devinterp.slt.bif.loss_matrix import LossMatrix, Reduce, Sequences, load_losses
from devinterp.slt.runs.chains import ChainSelection
from devinterp.slt.runs.read_blocks import is_dask
from devinterp.slt.runs.results import label_result, row_labels, said_of_rows, schema_id
from devinterp.slt.runs.run import Samples, Tree
from devinterp.wording import one_of, shown

__all__ = ["BifPlan", "check_memory"]


@dataclass(frozen=True)
class BifPlan:
    """A BIF that was asked for: everything checked, nothing read.

    Attributes
    ----------
    run : Samples
        Where the losses are.
    sequences : Sequences
        The concatenated rows that indices count.
    first, second : array of int64
        Indices of the sequences of both operands.
    by_token : bool
        Whether losses of tokens, or of whole sequences, are correlated.
    reduce : {"stack", "mean"}
        What is done with the chains.
    average : bool
        Whether the result is averaged over both positions.
    covariance : bool
        Whether covariances are computed.
    batch_size : int
        Sequences per chunk.
    allow_partial : bool
        Whether runs that have not completed are used.
    """

    run: Samples
    sequences: Sequences
    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    by_token: bool
    reduce: Reduce
    average: bool
    covariance: bool
    batch_size: int
    allow_partial: bool

    @classmethod
    def of(
        cls,
        samples: Tree,
        *,
        method: str,
        reduce: str,
        loss_keys: Any,
        first: Any,
        second: Any,
        average: bool,
        covariance: bool,
        batch_size: int,
        allow_partial: bool,
    ) -> BifPlan:
        """Check every argument; see `compute_bif` for their meaning and for the errors."""
        for value, known, argument in (
            (method, ("token", "sequence"), "correlation_method"),
            (reduce, ("stack", "mean"), "reduce_chain_dimension_method"),
        ):
            if value not in known:
                raise SettingError(f"There is no such {argument}.", expected=one_of(known), found=repr(value))
        if batch_size < 1:
            raise SettingError("batch_size is too small.", expected="at least 1", found=batch_size)
        run = Samples.of(samples, allow_partial=allow_partial)
        sequences = Sequences.of(run, run.resolve(loss_keys))
        indices = []
        for chosen, argument in ((first, "batch_index_range_1"), (second, "batch_index_range_2")):
            if isinstance(chosen, str) and chosen != "all" and chosen not in sequences.observables:
                chosen = run.observable(chosen)
            indices.append(sequences.indices(chosen, argument))
        plan = cls(
            run,
            sequences,
            indices[0],
            indices[1],
            by_token=method == "token",
            reduce="mean" if reduce == "mean" else "stack",
            average=average and method == "token",
            covariance=covariance,
            batch_size=batch_size,
            allow_partial=allow_partial,
        )
        _ = plan.input_ids  # what cannot be labelled is refused before anything is computed
        if plan.by_token and not plan.average:
            _ = plan.target_positions
        return plan

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ``influences``."""
        pairs = (self.first.size, self.second.size)
        tokens = self.sequences.num_tokens
        return pairs if self.average or not self.by_token else (*pairs, tokens, tokens)

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions of ``influences``."""
        return ("batch_1", "batch_2", "target_position", "target_position_T")[: len(self.shape)]

    @property
    def distributed(self) -> bool:
        """Whether the losses are backed by dask."""
        return any(is_dask(self.run.loss(name)) for name in self.sequences.observables)

    def counts(self, sequences: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_] | None:
        """Which series of some sequences count, (sequence, width), a mean being of one; None where all do."""
        found = self.sequences.counts
        if found is None:
            return None
        return found[sequences] if self.by_token else np.asarray(found[sequences].any(axis=1, keepdims=True))

    @property
    def units(self) -> dict[str, str]:
        """Units that differ from the schema's."""
        if not self.covariance:
            return {}
        node, given = load("bif").node("/").variables, said_of_rows(self.run.metadata)
        return {name: node[name].units(given)[1] for name in ("influences", "influences_se")}

    @cached_property
    def target_positions(self) -> npt.NDArray[np.int64]:
        """Label the losses by the positions of the tokens that they predict; see `Samples.target_positions`."""
        return self.run.target_positions()

    @cached_property
    def input_ids(self) -> npt.NDArray[np.int64] | None:
        """Token ids of every sequence, (batch, position): whole rows, so that a position finds its token.

        None where the rows are not tokens.
        """
        if not self.run.has_tokens:
            return None
        places = self.run.token_positions(beside_losses=self.by_token)
        if not np.array_equal(places, np.arange(places.size)):
            raise DataError(
                "A Bayesian influence function keeps whole rows of tokens beside it, by which positions are looked up.",
                expected="every token of a row, in order",
                found=f"the positions {shown(places.tolist()[:8])} along 'token'",
                remedy="Select along token_pos alone, or in the result.",
            )
        return np.concatenate([self.run.input_ids(name) for name in self.sequences.observables])

    @property
    def mask(self) -> npt.NDArray[np.int8] | None:
        """Which positions of every sequence count, beside influences between tokens; None where all do."""
        found = self.sequences.counts
        return None if found is None or len(self.shape) < 4 else found.astype(np.int8)

    def load(self) -> LossMatrix:
        """Read the losses of both operands."""
        wanted = np.union1d(self.first, self.second)
        return load_losses(
            self.run,
            self.sequences,
            wanted,
            by_token=self.by_token,
            reduce=self.reduce,
            allow_partial=self.allow_partial,
        )

    def row_labels(self, **dims: Any) -> dict[str, Any]:
        """Coordinates that a user put on the rows, along ``batch`` and, numbered, along what is chosen of it."""
        out: dict[str, Any] = {}
        for name, parts in row_labels(self.run.dataset, self.sequences.observables).items():
            values = np.concatenate(parts)
            out[name] = ("batch", values)
            out |= {f"{name}_{dim.rpartition('_')[2]}": (dim, values[chosen]) for dim, chosen in dims.items()}
        return {name: label for name, label in out.items() if name not in ("batch", "position", *dims)}

    def result(self, data: Mapping[str, Any], attrs: Mapping[str, Any]) -> xr.Dataset:
        """Label the influences and put tokens and attributes beside them."""
        coords: dict[str, Any] = {"batch_1": self.first, "batch_2": self.second}
        coords |= self.row_labels(batch_1=self.first, batch_2=self.second)
        if len(self.shape) == 4:
            coords["target_position"] = coords["target_position_T"] = self.target_positions
        variables = {name: (self.dims, values) for name, values in data.items()}
        if self.mask is not None:
            variables["mask"] = (("batch", "target_position"), self.mask)
        if self.input_ids is not None:
            variables["input_ids"] = (("batch", "position"), self.input_ids)
        dataset = xr.Dataset(variables, coords=coords)
        return label_result(dataset, "bif", attrs=attrs, units=self.units)

    def attrs(self, selection: ChainSelection, num_constant: int) -> dict[str, Any]:
        """Attributes of the result."""
        return {
            "devinterp_schema": schema_id("bif"),
            **said_of_rows(self.run.metadata),
            "correlation_method": "token" if self.by_token else "sequence",
            "reduce_chain_dimension_method": self.reduce,
            "average_tokenwise_bif": int(self.average),
            "compute_covariance": int(self.covariance),
            "observables": list(self.sequences.observables),
            "observable_sizes": list(self.sequences.sizes),
            **selection.attrs,
            "n_draws_used": selection.length,
            "n_constant_losses": num_constant,
        }


def check_memory(shape: tuple[int, ...], copies: int = 1) -> None:
    """Raise `SettingError` where float32 arrays of this shape cannot be held in memory."""
    size = 4 * copies * int(np.prod(shape, dtype=object))
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not on every system
        return
    if size > 0.9 * total:
        raise SettingError(
            f"The influences would take {size / 1e9:.3g} GB, more than this machine's memory.",
            expected=f"at most {0.9 * total / 1e9:.3g} GB",
            found=f"shape {shown(shape)}",
            remedy="Pass output_path to write them to disk, top_k to keep the strongest, average_tokenwise_bif=True, "
            "or narrower index ranges.",
        )
