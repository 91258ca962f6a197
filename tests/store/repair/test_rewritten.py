"""Stores that other tools wrote anew, legally: repair leaves every value that can be read the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import lifelike
import numpy as np
import pytest
import zarr
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from masked import ALL, SIZES
from rewritten import objects, rewrite, rewrites, values
from zarr.codecs import Crc32cCodec, ZstdCodec

from devinterp.errors import StoreError
from devinterp.schema import load
from devinterp.schema.validation import validate
from devinterp.store.repair.apply import apply_repair, undo_repair
from devinterp.store.repair.repair_plan import plan_repair
from devinterp.store.repair.stored_array import innermost_chunks
from devinterp.testing import make_store

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


@settings(max_examples=3, deadline=None, phases=[Phase.generate])
@given(st.data())
def test_of_a_damaged_shard_what_can_be_read_stays(samples: Path, tmp_path_factory: Any, data: Any) -> None:
    store = copied(samples, tmp_path_factory.mktemp("store"))
    inner = (1, data.draw(st.sampled_from([2, 3, 6])), 2, lifelike.TOKENS)
    codecs = {"fill_value": np.nan, "compressors": [ZstdCodec(), Crc32cCodec()]}
    rewrite(store, "loss_code", chunks=inner, shards=(2, 12, 2, lifelike.TOKENS), **codecs)
    shard = store / "loss_code/c/0/0/0/0"
    raw = bytearray(shard.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=3)):
        raw[place] ^= 0xFF
    shard.write_bytes(raw)
    before, whole = objects(store), values(samples)["loss_code"]
    array = zarr.open_array(store / "loss_code", mode="r")

    def read(chain: int, first: int) -> np.ndarray | None:
        try:
            return np.asarray(array[chain, first : first + inner[1]])
        except (ValueError, RuntimeError):
            return None

    found = {(c, d): read(c, d) for c in range(2) for d in range(0, 12, inner[1])}
    assert any(part is None for part in found.values())
    plan = plan_repair(store)
    assert {loss.chain: loss.draws_after for loss in plan.chains} == {
        c: min(d for (chain, d), part in found.items() if chain == c and part is None)
        for c in {chain for (chain, _), part in found.items() if part is None}
    }
    apply_repair(plan)
    for (chain, first), part in found.items():
        rows = zarr.open_array(store / "loss_code", mode="r")[chain, first : first + inner[1]]
        assert np.isnan(rows).all() if part is None else np.array_equal(rows, whole[chain, first : first + inner[1]])
    assert plan_repair(store).nothing
    undo_repair(store)
    assert objects(store) == before


def test_a_shard_that_was_written_in_part_lacks_what_it_lacks(samples, tmp_path):
    store, part = copied(samples, tmp_path), values(samples)["loss_code"].copy()
    part[1, 6:] = np.nan
    sizes = {"chunks": (1, 6, 2, lifelike.TOKENS), "shards": (2, 12, 2, lifelike.TOKENS)}
    rewrite(store, "loss_code", part, fill_value=np.nan, **sizes)
    (loss,) = plan_repair(store).chains
    assert (loss.chain, loss.draws_after, *loss.keys.values()) == (1, 6, "lacks a part")
    apply_repair(plan_repair(store))
    np.testing.assert_array_equal(values(store)["loss_code"], part)
    assert not validate(store).codes & {"DI301"}


def test_shards_inside_shards_are_told_apart():
    bytes_, size = {"name": "bytes"}, [1, 3, 2, 4]
    inner = {"name": "sharding_indexed", "configuration": {"chunk_shape": size, "codecs": [bytes_]}}
    outer = {"name": "sharding_indexed", "configuration": {"chunk_shape": [1, 6, 2, 4], "codecs": [inner]}}
    assert innermost_chunks([outer], (2, 12, 2, 4)) == (1, 3, 2, 4)
    turned = {"name": "transpose", "configuration": {"order": [3, 2, 1, 0]}}
    last = {"name": "sharding_indexed", "configuration": {"chunk_shape": [4, 2, 3, 1], "codecs": [bytes_]}}
    assert innermost_chunks([turned, last], (2, 12, 2, 4)) == (1, 3, 2, 4)
    assert innermost_chunks([bytes_], (2, 12, 2, 4)) == (2, 12, 2, 4)


@pytest.mark.parametrize("change", ["codecs", "chunks"])
def test_metadata_that_are_two_stories_prove_no_loss(samples, tmp_path, change):
    """Plain xarray reads this store, by what the root gathers, to the last loss."""
    store = copied(samples, tmp_path)
    path = store / "loss_code/zarr.json"
    document = json.loads(path.read_text())
    if change == "codecs":
        document["codecs"] = document["codecs"][:-1]
    else:
        document["chunk_grid"]["configuration"]["chunk_shape"][1] = 6
    path.write_text(json.dumps(document))
    before = objects(store)
    with pytest.raises(StoreError, match="two stories"):
        plan_repair(store)
    path.write_bytes((samples / "loss_code/zarr.json").read_bytes())
    assert plan_repair(store).nothing
    assert objects(store).keys() == before.keys()


@pytest.mark.parametrize("fill", [-1, 0])
def test_of_draws_written_that_lie_in_two_objects_one_may_be_lost(samples, tmp_path, fill):
    store = copied(samples, tmp_path)
    rewrite(store, "draws_written", chunks=(1,), fill_value=fill, config={"write_empty_chunks": True})
    (store / "draws_written/c/1").unlink()
    plan = plan_repair(store)
    assert (plan.chains, plan.derived) == ((), ("draws_written",))
    apply_repair(plan)
    np.testing.assert_array_equal(values(store)["draws_written"], values(samples)["draws_written"])


def test_where_no_position_counts_an_absent_chunk_is_no_loss(tmp_path):
    store = tmp_path / "masked.zarr"
    make_store(store, "samples", optional=ALL, seed=5, **SIZES)
    read = values(store)
    mask, losses, start = (read[name] for name in ("mask_math", "loss_math", "init_loss_math"))
    mask[:], mask[:, 0] = 1, 0  # as padding on the left
    losses, start = (np.where(mask == 1, np.nan_to_num(v, nan=1.0), np.nan).astype("f4") for v in (losses, start))
    rewrite(store, "mask_math", mask, fill_value=-1)
    rewrite(store, "loss_math", losses, chunks=(1, 12, losses.shape[2], 1), fill_value=np.nan)
    rewrite(store, "init_loss_math", start, chunks=(start.shape[0], 1), fill_value=np.nan)
    assert not (store / "loss_math/c/0/0/0/0").exists()
    assert plan_repair(store).nothing
    (store / "loss_math/c/0/0/0/1").unlink()
    assert [list(loss.keys) for loss in plan_repair(store).chains] == [["loss_math/c/0/0/0/1"]]


def test_what_an_extension_lost_is_told_and_costs_the_run_nothing(samples, tmp_path, monkeypatch):
    document = tmp_path / "graded.yaml"
    document.write_text(
        "schema: lab/graded\nversion: 1\nextends: devinterp/samples@1\ndoc: Graded.\nnodes:\n  /:\n    doc: A run.\n"
        "    variables:\n      grade: {dims: [chain, draw], dtype: float32, fill: NaN, unit: '1', doc: Its grade,\n"
        "        prefix: draw, chunks: {chain: 1}, checks: [{code: LAB301, predicate: finite}]}\n"
    )
    store = tmp_path / "graded.zarr"
    make_store(store, document)
    schema = load(document)
    monkeypatch.setattr(
        "devinterp.store.repair.repair_plan.load", lambda name: schema if name == schema.id else load(name)
    )
    assert not plan_repair(store).others
    (store / "grade/c/1/0").unlink()
    before, plan = objects(store), plan_repair(store)
    assert (plan.nothing, plan.others) == (True, {"grade/c/1/0": "missing"})
    assert any("grade/c/1/0: missing; what wrote this array" in line for line in plan.lines())
    apply_repair(plan)
    assert objects(store) == before
