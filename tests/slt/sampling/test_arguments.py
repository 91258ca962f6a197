"""The arguments of `sample` are stated once, where people read them; whoever repeats one agrees."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from typing import Any

import pytest

pytest.importorskip("torch")

import jsonschema

from devinterp.errors import SettingError
from devinterp.plain_json import dig
from devinterp.schema import load
from devinterp.slt.estimands import parameter_docs
from devinterp.slt.sampling import sample
from devinterp.slt.sampling.inputs.rows import RowOptions
from devinterp.slt.sampling.running.options import Execution
from devinterp.slt.sampling.settings import SamplerSettings

PARTS = (SamplerSettings, Execution, RowOptions)
ELSEWHERE = {"model", "dataset", "observables", "param_masks", "device", "output_path", "loss_fn", "tokenizer"}


def test_every_argument_is_a_setting_or_an_option_with_the_same_default() -> None:
    signature = inspect.signature(sample).parameters
    held = {f.name: f for part in PARTS for f in fields(part)}
    assert set(signature) == held.keys() | ELSEWHERE
    for name, field in held.items():
        if name == "sampling_method_kwargs":  # None becomes what the method has
            continue
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        assert signature[name].default == default, name


def test_what_each_means_is_said_in_one_place() -> None:
    docs = parameter_docs(sample)
    assert all(docs[name] for name in inspect.signature(sample).parameters)
    for part in PARTS:
        assert parameter_docs(part) == {}


VALUES: tuple[Any, ...] = (-1, 0, 1, 2, 0.5, -0.5, 1.0, None, True, "1", "sgmcmc_sgld", "rmsprop_sgld", float("inf"))


@pytest.mark.parametrize("name", sorted(f.name for f in fields(SamplerSettings)))
def test_what_sample_takes_is_what_the_schema_of_stores_takes(name: str) -> None:
    rule = dig(load("samples").node("/").attributes, "properties.metadata.properties.config.properties.sampler")
    assert rule["properties"].keys() <= {f.name for f in fields(SamplerSettings)}
    stored = rule["properties"].get(name, {})
    taken = 0
    for value in VALUES:
        given = {"lr": 1.0, "n_beta": 1.0, "sampling_method_kwargs": None}
        given |= {"sampling_method": "rmsprop_sgld"} if name.startswith("rmsprop") else {}
        try:
            frozen = SamplerSettings.build(**{**given, name: value}).as_dict()[name]
        except SettingError:
            continue
        taken += 1
        jsonschema.validate(frozen, stored)
    assert taken > 0 or name == "mode"
