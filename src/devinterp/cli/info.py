"""``devinterp info``: what a store is and how far it has come, once or live."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from devinterp.cli.console import FOLLOW_LINKS
from devinterp.errors import StoreError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from devinterp.cli.so_far import Live, Traces
    from devinterp.store.location import Location
    from devinterp.store.reading.status import ChainStatus, RunStatus, StoreStatus

__all__ = ["info"]

MOST_ROWS = 40
SETTINGS = (
    "sampling_method",
    "lr",
    "n_beta",
    "localization",
    "batch_size",
    "num_chains",
    "num_draws",
    "num_burnin_steps",
    "num_steps_bw_draws",
    "init_seed",
)


class Format(StrEnum):
    """What to print."""

    text = "text"
    json = "json"


def info(
    store: Annotated[str, typer.Argument(metavar="STORE", help="A store: folder, ZIP or URL.")],
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on until the run has ended; Ctrl-C leaves it alone.")
    ] = False,
    interval: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="With --watch: how often to look.")] = 2.0,
    format: Annotated[Format, typer.Option(help="json prints one document for each look.")] = Format.text,
    follow_links: FOLLOW_LINKS = False,
) -> None:
    """Show what a store is; of a run that is still being written: progress, loss, LLC so far, R-hat.

    Looking never disturbs the run. Losses so far come from whole chunks, so that they lag a little behind.

    Examples:

    \b
      devinterp info run.zarr
      devinterp info run.zarr --watch
      devinterp info run.zarr --format json | jq .completed
    """
    from devinterp.cli.console import put
    from devinterp.cli.so_far import Traces
    from devinterp.schema.reading.access import refuse_links_out
    from devinterp.store import locate
    from devinterp.store.reading.status import read_status

    location = locate(store)
    if not follow_links:
        refuse_links_out(location.folder)
    status = read_status(location)
    traces = Traces(location, _mapping(status.attributes.get("metadata")))
    if not watch:
        if format is Format.json:
            typer.echo(json.dumps(_document(status, traces), ensure_ascii=False, allow_nan=False, indent=2))
        else:
            put(*_view(location, status, traces, height=None))
        return
    _watch(location, traces, interval, format)


def _watch(location: Location, traces: Traces, interval: float, format: Format) -> None:
    import time

    from rich.console import Group

    from devinterp.cli.console import out
    from devinterp.store.reading.status import read_status

    console = out()
    if format is Format.json or not console.is_terminal:
        last = None
        while True:
            status = read_status(location)
            shown = _document(status, traces)
            if shown != last:
                line = json.dumps(shown, ensure_ascii=False, allow_nan=False) if format is Format.json else _line(shown)
                typer.echo(line)
                last = shown
            if status.completed or not _alive(status):
                return
            time.sleep(interval)
    from rich.live import Live

    status = read_status(location)
    with Live(console=console, auto_refresh=False, transient=False) as live:
        while True:
            parts = _view(location, status, traces, height=console.height)
            live.update(Group(*parts), refresh=True)
            if status.completed or not _alive(status):
                return
            try:
                time.sleep(interval)
                status = read_status(location)
            except KeyboardInterrupt:
                return
            except StoreError:  # removed or replaced while we looked
                console.print(f"{location.name} is gone.")
                return


def _alive(status: StoreStatus) -> bool:
    """Whether anything can still happen: somebody writes."""
    return status.writer is not None


def _view(location: Location, status: StoreStatus, traces: Traces, *, height: int | None) -> list[RenderableType]:
    from devinterp.cli.console import table
    from devinterp.slt.runs.results import loss_unit, with_unit

    parts: list[RenderableType] = []
    facts = _facts(status)
    width = max(len(name) for name, _ in facts) + 2
    parts += [_text(f"{name + ':':<{width}}{value}") for name, value in facts]
    if not status.runs:
        return parts
    first = status.runs[0]
    sampler = _mapping(_mapping(first.metadata.get("config")).get("sampler"))
    shown = [f"{k}={sampler[k]}" for k in SETTINGS if k in sampler]
    parts.append(_text(f"{'settings:':<{width}}{', '.join(shown)}"))
    room = MOST_ROWS if height is None else max(4, height - len(parts) - 8)
    going_on = not status.completed
    if len(status.runs) == 1:
        live = traces.look(first) if going_on else None
        rows = [
            [str(c), state.status, *_progress(state, first), _loss(state, live, c), state.reason or ""]
            for c, state in enumerate(first.chains)
        ]
        loss = with_unit("loss", loss_unit(first.metadata))
        heads = ["chain", "state", "draws", "steps", "", loss, "reason"]
        parts.append(table(heads, rows[:room], right=["chain", "draws", "steps", loss]))
        if len(rows) > room:
            parts.append(_text(f"and {len(rows) - room} more chains"))
        if live is not None:
            parts.append(_text(_live_line(live)))
        return parts
    order = sorted(status.runs, key=lambda r: (_finished(r), r.done == 0)) if going_on else list(status.runs)
    rows = []
    for run in order[:room]:
        live = traces.look(run) if going_on and run.done > 0 else None
        states = ", ".join(f"{n} {s}" for s, n in _counts(run).items())
        rows.append(
            [
                run.group.strip("/"),
                f"{100 * run.done:3.0f} %",
                _bar(run.done),
                states,
                "" if live is None or live.llc is None else f"{live.llc:.3g}",
                "" if live is None or live.rhat is None else f"{live.rhat:.2f}",
            ]
        )
    heads = ["run", "done", "", "chains", "LLC so far", "R-hat"]
    parts.append(table(heads if going_on else heads[:4], [r if going_on else r[:4] for r in rows], right=["done"]))
    if len(order) > room:
        ended = sum(_finished(r) for r in status.runs)
        parts.append(_text(f"{ended} of {len(order)} runs have ended; {len(order) - room} are not shown"))
    return parts


def _text(line: str) -> RenderableType:
    from rich.text import Text

    return Text(line, overflow="fold")


def _facts(status: StoreStatus) -> list[tuple[str, str]]:
    state = "completed" if status.completed else "not completed"
    if not status.completed:
        state += (
            f"; written by {status.writer}" if status.writer else "; nobody writes: the same sample() call resumes it"
        )
    facts = [("store", status.name), ("kind", status.schema or "no schema named (see devinterp validate)")]
    if status.runs or not status.completed:
        facts.append(("state", state))
    if status.runs:
        done = sum(r.done for r in status.runs) / len(status.runs)
        facts += [] if status.completed else [("done", f"{100 * done:.1f} % {_bar(done)}")]
        metadata = status.runs[0].metadata
        observables = [o for o in _mapping(metadata.get("config")).get("observables") or [] if isinstance(o, Mapping)]
        sampler = _mapping(_mapping(metadata.get("config")).get("sampler"))
        rows = sampler.get("batch_size")
        named = [
            f"{o.get('name', o.get('obs_id'))}"
            + (
                f" ({rows * o['batches_per_draw']} rows)"
                if isinstance(rows, int) and isinstance(o.get("batches_per_draw"), int)
                else ""
            )
            for o in observables
        ]
        facts += [("observables", ", ".join(named))] if named else []
        facts += _rows(metadata)
        if len(status.runs) > 1:
            facts.append(("runs", str(len(status.runs))))
        sizes = _mapping(_mapping(metadata.get("selection")).get("sizes"))
        left = ", ".join(f"{dim} {size}" for dim, size in sizes.items())
        facts += [("part", f"of a run ({left}); settings, draws and chains are those of the whole run")] if left else []
        facts += [] if status.saved is None else [("saved", status.saved)]
        failed = [
            f"{run.group.strip('/') + ' ' if run.group != '/' else ''}chain {c}: {s.reason or s.status}"
            for run in status.runs
            for c, s in enumerate(run.chains)
            if s.status == "failed"
        ]
        if failed:
            facts.append(
                ("failed", "; ".join(failed[:5]) + (f"; and {len(failed) - 5} more" if len(failed) > 5 else ""))
            )
    return facts


def _rows(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    from devinterp.slt.runs.results import loss_unit, of_tokens
    from devinterp.slt.runs.tree_overview import rows_text

    provenance = _mapping(metadata.get("provenance"))
    marked = {"sampling": provenance.get("visited"), **_mapping(provenance.get("observables"))}
    masked = [name for name, told in marked.items() if "mask" in _mapping(told)]
    said = rows_text(of_tokens(metadata), loss_unit(metadata), masked)
    return [("rows", said)] if said else []


def _progress(state: ChainStatus, run: RunStatus) -> list[str]:
    done = state.steps / max(run.num_steps, 1)
    return [f"{state.draws}/{run.num_draws}", f"{state.steps}/{run.num_steps}", _bar(done)]


def _loss(state: ChainStatus, live: Live | None, chain: int) -> str:
    found = state.loss if live is None or live.losses[chain] is None else live.losses[chain]
    return "" if found is None else f"{found:.4f}"


def _live_line(live: Live) -> str:
    llc = "unknown" if live.llc is None else f"{live.llc:.4g}"
    rhat = "not enough draws yet" if live.rhat is None else f"{live.rhat:.3f}"
    return f"so far, from {live.source}: LLC {llc}, R-hat {rhat}"


def _bar(done: float, width: int = 20) -> str:
    full = round(width * min(max(done, 0.0), 1.0))
    return "█" * full + "░" * (width - full)


def _finished(run: RunStatus) -> bool:
    return all(c.status in ("complete", "failed") for c in run.chains)


def _counts(run: RunStatus) -> dict[str, int]:
    counts: dict[str, int] = {}
    for chain in run.chains:
        counts[chain.status] = counts.get(chain.status, 0) + 1
    return counts


def _document(status: StoreStatus, traces: Traces) -> dict[str, Any]:
    from dataclasses import asdict

    from devinterp.plain_json import plain_json

    runs = []
    for run in status.runs:
        live = traces.look(run) if not status.completed and run.done > 0 else None
        runs.append(
            {
                "group": run.group,
                "done": round(run.done, 6),
                "num_draws": run.num_draws,
                "num_steps": run.num_steps,
                "chains": [asdict(c) for c in run.chains],
                "so_far": None if live is None else asdict(live),
                "sampler": dict(_mapping(_mapping(run.metadata.get("config")).get("sampler"))),
            }
        )
    document: dict[str, Any] = plain_json(
        {
            "store": status.name,
            "schema": status.schema,
            "completed": status.completed,
            "writer": status.writer,
            "saved": status.saved,
            "runs": runs,
        },
        "status",
        nonfinite="null",
        other=str,
    )
    return document


def _line(document: dict[str, Any]) -> str:
    """One look as one line, for a log."""
    runs = document["runs"]
    done = sum(r["done"] for r in runs) / max(len(runs), 1)
    parts = [f"{100 * done:.1f} % done"]
    if len(runs) == 1 and runs[0]["so_far"] is not None:
        live = runs[0]["so_far"]
        losses = [f"{x:.4f}" for x in live["losses"] if x is not None]
        parts.append(f"loss {', '.join(losses)}")
        parts += [f"LLC so far {live['llc']:.4g}"] if live["llc"] is not None else []
        parts += [f"R-hat {live['rhat']:.3f}"] if live["rhat"] is not None else []
    elif len(runs) > 1:
        parts.append(f"{sum(r['done'] == 1 for r in runs)} of {len(runs)} runs ended")
    return "; ".join(["completed" if document["completed"] else "running", *parts])


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
