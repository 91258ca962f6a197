"""Break each property on purpose, in a scratch copy, and see the test that holds it turn red.

    python tests/benchmarks/breaks/run.py [TEXT]

Every break is one textual change of a file in ``src``. Exits with 1 where a break goes unnoticed, or no longer applies.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SRC = "src/devinterp"


@dataclass(frozen=True)
class Break:
    """One deliberate fault: ``old`` becomes ``new`` in ``file``, and ``test`` must fail."""

    what: str
    file: str
    old: str
    new: str
    test: str


_PROPERTIES, _TESTING, _TRUTH = "tests/properties", "tests/testing", "tests/ground_truth/test_known_answers.py"
_LLC, _BIF = f"{_PROPERTIES}/test_llc_identities.py", f"{_PROPERTIES}/test_bif_invariants.py"
_SUS, _CLEAN = f"{_PROPERTIES}/test_susceptibility_invariants.py", f"{_PROPERTIES}/test_sampling_leaves_no_trace.py"
_UPDATE, _KERNELS = f"{SRC}/slt/sampling/update.py", f"{SRC}/slt/_kernels.py"

BREAKS = (
    Break(
        "LLC: the wrong divisor of the spread",
        f"{SRC}/slt/llc.py",
        "per_chain[kept].std()",
        "per_chain[kept].std(ddof=len(kept) > 1)",
        f"{_LLC}::test_is_n_beta_times_the_loss_above_the_start",
    ),
    Break(
        "LLC: the loss at the start forgotten",
        f"{SRC}/slt/llc.py",
        "n_beta * (trace[kept].mean() - init_loss)",
        "n_beta * trace[kept].mean()",
        f"{_LLC}::test_mean_over_chains_is_the_scalar_one",
    ),
    Break(
        "BIF: one half of the matrix not mirrored",
        _KERNELS,
        "out[j, i] = tile.T",
        "out[j, i] = 0",
        f"{_BIF}::test_tile_size_is_irrelevant",
    ),
    Break(
        "BIF: series not centred",
        _KERNELS,
        "wide -= wide.mean(axis=0)",
        "wide -= 0",
        f"{_BIF}::test_ignores_shifts_and_positive_scalings",
    ),
    Break(
        "BIF: series not scaled",
        _KERNELS,
        "np.sqrt(np.where(squares == 0.0, 1.0, squares))",
        "1.0",
        f"{_BIF}::test_is_symmetric_bounded_and_one_on_the_diagonal",
    ),
    Break(
        "BIF: covariance with n",
        _KERNELS,
        "np.sqrt(count - 1)",
        "np.sqrt(count)",
        f"{_TRUTH}::test_exact_targets_lie_in_the_interval",
    ),
    Break(
        "Susceptibilities: the shift left out",
        f"{SRC}/slt/susceptibilities.py",
        "shift = phi * (gap - gap_full)",
        "shift = phi * gap",
        f"{_SUS}::test_ignores_a_constant_added_to_a_probe_everywhere",
    ),
    Break(
        "Susceptibilities: rows and positions exchanged",
        f"{SRC}/slt/_sus_tree.py",
        "np.tile(at, n)",
        "np.repeat(at, n)",
        f"{_SUS}::test_every_predicted_token_occurs_once_and_is_the_context_at_its_position",
    ),
    Break(
        "Update: the sign of the drift",
        _UPDATE,
        "weight.add_(drift, alpha=-0.5 * self._lr)",
        "weight.add_(drift, alpha=0.5 * self._lr)",
        f"{_TRUTH}::test_exact_targets_lie_in_the_interval",
    ),
    Break(
        "Update: the drift twice as large",
        _UPDATE,
        "weight.add_(drift, alpha=-0.5 * self._lr)",
        "weight.add_(drift, alpha=-self._lr)",
        f"{_TRUTH}::test_exact_targets_lie_in_the_interval",
    ),
    Break(
        "Update: the scale of the noise",
        _UPDATE,
        "weight.add_(noise, alpha=self._lr**0.5)",
        "weight.add_(noise, alpha=(self._lr / 2) ** 0.5)",
        f"{_TRUTH}::test_exact_targets_lie_in_the_interval",
    ),
    Break(
        "Update: the noise ignores the mask",
        _UPDATE,
        "            noise.mul_(mask)",
        "            pass",
        f"{_TRUTH}::test_masks_move_only_what_they_name",
    ),
    Break(
        "Sampling: modes not given back",
        f"{SRC}/slt/sampling/hands.py",
        "module.training = training",
        "pass",
        f"{_CLEAN}::test_valid_and_untouched",
    ),
    Break(
        "Sampling: generators not given back",
        f"{SRC}/slt/sampling/hands.py",
        "        before.restore()",
        "        pass",
        f"{_CLEAN}::test_valid_and_untouched",
    ),
    Break(
        "Sampling: weights not given back",
        f"{SRC}/slt/sampling/hands.py",
        "parameter.data = data[name]",
        "pass",
        f"{_CLEAN}::test_an_exception_leaves_the_model_as_it_was",
    ),
    Break(
        "Writer: a resumed chunk is not read back",
        f"{SRC}/store/writer.py",
        "self._buffer[: row - self._start] = np.asarray(",
        "np.asarray(",
        "tests/store/test_writer_stateful.py",
    ),
    Break(
        "Writer: rows behind a failure are kept",
        f"{SRC}/store/writer.py",
        "self._buffer[max(0, row - self._start) :] = self.layout.fill",
        "pass",
        "tests/store/test_run.py",
    ),
    Break(
        "Store: scalars and arrays without a checksum",
        "schemas/samples.yaml",
        "  codecs: [bytes, zstd, crc32c]",
        "  codecs: [bytes, zstd]",
        f"{_TESTING}/test_mutations.py",
    ),
    Break(
        "Validator: missing chunks go unseen",
        f"{SRC}/schema/completeness.py",
        "if sum(present) < total:",
        "if False:",
        f"{_TESTING}/test_mutations.py",
    ),
    Break(
        "Validator: a fault where there is none",
        f"{SRC}/schema/relations_results.py",
        "_CORRELATION = 1e-5",
        "_CORRELATION = 1e-12",
        f"{_TESTING}/test_strategies.py",
    ),
)


def check(fault: Break) -> str:
    """Apply the fault in a scratch copy and run its test; return what came of it."""
    with tempfile.TemporaryDirectory(prefix="break-") as scratch:
        folder = Path(scratch)
        for name in ("src", "schemas", "tests", "pyproject.toml"):
            source = ROOT / name
            ignore = shutil.ignore_patterns("__pycache__", ".hypothesis")
            shutil.copytree(source, folder / name, ignore=ignore) if source.is_dir() else shutil.copy(source, folder)
        path = folder / fault.file
        text = path.read_text(encoding="utf-8")
        if fault.old not in text:
            return "no longer applies"
        path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", fault.test]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        return {0: "NOT NOTICED", 1: "red"}.get(done.returncode, f"pytest ended with {done.returncode}")


def main(only: str) -> int:
    """Try every break; return the exit status."""
    wrong = 0
    print("| break | test | outcome |\n|---|---|---|")
    for fault in BREAKS:
        if only in fault.what:
            outcome = check(fault)
            wrong += outcome != "red"
            print(f"| {fault.what} | {fault.test} | {outcome} |", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
