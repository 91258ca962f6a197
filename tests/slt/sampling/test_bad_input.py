from __future__ import annotations

import pytest
import torch
import xarray as xr
from quick_runs import CODE, TRAIN, quick
from torch import nn

from devinterp.errors import (
    DataError,
    ModelError,
    RestrictionError,
    SettingError,
    StoreExistsError,
)

BAD_INPUT = {
    "sequences of one token": (DataError, {"dataset": TRAIN[:, :1]}),
    "an empty dataset": (DataError, {"dataset": TRAIN[:0]}),
    "too small a dataset": (DataError, {"dataset": TRAIN[:3]}),
    "float ids": (DataError, {"dataset": TRAIN.astype(float)}),
    "ids outside the vocabulary": (DataError, {"dataset": TRAIN + 64}),
    "negative ids": (DataError, {"dataset": TRAIN - 1}),
    "an observable with no rows": (DataError, {"observables": {"code": CODE[:0]}}),
    "an observable with too few rows": (DataError, {"observables": {"code": (CODE, 17)}}),
    "an observable of another length": (DataError, {"observables": {"code": (CODE[:, :9], 1)}}),
    "an observable outside the vocabulary": (DataError, {"observables": {"code": (CODE + 64, 1)}}),
    "names that clash": (SettingError, {"observables": {"a b": (CODE, 1), "a_b": (CODE, 1)}}),
    "names that clash up to case": (SettingError, {"observables": {"code": (CODE, 1), "Code": (CODE, 1)}}),
    "a reserved name": (SettingError, {"observables": {"sampling": (CODE, 1)}}),
    "an unknown sampling method": (SettingError, {"sampling_method": "sgld"}),
    "rmsprop_eps with sgld": (SettingError, {"rmsprop_eps": 0.1}),
    "rmsprop_alpha with sgld": (SettingError, {"rmsprop_alpha": 0.9}),
    "masks of the wrong shape": (RestrictionError, {"param_masks": {"embed.weight": torch.ones(3)}}),
    "masks for unknown parameters": (RestrictionError, {"param_masks": {"nothing": None}}),
    "masks that select nothing": (RestrictionError, {"param_masks": {"embed.weight": torch.zeros(64, 32)}}),
    "a loss of the wrong shape": (ModelError, {"loss_fn": lambda model, ids: model(ids).mean()}),
    "a loss without gradient": (ModelError, {"loss_fn": lambda model, ids: model(ids)[:, 1:, 0].detach()}),
    "a model that is not a module": (ModelError, {"model": lambda ids: ids}),
    "a model without parameters": (ModelError, {"model": nn.Identity()}),
    "a negative count": (SettingError, {"num_draws": -1}),
    "an unknown device": (SettingError, {"device": "abacus"}),
    "an unknown chain method": (SettingError, {"chain_method": "vectorized"}),
    "an executor for sequential chains": (SettingError, {"executor": object()}),
    "workers for sequential chains": (SettingError, {"num_workers": 2}),
    "an executor that is none": (SettingError, {"executor": object(), "chain_method": "parallel"}),
    "no threads": (SettingError, {"threads_per_chain": 0}),
    "checkpoints every 0 draws": (SettingError, {"checkpoint_every": 0}),
    "progress that is neither": (SettingError, {"progress": 3}),
    "a tokenizer that is none": (SettingError, {"tokenizer": 3}),
    "parallel chains into memory": (SettingError, {"chain_method": "parallel", "output_path": "memory://x"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_INPUT)
def test_bad_input_is_one_clear_error_and_leaves_nothing_behind(kind, tmp_path, monkeypatch):
    error, changes = BAD_INPUT[kind]
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    steps = []
    monkeypatch.setattr("devinterp.slt.sampling.engine.update.UpdateRule.step", lambda self: steps.append(self))
    with pytest.raises(error) as caught:
        quick(**{"output_path": tmp_path / "a.zarr", **changes})
    assert type(caught.value) is error
    assert not steps
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_not_ours_is_refused_untouched(tmp_path):
    file, folder, other = tmp_path / "file", tmp_path / "folder", tmp_path / "other.zarr"
    file.write_text("precious")
    folder.mkdir()
    (folder / "precious").write_text("x")
    xr.Dataset({"a": ("x", [1.0])}).to_zarr(other, consolidated=False)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for path in (file, folder, other):
        with pytest.raises(StoreExistsError):
            quick(output_path=path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
