"""What must hold of every susceptibility, whatever the study."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import observables, runs

from devinterp.slt.susceptibilities import compute_susceptibilities

few = settings(max_examples=8)
STUDIES = runs("study", min_members=2, long=False)


def task_of(study: xr.DataTree) -> str:
    return str(study.attrs["metadata"]["config"]["sampling_task"])


def probe_of(study: xr.DataTree) -> str:
    return next(n for n in observables(study["full"]) if n != task_of(study))


def change(study: xr.DataTree, name: str, function: Any) -> xr.DataTree:
    """Return the study with the losses of one observable changed in every run."""
    copy = study.copy(deep=True)
    for index, run in enumerate(copy.children.values()):
        variable = run[f"loss_{name}"].variable
        variable.values = np.asarray(function(variable.values, index), dtype=np.float32)
    return copy


def sus_of(study: xr.DataTree, name: str, **options: Any) -> np.ndarray[Any, Any]:
    """Susceptibilities of one observable, (sus_flat, wr), float64."""
    result = compute_susceptibilities(study, observable_names=[name], **options)
    return result["susceptibilities/sus"].values.astype(np.float64)


def spread(study: xr.DataTree) -> float:
    """Size of what sus is the difference of, for tolerances: nat squared."""
    return max(float(np.abs(r[f"loss_{n}"]).max()) for r in study.children.values() for n in observables(r)) ** 2


@few
@given(STUDIES)
def test_is_the_estimator_that_is_documented(study: xr.DataTree) -> None:
    """sus = E_C[phi mean(u)] - E_C[phi l] - E_C[phi] (E_full[u] - E_full[l]), written out in float64."""
    task, probe, full = task_of(study), probe_of(study), study["full"]
    result = sus_of(study, probe)
    for column, name in enumerate(n for n in study.attrs["metadata"]["config"]["restrictions"] if n != "full"):
        run = study[name]
        u = run[f"loss_{task}"].values.astype(np.float64).mean(axis=(2, 3))
        loss = run[f"loss_{probe}"].values.astype(np.float64)
        phi = u - full["init_loss"].values.astype(np.float64).mean()
        gap = full[f"loss_{task}"].values.astype(np.float64).mean() - full[f"loss_{probe}"].values.astype(
            np.float64
        ).mean(axis=(0, 1))
        expected = (phi * u).mean() - np.einsum("cd,cdbt->bt", phi, loss) / phi.size - phi.mean() * gap
        np.testing.assert_allclose(result[:, column], expected.ravel(), atol=1e-5 * spread(study), rtol=1e-5)


@few
@given(STUDIES, st.sampled_from([-1.0, 0.25, 0.5, 2.0]))
def test_is_affine_in_the_probe(study: xr.DataTree, weight: float) -> None:
    """sus(a l + (1 - a) l') = a sus(l) + (1 - a) sus(l')."""
    probe = probe_of(study)
    rng = np.random.default_rng(0)
    shapes = [r[f"loss_{probe}"].shape for r in study.children.values()]
    others = [np.round(rng.gamma(2.0, 1.0, shape) * 64) / 64 for shape in shapes]
    other = change(study, probe, lambda values, i: others[i])
    mixed = change(study, probe, lambda values, i: weight * values + (1 - weight) * others[i])
    expected = weight * sus_of(study, probe) + (1 - weight) * sus_of(other, probe)
    np.testing.assert_allclose(sus_of(mixed, probe), expected, atol=2e-5 * (spread(study) + spread(other)))


@few
@given(STUDIES, st.integers(-8, 8))
def test_ignores_a_constant_added_to_a_probe_everywhere(study: xr.DataTree, constant: int) -> None:
    probe = probe_of(study)
    moved = change(study, probe, lambda values, i: values + constant)
    np.testing.assert_allclose(sus_of(moved, probe), sus_of(study, probe), atol=1e-5 * (spread(study) + 64))


@few
@given(STUDIES)
def test_same_run_as_full_probed_by_the_task_sums_to_zero(study: xr.DataTree) -> None:
    task = task_of(study)
    twins = xr.DataTree.from_dict({"full": study["full"], "same": study["full"]})
    result = compute_susceptibilities(twins, task, observable_names=[task])["susceptibilities/sus"].values
    assert abs(result.astype(np.float64).mean()) <= 1e-5 * spread(study)


@few
@given(STUDIES)
def test_terms_add_up(study: xr.DataTree) -> None:
    sus = compute_susceptibilities(study, terms=True)["susceptibilities"]
    np.testing.assert_allclose(sus["sus_cov"] + sus["sus_shift"], sus["sus"], atol=2e-5 * spread(study), rtol=1e-5)


@few
@given(STUDIES, st.booleans())
def test_every_predicted_token_occurs_once_and_is_the_context_at_its_position(
    study: xr.DataTree, with_task: bool
) -> None:
    result = compute_susceptibilities(study, include_sampling_task=with_task)
    sus, context = result["susceptibilities"], result["context"]
    names = sus.attrs["dataset_id_to_name"]
    assert context.attrs["dataset_id_to_name"] == names
    assert names == [n for n in observables(study["full"]) if with_task or n != task_of(study)]
    tokens = study["full"].sizes["token_pos"]

    def places(node: xr.DataTree, position: str) -> list[tuple[int, ...]]:
        return list(zip(*(node[n].values.tolist() for n in ("dataset_id", "batch", position)), strict=True))

    rows = [study["full"].sizes[f"batch_{n}"] for n in names]
    predicted, read = places(sus, "target_position"), places(context, "position")
    every = [(i, row) for i, count in enumerate(rows) for row in range(count)]
    assert sorted(predicted) == [(*r, p) for r in every for p in range(1, tokens + 1)]
    assert sorted(read) == [(*r, p) for r in every for p in range(tokens + 1)]
    token_at = dict(zip(read, context["input_ids"].values.tolist(), strict=True))
    ids = [study["full"][f"input_ids_{n}"].values for n in names]
    assert [token_at[p] for p in predicted] == [int(ids[i][b, t]) for i, b, t in predicted]


@few
@given(STUDIES, st.randoms(use_true_random=False))
def test_order_of_restrictions_and_probes_permutes_the_result(study: xr.DataTree, random: Any) -> None:
    task, names = task_of(study), observables(study["full"])
    runs_in_order = random.sample(list(study.children), len(study.children))
    probes = random.sample(names, len(names))
    expected = compute_susceptibilities(study, task, observable_names=names)["susceptibilities"]
    shuffled = {n: study[n] for n in runs_in_order}
    result = compute_susceptibilities(shuffled, task, observable_names=probes)["susceptibilities"]
    wr = [n for n in runs_in_order if n != "full"]
    assert list(result["wr"].values) == wr
    columns = [list(expected["wr"].values).index(n) for n in wr]
    for index, name in enumerate(probes):
        ours = result["sus"].values[result["dataset_id"].values == index]
        theirs = expected["sus"].values[expected["dataset_id"].values == names.index(name)]
        np.testing.assert_array_equal(ours, theirs[:, columns])


@pytest.mark.needs("dask")
@settings(max_examples=3)
@given(STUDIES, st.integers(1, 3), st.integers(1, 3))
def test_chunks_are_irrelevant(study: xr.DataTree, chain: int, draw: int) -> None:
    chunked = xr.DataTree.from_dict(
        {n: r.to_dataset().chunk({"chain": chain, "draw": draw}) for n, r in study.children.items()}
    )
    task = task_of(study)
    result, expected = (compute_susceptibilities(s, task)["susceptibilities/sus"].values for s in (chunked, study))
    np.testing.assert_allclose(result, expected, atol=1e-5 * spread(study))


@few
@given(STUDIES)
def test_same_call_gives_an_identical_result(study: xr.DataTree) -> None:
    xr.testing.assert_identical(compute_susceptibilities(study), compute_susceptibilities(study))
