"""Stores that other tools wrote anew, legally: repair leaves every value that can be read the same."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lifelike
import numpy as np
import pytest
import zarr
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from rewritten import objects, rewrite, rewrites, values
from zarr.codecs import Crc32cCodec, ZstdCodec

from devinterp.errors import StoreError
from devinterp.schema.validation import validate
from devinterp.store.repair.apply import apply_repair, undo_repair
from devinterp.store.repair.plan import plan_repair

SMALL = {"chains": 2, "draws": 12, "rows": 2, "observables": ("code",)}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return lifelike.make_samples(tmp_path_factory.mktemp("rewritten") / "run.zarr", **SMALL)


def copied(samples: Path, folder: Path) -> Path:
    return Path(shutil.copytree(samples, folder / "copy.zarr", dirs_exist_ok=False))


@settings(max_examples=8, deadline=None, phases=[Phase.generate])
@given(st.data())
def test_a_legal_rewrite_is_left_as_it_is(samples: Path, tmp_path_factory: Any, data: Any) -> None:
    store = copied(samples, tmp_path_factory.mktemp("store"))
    arrays = dict(zarr.open_group(samples, mode="r").arrays())
    for name in data.draw(st.lists(st.sampled_from(sorted(arrays)), min_size=1, max_size=3, unique=True)):
        zero = arrays[name].dtype.kind == "f" and name.startswith("metrics_") and data.draw(st.booleans())
        how = data.draw(rewrites(arrays[name]))
        if how["fill_value"] in (7, 1.5) and not how["config"]["write_empty_chunks"]:
            how["fill_value"] = 0
        rewrite(store, name, np.zeros(arrays[name].shape, arrays[name].dtype) if zero else None, **how)
    before, read = objects(store), values(store)
    plan = plan_repair(store)
    assert plan.nothing, plan.lines()
    apply_repair(plan)
    assert objects(store) == before
    assert all(np.array_equal(found, read[name], equal_nan=True) for name, found in values(store).items())


@settings(max_examples=8, deadline=None, phases=[Phase.generate])
@given(st.data())
def test_of_a_rewrite_that_lost_a_chunk_nothing_else_changes(samples: Path, tmp_path_factory: Any, data: Any) -> None:
    store = copied(samples, tmp_path_factory.mktemp("store"))
    array = zarr.open_group(samples, mode="r")["loss_code"]
    how = {**data.draw(rewrites(array)), "fill_value": np.nan, "compressors": [ZstdCodec(), Crc32cCodec()]}
    rewrite(store, "loss_code", **how)
    whole = values(store)
    keys = [k for k in objects(store) if k.startswith("loss_code/") and not k.endswith("zarr.json")]
    gone = store / data.draw(st.sampled_from(sorted(keys)))
    corrupt = data.draw(st.booleans()) and "shards" not in how  # a flipped bit in a shard need not be in its index
    gone.write_bytes(gone.read_bytes()[:-1]) if corrupt else gone.unlink()
    before = objects(store)
    plan = plan_repair(store)
    assert {key for loss in plan.chains for key in loss.keys} == {gone.relative_to(store).as_posix()}
    apply_repair(plan)
    for name, found in values(store).items():
        if name == "loss_code":
            kept = ~np.isnan(found)
            assert not kept.all()
            np.testing.assert_array_equal(found[kept], whole[name][kept])
            lost = np.isnan(found)
            assert lost.sum() <= np.prod(array_chunk(store))
        elif name != "draws_written":
            np.testing.assert_array_equal(found, whole[name])
    report = validate(store).without("CHUNK_KEYS", "CHUNK_GRID", "CODECS", "SHARDED", "FAILED_CHAIN", "METADATA")
    assert report.ok, str(report)
    assert plan_repair(store).nothing
    undo_repair(store)
    assert objects(store) == before


def array_chunk(store: Path) -> tuple[int, ...]:
    array = zarr.open_array(store / "loss_code", mode="r")
    return array.shards or array.chunks


DOTS: dict[str, Any] = {"chunk_key_encoding": {"name": "default", "separator": "."}}
NAMED = {
    "losses under keys with dots": (
        "sampling_loss",
        None,
        {"chunk_key_encoding": {"name": "default", "separator": "."}},
    ),
    "losses under keys of v2": ("loss_code", None, {"chunk_key_encoding": {"name": "v2", "separator": "/"}}),
    "a metric of zeros with zarr's own defaults": ("metrics_noise", 0.0, {}),
    "a scalar under keys of v2": ("n_beta", None, {"chunk_key_encoding": {"name": "v2", "separator": "."}}),
    "a zero n_beta, left out": ("n_beta", 0.0, {}),
    "rows that are all 0, left out": ("input_ids_code", 0, {}),
    "one chunk for all chains": ("loss_code", None, {"chunks": (2, 12, 2, lifelike.TOKENS), "fill_value": np.nan}),
    "shards": ("loss_code", None, {"chunks": (1, 6, 2, lifelike.TOKENS), "shards": (2, 12, 2, lifelike.TOKENS)}),
    "draws_written of zeros": ("draws_written", None, {"fill_value": 0}),
}


@pytest.mark.parametrize("case", NAMED)
def test_named_rewrites_are_left_as_they_are(samples, tmp_path, case):
    name, value, how = NAMED[case]
    store = copied(samples, tmp_path)
    old = zarr.open_group(store, mode="r")[name][...]
    rewrite(store, name, None if value is None else np.full_like(old, value), **how)
    before = objects(store)
    plan = plan_repair(store)
    assert plan.nothing, plan.lines()
    apply_repair(plan)
    assert objects(store) == before


def test_a_disk_that_fails_has_lost_nothing(samples, tmp_path, monkeypatch):
    store, before = copied(samples, tmp_path), objects(samples)
    real = zarr.storage.LocalStore.get

    async def fails(self: Any, key: str, *args: Any, **options: Any) -> Any:
        if key == "loss_code/c/1/0/0/0":
            raise OSError(5, "Input/output error")
        return await real(self, key, *args, **options)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", fails)
    with pytest.raises(StoreError, match=r"loss_code/c/1/0/0/0 .* cannot be read: OSError"):
        plan_repair(store)
    assert objects(store) == before


def test_an_archive_is_looked_at_and_not_changed(samples, tmp_path):
    store = copied(samples, tmp_path)
    archive = Path(shutil.make_archive(str(tmp_path / "whole"), "zip", store))
    assert plan_repair(archive).nothing
    (store / "loss_code/c/1/0/0/0").unlink()
    archive = Path(shutil.make_archive(str(tmp_path / "lost"), "zip", store))
    raw, plan = archive.read_bytes(), plan_repair(archive)
    assert [loss.chain for loss in plan.chains] == [1]
    with pytest.raises(StoreError, match="cannot be written to"):
        apply_repair(plan)
    assert archive.read_bytes() == raw


def test_sampling_is_not_given_back_what_another_tool_wrote(samples, tmp_path):
    store = copied(samples, tmp_path)
    rewrite(store, "loss_code", fill_value=np.nan, **DOTS)
    (store / "sampling_loss/c/0/0/0/0").unlink()
    before, plan = objects(store), plan_repair(store)
    with pytest.raises(StoreError, match=r"loss_code .* written anew by another tool"):
        apply_repair(plan, reopen=True)
    assert objects(store) == before
