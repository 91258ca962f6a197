"""What the demo's comparison of heads gives with other seeds; writes docs/demo-seeds.md, and what the demo says of it.

python tests/benchmarks/demo/seeds.py [--seeds 2 3 4 5 6] [--chains 2] [--draws 20] [--page docs/demo-seeds.md]

Each seed trains a model of its own and samples each of its heads, at the demo's settings with fewer chains and draws.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

import devinterp.demo
from devinterp.demo.analysis import head_effects
from devinterp.demo.baselines import baselines
from devinterp.demo.circuit import find_circuit
from devinterp.demo.comparison import Comparison
from devinterp.demo.corpus import HALF, load_corpus
from devinterp.demo.model import build_model
from devinterp.demo.sampling import Data, sample_study
from devinterp.demo.settings import Settings
from devinterp.demo.train import train
from devinterp.slt.diagnostics import diagnose

RECORD = Path(devinterp.demo.__file__).parent / "page" / "several_seeds.json"
MEASURES = {"sampling": "sampling", "removal": "removal", "noise": "noise", "control": "n_beta = 0"}
PAGE = """---
orphan: true
---

# The demo with other seeds

`tests/benchmarks/demo/seeds.py` trained a model per seed and sampled each of its heads, on {date}: n_beta {n_beta:g},
localization {localization:g}, the demo's step sizes, {num_chains} chains of {num_draws} draws. `make demo` is one such
seed ({shown}), with more chains and draws.

{summary}

## Which heads

The circuit is the one that attention shows. The next four columns say whether the heads that a measure ranks highest,
as many as attention names, are the same ones. The last two are the heads with the largest rise of the loss, on copied
bytes and on training rows.

{heads}

## How alike the measures are

The rank correlations over all heads are of sampling with each other measure. The next two columns are the smallest
and the largest rise on training rows, as a share of the rise under the noise that localization alone allows
(n_beta = 0) and under noise of the same size as the draws. The last one counts the heads whose run `diagnose()` calls
good.

{numbers}
"""

HEADS = ("seed", "circuit", "sampling", "removal", "noise", "n_beta = 0", "largest, copied", "largest, training")
NUMBERS = (
    "seed", "with removal", "with attention", "with noise", "with n_beta = 0", "of n_beta = 0", "of noise", "good runs",
)  # fmt: skip


def compare(seed: int, settings: Settings) -> tuple[Comparison, int]:
    """Train and sample one seed; return the comparison of its heads, and how many of them were judged good."""
    settings, corpus = replace(settings, seed=seed), load_corpus()
    model = build_model(seed)
    train(model, corpus, steps=settings.train_steps, checkpoints=(), seed=seed)
    ids = corpus.repeated(64, np.random.default_rng(seed + 20))
    circuit = find_circuit(model.attention(torch.from_numpy(ids)).numpy(), HALF, HALF + 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "study.zarr")
        execution = {"threads_per_chain": 1}
        data, show = Data(corpus, settings), lambda _: None
        members = circuit.members
        study = sample_study(model, data, settings, path, circuit=members, show=show, execution=execution)
        verdicts = diagnose(study)
        good = sum(verdicts[name].verdict.code == "good" for name in circuit.names)
        held = baselines(model, study, circuit, settings)
        return Comparison(circuit, head_effects(study).load(), held, settings.n_beta), good


def rows(seed: int, found: Comparison, good: int) -> tuple[list[str], list[str]]:
    """One row of each table."""
    agrees, ranks, heads = found.agrees, found.ranks, len(found.circuit.names)
    if not found.circuit.members:
        return [str(seed), "none formed", *[""] * (len(HEADS) - 2)], [str(seed), *[""] * (len(NUMBERS) - 1)]
    shares = [
        f"{100 * float(s.min()):.0f}–{100 * float(s.max()):.0f} %"
        for s in (found.share_of_control, found.share_of_noise)
    ]
    named = [str(seed), " + ".join(found.circuit.members), *("yes" if agrees[each] else "no" for each in MEASURES)]
    alike = [str(seed), *(f"{ranks[each]:.2f}" for each in ("removal", "attention", "noise", "control"))]
    return [*named, *found.largest], [*alike, *shares, f"{good} of {heads}"]


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *body)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def summary(all_found: Sequence[Comparison]) -> str:
    """Count over the seeds."""
    formed = [each for each in all_found if each.circuit.members]
    counts = ", ".join(f"{label} in {sum(each.agrees[name] for each in formed)}" for name, label in MEASURES.items())
    apart = sum(each.largest[0] != each.largest[1] for each in formed)
    return (
        f"A circuit formed in {len(formed)} of {len(all_found)} seeds. Of these, the circuit is named by {counts}. The "
        f"head with the largest rise on copied bytes is not the one with the largest on training rows in {apart}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 4, 5, 6])
    parser.add_argument("--chains", type=int, default=2)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--page", type=Path, default=Path("docs/demo-seeds.md"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = replace(Settings(), num_chains=arguments.chains, num_draws=arguments.draws)
    found_rows, comparisons = [], []
    for seed in arguments.seeds:
        started = time.monotonic()
        found, good = compare(seed, settings)
        comparisons.append(found)
        found_rows.append(rows(seed, found, good))
        print(
            found_rows[-1],
            f"{time.monotonic() - started:.0f} s",
            found.measures,
            found.heads["task"].values,
            flush=True,
        )
        date, said = dt.date.today().isoformat(), summary(comparisons)
        arguments.page.write_text(
            PAGE.format(
                date=date,
                heads=table(HEADS, [named for named, _ in found_rows]),
                numbers=table(NUMBERS, [alike for _, alike in found_rows]),
                summary=said,
                shown=Settings().seed,
                **asdict(settings),
            ),
            encoding="utf-8",
        )
        known = {"script": "tests/benchmarks/demo/seeds.py", "date": date, "found": said}
        RECORD.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
