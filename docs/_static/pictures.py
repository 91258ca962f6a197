"""Make the pictures of the landing page and the README: python docs/_static/pictures.py

A transformer of two layers that has learned to copy (docs/tutorials/toy.py) is sampled whole and head by head. Takes a minute
on two cores, and writes files beside this script. What `devinterp info --watch` shows is taken in the middle of the run.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tutorials"))

import toy
from rich.console import Console

from devinterp import sample_restrictions
from devinterp.cli.info import _view
from devinterp.cli.so_far import Traces
from devinterp.store import locate
from devinterp.store.reading.status import read_status

HEADS = ("l0h0", "l0h1", "l1h0", "l1h1")
WORDS = [*toy.WORDS, "^"]


def save(name: str) -> None:
    plt.gcf().savefig(HERE / f"{name}.png", dpi=100, facecolor="white")
    plt.close("all")


# rich's own frame asks another host for its letters.
FRAME = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: {char_height}px;
  line-height: {line_height}px; font-variant-east-asian: full-width; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>{lines}</defs>
<rect fill="#1b1f24" width="{width}" height="{height}" rx="8"/>
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


class Still:
    """What `devinterp info --watch` shows, once, when three fifths of the steps are done."""

    def __init__(self, store: Path) -> None:
        self.store, self.taken = store, False

    def __call__(self, event: object) -> None:
        if self.taken:
            return
        status = read_status(locate(self.store))
        if not status.runs or sum(run.done for run in status.runs) < 0.6 * len(status.runs):
            return
        self.taken = True
        location = locate(self.store)
        console = Console(record=True, width=92, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print("[bold]$ devinterp info study.zarr --watch[/bold]")
        metadata = dict(status.attributes["metadata"])
        shown = replace(status, name="study.zarr", writer="process 4711 on laptop")
        console.print(*_view(location, shown, Traces(location, metadata), height=30), sep="\n")
        (HERE / "watch.svg").write_text(console.export_svg(code_format=FRAME, unique_id="watch"), encoding="utf-8")


def main() -> None:
    model, _ = toy.train()
    data = toy.both(1024, seed=1)
    store = Path(tempfile.mkdtemp()) / "study.zarr"
    study = sample_restrictions(
        model, data, {"train": data, "chatter": toy.chatter(128, seed=2), "echo": toy.echo(128, seed=3)},
        {"full": None, **{head: head for head in HEADS}},
        sampling_task="train", lr=3e-4, n_beta=30.0, localization=1000.0, num_chains=3, num_draws=120,
        num_burnin_steps=60, batches_per_draw=1, output_path=store, progress=Still(store),
    )  # fmt: skip
    study["full"].devinterp.plot.traces(observable="train")
    save("traces")
    study.devinterp.plot.llc()
    save("llc")
    sus = study.devinterp.susceptibilities()
    sus.devinterp.plot.component(1, tokenizer=WORDS, top=8)
    save("component")


if __name__ == "__main__":
    main()
