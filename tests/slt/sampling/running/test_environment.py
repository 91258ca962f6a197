"""A run that is resumed goes on to the same bytes, or says why it cannot."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny_lm import build_model, build_tokens

from devinterp.errors import DevinterpWarning, SettingError, StoreConflictError
from devinterp.slt.sampling import sample
from devinterp.slt.sampling.running import environment
from devinterp.slt.sampling.running.environment import describe_environment

TRAIN = build_tokens("train")
SETTINGS = {
    "lr": 1e-3, "n_beta": 30.0, "num_chains": 2, "num_draws": 4, "batch_size": 4, "num_init_loss_batches": 2,
    "localization": 10.0, "device": "cpu", "progress": False, "checkpoint_every": 1,
}  # fmt: skip


def run(path=None, **changes):
    return sample(build_model(), TRAIN, {"train": (TRAIN, 1)}, output_path=path, **{**SETTINGS, **changes})


def interrupt(path, at=(0, 3), **changes):
    def stop(event):
        if (event.chain, event.step) == at:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(path, progress=stop, **changes)


def recorded(path):
    return json.loads((path / "zarr.json").read_text())["attributes"]["metadata"]["run"]["environments"]


def pretend(path, **changes):
    """Have an interrupted store say that it was begun elsewhere."""
    file = path / ".devinterp" / "environments"
    listed = json.loads(file.read_text())
    file.write_text(json.dumps([*listed[:-1], {**listed[-1], **changes}]))


def assert_same(one, other):
    assert set(one.data_vars) == set(other.data_vars)
    for name in one.data_vars:
        assert one[name].values.tobytes() == other[name].values.tobytes(), name


def test_threads_are_those_that_the_run_was_begun_with(tmp_path):
    path, seen = tmp_path / "a.zarr", set()
    interrupt(path, threads_per_chain=2)
    tree = run(path, progress=lambda event: seen.add(torch.get_num_threads()))
    assert seen == {2}
    assert torch.get_num_threads() == 1
    assert [each["threads_per_chain"] for each in recorded(path)] == [2]
    assert_same(tree, run(threads_per_chain=2))


def test_other_threads_that_are_asked_for_are_refused_by_name(tmp_path):
    path = tmp_path / "a.zarr"
    interrupt(path)
    with pytest.raises(StoreConflictError, match=r"threads_per_chain: sampled so far with 1, here 2\s.*'inexact'"):
        run(path, threads_per_chain=2)
    assert_same(run(path, threads_per_chain=1), run())


@pytest.mark.parametrize(
    "elsewhere", [{"torch": "2.4.0"}, {"device": "cuda", "hardware": "NVIDIA A100"}, {"matmul_precision": "medium"}]
)
def test_another_environment_is_refused_unless_told_otherwise_and_both_are_recorded(tmp_path, elsewhere):
    path = tmp_path / "a.zarr"
    interrupt(path)
    pretend(path, **elsewhere)
    with pytest.raises(StoreConflictError) as error:
        run(path)
    assert all(f"{name}: sampled so far with {value}" in str(error.value) for name, value in elsewhere.items())
    with pytest.warns(DevinterpWarning, match="goes on in another environment"):
        tree = run(path, resume="inexact")
    before, after = recorded(path)
    assert {name: before[name] for name in elsewhere} == elsewhere
    assert after["torch"] == torch.__version__
    assert tree.attrs["completed"] == 1
    assert run(path).attrs["completed"] == 1  # a finished store is returned wherever it was made


def test_a_run_without_a_draw_is_bound_to_nothing(tmp_path):
    path = tmp_path / "a.zarr"
    interrupt(path, at=(0, 1), checkpoint_every=3)
    pretend(path, torch="2.4.0")
    assert_same(run(path), run())
    assert [each["torch"] for each in recorded(path)] == [torch.__version__]


def test_a_finished_store_grows_where_it_was_made(tmp_path, monkeypatch):
    path = tmp_path / "a.zarr"
    run(path, keep_state=True)
    real = describe_environment
    monkeypatch.setattr(environment, "describe_environment", lambda *a: {**real(*a), "torch": "99.0"})
    with pytest.raises(StoreConflictError, match=r"torch: .* here 99\.0"):
        run(path, keep_state=True, num_draws=6)
    monkeypatch.undo()
    assert_same(run(path, keep_state=True, num_draws=6), run(num_draws=6))


def test_workers_too_must_be_of_the_kind_that_began(tmp_path, monkeypatch):
    path = tmp_path / "a.zarr"
    interrupt(path, chain_method="sequential")
    real = describe_environment
    # The coordinator is where the run was begun, its workers are not.
    monkeypatch.setattr(
        "devinterp.slt.sampling.running.worker.describe_environment", lambda *a: {**real(*a), "torch": "99.0"}
    )
    with ThreadPoolExecutor(1) as threads, pytest.raises(StoreConflictError, match=r"chain 0 .*\s.*here 99\.0"):
        run(path, chain_method="parallel", executor=threads)


def test_resume_takes_three_values():
    with pytest.raises(SettingError, match="True, False or 'inexact'"):
        run(resume="yes")
