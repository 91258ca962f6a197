"""Callers as they come: what cannot work is said as what it is, and no store is left."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_lm import build_model, build_tokens
from torch import nn

from devinterp.errors import AllChainsFailedError, ModelError, SamplingError, SettingError, StoreError
from devinterp.slt.sampling import sample, sample_checkpoints

HELPERS = Path(__file__).parents[3] / "helpers"
ROWS = np.where(build_tokens("train") == 63, 1, build_tokens("train"))


def run(path, model=None, observables=None, **changes):
    settings = {"lr": 1e-3, "n_beta": 30.0, "num_chains": 2, "num_draws": 2, "batch_size": 4, "batches_per_draw": 1,
                "num_init_loss_batches": 1, "device": "cpu", "progress": False}  # fmt: skip
    observed = {"a": ROWS} if observables is None else observables
    return sample(model or build_model(), ROWS, observed, output_path=path, **{**settings, **changes})


@pytest.mark.parametrize("name", ["run.zip", "run.ozx"])
def test_an_archive_is_refused(name, tmp_path):
    with pytest.raises(SettingError, match="ZIP"):
        run(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_path_that_is_too_long_is_named(tmp_path):
    with pytest.raises(StoreError, match="too long"):
        run(tmp_path / ("x" * 300))


def test_a_model_that_cannot_be_pickled_is_named_before_a_store_is_left(tmp_path):
    model = build_model()
    model.rows = (row for row in ROWS)
    with pytest.raises(ModelError, match="cannot pickle 'generator' object"):
        run(tmp_path / "a.zarr", model, chain_method="parallel", num_workers=1)
    assert not (tmp_path / "a.zarr").exists()


def test_a_checkpoint_that_cannot_be_pickled_leaves_those_that_are_done(tmp_path):
    def load(step):
        model = build_model()
        if step in unfit:
            model.rows = (row for row in ROWS)
        return model

    def series():
        return sample_checkpoints(
            load, [0, 1], ROWS, {"a": ROWS}, sampling_task="a", lr=1e-3, n_beta=30.0, num_chains=1, num_draws=1,
            batch_size=4, batches_per_draw=1, num_init_loss_batches=1, device="cpu", progress=False,
            output_path=tmp_path / "a.zarr", chain_method="parallel", num_workers=1,
        )  # fmt: skip

    unfit = {0, 1}
    with pytest.raises(ModelError, match="cannot pickle"):
        series()
    assert not (tmp_path / "a.zarr").exists()
    unfit = {1}
    with pytest.raises(ModelError, match="cannot pickle"):
        series()
    assert (tmp_path / "a.zarr" / "0").exists()


def test_a_daemonic_process_is_told_that_it_can_start_no_others(tmp_path, monkeypatch):
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    with pytest.raises(SettingError, match="daemonic"):
        run(tmp_path / "a.zarr", chain_method="parallel")
    assert not (tmp_path / "a.zarr").exists()


_SCRIPT = """
import sys; sys.path.insert(0, {helpers!r})
from tiny_lm import build_model, build_tokens
from devinterp import sample
rows = build_tokens("train")
sample(build_model(), rows, {{"a": rows}}, lr=1e-3, n_beta=30.0, num_chains=1, num_draws=1, batch_size=4,
       batches_per_draw=1, num_init_loss_batches=1, device="cpu", progress=False, chain_method="parallel")
"""


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT.format(helpers=str(HELPERS)))
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert (
        ended.stderr.rstrip()
        .splitlines()[-1]
        .startswith("devinterp.errors.SamplingError: The script begins again in every worker process")
    )


class BreaksOnTheWay(nn.Module):
    """Its logits of id 63 are NaN once its weights have moved."""

    def __init__(self):
        super().__init__()
        self.inner = build_model()
        self.register_buffer("start", self.inner.embed.weight.detach().clone())

    def forward(self, ids):
        moved = not torch.equal(self.start, self.inner.embed.weight)
        return torch.where((ids == 63)[..., None] & moved, torch.nan, self.inner(ids))


def usual_loss(model, ids):
    return nn.functional.cross_entropy(model(ids)[:, :-1].mT, ids[:, 1:], reduction="none")


@pytest.mark.parametrize(
    ("loss_fn", "what"),
    # logits are looked at batch by batch, losses at the end
    [
        (None, "the logits on observable 'bad one', row 7 are"),
        (usual_loss, "the loss on observable 'bad one', rows 3, 7 is"),
    ],
)
def test_a_loss_that_breaks_on_the_way_is_named_by_observable_and_row(loss_fn, what, tmp_path):
    bad = ROWS.copy()
    bad[[3, 7], 3] = 63
    observed = {"good": ROWS, "bad one": (bad, len(bad) // 8)}
    with pytest.raises(AllChainsFailedError, match=f"{what} not finite"):
        run(tmp_path / "a.zarr", BreaksOnTheWay(), observed, loss_fn=loss_fn, batch_size=8)


@pytest.mark.parametrize(
    ("loss_fn", "what"),
    [
        (None, "the logits on the sampling dataset, row 13 are"),
        (usual_loss, "the loss on the sampling dataset, row 13 is"),
    ],
)
@pytest.mark.parametrize(
    "own", [{}, {"gradient_accumulation_steps": 2}, {"match_sampling_input_ids_across_chains": False}]
)
def test_a_minibatch_that_breaks_on_the_way_names_its_row(loss_fn, what, own, tmp_path):
    """Row 13 of 16, wherever the shuffled order has it; every later step is no longer finite."""
    rows = ROWS[:16].copy()
    rows[rows == 63] = 62
    rows[13, 3] = 63
    with pytest.raises(AllChainsFailedError, match=f"{what} not finite"):
        sample(BreaksOnTheWay(), rows, {"good": (rows[:8], 1)}, loss_fn=loss_fn, output_path=tmp_path / "a.zarr",
               lr=1e-3, n_beta=30.0, num_chains=2, num_draws=9, batch_size=4, device="cpu", progress=False,
               **own)  # fmt: skip


class Breaks(nn.Module):
    """Its logits of id 63 are NaN."""

    def __init__(self):
        super().__init__()
        self.inner = build_model()

    def forward(self, ids):
        return torch.where((ids == 63)[..., None], torch.nan, self.inner(ids))


def loss_of_63(model, ids):
    losses = nn.functional.cross_entropy(model(ids)[:, :-1].mT, ids[:, 1:], reduction="none")
    return torch.where(ids[:, 1:] == 63, torch.nan, losses)


@pytest.mark.parametrize(("model", "loss_fn"), [(Breaks, None), (build_model, loss_of_63)])
def test_a_loss_that_is_not_finite_is_named_by_observable_and_row(model, loss_fn, tmp_path):
    bad = ROWS.copy()
    bad[7, 3] = 63
    with pytest.raises(SamplingError, match=r"init_loss_bad_one: observable 'bad one', row 7\)"):
        run(tmp_path / "a.zarr", model(), {"good": ROWS, "bad one": (bad, 16)}, loss_fn=loss_fn)


@pytest.mark.parametrize("models", [1, 4])
def test_four_calls_at_once_are_each_what_it_is_alone(models, tmp_path):
    def bytes_of(store):
        return {f.relative_to(store): f.read_bytes() for f in store.glob("**/c/**/*") if f.is_file()}

    def call(place, index, model):
        run(tmp_path / f"{place}{index}", model, num_chains=1, init_seed=index, threads_per_chain=1)
        return bytes_of(tmp_path / f"{place}{index}")

    shared = [build_model(index) for index in range(models)]
    weights = [{name: value.clone() for name, value in model.state_dict().items()} for model in shared]
    alone = [call("alone", index, build_model(index % models)) for index in range(4)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda index: call("together", index, shared[index % models]), range(4)))
    assert len(alone[0]) > 4
    assert together == alone
    assert alone[0] != alone[1]
    for model, before in zip(shared, weights, strict=True):
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
