from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import xarray as xr
from made_runs import fail_chain, make_study, to_store

from devinterp.slt.diagnostics import diagnose
from devinterp.slt.llc import compute_llc
from devinterp.slt.runs import read_blocks as _blocks
from devinterp.slt.runs.read_blocks import block_slices, read_blocks, reading_once, row_means
from devinterp.slt.susceptibilities import compute_susceptibilities
from devinterp.slt.susceptibilities.moments import _common_slices
from devinterp.slt.sweep import compute_sweep
from devinterp.store.reading.fast_chunks import block_reader
from devinterp.testing import make_tree


@pytest.fixture
def stored(tmp_path):
    return to_store(make_study(), tmp_path / "study.zarr")


def covered(array, slices):
    seen = np.zeros(array.shape[:2], dtype=int)
    for chains, draws in slices:
        seen[chains, draws] += 1
    return seen


@pytest.mark.parametrize("room", [1, 3000, 50_000, 10**9])
def test_blocks_cover_every_draw_of_every_chain_once(stored, monkeypatch, room):
    array = stored["full/loss_train"]
    monkeypatch.setattr(_blocks, "BLOCK_BYTES", room)
    slices = block_slices(array)
    assert (covered(array, slices) == 1).all()
    if room == 10**9:  # small chains are read together
        assert len(slices) == 1
    blocks = read_blocks(("x", array, *s) for s in slices)
    whole = np.full(array.shape, np.nan, dtype=np.float32)
    for block in blocks:
        whole[block.chains, block.draws] = block.values
    np.testing.assert_array_equal(whole, array.values)


def test_a_small_observable_beside_a_large_one_makes_no_large_blocks(stored, monkeypatch):
    run = stored["full"].to_dataset()
    arrays = {"small": run["loss_train"].isel(batch_train=[0], token_pos=[0]), "large": run["loss_train"]}
    room = arrays["large"][0, :10].nbytes
    monkeypatch.setattr(_blocks, "BLOCK_BYTES", room)
    chains, draws = (np.array([s.stop - s.start for s in part]) for part in zip(*_common_slices(arrays), strict=True))
    per_draw = arrays["large"][0, 0].nbytes
    smallest = arrays["large"].encoding["preferred_chunks"]["draw"] * per_draw
    assert (chains * draws * per_draw).max() <= max(room, smallest)


@pytest.mark.filterwarnings("ignore::devinterp.errors.ChainFailedWarning")
def test_a_failed_chain_beside_others_in_a_block_changes_no_number(tmp_path, monkeypatch):
    study = make_study()
    study["l0h0"] = fail_chain(study["l0h0"], 0, 9)
    tree = to_store(study, tmp_path / "study.zarr")
    together = compute_susceptibilities(tree)["susceptibilities"].to_dataset()
    monkeypatch.setattr(_blocks, "BLOCK_BYTES", 1)  # chain by chain
    apart = compute_susceptibilities(tree)["susceptibilities"].to_dataset()
    xr.testing.assert_identical(together, apart)


def test_means_are_remembered_while_the_context_lasts_and_no_longer(stored, monkeypatch):
    reads = []

    def counting(variable):
        read = block_reader(variable)
        return lambda *block: (reads.append(1), read(*block))[1]

    monkeypatch.setattr(_blocks, "block_reader", counting)
    plain = compute_llc(stored, over="observable", ci=0.9)
    once = len(reads)
    reads.clear()
    with reading_once():
        diagnose(stored)
        first = len(reads)
        again = compute_llc(stored, over="observable", ci=0.9)
        assert len(reads) == first <= once
    xr.testing.assert_identical(plain, again)
    row_means(stored["full/loss_train"])
    assert len(reads) > first
    with reading_once():
        kept = row_means(stored["full/loss_train"])
        assert row_means(stored["full/loss_train"]) is kept
        with pytest.raises(ValueError, match="read-only"):
            kept[...] = 0
        shifted = stored["full/loss_train"] + 1
        np.testing.assert_allclose(row_means(shifted), kept + 1)


@pytest.mark.parametrize("kind", ["samples", "sweep"])
def test_an_analysis_reads_no_stored_array_twice(tmp_path, monkeypatch, kind):
    """The step's bias and the gradient's share are of the same metrics, verdicts and estimates of the same losses."""
    metrics = {"parameters": {"save_metrics": True}}
    cells = {"children": {"warm": metrics, "cold": metrics}}
    make_tree(kind, seed=3, **(cells if kind == "sweep" else metrics)).to_zarr(tmp_path / "a.zarr", consolidated=False)
    tree = xr.open_datatree(tmp_path / "a.zarr", engine="zarr", consolidated=False, chunks=None)
    asked = Counter()
    known = {id(v): f"{node.path} {name}" for node in tree.subtree for name, v in node.variables.items()}

    def counting(variable):
        asked[known[id(variable)]] += 1
        return block_reader(variable)

    monkeypatch.setattr(_blocks, "block_reader", counting)
    compute_sweep(tree) if kind == "sweep" else diagnose(tree)
    read = {name.split()[-1] for name in asked}
    assert {"metrics_noise", "metrics_scaled_grad"} < read
    assert any(name.startswith("loss_") for name in read)
    assert max(asked.values()) == 1, asked
