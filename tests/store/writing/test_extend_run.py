from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from stores import Numbers, request, run_chain, write_fixed

from devinterp.errors import StoreConflictError
from devinterp.store import open_run, open_store


def fill(path, groups, root=None, *, longest=12, **options):
    """Complete the store with the numbers of a run of the longest shape, and return which chains were run."""
    with open_run(path, groups, root=root, **options) as run:
        done = []
        for group in groups if not run.finished else ():
            write_fixed(run, group)
        for group, chain in run.remaining():
            with open_run(None, {"/": request(num_draws=longest, num_chains=4)}) as reference:
                numbers = Numbers(reference)
            writer, _ = run.writer(group, chain)
            done.append((group, chain, writer.progress.draws))
            run_chain(run, writer, numbers, group=group)
        if not run.finished:
            run.complete()
    return done, numbers if done else None


def test_more_draws_go_on_from_the_kept_states(tmp_path):
    path = tmp_path / "a.zarr"
    fill(path, {"/": request()}, keep_state=True)
    done, numbers = fill(path, {"/": request(num_draws=12)}, keep_state=True)
    assert done == [("/", 0, 7), ("/", 1, 7)]
    tree = open_store(path, level=None)
    for name, values in numbers.arrays.items():
        rows = tree[name].shape[1]
        np.testing.assert_array_equal(tree[name].values, values[:2, :rows])
    assert tree.sizes["draw"] == 12
    assert tree.attrs["metadata"]["config"]["sampler"]["num_draws"] == 12
    assert tree["draws_written"].values.tolist() == [12, 12]


def test_more_draws_without_states_are_refused_and_nothing_changes(tmp_path):
    path = tmp_path / "a.zarr"
    fill(path, {"/": request()})
    with pytest.raises(StoreConflictError, match="did not keep the states"):
        open_run(path, {"/": request(num_draws=12)})
    assert open_store(path, level=None).attrs["completed"] == 1


def test_more_chains_leave_the_others_alone(tmp_path):
    path = tmp_path / "a.zarr"
    fill(path, {"/": request()})
    done, numbers = fill(path, {"/": request(num_chains=4)})
    assert done == [("/", 2, 0), ("/", 3, 0)]
    tree = open_store(path, level=None)
    np.testing.assert_array_equal(tree["loss_code"].values, numbers.arrays["loss_code"][:, :7])
    assert tree["draws_written"].values.tolist() == [7] * 4
    assert tree["init_loss"].shape == (4, 5)


def test_a_study_takes_more_restrictions(tmp_path):
    path = tmp_path / "a.zarr"
    groups = {"/full": request(), "/l0h0": request()}
    fill(path, groups, {"config": {"sampling_task": "code", "restrictions": ["full", "l0h0"]}})
    groups["/l0h1"] = request()
    root = {"config": {"sampling_task": "code", "restrictions": ["full", "l0h0", "l0h1"]}}
    done, _ = fill(path, groups, root)
    assert done == [("/l0h1", 0, 0), ("/l0h1", 1, 0)]
    tree = xr.open_datatree(path, engine="zarr")
    assert set(tree.children) == {"full", "l0h0", "l0h1"}
    assert tree.attrs["metadata"] == root
    assert fill(path, groups, root)[0] == []


@pytest.mark.parametrize("moment", ["reopened", "one chain done"])
def test_growth_that_is_interrupted_goes_on(tmp_path, moment):
    path = tmp_path / "a.zarr"
    fill(path, {"/": request()}, keep_state=True)
    bigger = {"/": request(num_draws=12, num_chains=3)}
    with open_run(path, bigger, keep_state=True) as run:
        if moment == "one chain done":
            with open_run(None, {"/": request(num_draws=12, num_chains=4)}) as reference:
                numbers = Numbers(reference)
            run_chain(run, run.writer("/", 1)[0], numbers)
            run.publish()
    done, numbers = fill(path, bigger, keep_state=True)
    expected = [("/", 0, 7), ("/", 1, 7), ("/", 2, 0)]
    assert done == (expected if moment == "reopened" else [expected[0], expected[2]])
    tree = open_store(path, level=None)
    np.testing.assert_array_equal(tree["loss_math"].values, numbers.arrays["loss_math"][:3])
    np.testing.assert_array_equal(tree["step_loss"].values, numbers.arrays["step_loss"][:3])
