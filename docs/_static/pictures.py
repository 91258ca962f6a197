"""Draw the pictures of the landing page and the README: python docs/_static/pictures.py

A transformer of two layers that has learned to copy (docs/tutorials/toy.py) is sampled whole and head by head. Takes a minute
on two cores, and writes PNG files beside this script.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tutorials"))

import toy

from devinterp import sample_restrictions

HEADS = ("l0h0", "l0h1", "l1h0", "l1h1")
WORDS = [*toy.WORDS, "^"]


def save(name: str) -> None:
    plt.gcf().savefig(HERE / f"{name}.png", dpi=100, facecolor="white")
    plt.close("all")


def main() -> None:
    model, _ = toy.train()
    data = toy.both(1024, seed=1)
    study = sample_restrictions(
        model, data, {"train": data, "chatter": toy.chatter(128, seed=2), "echo": toy.echo(128, seed=3)},
        {"full": None, **{head: head for head in HEADS}},
        sampling_task="train", lr=3e-4, n_beta=30.0, localization=1000.0, num_chains=3, num_draws=120,
        num_burnin_steps=60, batches_per_draw=1, progress=False,
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
