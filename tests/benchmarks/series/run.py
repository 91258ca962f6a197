"""A series of many checkpoints and restrictions: created, interrupted, resumed, extended; how fast it opens.

python tests/benchmarks/series/run.py [--checkpoints 50] [--restrictions 9] [--draws 4] [--more-draws 100]

Limits: opening 2 s, structure validation 3 s. The exit status is 1 where one is missed or a step is computed twice.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

import devinterp
from devinterp.slt.sampling import ProgressEvent, sample_checkpoints

VOCAB, WIDTH, CONTEXT, LAYERS = 16, 8, 8, 4
OPENING_LIMIT, STRUCTURE_LIMIT = 2.0, 3.0


class Net(nn.Module):
    """As small as a network with ten parameters to restrict to can be."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))
        self.unembed = nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        logits: torch.Tensor = self.unembed(x)
        return logits


def build(step: int) -> Net:
    """Return the model of a checkpoint, whose weights depend on the step alone."""
    torch.manual_seed(step)
    return Net()


class Watch:
    """Counts the steps of every chain, and interrupts the run after some of them."""

    def __init__(self) -> None:
        self.steps: Counter[tuple[str | None, int, int]] = Counter()
        self.stop_after: int | None = None

    def __call__(self, event: ProgressEvent) -> None:
        if event.step > 0:
            self.steps[event.restriction, event.chain, event.step] += 1
        if self.stop_after is not None:
            self.stop_after -= 1
            if self.stop_after == 0:
                signal.raise_signal(signal.SIGINT)

    @property
    def repeated(self) -> int:
        """How many steps were computed more than once."""
        return sum(count - 1 for count in self.steps.values())


class Series:
    """The series under measurement; every call asks for the whole of it.

    Parameters
    ----------
    path : Path
    restrictions, chains : int
    watch : Watch
    """

    def __init__(self, path: Path, restrictions: int, chains: int, watch: Watch) -> None:
        names = [name for name, _ in Net().named_parameters()][: restrictions - 1]
        self.path, self.watch, self.chains = path, watch, chains
        self.restrictions = {"full": None} | {name: {name: None} for name in names}
        self.ids = np.random.default_rng(0).integers(0, VOCAB, (64, CONTEXT + 1))

    def sample(self, checkpoints: Iterable[int], draws: int, *, stop_after: int | None = None) -> float:
        """Sample what is missing; return the seconds it took."""
        self.watch.stop_after = stop_after
        start = time.perf_counter()
        try:
            sample_checkpoints(
                build,
                list(checkpoints),
                self.ids,
                {"train": (self.ids, 1)},
                sampling_task="train",
                weight_restrictions=self.restrictions,
                output_path=self.path,
                lr=1e-3,
                n_beta=10.0,
                localization=10.0,
                num_chains=self.chains,
                num_draws=draws,
                batch_size=4,
                num_init_loss_batches=2,
                device="cpu",
                keep_state=True,
                checkpoint_every=draws,
                progress=self.watch,
            )
        except KeyboardInterrupt:
            if stop_after is None:
                raise
        else:
            assert stop_after is None, "nothing interrupted the series"
        return time.perf_counter() - start


def median_seconds(function: Callable[[], Any], repeats: int = 5) -> tuple[float, float]:
    """Return the median wall and processor seconds of some calls."""
    wall, processor = [], []
    for _ in range(repeats):
        start, busy = time.perf_counter(), time.process_time()
        function()
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - busy)
    return statistics.median(wall), statistics.median(processor)


def measure(path: Path, arguments: argparse.Namespace) -> int:
    """Print every figure; return the exit status."""
    watch = Watch()
    series = Series(path, arguments.restrictions, arguments.chains, watch)
    steps, draws = [100 * i for i in range(arguments.checkpoints)], arguments.draws
    total = len(steps) * arguments.restrictions * arguments.chains * draws
    say(f"{len(steps)} checkpoints x {arguments.restrictions} restrictions, {arguments.chains} chains, {draws} draws")
    say(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    say(f"created, interrupted half way  {series.sample(steps, draws, stop_after=total // 2):8.1f} s")
    say(f"resumed to its end             {series.sample(steps, draws):8.1f} s")
    say(f"asked for again                {series.sample(steps, draws):8.1f} s")
    steps.append(100 * len(steps))
    say(f"extended by a checkpoint       {series.sample(steps, draws):8.1f} s")
    say(
        f"extended by {arguments.more_draws} draws          {series.sample(steps, draws + arguments.more_draws):8.1f} s"
    )
    expected = len(steps) * arguments.restrictions * arguments.chains * (draws + arguments.more_draws)
    say(f"steps computed                 {len(watch.steps):8d} of {expected}, {watch.repeated} of them twice")
    opening = median_seconds(lambda: xr.open_datatree(path, engine="zarr"))
    structure = median_seconds(lambda: devinterp.validate(path, level="structure"))
    ours = median_seconds(lambda: xr.open_datatree(path, engine="devinterp"))
    say(f"opens in                       {opening[0]:8.2f} s, {opening[1]:.2f} of processor; limit {OPENING_LIMIT:g} s")
    say(f"structure validation           {structure[0]:8.2f} s, {structure[1]:.2f} s (limit {STRUCTURE_LIMIT:g} s)")
    say(f"engine='devinterp', both       {ours[0]:8.2f} s, {ours[1]:.2f} s")
    report = devinterp.validate(path, level="completeness")
    say(str(report).splitlines()[0])
    say(f"load average {os.getloadavg()[0]:.1f}")
    good = report.ok and watch.repeated == 0 and len(watch.steps) == expected
    return int(not good or opening[0] > OPENING_LIMIT or structure[0] > STRUCTURE_LIMIT)


def say(line: str) -> None:
    """Print at once."""
    print(line, flush=True)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=50)
    parser.add_argument("--restrictions", type=int, default=9)
    parser.add_argument("--chains", type=int, default=1)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--more-draws", type=int, default=100)
    parser.add_argument("--keep", type=Path, help="where to leave the store")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.keep is not None:
        return measure(arguments.keep, arguments)
    with tempfile.TemporaryDirectory() as folder:
        return measure(Path(folder) / "series.zarr", arguments)


if __name__ == "__main__":
    raise SystemExit(main())
