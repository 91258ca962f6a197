"""The ground-truth table: every case of tests/helpers/known_table.py, written to docs/ground-truth.md.

    python tests/benchmarks/ground_truth/run.py [--peer PYTHON] [--only TEXT] [--output PATH]

``--peer`` is a Python in which devinterp 2.0.x is installed: its sampler then runs the same models with the same
settings and seeds. Exits with 1 where an exact target lies outside its 99 % interval, or a learning coefficient is
missed by more than the bound fixed beforehand.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from known_cases import ASYMPTOTIC_BOUND, Case, Row  # noqa: E402
from known_networks import gaussian_susceptibilities, susceptibility_replicates  # noqa: E402
from known_table import full_table  # noqa: E402
from replicas import effective_size, interval, readout  # noqa: E402

HEADER = """# Ground truth

`make ground-truth` samples models whose right answer is known, and writes this page. Every run holds many independent
copies of its weights, so that the interval (99 %, Student's t over copies and chains) owes nothing to an estimate of
autocorrelation. The targets are exact for the run's own step size, inverse temperature, localization and start:

* Gaussian posteriors by the stationary law of the update at a finite step size;
* one-dimensional ones by the chain's own transition kernel;
* normal crossings, two-dimensional losses and regression at rank 0 by quadrature, with the step size to first order;
* λ rows compare with learning coefficients, the limit of large n_beta; they hold up to a bias of {bound:.0%}, which
  was fixed beforehand.

ESS is the number of independent draws that the mean is worth. Of intervals at 99 %, one in a hundred misses its target
by chance.{peer}

| group | case | quantity | true value | estimate | 99 % interval | ESS | {peer_title} | verdict |
|---|---|---|---|---|---|---|---|---|
"""

PEER = " The column of devinterp 2.0.x is its own sampler on the same models, settings and seeds."


@dataclass
class Result:
    """One line of the table."""

    group: str
    case: str
    row: Row
    estimate: float
    low: float
    high: float
    ess: float
    peer: float | None

    @property
    def fine(self) -> bool:
        """Inside the interval, or for a learning coefficient within the bias bound."""
        if self.row.kind == "asymptotic":
            return abs(self.estimate - self.row.target) <= ASYMPTOTIC_BOUND * self.row.target
        return self.low <= self.row.target <= self.high

    def line(self) -> str:
        """The line, in Markdown."""
        if self.row.kind == "asymptotic":
            verdict = f"{self.estimate / self.row.target - 1:+.1%}" + ("" if self.fine else " **beyond the bound**")
        else:
            verdict = "inside" if self.fine else "**outside**"
        peer = "" if self.peer is None else f"{self.peer:.5g}"
        return (
            f"| {self.group} | {self.case} | {self.row.label} | {self.row.target:.5g} | {self.estimate:.5g} | "
            f"{self.low:.5g} to {self.high:.5g} | {self.ess:.0f} | {peer} | {verdict} |"
        )


def sample_case(case: Case) -> Any:
    """Run a case with whatever devinterp is installed."""
    from devinterp.slt.sampling import sample

    arguments = case.arguments()
    if case_is_ours():
        return sample(**arguments, progress=False, device="cpu")
    from datasets import Dataset  # the reference implementation takes nothing else

    def wrapped(rows: Any) -> Any:
        return Dataset.from_dict({"input_ids": rows.tolist()}).with_format("torch")

    arguments["dataset"] = wrapped(arguments["dataset"])
    arguments["observables"] = {name: wrapped(rows) for name, rows in arguments["observables"].items()}
    return sample(**arguments, device="cpu")


def case_is_ours() -> bool:
    """Whether the installed devinterp is this one."""
    import importlib.metadata

    return int(importlib.metadata.version("devinterp").split(".")[0]) >= 3


def chosen(only: str) -> list[Case]:
    """The cases whose group or name contains ``only``."""
    return [case for case in full_table() if only in f"{case.group} {case.name}"]


def measured(only: str) -> Iterator[tuple[Case, Sequence[Row], Any]]:
    """Run every case; yield it with its rows and what they are read from."""
    for case in chosen(only):
        yield case, case.rows, sample_case(case)
    if only in "susceptibilities x alone":
        full, part, ((label, target, _),) = gaussian_susceptibilities("x alone")
        pair = sample_case(full), sample_case(part)
        row = Row(f"susceptibility of the {label}", target, lambda trees: susceptibility_replicates(*trees))
        yield part, [row], pair


def peer_means(python: str, only: str) -> dict[str, dict[str, float]]:
    """Run the same cases under another Python; return its estimates by case and row."""
    command = [python, str(Path(__file__).resolve()), "--as-peer", "--only", only]
    # A path to our own source would hide the devinterp that is installed there.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False, env=environment
    )
    found = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            entry = json.loads(line)
            found[entry["case"]] = entry["estimates"]
    if done.returncode:
        print(f"the peer ended with {done.returncode} after {len(found)} cases", file=sys.stderr)
    return found


def as_peer(only: str) -> None:
    """Print the estimates of every case, a line of JSON each, by the sampler and the analyses installed here."""
    torch.set_num_threads(1)
    for case, rows, tree in measured(only):
        estimates = {row.label: float(np.mean(row.measure(tree))) for row in rows}
        print(json.dumps({"case": case.name, "estimates": estimates}), flush=True)


def results(peer: str | None, only: str) -> Iterator[Result]:
    """Run every case."""
    theirs = peer_means(peer, only) if peer else {}
    begun = time.perf_counter()
    for case, rows, tree in measured(only):
        ess = effective_size(readout(tree[-1] if isinstance(tree, tuple) else tree, case.functions[0]))
        for row in rows:
            their = theirs.get(case.name, {}).get(row.label)
            estimate, low, high = interval(row.measure(tree))
            yield Result(case.group, case.name, row, estimate, low, high, ess, their)
        print(f"{case.group}: {case.name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
        begun = time.perf_counter()


def main() -> int:
    """Run, print and write the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peer", help="a Python with devinterp 2.0.x")
    parser.add_argument("--only", default="", help="run only the cases that contain this text")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "ground-truth.md")
    parser.add_argument("--as-peer", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_peer:
        as_peer(arguments.only)
        return 0
    torch.set_num_threads(1)
    found = []
    for result in results(arguments.peer, arguments.only):
        print(result.line(), flush=True)
        found.append(result)
    exact = [r for r in found if r.row.kind == "exact"]
    inside, wrong = sum(r.fine for r in exact), [r for r in found if not r.fine]
    peer = PEER if arguments.peer else ""
    header = HEADER.format(bound=ASYMPTOTIC_BOUND, peer=peer, peer_title="devinterp 2.0.x" if arguments.peer else "")
    runs = len({r.case for r in found})
    summary = f"\n{len(found)} numbers of {runs} runs; {inside} of {len(exact)} exact targets inside.\n"
    arguments.output.write_text(header + "\n".join(r.line() for r in found) + "\n" + summary, encoding="utf-8")
    print(summary, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
