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
_TRIPS, _WAYS = f"{_PROPERTIES}/test_round_trips.py", f"{_PROPERTIES}/test_ways_of_sampling.py"
_UPDATE, _KERNELS = f"{SRC}/slt/sampling/update.py", f"{SRC}/slt/_kernels.py"
_COEFFICIENT, _LOSSES = f"{SRC}/slt/llc.py", f"{SRC}/slt/_losses.py"
_ESTIMATOR, _VIEWS = f"{SRC}/slt/susceptibilities.py", f"{SRC}/slt/susceptibility_views.py"

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
        'noise = torch.mul(mask, noise, out=self._out("noise", index))',
        "pass",
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
    Break(
        "LLC: half of the loss at the start",
        _COEFFICIENT,
        "init = float(init_rows.mean())",
        "init = 0.5 * float(init_rows.mean())",
        f"{_LLC}::test_ignores_a_constant_added_to_every_loss",
    ),
    Break(
        "LLC: not proportional to n_beta",
        _COEFFICIENT,
        "n_beta * (trace[kept].mean(axis=1) - init_loss)",
        "1 + n_beta * (trace[kept].mean(axis=1) - init_loss)",
        f"{_LLC}::test_scales_with_the_loss_and_with_n_beta",
    ),
    Break(
        "LLC: one row instead of all",
        _COEFFICIENT,
        "trace = rows.mean(axis=2)",
        "trace = rows[:, :, 0]",
        f"{_LLC}::test_is_equivariant_in_the_order_of_chains_and_blind_to_that_of_draws_and_rows",
    ),
    Break(
        "LLC: failed chains counted",
        _COEFFICIENT,
        "kept = list(used)",
        "kept = list(range(len(trace)))",
        f"{_LLC}::test_of_a_run_with_failed_chains_is_that_of_the_others",
    ),
    Break(
        "LLC: dask averages in float32",
        f"{SRC}/slt/_blocks.py",
        "array.mean([array.dims[-1]], dtype=np.float64, skipna=False)",
        "array.mean([array.dims[-1]], dtype=np.float32, skipna=False)",
        f"{_LLC}::test_does_not_depend_on_chunks",
    ),
    Break(
        "LLC: fixed rows against the loss of other rows",
        _COEFFICIENT,
        "    if task is None:\n        array =",
        "    if True:\n        array =",
        f"{_LLC}::test_over_an_observable_compares_the_same_rows_before_and_after",
    ),
    Break(
        "LLC: restrictions under each other's names",
        _COEFFICIENT,
        'assign_coords(wr=("wr", string_index(names)))',
        'assign_coords(wr=("wr", string_index(names[::-1])))',
        f"{_LLC}::test_of_a_study_is_those_of_its_runs_side_by_side",
    ),
    Break(
        "BIF: losses squared",
        _LOSSES,
        "values[block.chains, block.draws, target] = flat",
        "values[block.chains, block.draws, target] = flat**2",
        f"{_BIF}::test_is_the_correlation_of_losses_over_chains_and_draws",
    ),
    Break(
        "BIF: magnitudes instead of signs",
        _KERNELS,
        "tile = np.matmul(first[:, i].T, second[:, j], out=out[i, j])",
        "tile = np.abs(np.matmul(first[:, i].T, second[:, j], out=out[i, j]), out=out[i, j])",
        f"{_BIF}::test_changes_sign_with_the_loss",
    ),
    Break(
        "BIF: sequences summed instead of averaged",
        _LOSSES,
        "part.mean(axis=-1, dtype=part.dtype)",
        "part.sum(axis=-1, dtype=part.dtype)",
        f"{_BIF}::test_token_covariances_sum_to_the_sequence_covariance",
    ),
    Break(
        "BIF: the average over tokens is that of the first",
        f"{SRC}/slt/_bif_tiles.py",
        "wide.mean(axis=2, dtype=np.float64)",
        "wide[:, :, 0]",
        f"{_BIF}::test_average_over_tokens_is_the_mean_of_the_token_bif",
    ),
    Break(
        "BIF: observables sorted against the wish",
        f"{SRC}/slt/_bif_plan.py",
        "Sequences.of(run, run.resolve(loss_keys))",
        "Sequences.of(run, tuple(sorted(run.resolve(loss_keys))))",
        f"{_BIF}::test_order_of_observables_permutes_the_sequences",
    ),
    Break(
        "BIF: sequences of a range sorted",
        _LOSSES,
        "at = np.searchsorted(self.sequences, sequences)",
        "at = np.sort(np.searchsorted(self.sequences, sequences))",
        f"{_BIF}::test_a_range_of_sequences_is_a_part_of_the_whole",
    ),
    Break(
        "BIF: the first observation forgotten",
        _LOSSES,
        "stacked = kept.reshape(kept.shape[0] * kept.shape[1], -1)",
        "stacked = kept.reshape(kept.shape[0] * kept.shape[1], -1)[1:]",
        f"{_BIF}::test_is_blind_to_the_order_of_chains_and_draws",
    ),
    Break(
        "BIF: dask leaves out the first draw",
        f"{SRC}/slt/bif_lazy.py",
        "[list(selection.used), : selection.length]",
        "[list(selection.used), 1 : selection.length]",
        f"{_BIF}::test_dask_chunks_are_irrelevant",
    ),
    Break(
        "BIF: positions from 0",
        f"{SRC}/slt/_bif_plan.py",
        "return np.arange(1, self.sequences.num_tokens + 1)",
        "return np.arange(self.sequences.num_tokens)",
        f"{_BIF}::test_tokens_and_positions_are_those_of_the_observables",
    ),
    Break(
        "Susceptibilities: the sign of the shift",
        _ESTIMATOR,
        "sus = cov + shift",
        "sus = cov - shift",
        f"{_SUS}::test_is_the_estimator_that_is_documented",
    ),
    Break(
        "Susceptibilities: not affine in the probe",
        _ESTIMATOR,
        "cov = variance - moments.covariance(obs_id)",
        "cov = variance - np.abs(moments.covariance(obs_id))",
        f"{_SUS}::test_is_affine_in_the_probe",
    ),
    Break(
        "Susceptibilities: the spread of phi over n - 1",
        _ESTIMATOR,
        "(trace - moments.centre).mean() ** 2)",
        "(trace - moments.centre).mean() ** 2) * trace.size / max(trace.size - 1, 1)",
        f"{_SUS}::test_same_run_as_full_probed_by_the_task_sums_to_zero",
    ),
    Break(
        "Susceptibilities: a term that is not in the sum",
        _ESTIMATOR,
        'out.setdefault("sus_shift", []).append(shift)',
        'out.setdefault("sus_shift", []).append(phi * gap)',
        f"{_SUS}::test_terms_add_up",
    ),
    Break(
        "Susceptibilities: restrictions sorted, their columns not",
        f"{SRC}/slt/_sus_tree.py",
        "string_index(restrictions)",
        "string_index(sorted(restrictions))",
        f"{_SUS}::test_order_of_restrictions_and_probes_permutes_the_result",
    ),
    Break(
        "Susceptibilities: dask weighs the losses with the trace itself",
        f"{SRC}/slt/_moments_dask.py",
        "trace[c, cut] - centre",
        "trace[c, cut]",
        f"{_SUS}::test_chunks_are_irrelevant",
    ),
    Break(
        "Susceptibilities: a result that tells the time",
        _ESTIMATOR,
        '"sampling_task": task,',
        '"sampling_task": task, "at": __import__("time").perf_counter(),',
        f"{_SUS}::test_same_call_gives_an_identical_result",
    ),
    Break(
        "Stores: arrays without names of dimensions",
        f"{SRC}/store/layout.py",
        "dimension_names=layout.dims,",
        "dimension_names=None,",
        f"{_TRIPS}::test_write_read_write_is_the_identity",
    ),
    Break(
        "Views: flatten exchanges rows and positions",
        _VIEWS,
        'order = ("batch", "target_position", "wr")',
        'order = ("target_position", "batch", "wr")',
        f"{_TRIPS}::test_flatten_undoes_unflatten",
    ),
    Break(
        "Views: unflatten gives the rows in the wrong order",
        _VIEWS,
        'coords: dict[str, Any] = {"batch": rows, ',
        'coords: dict[str, Any] = {"batch": rows[::-1], ',
        f"{_TRIPS}::test_unflattened_values_lie_where_their_coordinates_say",
    ),
    Break(
        "Sampling: the norms of parameters added up, not pooled",
        _UPDATE,
        "squares = np.square(_root(sums[:, :_NORMS]))",
        "squares = _root(sums[:, :_NORMS])",
        f"{_CLEAN}::test_valid_and_untouched",
    ),
    Break(
        "Resume: weights start afresh",
        _UPDATE,
        'sampled.weight.copy_(state["weights"][sampled.name])',
        "pass",
        f"{_WAYS}::test_a_run_that_is_cut_and_resumed_has_the_bytes_of_one_that_is_not",
    ),
    Break(
        "Stores: other bytes on disk than in memory",
        f"{SRC}/store/location.py",
        "partial.write_bytes(value)",
        'partial.write_bytes(value + b" ")',
        f"{_TRIPS}::test_a_store_on_disk_is_the_store_in_memory",
    ),
    Break(
        "Sampling: noise from the caller's generators",
        f"{SRC}/slt/sampling/chain.py",
        "        seed_generators(settings.init_seed + chain, device)",
        "        pass",
        f"{_CLEAN}::test_the_same_call_gives_the_same_bytes",
    ),
    Break(
        "Executors: every worker samples the first chain",
        f"{SRC}/slt/sampling/worker.py",
        "                address.chain,\n                writer,",
        "                0,\n                writer,",
        f"{_WAYS}::test_chains_in_threads_give_the_bytes_of_one_after_the_other",
    ),
    Break(
        "Names: what the user wrote is not recorded",
        f"{SRC}/slt/sampling/plan.py",
        '"name": o.name,',
        '"name": o.obs_id,',
        f"{_WAYS}::test_unusual_names_are_kept_and_change_no_number",
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
        if text.count(fault.old) != 1:
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
