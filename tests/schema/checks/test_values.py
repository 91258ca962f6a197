"""Values are judged the same in one piece, chunk by chunk, in threads and in memory; each with its place and number."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from edits import chunk_files, edit_array, edit_attributes, edit_json, rewrite

from devinterp.schema import Limits, load, validate
from devinterp.schema.checks import values
from devinterp.testing import make_store, make_tree

StoreOf = Callable[[str], Path]
WAYS = {
    "in one piece": {},
    "in one piece, by threads": {"_AT_ONCE": 0},
    "chunk by chunk": {"_SMALL": 0, "_AT_ONCE": 0},
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every way in which a store is read."""
    for name, value in WAYS[request.param].items():
        monkeypatch.setattr(values, name, value)
    return str(request.param)


def spoil(store: Path, name: str, **places: Any) -> None:
    """Set values of an array: ``spoil(store, "loss", v0=((0, 1), nan))``."""

    def change(array: Any) -> Any:
        array = np.array(array)
        for place, value in places.values():
            array[place] = value
        return array

    rewrite(store, name, change)


def found(target: Any, **options: Any) -> list[tuple[str, str, str | None]]:
    return [(str(f.code), f.path, f.found) for f in validate(target, **options).findings]


@pytest.fixture
def samples(store_of: StoreOf) -> Path:
    """A run whose draws lie in chunks of their own."""
    store = store_of("samples")
    for name in ("sampling_loss", "step_loss"):
        array = zarr.open_array(store / name, mode="r")
        kept = array[...]
        chunks = [
            1 if dim in ("draw", "step") else n
            for dim, n in zip(array.metadata.dimension_names, array.chunks, strict=True)
        ]
        shutil.rmtree(store / name / "c")
        edit_array(store, name, chunk_grid={"name": "regular", "configuration": {"chunk_shape": chunks}})
        zarr.open_array(store / name, mode="r+", config={"write_empty_chunks": True})[...] = kept
    assert found(store) == []
    return store


def test_the_first_value_that_breaks_a_rule_is_named_and_all_are_counted(samples: Path, way: str) -> None:
    spoil(samples, "sampling_loss", a=((1, 2, 0, 1), np.nan))
    assert found(samples) == [
        ("DI301", "/sampling_loss", "1 value(s), the first nan at chain=1, draw=2, batch=0, token_pos=1")
    ]
    spoil(samples, "sampling_loss", a=((0, 1), np.inf), b=((1, 0, 0, 0), -np.inf))
    shape = make_tree("samples")["sampling_loss"].shape[2:]
    count = validate(samples).filter(code="DI301").findings[0].found
    total = int(str(count).split()[0])
    assert str(count).endswith("the first inf at chain=0, draw=1, batch=0, token_pos=0")
    assert total == int(np.prod(shape)) + 2 or total > 2


def test_a_scalar_and_whole_rules_name_their_values(store_of: StoreOf, way: str) -> None:
    store = store_of("samples")
    spoil(store, "n_beta", a=((), -2.5))
    assert ("DI302", "/n_beta", "1 value(s), the first -2.5") in found(store)
    spoil(store, "row_code", a=(1, 0), b=(0, 0))
    codes = [(c, p) for c, p, _ in found(store)]
    assert ("DI304", "/row_code") in codes
    finding = validate(store).filter(code="DI304").findings[0]
    assert finding.expected == "values that differ from each other"
    assert str(finding.found).startswith("1 value(s), the first 0 at batch_code=1")


def test_a_damaged_and_an_absent_chunk_leave_the_rest_to_be_judged(samples: Path, way: str) -> None:
    spoil(samples, "sampling_loss", a=((1, 2, 0, 0), np.nan))
    (samples / "sampling_loss/c/0/0/0/0").write_bytes(b"damaged")
    (samples / "sampling_loss/c/0/1/0/0").unlink()
    report = validate(samples)
    assert report.codes == {"DI301", "DI501", "DI506"}
    paths = {str(f.code): f.path for f in report.findings}
    assert paths["DI506"] == "/sampling_loss/c/0/0/0/0"
    assert paths["DI301"] == "/sampling_loss"
    assert {f.level for f in report.filter(code="DI506")} == {"values"}
    (finding,) = report.filter(code="DI301").findings
    assert finding.found == "1 value(s), the first nan at chain=1, draw=2, batch=0, token_pos=0"


def test_an_absent_chunk_alone_leaves_the_rest_to_be_judged(samples: Path, way: str) -> None:
    (samples / "sampling_loss/c/0/1/0/0").unlink()
    assert [f[:2] for f in found(samples)] == [("DI501", "/sampling_loss/c/0/1/0/0")]


def test_an_array_that_a_rule_needs_whole_must_fit_into_memory(tmp_path: Path) -> None:
    store = make_store(
        tmp_path / "a.zarr",
        "samples",
        parameters={"batch_size": 20_000, "num_chains": 1, "num_draws": 2},
        consolidated=False,
    )
    size = 8 * make_tree("samples", parameters={"batch_size": 20_000, "num_chains": 1, "num_draws": 2})["row_code"].size
    why = f"a rule needs all {size} bytes at once, more than the memory limit allows"
    for memory, left in ((4 * size, False), (4 * size - 4, True)):
        report = validate(store, limits=Limits(memory=memory))
        assert (("values", why) in {(n.what, n.why) for n in report.not_checked}) == left


def stop(store: Path, chain: int, draws: int) -> None:
    """A chain fails after so many draws; behind them everything is fill."""

    rows = {"draw": draws, "step": 0 if not draws else 1 + (draws - 1) * 2 + 1}  # one step of burn-in, two per draw

    def change(attrs: dict[str, Any]) -> None:
        attrs["metadata"]["run"]["chains"][chain].update(status="failed", reason="nan", step=rows["step"])

    edit_attributes(store, change)
    spoil(store, "draws_written", a=(chain, draws))
    for name, spec in load("samples").node().variables.items():
        if spec.prefix is not None and (store / name).is_dir():
            spoil(store, name, a=((chain, slice(rows[spec.prefix], None)), np.nan))
    for name in ("loss_code", "loss_math"):
        spoil(store, name, a=((chain, slice(draws, None)), np.nan))


@pytest.mark.parametrize("draws", [0, 1, 2])
def test_rows_behind_a_prefix_must_be_fill_and_those_before_it_must_not(samples: Path, draws: int, way: str) -> None:
    stop(samples, 0, draws)
    assert [c for c, _, _ in found(samples)] == ["DI007"]
    spoil(samples, "sampling_loss", a=((0, 2, 0, 0), 1.5))
    ((code, path, said),) = [f for f in found(samples) if f[0] != "DI007"]
    assert (code, path) == ("DI307", "/sampling_loss")
    assert said == "1 value(s), the first 1.5 at chain=0, draw=2, batch=0, token_pos=0"
    (finding,) = validate(samples).filter(code="DI307").findings
    assert finding.expected == "nan from there on"
    if draws:
        spoil(samples, "sampling_loss", a=((0, 2, 0, 0), np.nan), b=((0, draws - 1, 0, 0), np.nan))
        assert [f[:2] for f in found(samples) if f[0] != "DI007"] == [("DI301", "/sampling_loss")]
    spoil(samples, "sampling_loss", a=((1, 2, 0, 1), np.nan))  # the other chain is whole
    assert ("DI301", "/sampling_loss") in [f[:2] for f in found(samples)]


def test_steps_after_the_last_draw_may_be_there_or_not(samples: Path, way: str) -> None:
    """Three draws of two steps after one of burn-in: of two draws steps 0 to 3 are sure, and step 4 may be."""
    stop(samples, 1, 2)
    for value, codes in ((1.0, []), (np.nan, [])):
        spoil(samples, "step_loss", a=((1, 4), value))
        assert [c for c, _, _ in found(samples) if c != "DI007"] == codes
    spoil(samples, "step_loss", a=((1, 5), 1.0))
    assert [c for c, _, _ in found(samples) if c != "DI007"] == ["DI307"]
    spoil(samples, "step_loss", a=((1, 5), np.nan), b=((1, 3), np.nan))
    assert [c for c, _, _ in found(samples) if c != "DI007"] == ["DI301"]


def test_bytes_are_counted_once(samples: Path, way: str) -> None:
    report = validate(samples)
    tree = xr.open_datatree(samples, engine="zarr", consolidated=False)
    assert report.checked["bytes"] == sum(v.nbytes for v in tree.to_dataset().variables.values())
    in_memory = validate(tree.load())
    whole = {"row_code", "row_math"}  # put together at once for their rule, not block by block
    assert in_memory.checked["bytes"] == sum(v.nbytes for n, v in tree.variables.items() if n not in whole)


@pytest.mark.parametrize("block", [1, 2**24])
def test_a_tree_in_memory_is_judged_alike(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "_BLOCK", block)
    tree = make_tree(
        "samples", parameters={"num_chains": 2, "num_draws": 3, "num_burnin_steps": 1, "num_steps_bw_draws": 2}
    )
    assert found(tree) == []
    tree["sampling_loss"].values[1, 2, 0, 1] = np.nan
    tree["row_code"].values[:] = 7
    by_code = {c: (p, f) for c, p, f in found(tree)}
    assert by_code["DI301"] == ("/sampling_loss", "1 value(s), the first nan at chain=1, draw=2, batch=0, token_pos=1")
    rows = tree["row_code"].size
    assert by_code["DI304"] == ("/row_code", f"{rows - 1} value(s), the first 7 at batch_code=1")


def test_what_is_not_judged_is_said(store_of: StoreOf) -> None:
    store = store_of("samples")
    shutil.copytree(store / "n_beta", store / "odd")
    edit_json(store / "init_loss/zarr.json", lambda d: d.update(data_type="float64"))
    edit_json(store / "step_loss/zarr.json", lambda d: d.update(dimension_names=["step", "chain"]))
    left = {(n.path, n.why) for n in validate(store, profile="open").not_checked if n.what == "values"}
    assert ("/odd", "the variable is not declared") in left
    assert any(
        path.startswith(("/init_loss", "/step_loss")) and why == "the dimensions or the data type are wrong"
        for path, why in left
    )
    limits = {n.what for n in validate(store_of("llc")).not_checked}
    assert "values" not in limits


def test_a_vocabulary_that_is_not_recorded_is_not_looked_at(store_of: StoreOf) -> None:
    store = store_of("samples")
    edit_attributes(store, lambda a: a["metadata"].setdefault("provenance", {}).pop("vocabulary_size", None))
    assert ("within vocabulary", "the attributes do not say the limit") in {
        (n.what, n.why) for n in validate(store).not_checked
    }
    edit_attributes(store, lambda a: a["metadata"]["provenance"].update(vocabulary_size=10**9))
    assert "within vocabulary" not in {n.what for n in validate(store).not_checked}


def test_omitted_chunks_are_the_fill_of_their_array_and_not_of_the_schema(tmp_path: Path) -> None:
    """Zarr's own default is 0, and leaves out a chunk of zeros: losses that are constant have no influence."""
    store = Path(make_store(tmp_path / "bif.zarr", "bif"))
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    old = group["influences"]
    names, shape = old.metadata.dimension_names, old.shape
    values = np.array(old[...])
    values[1:] = values[:, 1:] = 0
    new = group.create_array(
        "influences", shape=shape, chunks=(1, *shape[1:]), dtype="f4", fill_value=0, dimension_names=names,
        attributes=dict(old.attrs), overwrite=True,
    )  # fmt: skip
    new[...] = values
    assert not (store / "influences/c/1/0/0/0").exists()
    report = validate(store, consolidated=False)
    assert report.ok, str(report)
    assert "influences: values" not in str(report)


def test_omitted_chunks_are_fill(reference: Path, tmp_path: Path, way: str) -> None:
    store = Path(shutil.copytree(reference / "full.zarr", tmp_path / "full.zarr"))
    before = validate(store, profile="devinterp-2.0")
    assert before.findings == ()
    chunk_files(store, "input_ids_code")[0].unlink()
    report = validate(store, profile="devinterp-2.0")
    assert [str(f.code) for f in report.findings] == ["DI505"]
