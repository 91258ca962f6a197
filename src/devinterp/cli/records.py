"""Results as rows of a table, for CSV and the screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from devinterp.plain_json import listed
from devinterp.slt.estimands import Estimand
from devinterp.slt.runs.results import result_of_tokens, told, with_unit

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "bif_records",
    "fit_bif",
    "pair_records",
    "partner_records",
    "records",
    "screen",
    "show_bif",
    "show_susceptibilities",
    "sus_records",
]

STRONGEST = 10
MOST_CHAINS = 8  # that the screen has columns for


# Numbers of a run: the LLC and its like


def records(result: xr.Dataset) -> tuple[list[str], list[list[Any]]]:
    """One row per run: its labels, every number, the ends of intervals, every chain's number.

    The result's first variable has one number for each run; what has draws, steps or tokens is left out.
    """
    leading = [str(d) for d in next(iter(result.data_vars.values())).dims]
    columns: dict[str, list[tuple[str, str, int]]] = {"": [], "bound": [], "chain": []}
    for name, variable in result.data_vars.items():
        own = [str(d) for d in variable.dims if d not in leading]
        if not own:
            columns[""].append((str(name), str(name), 0))
        elif own == ["bound"]:
            columns["bound"] += [(f"{name}_{end}", str(name), i) for i, end in enumerate(("low", "high"))]
        elif own == ["chain"]:
            stem = str(name).removesuffix("_per_chain")
            columns["chain"] += [(f"{stem}_chain_{c}", str(name), c) for c in range(variable.sizes["chain"])]
    chosen = [column for group in columns.values() for column in group]
    rows = []
    for place in np.ndindex(*(result.sizes[d] for d in leading)):
        one = result.isel(dict(zip(leading, place, strict=True)))
        labels = [one[d].values.item() if d in one.coords else i for d, i in zip(leading, place, strict=True)]
        rows.append([*labels, *(np.atleast_1d(one[name].values)[i].item() for _, name, i in chosen)])
    return [*leading, *(head for head, *_ in chosen)], rows


def screen(result: xr.Dataset, store: str, estimand: Estimand) -> None:
    """Print the numbers of a run, of every restriction, checkpoint or cell."""
    from devinterp.cli.console import put, table
    from devinterp.slt.runs.tree_overview import how_made

    header, rows = records(result)
    leading = next(iter(result.data_vars.values())).dims
    shown = [h for h in header if "_chain_" not in h or result.sizes["chain"] <= MOST_CHAINS]
    cells = [[_text(v) for h, v in zip(header, row, strict=True) if h in shown] for row in rows]
    heads = [estimand.heads.get(h) or _head(result, h) for h in shown]
    made = how_made(result)
    title = f"{store}: {estimand.title}{f' ({made})' if made else ''}"
    put(table(heads, cells, right=heads[len(leading) :], title=title))
    if "ci" in result.attrs:
        meaning = next((str(v.attrs.get("long_name", "")) for v in result.data_vars.values() if "bound" in v.dims), "")
        put(f"from, to: {100 * float(result.attrs['ci']):g} % interval. {meaning}".rstrip())
    excluded = told(result.attrs, "chains_excluded")
    lines = excluded.items() if isinstance(excluded, dict) else [("", listed(result.attrs, "chains_excluded"))]
    for name, chains in lines:
        if chains:
            put(f"{name + ': ' if name else ''}chains left out: {', '.join(map(str, chains))}")


def _head(result: xr.Dataset, column: str) -> str:
    for end, word in (("_low", "from"), ("_high", "to")):
        if column.endswith(f"_ci{end}"):
            return word
    if "_chain_" in column:
        return f"chain {column.rpartition('_')[2]}"
    unit = result[column].attrs.get("units", "1") if column in result else "1"
    return with_unit(column.replace("_", " "), unit)


# Influences


def fit_bif(arguments: dict[str, Any], target: str, output: str | None) -> None:
    """Write a matrix to Zarr tile by tile, so that it may be larger than memory; for the screen find what it shows."""
    if arguments["top_k"] is not None:
        return
    if target == "zarr":
        arguments["output_path"] = output
    elif target == "table" and not any(arguments[n] for n in ("average_tokenwise_bif", "compute_covariance", "se")):
        arguments["top_k"] = STRONGEST


def bif_records(result: xr.Dataset) -> tuple[list[str], Iterator[Sequence[Any]]]:
    """One row per pair, or per partner that was found."""
    return partner_records(result) if "partner_batch" in result else pair_records(result)


def pair_records(result: xr.Dataset) -> tuple[list[str], Iterator[Sequence[Any]]]:
    """One row per pair of sequences or tokens, with the result's first variable."""
    name = str(next(iter(result.data_vars)))
    array = result[name]
    dims = [str(d) for d in array.dims]
    extra = [n for n in (f"{name}_se",) if n in result]
    named = {f"label_{d[-1]}": k for k, d in enumerate(dims) if f"label_{d[-1]}" in result.coords}

    def rows() -> Iterator[Sequence[Any]]:
        numbers = [array[d].values.tolist() for d in dims]
        labels = [(k, result[n].values.tolist()) for n, k in named.items()]
        errors = [result[n].values for n in extra]
        values = array.values
        for place in np.ndindex(*values.shape):
            if not np.isnan(values[place]):  # of a token that does not count
                told = [numbers[k][i] for k, i in enumerate(place)] + [each[place[k]] for k, each in labels]
                yield [*told, values[place], *(e[place] for e in errors)]

    return [*dims, *named, name.removesuffix("s"), *(["se"] if extra else [])], rows()


def partner_records(result: xr.Dataset) -> tuple[list[str], Iterator[Sequence[Any]]]:
    """One row per partner that was found."""
    array = result["influences"]
    dims = [str(d) for d in array.dims]
    partners = [n for n in ("partner_batch", "partner_position", "partner_token") if n in result]
    named = ["label", "partner_label"] if "label" in result.coords else []

    def rows() -> Iterator[Sequence[Any]]:
        labels = [array[d].values.tolist() if d in array.coords else list(range(array.sizes[d])) for d in dims]
        values = array.values
        beside = [result[n].transpose(*array.dims).values for n in partners]
        if named:
            called = result["label"].values
            beside += [called[result["batch_1"].broadcast_like(array).transpose(*array.dims).values], called[beside[0]]]
        for place in np.ndindex(*values.shape):
            if np.isfinite(values[place]):
                yield [*(labels[k][i] for k, i in enumerate(place)), *(b[place] for b in beside), values[place]]

    return [*dims, *partners, *named, "influence"], rows()


def show_bif(result: xr.Dataset, store: str, estimand: Estimand) -> None:
    """Print the strongest of the pairs."""
    from devinterp.cli.console import put, table

    header, rows = bif_records(result)
    name = str(next(iter(result.data_vars)))
    value = header.index(name.removesuffix("s"))
    strongest = [row for row in rows if "partner_batch" in result or row[0] != row[1]]
    strongest = [row for row in strongest if np.isfinite(row[value])]
    strongest.sort(key=lambda row: -abs(row[value]))
    unit = {"1": "correlation", "nat^2": "covariance, nat^2"}.get(unit := str(result[name].attrs["units"]), unit)
    cells = [[_text(v) for v in row] for row in strongest[: 2 * STRONGEST]]
    put(table(list(header), cells, right=list(header), title=f"{store}: strongest {name} ({unit})"))
    sizes = zip(*(listed(result.attrs, key) for key in ("observables", "observable_sizes")), strict=True)
    start, parts = 0, []
    for name, size in sizes:
        parts.append(f"{start}-{start + int(size) - 1} {name}")
        start += int(size)
    put(f"{'sequences' if result_of_tokens(result.attrs) else 'rows'}: {', '.join(parts)}")
    if "noise_floor_strongest" in result.attrs:
        put(f"noise: of unrelated losses the strongest stays below {float(result.attrs['noise_floor_strongest']):.2g}")


# Susceptibilities


def sus_records(result: xr.DataTree) -> tuple[list[str], Iterator[Sequence[Any]]]:
    """One row per token, or loss of a row: where it stands, which it is, a column per restriction and kind of value."""
    sus, context = result["susceptibilities"].to_dataset(), result["context"].to_dataset()
    known = [name for name, where in (("token", "input_ids" in context), ("label", "label" in sus.coords)) if where]
    if "checkpoint" in sus.dims:
        each = [(int(s), sus_records(result.sel(checkpoint=s))) for s in sus["checkpoint"].values]
        joined = ([step, *row] for step, (_, rows) in each for row in rows)
        return ["checkpoint", *each[0][1][0]], joined
    names = listed(sus.attrs, "dataset_id_to_name")
    kinds = [n for n in ("sus", "sus_se", "sus_cov", "sus_shift") if n in sus]
    columns = [(n, i, str(w)) for n in kinds for i, w in enumerate(sus["wr"].values)]

    def rows() -> Iterator[Sequence[Any]]:
        keys = ("dataset_id", "batch", "position")
        tokens = {}
        if "token" in known:
            places = zip(*(context[k].values.tolist() for k in keys), strict=True)
            tokens = dict(zip(places, context["input_ids"].values.tolist(), strict=True))
        values = {n: sus[n].transpose("sus_flat", "wr").values for n in kinds}
        ids, batches, positions = (sus[k].values.tolist() for k in ("dataset_id", "batch", "target_position"))
        for k, place in enumerate(zip(ids, batches, positions, strict=True)):
            own = {"token": tokens.get(place, ""), "label": str(sus["label"].values[k]) if "label" in known else ""}
            yield [names[place[0]], *place[1:], *(own[n] for n in known), *(values[n][k, i] for n, i, _ in columns)]

    heads = [w if n == "sus" else f"{w} ({n.removeprefix('sus_')})" for n, _, w in columns]
    return ["observable", "batch", "target_position", *known, *heads], rows()


def show_susceptibilities(result: xr.DataTree, study: str, estimand: Estimand) -> None:
    """Print each restriction's spread and its mean by observable, standardised."""
    from devinterp.cli.console import put, table
    from devinterp.slt.susceptibilities.matrix import matrix

    sus = result["susceptibilities"].to_dataset()
    names = [str(n) for n in listed(sus.attrs, "dataset_id_to_name")]
    of = [np.flatnonzero(sus["dataset_id"].values == k) for k in range(len(names))]
    steps = [int(s) for s in sus["checkpoint"].values] if "checkpoint" in sus.dims else []
    rows: list[list[str]] = []
    each: list[int | None] = [*steps] if steps else [None]
    for step in each:
        one = result if step is None else result.sel(checkpoint=step)
        standard = matrix(one, standardize="columns").values
        raw = one["susceptibilities"]["sus"].transpose("sus_flat", "wr").values
        rows += [
            [*([str(step)] if steps else []), str(wr), _text(float(raw[:, i].std()))]
            + [_text(float(standard[m, i].mean())) for m in of]
            for i, wr in enumerate(sus["wr"].values)
        ]
    leading = ["checkpoint", "restriction"] if steps else ["restriction"]
    heads = [*leading, with_unit("spread", sus["sus"].attrs["units"]), *(f"mean on {n}" for n in names)]
    put(table(heads, rows, right=heads[len(leading) :], title=f"{study}: {estimand.title}"))
    what = "tokens" if result_of_tokens(result.attrs) else "rows"
    put(f"means: in standard deviations of the restriction's own values over all {what}")
    put(f"sampling task: {sus.attrs.get('sampling_task')}; write single {what} with -o sus.csv or .zarr")


def _text(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return "–" if np.isnan(value) else f"{float(value):.4g}"
    return str(value)
