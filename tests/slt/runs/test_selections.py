"""Selecting as xarray does: a label belongs to its value, a state to its chain, or one error says why."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from extras import needing
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import fail_chain, make_run, make_study, to_store

import devinterp
from devinterp.errors import ChainFailedWarning, DataError, DevinterpError, ProvenanceError
from devinterp.slt.bif import compute_bif
from devinterp.slt.information.waic import compute_waic
from devinterp.slt.information.wbic import compute_wbic
from devinterp.slt.llc import compute_llc
from devinterp.slt.susceptibilities import compute_susceptibilities
from devinterp.slt.susceptibilities.by_observable import flatten, unflatten
from devinterp.slt.uncertainty.arviz import to_arviz

TOKENS, CHAINS, DRAWS = 6, 3, 40


def numbered(tree: xr.DataTree) -> xr.DataTree:
    """Every position under its number, which selections keep."""

    def label(dataset: xr.Dataset) -> xr.Dataset:
        dims = [dim for dim in ("token_pos", "token") if dim in dataset.dims]
        return dataset.assign_coords({dim: np.arange(dataset.sizes[dim]) for dim in dims})

    return tree.map_over_datasets(label)


RUN, STUDY = numbered(make_run()), numbered(make_study())


@st.composite
def selections(draw: st.DrawFn, size: int = TOKENS) -> Any:
    """Any legal selection along a dimension that leaves something."""
    kind = draw(st.sampled_from(["slice", "list", "mask"]))
    if kind == "mask":
        mask = draw(st.lists(st.booleans(), min_size=size, max_size=size).filter(any))
        return np.array(mask)
    if kind == "list":
        return draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=size, unique=True))
    step = draw(st.sampled_from([1, 2, 3, -1, -2]))
    chosen = slice(draw(st.none() | st.integers(-size, size)), draw(st.none() | st.integers(-size, size)), step)
    return chosen if len(range(size)[chosen]) else slice(None, None, step)


@settings(max_examples=40)
@given(selections())
def test_influences_of_selected_tokens_are_the_selected_influences(chosen: Any) -> None:
    ours = compute_bif(RUN.isel(token_pos=chosen))
    theirs = compute_bif(RUN).isel(target_position=chosen, target_position_T=chosen)
    for name in ("target_position", "target_position_T", "input_ids"):
        np.testing.assert_array_equal(ours[name], theirs[name])
    np.testing.assert_allclose(ours["influences"], theirs["influences"], atol=1e-6)
    assert devinterp.validate(ours).ok, str(devinterp.validate(ours))


@settings(max_examples=25)
@given(selections())
def test_susceptibilities_of_selected_tokens_keep_their_positions(chosen: Any) -> None:
    ours = compute_susceptibilities(STUDY.isel(token_pos=chosen), baseline="init")
    assert devinterp.validate(ours).ok, str(devinterp.validate(ours))
    sus, context = ours["susceptibilities"], ours["context"]
    positions = np.arange(1, TOKENS + 1)[chosen]
    code = sus["dataset_id"].values == sus.attrs["dataset_id_to_name"].index("code")
    np.testing.assert_array_equal(sus["target_position"].values[code], np.tile(positions, 3))
    # The tokens beside them are found by position.
    whole = {(b, p): t for b, p, t in zip(*(context[n].values[context["dataset_id"].values == 0] for n in
                                            ("batch", "position", "input_ids")), strict=True)}  # fmt: skip
    for row in range(3):
        for position in positions:
            assert whole[row, position] == STUDY["full"]["input_ids_code"].values[row, position]
    # phi is of the selected tokens too, so the numbers are those of runs that never had the others.
    cut = {
        name: xr.DataTree(
            run.to_dataset().isel(token_pos=chosen, token=slice(positions.size + 1)).drop_vars(["token_pos", "token"])
        )
        for name, run in STUDY.children.items()
    }
    alone = compute_susceptibilities(cut, "train")["susceptibilities"]
    np.testing.assert_array_equal(sus["sus"], alone["sus"])


@settings(max_examples=20)
@given(selections(), selections(CHAINS), selections(DRAWS))
def test_the_llc_of_a_selection_is_that_of_the_selected_losses(tokens: Any, chains: Any, draws: Any) -> None:
    part = RUN.isel(token_pos=tokens, chain=chains, draw=draws)
    result = compute_llc(part)
    loss, init = part["sampling_loss"].astype(float), part["init_loss"].astype(float)
    expected = 30.0 * (loss.mean(("draw", "batch", "token_pos")) - init.mean())
    np.testing.assert_allclose(result["llc_per_chain"], expected, rtol=1e-9)


def test_positions_of_a_tail() -> None:
    result = RUN.isel(token_pos=slice(3, None)).devinterp.bif()
    assert result["target_position"].values.tolist() == [4, 5, 6]
    xr.testing.assert_identical(result["influences"], compute_bif(RUN)["influences"][:, :, 3:, 3:])


ANALYSES = {
    "bif": lambda tree: compute_bif(tree["full"]),
    "top_k": lambda tree: compute_bif(tree["full"], top_k=1),
    "susceptibilities": lambda tree: compute_susceptibilities(tree),
    "tokens": lambda tree: tree["full"].devinterp.tokens(),
}


@pytest.mark.parametrize("analysis", ANALYSES)
@pytest.mark.parametrize("chosen", [{"token_pos": slice(3, None)}, {"token": slice(2, None)}, {"token_pos": [0, 2]}])
def test_without_a_coordinate_it_is_not_known_which_are_left(analysis: str, chosen: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"not known which positions.*assign_coords"):
        ANALYSES[analysis](make_study().isel(chosen))


def test_equal_cuts_of_both_are_noticed_in_what_was_read_from_a_store(tmp_path: Any) -> None:
    tree = to_store(make_run(), tmp_path / "a.zarr")
    compute_bif(tree)
    with pytest.raises(DataError, match="not known which positions"):
        compute_bif(tree.isel(token_pos=slice(3, None), token=slice(3, None)))
    with pytest.raises(DataError, match="not known which positions"):
        compute_bif(tree.load().isel(token_pos=slice(3), token=slice(4)))


def test_partners_need_the_beginnings_of_rows() -> None:
    with pytest.raises(DataError, match="top_k needs"):
        compute_bif(RUN.isel(token_pos=slice(3, None)), top_k=1)
    assert compute_bif(RUN.isel(token_pos=slice(3)), top_k=1)["target_position"].values.tolist() == [1, 2, 3]
    with pytest.raises(DataError, match="whole rows"):
        compute_bif(RUN.isel(token=slice(None, None, -1)))


@pytest.mark.parametrize("values", [[0, 0, 1, 2, 3, 4], [0.5, 1, 2, 3, 4, 5], [-1, 0, 1, 2, 3, 4], list("abcdef")])
def test_a_coordinate_that_is_no_position_is_refused(values: list[Any]) -> None:
    with pytest.raises(DataError, match="does not say where"):
        compute_bif(xr.DataTree(make_run().to_dataset().assign_coords(token_pos=values)))


def test_runs_of_other_positions_are_not_combined() -> None:
    runs = {"full": RUN.isel(token_pos=slice(3)), "l0h0": RUN.isel(token_pos=slice(1, 4))}
    with pytest.raises(ProvenanceError, match="positions of the run 'l0h0'"):
        compute_susceptibilities(runs, "train")


def test_text_is_coloured_where_the_losses_are() -> None:
    pytest.importorskip("matplotlib")
    whole = RUN.devinterp.tokens(observable="code").rows[0].values
    for chosen in (slice(3, None), [4, 1], slice(None, None, -1)):
        part = RUN.isel(token_pos=chosen).devinterp.tokens(observable="code").rows[0].values
        kept = np.arange(1, TOKENS + 1)[chosen]
        np.testing.assert_array_equal(np.flatnonzero(np.isfinite(part)), np.sort(kept))
        np.testing.assert_array_equal(part[kept], whole[kept])


def test_susceptibilities_of_selected_positions_unfold_and_fold() -> None:
    result = compute_susceptibilities(STUDY.isel(token_pos=[5, 2]))
    xr.testing.assert_identical(flatten(unflatten(result)), result)
    assert unflatten(result)["code"]["target_position"].values.tolist() == [6, 3]


@pytest.mark.parametrize("order", [[2, 1, 0], [1, 2, 0], [0, 2, 1]])
def test_the_chain_that_failed_is_excluded_wherever_it_stands(order: list[int]) -> None:
    failed = fail_chain(make_run(), 1, 10)
    with pytest.warns(ChainFailedWarning):
        result = compute_llc(failed.isel(chain=order))
    assert result.attrs["chains_excluded"] == [order.index(1)]


def test_a_coordinate_tells_which_chain_is_which() -> None:
    run = fail_chain(make_run(chains=4), 3, 10).to_dataset().assign_coords(chain=np.arange(4))
    with pytest.warns(ChainFailedWarning, match=r"chain 0: failed at step 15: loss is NaN"):
        compute_llc(run.isel(chain=[3, 1]))


def test_labels_of_chains_and_draws_survive() -> None:
    named = (
        make_run()
        .to_dataset()
        .assign_coords(
            chain=["a", "b", "c"],
            host=("chain", ["x", "y", "z"]),
            draw=np.arange(40) * 5,
            text=("batch_code", list("pqr")),
        )
    )
    result = compute_llc(named.isel(chain=[2, 0], draw=slice(10, None)))
    assert result["chain"].values.tolist() == ["c", "a"]
    assert result["host"].values.tolist() == ["z", "x"]
    assert result["draw"].values[0] == 50
    tree = to_arviz(named.isel(chain=[2, 0]), log_likelihood=True)
    assert tree["posterior"]["chain"].values.tolist() == ["c", "a"]
    assert tree["posterior"]["host"].values.tolist() == ["z", "x"]
    assert tree["log_likelihood"]["text"].values.tolist() == list("pqr")
    assert tree["observed_data"]["text"].values.tolist() == list("pqr")


@pytest.mark.parametrize("longest", [8, 64])
@pytest.mark.parametrize("load", [False, True])
def test_chunks_that_reach_beyond_the_array_leave_out_nothing(tmp_path: Path, longest: int, load: bool) -> None:
    whole = make_run().to_dataset()
    encoding = {name: {"chunks": (longest,) * v.ndim} for name, v in whole.variables.items() if v.ndim}
    whole.to_zarr(tmp_path / "foreign.zarr", encoding=encoding, zarr_format=3, consolidated=False)
    made = xr.open_datatree(tmp_path / "foreign.zarr", engine="zarr", consolidated=False)
    made = made.load() if load else made
    xr.testing.assert_allclose(compute_bif(made), compute_bif(whole))
    cut = made.isel(token_pos=slice(2, None), token=slice(2, None))
    if not load:  # of what is in memory nobody knows
        with pytest.raises(DataError, match="not known which positions"):
            compute_bif(cut)


def test_positions_that_were_left_out_before_loading_are_missed(tmp_path: Path) -> None:
    made = to_store(make_run(), tmp_path / "ours.zarr").load()
    with pytest.raises(DataError, match="not known which positions"):
        compute_bif(made.isel(token_pos=slice(2, None), token=slice(2, None)))


def labelled(dataset: xr.Dataset) -> xr.Dataset:
    rows = dataset.sizes["batch_code"]
    coords = {"batch_code": 10 + np.arange(rows), "document": ("batch_code", [f"d{i}" for i in range(rows)])}
    return dataset.assign_coords({**coords, "weight": ("batch_code", np.linspace(0, 1, rows))})


@settings(max_examples=10, deadline=None)
@given(selections(size=RUN.sizes["batch_code"]))
def test_coordinates_of_rows_reach_influences_and_stay_with_their_rows(chosen: Any) -> None:
    run = labelled(make_run().to_dataset())
    ours = compute_bif(run.isel(batch_code=chosen), correlation_method="sequence", loss_keys=["code"])
    theirs = compute_bif(run, correlation_method="sequence", loss_keys=["code"]).isel(
        batch_1=chosen, batch_2=chosen, batch=chosen
    )
    names = {"row_number", "document", "weight"}
    assert {str(n) for n in ours.coords} >= {f"{n}{end}" for n in names for end in ("", "_1", "_2")}
    for name in (n for n in ours.coords if n not in ("batch_1", "batch_2")):
        np.testing.assert_array_equal(ours[name], theirs[name])
    np.testing.assert_allclose(ours["influences"], theirs["influences"], atol=1e-6)


def test_numbered_rows_are_declared_in_every_result(tmp_path: Path) -> None:
    run, study = (t.map_over_datasets(numbered_rows) for t in (make_run(), make_study()))
    sus = compute_susceptibilities(study, baseline="init")
    streamed = compute_bif(run, correlation_method="sequence", output_path=tmp_path / "b.zarr")
    for result in (compute_bif(run), compute_bif(run, top_k=2), streamed, sus):
        report = devinterp.validate(result)
        assert report.ok, str(report)
    rows = run.to_dataset().coords
    both = np.concatenate([rows[name] for name in sorted(rows) if str(name).startswith("batch_")])
    for result in (compute_bif(run), streamed):
        np.testing.assert_array_equal(result["row_number"], both)
        np.testing.assert_array_equal(result["row_number_2"], both)
    flat = sus["susceptibilities"]
    np.testing.assert_array_equal(flat["row_number"], 100 + flat["batch"])
    assert flatten(unflatten(sus)).identical(sus)


def numbered_rows(dataset: xr.Dataset) -> xr.Dataset:
    dims = [d for d in dataset.dims if str(d).startswith("batch_") and d != "batch_sampling"]
    return dataset.assign_coords({d: 100 + np.arange(dataset.sizes[d]) for d in dims})


def test_rows_without_a_coordinate_say_nothing() -> None:
    run = labelled(make_run().to_dataset())
    made, code = compute_bif(run, correlation_method="sequence"), run.sizes["batch_code"]
    assert made["document"].values.tolist() == [f"d{i}" for i in range(code)] + [""] * (made.sizes["batch"] - code)
    assert np.isnan(made["weight"].values[code:]).all()
    assert made["row_number"].values.tolist()[:code] == list(range(10, 10 + code))
    assert (made["row_number"].values[code:] < 10).all()


def test_numbers_of_chains_and_draws_stand_in_results_that_can_be_saved(tmp_path: Path) -> None:
    places = {"chain": [7, 5, 9], "draw": np.arange(DRAWS) * 10}
    run, study = RUN.to_dataset(), STUDY.map_over_datasets(lambda ds: ds.assign_coords(places) if ds else ds)
    for chosen in ([0, 1, 2], [2, 0], [1]):
        for part in (run.assign_coords(places).isel(chain=chosen), study.isel(chain=chosen)):
            for made in (compute_llc(part), compute_waic(part, observable="code"), compute_wbic(part)):
                assert made["chain"].values.tolist() == [places["chain"][c] for c in chosen]
                made.to_zarr(tmp_path / "r.zarr", mode="w", consolidated=False, zarr_format=3)
                for target in (made, tmp_path / "r.zarr"):
                    report = devinterp.validate(target)
                    assert report.ok, str(report)


def test_stacked_dimensions_are_refused_by_name() -> None:
    stacked = make_run().to_dataset().assign_coords(chain=range(CHAINS), draw=range(DRAWS)).stack(s=("chain", "draw"))
    for analysis in (compute_llc, compute_bif, to_arviz):
        with pytest.raises(DataError, match="unstack"):
            analysis(stacked)
    assert repr(stacked.devinterp)
    again = stacked.unstack("s").assign(n_beta=30.0)
    xr.testing.assert_allclose(compute_llc(again)["llc_mean"], compute_llc(make_run())["llc_mean"])


SMALL = make_run(draws=8, rows={"code": 2}, tokens=3).to_dataset()
SMALL = SMALL.assign_coords({dim: np.arange(SMALL.sizes[dim]) for dim in ("token_pos", "token", "chain", "draw")})


def along(values: Any, *dims: str) -> xr.DataArray:
    return xr.DataArray(values, dims=dims)


OPERATIONS = {
    "isel(int)": lambda d: d.isel(chain=1),
    "isel(ints)": lambda d: d.isel(chain=1, draw=3),
    "isel(repeated)": lambda d: d.isel(draw=[0, 0, 1]),
    "isel(reversed)": lambda d: d[{"draw": slice(None, None, -1)}],
    "isel(mask)": lambda d: d.isel(draw=d["draw"].values % 3 == 1),
    "isel(array)": lambda d: d.isel(draw=d["draw"] > 3),
    "isel(pointwise)": lambda d: d.isel(chain=along([0, 1], "z"), draw=along([3, 4], "z")),
    "isel(other dim)": lambda d: d.isel(draw=along([3, 4], "z")),
    "isel(two dims)": lambda d: d.isel(draw=along([[0, 1], [2, 3]], "a", "b")),
    "isel(same dim)": lambda d: d.isel(draw=along([3, 4], "draw")),
    "isel(no draw)": lambda d: d.isel(draw=[]),
    "isel(no chain)": lambda d: d.isel(chain=slice(0, 0)),
    "isel(no token)": lambda d: d.isel(token=np.zeros(4, bool)),
    "sel": lambda d: d.sel(draw=[7, 3], chain=[2, 0]),
    "sel(slice)": lambda d: d.sel(token_pos=slice(1, 2)),
    "sel(nearest)": lambda d: d.sel(draw=[4.4], method="nearest"),
    "drop_sel": lambda d: d.drop_sel(draw=[0, 1]),
    "drop_isel": lambda d: d.drop_isel(chain=[0]),
    "head": lambda d: d.head(draw=3),
    "tail": lambda d: d.tail(token_pos=2),
    "thin": lambda d: d.thin(draw=3),
    "where(chain)": lambda d: d.where(d["chain"] != 1),
    "where(draw)": lambda d: d.where(d["draw"] > 4),
    "where(draw, drop)": lambda d: d.where(d["draw"] > 4, drop=True),
    "dropna": lambda d: d.where(d["draw"] > 4).dropna("draw", subset=["sampling_loss"]),
    "fillna": lambda d: d.fillna(0.0),
    "combine_first": lambda d: d.isel(draw=slice(3)).combine_first(d),
    "merge": lambda d: xr.merge([d.drop_vars("n_beta"), d[["n_beta"]]]),
    "align": lambda d: xr.align(d, d.isel(draw=slice(3, 9)), join="inner")[0],
    "align(outer)": lambda d: xr.align(d, d.assign_coords(draw=range(4, 12)), join="outer")[0],
    "broadcast": lambda d: xr.broadcast(d)[0],
    "sortby": lambda d: d.sortby("draw", ascending=False),
    "sortby(loss)": lambda d: d.sortby(d["sampling_loss"].mean(("chain", "batch", "token_pos"))),
    "groupby": lambda d: d.groupby("draw").mean(),
    "groupby_bins": lambda d: d.groupby_bins("draw", 4).mean(),
    "coarsen": lambda d: d.coarsen(draw=2).mean(),
    "coarsen(construct)": lambda d: d.coarsen(draw=2).construct(draw=("draw", "inner")),
    "rolling": lambda d: d.rolling(draw=3).mean(),
    "rolling(dropna)": lambda d: d.rolling(draw=3).mean().dropna("draw"),
    "pad": lambda d: d.pad(draw=(0, 2)),
    "pad(edge)": lambda d: d.pad(draw=2, mode="edge"),
    "roll": lambda d: d.roll(draw=3),
    "shift": lambda d: d.shift(draw=1),
    "diff": lambda d: d.diff("draw"),
    "mean(draw)": lambda d: d.mean("draw"),
    "mean(chain)": lambda d: d.mean("chain"),
    "mean(batch)": lambda d: d.mean("batch"),
    "reindex": lambda d: d.reindex(draw=range(12)),
    "reindex(chains)": lambda d: d.reindex(chain=[2, 1]),
    "interp": lambda d: d.interp(draw=[0.5, 1.5]),
    "expand_dims": lambda d: d.expand_dims("run"),
    "squeeze": lambda d: d.isel(chain=[1]).squeeze(),
    "transpose": lambda d: d.transpose("token_pos", ..., "chain"),
    "rename": lambda d: d.rename(draw="sample"),
    "swap_dims": lambda d: d.assign_coords(t=("draw", np.arange(8) * 10)).swap_dims(draw="t"),
    "stack": lambda d: d.stack(s=("chain", "draw")),
    "unstack": lambda d: d.stack(s=("chain", "draw")).unstack("s"),
    "drop_indexes": lambda d: d.drop_indexes(["draw"]),
    "reset_coords": lambda d: d.reset_coords(),
    "chunk": lambda d: d.chunk(draw=3),
    "astype": lambda d: d.astype("float64"),
}


REFUSED = {
    "isel(pointwise)", "isel(other dim)", "isel(two dims)", "isel(no draw)", "isel(no chain)", "where(draw)",
    "align(outer)", "broadcast", "groupby_bins", "coarsen(construct)", "rolling", "pad", "shift", "mean(batch)",
    "reindex", "expand_dims", "rename", "swap_dims", "stack",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::devinterp.errors.ChainFailedWarning")
@pytest.mark.parametrize("operation", needing("dask", OPERATIONS, named="chunk"))
def test_whatever_xarray_does_to_a_run_analyses_are_of_what_is_left_or_one_error_says_why(operation: str) -> None:
    made = pickle.loads(pickle.dumps(OPERATIONS[operation](SMALL)))
    assert made.devinterp.kind == "samples"
    assert repr(made.devinterp)
    assert made.devinterp.report().schema == "devinterp/samples@1"
    if operation in REFUSED:
        with pytest.raises(DevinterpError):
            compute_llc(made)
    else:
        loss, init = (made[name].astype(float).mean() for name in ("sampling_loss", "init_loss"))
        np.testing.assert_allclose(compute_llc(made)["llc_mean"], 30 * (loss - init), rtol=1e-6)
    try:
        influences = compute_bif(made, correlation_method="sequence")["influences"]
    except DevinterpError:
        assert operation in REFUSED | {"isel(ints)", "isel(no token)", "mean(draw)"}
    else:
        assert np.isfinite(influences).all()


def test_several_runs_along_a_dimension_of_their_own_are_taken_one_at_a_time() -> None:
    several = xr.concat([SMALL, SMALL], "run", data_vars="all")
    with pytest.raises(DataError, match=r"several along run: take one at a time, isel\(run=0, drop=True\)"):
        compute_llc(several)
    xr.testing.assert_identical(compute_llc(several.isel(run=0, drop=True)), compute_llc(SMALL))
