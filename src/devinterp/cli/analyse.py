"""``devinterp llc``, ``bif`` and ``susceptibilities``: an analysis of a store to Zarr, CSV, JSON, or a table."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from devinterp.cli.output import Format, emit, open_input, target_kind
from devinterp.cli.records import llc_records, pair_records, partner_records, sus_records
from devinterp.errors import SettingError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["bif", "llc", "susceptibilities"]

MOST_CSV_ROWS = 20_000_000
STRONGEST = 10

Store = Annotated[str, typer.Argument(metavar="STORE", help="A store that sample() wrote: folder, ZIP or URL.")]
Output = Annotated[
    str | None,
    typer.Option("-o", "--output", metavar="FILE", help="Write to a new .zarr, .csv or .json, not to the screen."),
]
Shown = Annotated[Format, typer.Option("--format", help="Of standard output, without -o.")]
ProfileName = Annotated[
    str, typer.Option("--profile", metavar="NAME", help="auto, strict, open or devinterp-2.0; see validate.")
]
Checkpoint = Annotated[
    int | None, typer.Option("--checkpoint", metavar="STEP", help="Of a series: only this training step.")
]
Mixed = Annotated[
    bool, typer.Option("--allow-mixed", help="Of a series: also checkpoints that were sampled with other settings.")
]
Partial = Annotated[bool, typer.Option("--allow-partial", help="Use what a run that has not completed has so far.")]


class Over(StrEnum):
    """What the LLC is averaged over."""

    draws = "draws"
    steps = "steps"
    observable = "observable"


class Method(StrEnum):
    """What is correlated."""

    token = "token"
    sequence = "sequence"


class Baseline(StrEnum):
    """The loss at the start."""

    init = "init"
    observable = "observable"


def llc(
    store: Store,
    over: Annotated[
        Over,
        typer.Option(
            help="draws: minibatches at the draws, as documented; steps: of every step; observable: the fixed rows "
            "of the sampling task, with far less noise."
        ),
    ] = Over.draws,
    burnin: Annotated[bool, typer.Option("--burnin", help="With --over steps: burn-in too.")] = False,
    observable: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --over observable: which; else the sampling task.")
    ] = None,
    ci: Annotated[
        float | None, typer.Option(metavar="LEVEL", help="Also an interval at this level, for instance 0.9.")
    ] = None,
    checkpoint: Checkpoint = None,
    output: Output = None,
    format: Shown = Format.table,
    profile: ProfileName = "auto",
    allow_partial: Partial = False,
    allow_mixed: Mixed = False,
) -> None:
    """Compute the local learning coefficient of a run, or of every restriction of a study or series.

    Examples:

    \b
      devinterp llc run.zarr
      devinterp llc run.zarr --over observable --ci 0.9
      devinterp llc series.zarr -o llc.csv
      devinterp llc old.zarr --over steps --burnin --format json
    """
    from devinterp.slt.llc import compute_llc

    target_kind(output)
    tree = _at(open_input(store, profile, allow_partial=allow_partial), checkpoint)
    result = compute_llc(
        tree,
        over=over.value,
        burnin=burnin,
        observable=observable,
        ci=ci,
        allow_partial=allow_partial,
        allow_mixed=allow_mixed,
    )
    header, rows = llc_records(result)
    emit(result, output, format, header=header, rows=rows, show=lambda: _show_llc(result, store))


def _show_llc(result: xr.Dataset, store: str) -> None:
    from devinterp.cli.console import put, table

    header, rows = llc_records(result)
    shown = [h for h in header if not h.startswith("llc_chain_") or result.sizes["chain"] <= 8]
    cells = [[_text(v) for h, v in zip(header, row, strict=True) if h in shown] for row in rows]
    names = {"llc_mean": "LLC", "llc_std": "std", "llc_scalar": "LLC (pooled)", "init_loss": "init loss (nat)"}
    names |= {"llc_ci_low": "from", "llc_ci_high": "to"}
    heads = [names.get(h, h.replace("llc_chain_", "chain ")) for h in shown]
    over = {"draws": "minibatches of the draws", "steps": "minibatches of every step"}.get(
        result.attrs["over"], f"fixed rows of {result.attrs.get('observable')}"
    )
    put(table(heads, cells, right=heads[len(result["llc_mean"].dims) :], title=f"{store}: LLC over {over}"))
    if "ci" in result.attrs:
        put(f"from, to: {100 * float(result.attrs['ci']):g} % interval of the LLC")
    excluded = result.attrs.get("chains_excluded")
    lines = excluded.items() if isinstance(excluded, dict) else [("", excluded or [])]
    for name, chains in lines:
        if chains:
            put(f"{name + ': ' if name else ''}chains left out: {', '.join(map(str, chains))}")


def bif(
    store: Store,
    method: Annotated[Method, typer.Option(help="Between tokens, or between sequences.")] = Method.token,
    restriction: Annotated[
        str | None, typer.Option("--restriction", metavar="NAME", help="Of a study: which run; else full.")
    ] = None,
    checkpoint: Checkpoint = None,
    queries: Annotated[
        str, typer.Option(metavar="WHICH", help="Sequences of the rows: all, an observable, or 0,5,10-20.")
    ] = "all",
    corpus: Annotated[str, typer.Option(metavar="WHICH", help="Sequences of the columns, likewise.")] = "all",
    observables: Annotated[
        str, typer.Option(metavar="A,B", help="Observables, concatenated in this order; all: sorted.")
    ] = "all",
    average: Annotated[bool, typer.Option("--average", help="Average tokens' influences over both positions.")] = False,
    covariance: Annotated[bool, typer.Option("--covariance", help="Covariance (nat^2), not correlation.")] = False,
    se: Annotated[bool, typer.Option("--se", help="Also standard errors.")] = False,
    top_k: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="Only the K strongest partners of each sign.")
    ] = None,
    output: Output = None,
    format: Shown = Format.table,
    profile: ProfileName = "auto",
    allow_partial: Partial = False,
) -> None:
    """Compute the Bayesian influence function.

    To Zarr it is written tile by tile and may be larger than memory. On the screen: the strongest pairs.

    Examples:

    \b
      devinterp bif run.zarr --method sequence
      devinterp bif run.zarr -o influence.zarr
      devinterp bif run.zarr --queries code --corpus prose --top-k 5 -o partners.csv
    """
    from devinterp.slt.bif import compute_bif

    kind = target_kind(output)
    tree = _one_run(_at(open_input(store, profile, allow_partial=allow_partial), checkpoint), restriction)
    options: dict[str, Any] = {
        "correlation_method": method.value,
        "loss_keys": "all" if observables == "all" else observables.split(","),
        "batch_index_range_1": _indices(queries),
        "batch_index_range_2": _indices(corpus),
        "allow_partial": allow_partial,
    }
    if kind == "zarr" and top_k is None:
        compute_bif(
            tree,
            **options,
            average_tokenwise_bif=average,
            compute_covariance=covariance,
            se=se,
            output_path=output,
        )
        from devinterp.cli.console import err

        err().print(f"written: {output}")
        return
    only_strongest = kind is None and format is Format.table and not (average or covariance or se)
    if top_k is None and only_strongest:
        top_k = STRONGEST  # what the screen shows; the whole matrix would never be looked at
    if top_k is not None:
        result = compute_bif(tree, **options, top_k=top_k)
        header, rows = partner_records(result)
    else:
        result = compute_bif(tree, **options, average_tokenwise_bif=average, compute_covariance=covariance, se=se)
        if (kind == "csv" or format is Format.csv) and result["influences"].size > MOST_CSV_ROWS:
            raise SettingError(
                f"The influences are {result['influences'].size} numbers, too many for a text file.",
                expected=f"at most {MOST_CSV_ROWS}",
                remedy="Write .zarr, or narrow it with --top-k, --method sequence, --average, --queries or --corpus.",
            )
        header, rows = pair_records(result)
    emit(result, output, format, header=header, rows=rows, show=lambda: _show_bif(result, header, store))


def _at(tree: xr.DataTree, checkpoint: int | None) -> xr.DataTree:
    """Return the study of one checkpoint of a series; all of the store where none is named."""
    from devinterp.slt.runs.run import series_members

    if checkpoint is None:
        return tree
    steps = series_members(tree)
    if steps is None:
        raise SettingError("--checkpoint is for series; this store has no checkpoints.")
    if checkpoint not in steps:
        raise SettingError(f"The series has no checkpoint {checkpoint}.", expected=f"one of {list(steps)}")
    return steps[checkpoint]


def _one_run(tree: xr.DataTree, restriction: str | None) -> Any:
    from devinterp.slt.runs.run import series_members, study_members

    steps = series_members(tree)
    if steps is not None:
        raise SettingError(
            "This is of one run, and the store is a series.",
            found=f"{len(steps)} checkpoints",
            remedy=f"Choose one with --checkpoint, for instance {max(steps)}.",
        )
    members = study_members(tree)
    if members is None:
        if restriction is not None:
            raise SettingError("--restriction is for studies; this store is a single run.")
        return tree
    name = restriction or ("full" if "full" in members else next(iter(members)))
    if name not in members:
        raise SettingError(f"The study has no restriction {name!r}.", expected=f"one of {list(members)}")
    return members[name]


def _indices(text: str) -> Any:
    """Read ``all``, an observable's name, or ``0,5,10-20``."""
    parts = text.split(",")
    if not all(p.replace("-", "", 1).isdigit() for p in parts):
        return text
    found: list[int] = []
    for part in parts:
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _show_bif(result: xr.Dataset, header: Sequence[str], store: str) -> None:
    from devinterp.cli.console import put, table

    _, rows = partner_records(result) if "partner_batch" in result else pair_records(result)
    listed = [row for row in rows if "partner_batch" in result or row[0] != row[1]]
    listed = [row for row in listed if np.isfinite(row[-1])]
    listed.sort(key=lambda row: -abs(row[header.index("influence")]))
    unit = "covariance, nat^2" if result.attrs.get("compute_covariance") else "correlation"
    cells = [[_text(v) for v in row] for row in listed[: 2 * STRONGEST]]
    put(table(list(header), cells, right=list(header), title=f"{store}: strongest influences ({unit})"))
    sizes = zip(result.attrs["observables"], result.attrs["observable_sizes"], strict=True)
    start, parts = 0, []
    for name, size in sizes:
        parts.append(f"{start}-{start + int(size) - 1} {name}")
        start += int(size)
    put(f"sequences: {', '.join(parts)}")
    if "noise_floor_strongest" in result.attrs:
        put(f"noise: of unrelated losses the strongest stays below {float(result.attrs['noise_floor_strongest']):.2g}")


def susceptibilities(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A study with a run named full, or a series of such.")],
    sampling_task: Annotated[
        str | None, typer.Option(metavar="NAME", help="The observable that was sampled on; else as recorded.")
    ] = None,
    observables: Annotated[
        str | None, typer.Option(metavar="A,B", help="Probes; by default all but the sampling task.")
    ] = None,
    include_sampling_task: Annotated[bool, typer.Option("--include-sampling-task", help="Probe it too.")] = False,
    baseline: Annotated[
        Baseline, typer.Option(help="The loss at the start: of minibatches, or of the fixed rows (less noise).")
    ] = Baseline.init,
    terms: Annotated[bool, typer.Option("--terms", help="Also the two terms it is made of.")] = False,
    se: Annotated[bool, typer.Option("--se", help="Also standard errors.")] = False,
    checkpoint: Checkpoint = None,
    output: Output = None,
    format: Shown = Format.table,
    profile: ProfileName = "auto",
    allow_partial: Partial = False,
    allow_mixed: Mixed = False,
) -> None:
    """Compute the susceptibility of every restriction to every token.

    On the screen: each restriction's spread and mean by observable, standardised.

    Examples:

    \b
      devinterp susceptibilities study.zarr
      devinterp susceptibilities study.zarr --se -o sus.zarr
      devinterp susceptibilities study.zarr --observables code,prose --baseline observable -o sus.csv
    """
    from devinterp.slt.susceptibilities import compute_susceptibilities

    target_kind(output)
    tree = _at(open_input(study, profile, allow_partial=allow_partial), checkpoint)
    result = compute_susceptibilities(
        tree,
        sampling_task,
        None if observables is None else observables.split(","),
        include_sampling_task,
        baseline=baseline.value,
        terms=terms,
        se=se,
        allow_partial=allow_partial,
        allow_mixed=allow_mixed,
    )
    header, rows = sus_records(result)
    emit(result, output, format, header=header, rows=rows, show=lambda: _show_sus(result, study))


def _show_sus(result: xr.DataTree, study: str) -> None:
    from devinterp.cli.console import put, table
    from devinterp.slt.susceptibilities.views import matrix

    sus = result["susceptibilities"].to_dataset()
    names = [str(n) for n in sus.attrs["dataset_id_to_name"]]
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
    heads = [*leading, "spread (nat^2)", *(f"mean on {n}" for n in names)]
    put(table(heads, rows, right=heads[len(leading) :], title=f"{study}: susceptibilities"))
    put("means: in standard deviations of the restriction's own values over all tokens")
    put(f"sampling task: {sus.attrs.get('sampling_task')}; write single tokens with -o sus.csv or .zarr")


def _text(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return "–" if np.isnan(value) else f"{float(value):.4g}"
    return str(value)
