"""The server that workers are forked from begins its imports as soon as a parallel run is asked for."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver

import pytest
import torch
from tiny_lm import build_model, build_tokens

from devinterp.errors import DataError
from devinterp.slt.sampling import sample

SETTINGS = {"lr": 1e-3, "n_beta": 1.0, "num_draws": 1, "batch_size": 2, "device": "cpu", "progress": False}


@pytest.fixture
def begun(monkeypatch):
    told, preloaded = [], []
    monkeypatch.setattr(forkserver, "ensure_running", lambda: told.append(list(preloaded)))
    monkeypatch.setattr(forkserver, "set_forkserver_preload", lambda modules: preloaded.extend(modules))
    return told


@pytest.mark.skipif(sys.platform != "linux", reason="there is no such server elsewhere")
def test_it_begins_before_the_data_are_read(begun):
    model = torch.nn.Sequential(build_model())
    model[0].__class__ = type("Llama", (type(model[0]),), {"__module__": "transformers.models.llama"})
    with pytest.raises(DataError):
        sample(model, build_tokens("train")[0], {}, chain_method="parallel", **SETTINGS)
    assert begun == [["devinterp.slt.sampling.running.worker", "transformers.models.llama"]]


def test_it_is_left_alone_where_no_process_of_ours_is_needed(begun):
    with pytest.raises(DataError):
        sample(build_model(), build_tokens("train")[0], {}, **SETTINGS)
    with ThreadPoolExecutor(1) as pool, pytest.raises(DataError):
        sample(build_model(), build_tokens("train")[0], {}, chain_method="parallel", executor=pool, **SETTINGS)
    assert begun == []
