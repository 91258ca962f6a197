"""Results as rows of a table, for CSV, JSON and the screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["llc_records", "pair_records", "partner_records", "sus_records"]


def llc_records(result: xr.Dataset) -> tuple[list[str], list[list[Any]]]:
    """One row per run: its labels, the coefficients, the interval, every chain."""
    leading = [str(d) for d in result["llc_mean"].dims]
    chains = int(result.sizes["chain"])
    ends = ["llc_ci_low", "llc_ci_high"] if "llc_ci" in result else []
    scalars = ["llc_mean", "llc_std", "llc_scalar", "init_loss"]
    header = [*leading, *scalars, *ends, *(f"llc_chain_{c}" for c in range(chains))]
    rows = []
    for place in np.ndindex(*(result.sizes[d] for d in leading)):
        one = result.isel(dict(zip(leading, place, strict=True)))
        labels = [one[d].values.item() if d in one.coords else i for d, i in zip(leading, place, strict=True)]
        numbers = [float(one[n]) for n in scalars] + ([float(v) for v in one["llc_ci"].values] if ends else [])
        rows.append([*labels, *numbers, *map(float, one["llc_per_chain"].values)])
    return header, rows


def pair_records(result: xr.Dataset) -> tuple[list[str], Iterator[Sequence[Any]]]:
    """One row per pair of sequences or tokens."""
    array = result["influences"]
    dims = [str(d) for d in array.dims]
    extra = [n for n in ("influences_se",) if n in result]

    def rows() -> Iterator[Sequence[Any]]:
        labels = [array[d].values.tolist() for d in dims]
        errors = [result[n].values for n in extra]
        values = array.values
        for place in np.ndindex(*values.shape):
            yield [*(labels[k][i] for k, i in enumerate(place)), values[place], *(e[place] for e in errors)]

    return [*dims, "influence", *(["se"] if extra else [])], rows()


def partner_records(result: xr.Dataset) -> tuple[list[str], Iterator[Sequence[Any]]]:
    """One row per partner that was found."""
    array = result["influences"]
    dims = [str(d) for d in array.dims]
    partners = [n for n in ("partner_batch", "partner_position", "partner_token") if n in result]

    def rows() -> Iterator[Sequence[Any]]:
        labels = [array[d].values.tolist() if d in array.coords else list(range(array.sizes[d])) for d in dims]
        values = array.values
        beside = [result[n].transpose(*array.dims).values for n in partners]
        for place in np.ndindex(*values.shape):
            if np.isfinite(values[place]):
                yield [*(labels[k][i] for k, i in enumerate(place)), *(b[place] for b in beside), values[place]]

    return [*dims, *partners, "influence"], rows()


def sus_records(result: xr.DataTree) -> tuple[list[str], Iterator[Sequence[Any]]]:
    """One row per token: where it stands, which it is, and a column per restriction and kind of value."""
    sus, context = result["susceptibilities"].to_dataset(), result["context"].to_dataset()
    if "checkpoint" in sus.dims:
        each = [(int(s), sus_records(result.sel(checkpoint=s))) for s in sus["checkpoint"].values]
        joined = ([step, *row] for step, (_, rows) in each for row in rows)
        return ["checkpoint", *each[0][1][0]], joined
    names = sus.attrs["dataset_id_to_name"]
    kinds = [n for n in ("sus", "sus_se", "sus_cov", "sus_shift") if n in sus]
    columns = [(n, i, str(w)) for n in kinds for i, w in enumerate(sus["wr"].values)]

    def rows() -> Iterator[Sequence[Any]]:
        keys = ("dataset_id", "batch", "position")
        tokens = dict(
            zip(
                zip(*(context[k].values.tolist() for k in keys), strict=True),
                context["input_ids"].values.tolist(),
                strict=True,
            )
        )
        values = {n: sus[n].transpose("sus_flat", "wr").values for n in kinds}
        ids, batches, positions = (sus[k].values.tolist() for k in ("dataset_id", "batch", "target_position"))
        for k, place in enumerate(zip(ids, batches, positions, strict=True)):
            yield [names[place[0]], *place[1:], tokens.get(place, ""), *(values[n][k, i] for n, i, _ in columns)]

    heads = [w if n == "sus" else f"{w} ({n.removeprefix('sus_')})" for n, _, w in columns]
    return ["observable", "batch", "target_position", "token", *heads], rows()
