"""What was selected from a tree and saved is a store of its own, and analyses of it are those of the selection."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from masked import masked_run, masked_study

import devinterp
from devinterp.errors import DataError, StoreConflictError, StoreError, StoreExistsError, ValidationError
from devinterp.slt.bif import compute_bif
from devinterp.slt.llc import compute_llc
from devinterp.slt.runs.save import save
from devinterp.slt.susceptibilities import compute_susceptibilities
from devinterp.store.location import locate
from devinterp.store.writing import result as writer
from devinterp.store.writing.compare_requests import compare_requests
from devinterp.store.writing.request import SamplesRequest
from devinterp.testing import make_store, make_tree

SIZES = {
    "parameters": {
        "num_chains": 3, "num_draws": 8, "num_burnin_steps": 2, "num_steps_bw_draws": 2, "batch_size": 2,
        "gradient_accumulation_steps": 1,
    },
    "members": {"obs": {"code": {"batches_per_draw": 2}, "math": {"batches_per_draw": 1}}},
    "sizes": {"token_pos": 5},
}  # fmt: skip
NAMES = ("full", "l0h0", "l1h1 mlp")
pytestmark = pytest.mark.filterwarnings("ignore::devinterp.errors.ChainFailedWarning")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return {
        "whole": make_store(folder / "whole.zarr", **SIZES),
        "failed": make_store(folder / "failed.zarr", failed={1: 3}, **SIZES),
        "study": make_store(
            folder / "study.zarr", "study", children=dict.fromkeys(("full", "l0h0", "l1h1 mlp"), SIZES)
        ),
        "series": make_store(folder / "series.zarr", "series"),
        "sweep": make_store(folder / "sweep.zarr", "sweep"),
    }


def numbered(tree):
    places = {d: np.arange(tree.sizes[d]) for d in ("token_pos", "token", "chain", "draw")}
    return xr.DataTree(tree.to_dataset().assign_coords(places))


def saved(tree, folder):
    path = folder / f"{len(list(folder.iterdir()))}.zarr"
    save(tree, path)
    report = devinterp.validate(path)
    assert report.ok, str(report)
    return devinterp.open_store(path)


def analyses(tree):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compute_llc(tree), compute_llc(tree, over="observable"), compute_bif(tree)


def places(size):
    whole = st.integers(0, size - 1)
    some = st.lists(whole, min_size=1, max_size=size, unique=True)
    strided = st.tuples(st.integers(0, size - 1), st.integers(1, 3)).map(lambda s: slice(s[0], None, s[1]))
    mask = st.lists(st.booleans(), min_size=size, max_size=size).filter(any).map(np.array)
    return some | strided | mask


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(["whole", "failed"]))
def test_analyses_of_a_saved_selection_are_those_of_the_selection(stores, tmp_path, data, name):
    tree = devinterp.open_store(stores[name])
    dims = data.draw(st.sets(st.sampled_from(["chain", "draw", "batch_code", "batch_math"]), min_size=1))
    part = tree.isel({dim: data.draw(places(tree.sizes[dim]), label=dim) for dim in sorted(dims)})
    again = saved(part, tmp_path)
    assert dict(again.sizes) == dict(part.sizes)
    try:
        wanted = analyses(part)
    except devinterp.errors.DevinterpError as refused:
        with pytest.raises(type(refused)):
            analyses(again)
        return
    for ours, theirs in zip(analyses(again), wanted, strict=True):
        xr.testing.assert_identical(ours, theirs)


@pytest.mark.parametrize(
    "selection",
    [
        {"token_pos": slice(3, None)},
        {"token_pos": [4, 0, 2]},
        {"token_pos": slice(1, 4), "token": slice(0, 5)},
        {"token_pos": slice(None, None, 2), "chain": [2, 0], "draw": slice(3, None)},
        {"chain": 1},
        {"draw": 2},
    ],
)
def test_labels_of_a_numbered_tree_stay_right(stores, tmp_path, selection):
    part = numbered(devinterp.open_store(stores["whole"])).isel(selection)
    again = saved(part, tmp_path)
    for dim in ("token_pos", "token", "chain", "draw"):
        assert again[dim].values.tolist() == np.atleast_1d(part[dim].values).tolist()
    if "draw" not in selection or not isinstance(selection["draw"], int):
        xr.testing.assert_identical(compute_bif(again), compute_bif(part))


def test_positions_that_nobody_numbered_are_refused_by_name(stores, tmp_path):
    part = devinterp.open_store(stores["whole"]).isel(token_pos=slice(3, None))
    with pytest.raises(DataError, match="which positions"):
        save(part, tmp_path / "s.zarr")
    assert not os.listdir(tmp_path)


def test_a_labelled_tree_is_valid_in_memory_and_wrong_labels_are_not(stores, tmp_path):
    tree = numbered(devinterp.open_store(stores["whole"]))
    assert tree.devinterp.report().ok
    assert dict(saved(tree, tmp_path).attrs["metadata"]).get("selection") is None
    twice = xr.DataTree(tree.to_dataset().assign_coords(token_pos=[0, 1, 1, 2, 3]))
    assert "DI306" in {f.code for f in twice.devinterp.report().errors}


def test_what_was_selected_is_recorded_and_settings_are_those_of_the_run(stores, tmp_path):
    tree = devinterp.open_store(stores["whole"])
    again = saved(tree.isel(draw=slice(2, 5), batch_code=[0, 3, 1]), tmp_path)
    metadata = dict(again.attrs["metadata"])
    assert metadata.pop("selection") == {"sizes": {"draw": 3, "batch_code": 3}}
    assert metadata == tree.attrs["metadata"]
    xr.testing.assert_identical(again["init_loss"], tree["init_loss"])
    narrower = saved(again.isel(draw=[0], chain=[1]), tmp_path)
    assert narrower.attrs["metadata"]["selection"] == {"sizes": {"draw": 1, "batch_code": 3, "chain": 1}}


def test_sizes_that_are_not_those_recorded_are_found(stores, tmp_path):
    save(devinterp.open_store(stores["whole"]).isel(draw=slice(2, 5)), tmp_path / "s.zarr")
    group = zarr.open_group(tmp_path / "s.zarr", mode="r+", use_consolidated=False)
    metadata = dict(group.attrs["metadata"])
    for selection in ({"sizes": {"draw": 4}}, {"sizes": {"chain": 1}}, {"sizes": "all"}, {}):
        group.attrs["metadata"] = metadata | {"selection": selection}
        assert not devinterp.validate(tmp_path / "s.zarr", consolidated=False, level="structure").ok


def test_restrictions_chains_and_draws_of_a_study(stores, tmp_path):
    study = devinterp.open_store(stores["study"])
    part = study.filter(lambda node: node.name != "l0h0").isel(draw=slice(0, 6), chain=[0, 2])
    again = saved(part, tmp_path)
    assert list(again.children) == ["full", "l1h1 mlp"]
    assert again.attrs["metadata"]["selection"] == {"left_out": ["l0h0"]}
    assert again.attrs["metadata"]["config"]["restrictions"] == ["full", "l1h1 mlp"]
    xr.testing.assert_identical(compute_llc(again), compute_llc(part))
    assert compute_susceptibilities(again).identical(compute_susceptibilities(part))
    with pytest.raises(ValidationError, match="full"):
        save(study.filter(lambda node: node.name != "full"), tmp_path / "no_full.zarr")


@pytest.mark.parametrize("chosen", [[1], slice(None), 0, slice(None, None, -1), [1, 0]])
def test_checkpoints_and_cells(stores, tmp_path, chosen):
    series, sweep = devinterp.open_store(stores["series"]), devinterp.open_store(stores["sweep"])
    part = series.isel(checkpoint=chosen)
    again = saved(part, tmp_path)
    xr.testing.assert_identical(compute_llc(again, allow_mixed=True), compute_llc(part, allow_mixed=True))
    cells = saved(sweep.isel(cell=chosen), tmp_path)
    names = sweep.attrs["metadata"]["config"]["cells"]
    assert cells.attrs["metadata"]["config"]["cells"] == np.atleast_1d(np.array(names)[chosen]).tolist()
    for step in np.atleast_1d(part["checkpoint"]):  # xarray leaves the coordinates of the root in what is selected
        run = part[f"{step}/full"].isel(draw=[0])
        assert run.devinterp.report().ok
        assert "checkpoint" not in saved(run, tmp_path).coords


def test_parts_of_results(stores, tmp_path):
    run, study = devinterp.open_store(stores["whole"]), devinterp.open_store(stores["study"])
    for result in (compute_llc(study).isel(wr=[2, 0]), compute_bif(run).isel(batch_1=[1]), compute_llc(run)):
        again = saved(result, tmp_path).to_dataset()
        assert again.attrs.pop("completed") == 1
        xr.testing.assert_identical(again, result)
    sus = compute_susceptibilities(study)
    again = saved(sus, tmp_path)
    assert again.attrs.pop("completed") == 1
    assert again.identical(sus)


@pytest.mark.parametrize(
    ("kind", "selection"),
    [
        ("llc", {"chain": [0]}),
        ("llc", {"draw": [0]}),
        ("bif", {"target_position": [1]}),
        ("sweep_summary", {"lr": slice(None, None, -1)}),
    ],
)
def test_what_does_not_follow_from_what_is_left_of_a_result_is_refused(tmp_path, kind, selection):
    part = make_tree(kind).to_dataset().isel(selection)
    for target in (tmp_path / "r.zarr", zarr.storage.MemoryStore()):
        with pytest.raises(ValidationError, match="What was to be saved to"):
            save(part, target)
        assert not getattr(target, "_store_dict", None)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("selection", [{"draw": []}, {"chain": []}, {"batch": 0}, {"batch_code": 1}, {"token_pos": 2}])
def test_nothing_left_and_dimensions_lost_are_one_error(stores, tmp_path, selection):
    for tree in (devinterp.open_store(stores["whole"]), devinterp.open_store(stores["study"])):
        with pytest.raises(DataError, match=f"{'Nothing is left along' if [] in selection.values() else 'by a list'}"):
            save(tree.isel(selection), tmp_path / "s.zarr")
    assert not os.listdir(tmp_path)


def test_levels_of_a_stacked_coordinate_are_undeclared(stores, tmp_path):
    pd = pytest.importorskip("pandas")
    dataset = devinterp.open_store(stores["whole"]).to_dataset()
    levels = pd.MultiIndex.from_product([["a", "b", "c", "d"], [1]], names=("topic", "shard"))
    stacked = dataset.assign_coords(xr.Coordinates.from_pandas_multiindex(levels, "batch_code"))
    assert compute_bif(stacked)["topic_1"].values.tolist()[:4] == ["a", "b", "c", "d"]
    with pytest.raises(ValidationError, match="topic"):
        save(stacked, tmp_path / "s.zarr")


def test_nothing_is_saved_into_a_store(stores, tmp_path):
    tree = devinterp.open_store(stores["whole"])
    for place in ("inner.zarr", "sampling_loss/inner.zarr"):
        with pytest.raises(StoreError, match="lies inside the Zarr group"):
            save(tree, stores["whole"] / place)
    assert devinterp.validate(stores["whole"]).ok


@pytest.mark.parametrize("name", ["s.zip", "s.zarr.zip", "s.ozx"])
def test_nothing_is_saved_under_the_name_of_an_archive(stores, tmp_path, name):
    with pytest.raises(StoreError, match="zip archive"):
        save(devinterp.open_store(stores["whole"]), tmp_path / name)
    assert not os.listdir(tmp_path)


def test_into_memory_and_nothing_stays_of_a_writing_that_fails(stores, tmp_path, monkeypatch):
    part = devinterp.open_store(stores["whole"]).isel(draw=slice(2, 5))
    memory = zarr.storage.MemoryStore()
    part.devinterp.save(memory)
    assert devinterp.validate(memory).ok
    for existing in (memory, stores["whole"]):
        with pytest.raises(StoreExistsError):
            part.devinterp.save(existing)
    whole, calls = writer._write, []

    def breaks(*arguments):
        calls.append(arguments)
        if len(calls) > 3:
            raise OSError("No space left on device")
        whole(*arguments)

    monkeypatch.setattr(writer, "_write", breaks)
    memory = zarr.storage.MemoryStore()
    for target in (tmp_path / "s.zarr", memory):
        calls.clear()
        with pytest.raises(OSError, match="No space"):
            part.devinterp.save(target)
    assert not os.listdir(tmp_path)
    assert not memory._store_dict


def test_runs_that_have_not_completed_and_undeclared_variables_are_refused(stores, tmp_path):
    tree = devinterp.open_store(stores["whole"])
    for wrong in (
        xr.DataTree(tree.to_dataset().assign_attrs(completed=0)),
        xr.DataTree(tree.to_dataset().assign(mine=("chain", np.zeros(3)))),
    ):
        with pytest.raises(ValidationError):
            save(wrong, tmp_path / "s.zarr")


def test_a_part_is_never_taken_for_the_run_that_a_call_asks_for(stores, tmp_path):
    class Request(SamplesRequest):
        def __init__(self):
            """Of nothing but its metadata."""

        def metadata(self):
            return devinterp.open_store(stores["whole"]).attrs["metadata"]

    assert not compare_requests(locate(stores["whole"]), {"/": Request()}, {}, interrupted=False)
    save(devinterp.open_store(stores["whole"]).isel(draw=slice(2, 5)), tmp_path / "s.zarr")
    with pytest.raises(StoreConflictError, match="part of a run"):
        compare_requests(locate(tmp_path / "s.zarr"), {"/": Request()}, {}, interrupted=False)


def test_a_chain_that_stopped_stays_valid_whichever_draws_are_left(tmp_path):
    tree = make_tree(failed={1: 3}, **SIZES)
    for draws in ([0, 1, 2], [5, 1, 7], [7]):
        assert saved(tree.isel(draw=draws), tmp_path).sizes["draw"] == len(draws)
        assert tree.isel(draw=draws).devinterp.report().ok


@pytest.mark.parametrize("order", [[0, 2, 1], [1, 0, 2], [2, 1, 0], [2, 1]])
@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_chains_of_which_one_failed_are_saved_in_any_order(tmp_path, order, named):
    tree = make_tree(failed={1: 3}, **SIZES)
    chosen = (numbered(tree) if named else tree).isel(chain=order)
    again = saved(chosen, tmp_path)
    assert again["draws_written"].values.tolist() == [3 if c == 1 else 8 for c in order]
    assert float(compute_llc(again)["llc_mean"]) == float(compute_llc(chosen)["llc_mean"])


REVERSED = slice(None, None, -1)


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize(
    "order",
    [{"draw": REVERSED}, {"draw": [0, 1, 3, 2, 4, 5, 6, 7], "step": REVERSED}, {"draw": REVERSED, "chain": [1, 2, 0]}],
    ids=str,
)
def test_draws_and_steps_of_which_some_were_never_written_are_saved_in_any_order(tmp_path, order, named):
    tree = make_tree(failed={1: 3}, **SIZES)
    part = (numbered(tree) if named else tree).isel(order)
    assert part.devinterp.report().ok, str(part.devinterp.report())
    again = saved(part, tmp_path)
    assert again.attrs["metadata"]["selection"] == {"sizes": {d: tree.sizes[d] for d in part.dims if d in order}}
    xr.testing.assert_identical(compute_llc(again), compute_llc(part))


def test_another_order_does_not_hide_what_is_lost(tmp_path):
    tree = make_tree(failed={1: 3}, **SIZES).isel(draw=REVERSED).to_dataset()
    for chain, draw in ((0, 2), (1, 7)):  # of a chain that went to its end, and the first draw of the one that stopped
        holed = xr.DataTree(tree.copy(deep=True))
        holed["sampling_loss"][chain, draw] = holed["loss_code"][chain, draw] = np.nan
        assert "DI301" in {f.code for f in holed.devinterp.report().errors}
        with pytest.raises(ValidationError):
            save(holed, tmp_path / "s.zarr")


def test_a_coordinate_that_counts_otherwise_makes_a_part_of_all_that_is_left(stores, tmp_path):
    tree = numbered(devinterp.open_store(stores["whole"]))
    again = saved(tree.isel(draw=REVERSED, token_pos=[3, 0]), tmp_path)
    assert again.attrs["metadata"]["selection"] == {"sizes": {"token_pos": 2, "token": 6, "draw": 8}}


def test_masks_are_saved_with_what_is_left_of_their_rows(tmp_path):
    tree = masked_run(1, failed={1: 4})
    part = tree.to_dataset().assign_coords(token_pos=range(5), token=range(6))
    part = xr.DataTree(part.isel(token_pos=[3, 1, 4], batch_math=[4, 0], draw=slice(2, 9)))
    again = saved(part, tmp_path)
    assert again["mask_math"].dtype == np.int8
    np.testing.assert_array_equal(again["mask_math"], part["mask_math"])
    counted = compute_bif(part, loss_keys=["math"], allow_partial=True)
    xr.testing.assert_identical(compute_bif(again, loss_keys=["math"], allow_partial=True), counted)
    chosen = {"target_position": [4, 2, 5], "target_position_T": [4, 2, 5], "batch_1": [4, 0], "batch_2": [4, 0]}
    whole = compute_bif(tree.isel(draw=slice(2, 9)), loss_keys=["math"], allow_partial=True).sel(chosen)
    np.testing.assert_allclose(counted["influences"], whole["influences"], atol=1e-5)
    study = masked_study(1)
    result = saved(compute_susceptibilities(study, "code"), tmp_path)
    assert result["susceptibilities"].attrs["masked"] == ["math"]
    assert saved(study, tmp_path).devinterp.report().ok
