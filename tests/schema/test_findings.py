"""One spoilt store per row: the code that must be found, at the level at which it must be found, and no error else."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edits import chunk_files, edit_array, edit_attributes, edit_json, rewrite

from devinterp.schema import validate

StoreOf = Callable[[str], Path]
Change = Callable[[Path], Any]


def _sampler(**values: Any) -> Change:
    return lambda s: edit_attributes(s, lambda a: a["metadata"]["config"]["sampler"].update(values))


def _chain(number: int, group: str = "", **values: Any) -> Change:
    return lambda s: edit_attributes(s, lambda a: a["metadata"]["run"]["chains"][number].update(values), group)


def _put(place: tuple[int, ...], value: float) -> Callable[[Any], Any]:
    def change(values: Any) -> Any:
        values[place] = value
        return values

    return change


STRUCTURE: list[tuple[str, str, Change]] = [
    ("DI006", "samples", lambda s: edit_attributes(s, lambda a: a.pop("completed"))),
    ("DI006", "samples", lambda s: edit_attributes(s, lambda a: a.update(completed=0))),
    ("DI006", "study", lambda s: edit_attributes(s, lambda a: a.update(completed=0), "full")),
    ("DI006", "llc", lambda s: edit_attributes(s, lambda a: a.update(completed=0))),
    ("DI101", "llc", lambda s: (s / "llc_std/zarr.json").unlink()),
    ("DI102", "llc", lambda s: edit_json_copy(s, "llc_std", "temperature")),
    ("DI103", "samples", lambda s: edit_array(s, "init_loss", dimension_names=["token_pos", "chain"])),
    ("DI103", "samples", lambda s: edit_array(s, "step_loss", dimension_names=["chain", "stepp"])),
    ("DI104", "llc", lambda s: edit_array(s, "llc_mean", data_type="float32")),
    ("DI104", "samples", lambda s: edit_array(s, "draws_written", data_type="int32")),
    ("DI105", "llc", lambda s: edit_attributes(s, lambda a: a.update(coordinates="llc_mean"), "loss_trace")),
    ("DI106", "susceptibilities", lambda s: (s / "context/zarr.json").unlink()),
    ("DI107", "susceptibilities", lambda s: copy_group(s, "context", "contexts")),
    ("DI108", "samples", _sampler(num_draws=9)),
    ("DI108", "samples", _sampler(num_burnin_steps=7)),
    ("DI109", "susceptibilities", lambda s: edit_array(s, "context/position", shape=[1])),
    ("DI110", "samples", lambda s: edit_attributes(s, lambda a: a["metadata"]["config"]["sampler"].pop("lr"))),
    ("DI110", "samples", _sampler(n_beta="many")),
    ("DI110", "samples", lambda s: edit_attributes(s, lambda a: a.update(scale_factor=2.0), "init_loss")),
    ("DI111", "samples", lambda s: edit_attributes(s, lambda a: a.update(units="bit"), "init_loss")),
    ("DI112", "samples", _sampler(save_metrics=False)),
    ("DI113", "susceptibilities", lambda s: make_group(s, "context/input_ids")),
    ("DI201", "samples", lambda s: edit_array(s, "init_loss", fill_value=0.0)),
    ("DI201", "samples", lambda s: edit_array(s, "row_code", fill_value=0)),
    (
        "DI201",
        "samples",
        lambda s: edit_attributes(
            s, lambda a: a.update(_FillValue=base64.b64encode(struct.pack("<d", 0.0)).decode()), "init_loss"
        ),
    ),
    ("DI202", "samples", lambda s: _grid(s, "sampling_loss", 1)),
    ("DI203", "samples", lambda s: _keys(s, "n_beta")),
    ("DI204", "samples", lambda s: _codecs(s, "n_beta", ["bytes", "gzip", "crc32c"])),
    ("DI205", "samples", lambda s: _codecs(s, "n_beta", ["bytes", "zstd"])),
    ("DI207", "samples", lambda s: edit_attributes(s, lambda a: a.update(_FillValue=-1), "row_code")),
    ("DI208", "samples", lambda s: edit_json(s / "n_beta/zarr.json", lambda d: d.pop("codecs"))),
    ("DI208", "samples", lambda s: edit_array(s, "n_beta", mystery=1)),
    ("DI209", "samples", lambda s: edit_array(s, "init_loss", dimension_names=None)),
    ("DI209", "samples", lambda s: edit_array(s, "init_loss", dimension_names=["chain", "chain"])),
    ("DI258", "samples", lambda s: (s / "n_beta/zarr.json").write_text('{"x": NaN}')),
    ("DI403", "samples", lambda s: edit_attributes(s, lambda a: _observables(a)[0].update(name="another name"))),
    ("DI405", "samples", _chain(0, status="interrupted")),
    ("DI405", "samples", lambda s: edit_attributes(s, lambda a: a["metadata"]["run"]["chains"].pop())),
    ("DI411", "study", lambda s: rename_restriction(s, "full", "fool")),
    ("DI412", "study", lambda s: edit_attributes(s, lambda a: a["metadata"]["config"]["restrictions"].append("ghost"))),
    ("DI444", "susceptibilities", lambda s: edit_attributes(s, _reverse_names, "context")),
    (
        "DI413",
        "study",
        lambda s: edit_attributes(s, lambda a: a["metadata"]["config"]["sampler"].update(n_beta=0.5), "l0h0"),
    ),
    ("DI414", "study", lambda s: edit_attributes(s, lambda a: a["metadata"]["config"].update(sampling_task="poems"))),
]


def _observables(attrs: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = attrs["metadata"]["config"]["observables"]
    return found


def edit_json_copy(store: Path, name: str, other: str) -> None:
    import shutil

    shutil.copytree(store / name, store / other)


copy_group = edit_json_copy


def rename_restriction(store: Path, name: str, other: str) -> None:
    (store / name).rename(store / other)
    edit_attributes(
        store,
        lambda a: a["metadata"]["config"].update(
            restrictions=[other if r == name else r for r in a["metadata"]["config"]["restrictions"]]
        ),
    )


def make_group(store: Path, name: str) -> None:
    (store / name / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')


def _grid(store: Path, name: str, rows: int) -> None:
    def change(document: dict[str, Any]) -> None:
        document["chunk_grid"]["configuration"]["chunk_shape"][2] = rows

    edit_json(store / name / "zarr.json", change)


def _keys(store: Path, name: str) -> None:
    edit_array(store, name, chunk_key_encoding={"name": "v2", "configuration": {"separator": "."}})


def _codecs(store: Path, name: str, names: list[str]) -> None:
    edit_array(store, name, codecs=[{"name": n, "configuration": {}} for n in names])


# A change that unavoidably breaks more than one rule, and which.
ALSO = {
    "DI411": {"DI110"},
    "DI110": {"DI404"},
    "DI113": {"DI105"},  # the array that was lost also said which variables are coordinates
}


@pytest.mark.parametrize(
    ("code", "kind", "change"), STRUCTURE, ids=[f"{c}-{i}" for i, (c, _, _) in enumerate(STRUCTURE)]
)
def test_structure_finds(code: str, kind: str, change: Change, store_of: StoreOf) -> None:
    store = store_of(kind)
    change(store)
    report = validate(store, level="structure", schema=kind)
    found = {str(f.code) for f in report.errors}
    assert code in found, str(report)
    assert found <= {code} | ALSO.get(code, set()), str(report)


def test_a_failed_chain_of_a_completed_store_is_a_warning(store_of: StoreOf) -> None:
    store = store_of("samples")
    _chain(1, status="failed", reason="loss is nan", step=3)(store)
    report = validate(store, level="structure")
    assert report.ok
    (finding,) = report.warnings
    assert (finding.code, finding.found) == ("DI007", "at step 3: loss is nan")


def test_misspelt_names_get_a_suggestion_both_ways(store_of: StoreOf) -> None:
    store = store_of("samples")
    (store / "sampling_loss").rename(store / "samplng_loss")
    report = validate(store, level="structure")
    assert report.codes == {"DI101", "DI102"}
    (missing,) = report.filter(code="DI101")
    (extra,) = report.filter(code="DI102")
    assert "samplng_loss" in str(missing.remedy)
    assert "'sampling_loss'" in str(extra.remedy)


def test_undeclared_names_only_warn_under_open(store_of: StoreOf) -> None:
    store = store_of("llc")
    edit_json_copy(store, "llc_std", "temperature")
    report = validate(store, profile="open", level="structure")
    assert report.ok
    assert {f.code for f in report.warnings} == {"DI102"}


def test_an_undeclared_group_of_a_samples_store_is_found_once(store_of: StoreOf) -> None:
    store = store_of("samples")
    make = store / "notes"
    make.mkdir()
    (make / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    assert [f.code for f in validate(store, level="structure").findings] == ["DI107"]


COMPLETENESS: list[tuple[str, str, Change]] = [
    ("DI501", "samples", lambda s: chunk_files(s, "sampling_loss")[0].unlink()),
    ("DI501", "samples", lambda s: chunk_files(s, "input_ids_code")[0].unlink()),
    ("DI501", "samples", lambda s: chunk_files(s, "n_beta")[0].unlink()),
    ("DI502", "samples", lambda s: (s / "sampling_loss/c/0/0/0/7").write_bytes(b"x")),
    ("DI502", "samples", lambda s: (s / "sampling_loss/c/0/00").write_bytes(b"x")),
    ("DI502", "samples", lambda s: (s / "notes.txt").write_text("x")),
    ("DI503", "samples", lambda s: (s / "sampling_loss/c/0/0/0/0.123abc.partial").write_bytes(b"x")),
    ("DI503", "samples", lambda s: (s / "zarr.json.123abc.partial").write_bytes(b"x")),
    ("DI504", "samples", lambda s: (s / ".devinterp").mkdir()),
    ("DI401", "samples", lambda s: rewrite(s, "draws_written", _put((0,), 2))),
    ("DI401", "samples", lambda s: rewrite(s, "draws_written", _put((1,), 99))),
]


@pytest.mark.parametrize(
    ("code", "kind", "change"), COMPLETENESS, ids=[f"{c}-{i}" for i, (c, _, _) in enumerate(COMPLETENESS)]
)
def test_completeness_finds(code: str, kind: str, change: Change, store_of: StoreOf) -> None:
    store = store_of(kind)
    change(store)
    assert validate(store, level="structure").findings == ()
    report = validate(store, level="completeness")
    assert report.codes == {code}, str(report)


VALUES: list[tuple[str, str, Change]] = [
    ("DI301", "samples", lambda s: rewrite(s, "sampling_loss", _put((1, 2, 0, 0), np.nan))),
    ("DI301", "samples", lambda s: rewrite(s, "init_loss_code", _put((0, 0), np.inf))),
    ("DI302", "samples", lambda s: rewrite(s, "input_ids_code", _put((0, 0), -1))),
    ("DI302", "samples", lambda s: rewrite(s, "metrics_unscaled_grad", _put((0, 1), -5.0))),
    ("DI304", "samples", lambda s: rewrite(s, "row_code", lambda v: v * 0)),
    ("DI306", "bif", lambda s: [rewrite(s, n, lambda v: v - 1) for n in ("target_position", "target_position_T")]),
    ("DI402", "samples", lambda s: rewrite(s, "metrics_dot_grad_noise", _put((0, 1), 1e6))),
    ("DI402", "samples", lambda s: rewrite(s, "metrics_distance", _put((1, 0), 1e-3))),
    ("DI404", "samples", lambda s: rewrite(s, "n_beta", lambda v: v + 1)),
    ("DI406", "samples", lambda s: rewrite(s, "metrics_distance", _put((0, 3), 1e6))),
    ("DI421", "llc", lambda s: rewrite(s, "llc_mean", lambda v: v + 1)),
    ("DI421", "llc", lambda s: rewrite(s, "llc_std", lambda v: v + 1)),
    ("DI421", "wbic", lambda s: rewrite(s, "complexity", lambda v: v + 1)),
    ("DI421", "wbic", lambda s: rewrite(s, "wbic_std", lambda v: v + 1)),
    ("DI421", "waic", lambda s: rewrite(s, "beta", lambda v: v * 2 + 1)),
    ("DI421", "waic", lambda s: rewrite(s, "singular_fluctuation", lambda v: v * 1.001 + 1e-6)),
    ("DI421", "sweep_summary", lambda s: rewrite(s, "llc_se", lambda v: v * 1.001 + 1e-6)),
    ("DI432", "reweighting", lambda s: rewrite(s, "effects", lambda v: -v)),
    ("DI431", "bif", lambda s: rewrite(s, "batch_1", lambda v: v + 100)),
    ("DI432", "bif", lambda s: rewrite(s, "influences", _put((0, 0, 0, 1), 0.987))),
    ("DI432", "bif", lambda s: rewrite(s, "influences", lambda v: v * 3)),
    ("DI441", "susceptibilities", lambda s: rewrite(s, "context/position", _put((0,), 1))),
    ("DI506", "samples", lambda s: _flip(chunk_files(s, "sampling_loss")[1], 9)),
    ("DI506", "samples", lambda s: chunk_files(s, "sampling_loss")[0].write_bytes(b"")),
]


def _reverse_names(attrs: dict[str, Any]) -> None:
    attrs["dataset_id_to_name"] = [f"{n}x" for n in attrs["dataset_id_to_name"]]


def _flip(path: Path, byte: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[byte] ^= 1
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize(("code", "kind", "change"), VALUES, ids=[f"{c}-{i}" for i, (c, _, _) in enumerate(VALUES)])
def test_values_finds(code: str, kind: str, change: Change, store_of: StoreOf) -> None:
    store = store_of(kind)
    change(store)
    assert validate(store, level="completeness").findings == ()
    report = validate(store)
    assert report.codes == {code}, str(report)


def test_a_token_outside_the_vocabulary_is_found(store_of: StoreOf) -> None:
    store = store_of("samples")
    edit_attributes(store, lambda a: a["metadata"].setdefault("provenance", {}).update(vocabulary_size=100_000_000))
    assert validate(store).findings == ()
    rewrite(store, "input_ids_code", _put((0, 0), 100_000_000))
    assert validate(store).codes == {"DI303"}


def test_rows_behind_a_failed_chains_prefix_are_fill_by_right_and_must_be(store_of: StoreOf) -> None:
    store = store_of("samples")
    _chain(0, status="failed", reason="nan", step=2)(store)
    rewrite(store, "draws_written", _put((0,), 1))
    report = validate(store)
    assert report.codes == {"DI007", "DI307"}

    def blank(rows: int) -> Callable[[Any], Any]:
        def change(values: Any) -> Any:
            values[0, rows:] = np.nan
            return values

        return change

    for name in [p.name for p in store.iterdir() if p.is_dir()]:
        if name in ("step_loss",) or name.startswith("metrics_"):
            rewrite(store, name, blank(3))
        elif name in ("sampling_loss", "loss_code", "loss_math"):
            rewrite(store, name, blank(1))
    assert validate(store).codes == {"DI007"}


def test_a_damaged_chunk_is_named_and_the_rest_still_checked(store_of: StoreOf) -> None:
    store = store_of("samples")
    _flip(chunk_files(store, "sampling_loss")[0], 12)
    rewrite(store, "init_loss", _put((0, 0), np.nan))
    report = validate(store)
    assert report.codes == {"DI506", "DI301"}
    (damaged,) = report.filter(code="corrupt-chunk")
    assert damaged.path == "/sampling_loss/c/0/0/0/0"


def test_what_is_left_of_an_array_with_a_damaged_chunk_is_still_checked(store_of: StoreOf) -> None:
    store = store_of("samples")
    rewrite(store, "sampling_loss", _put((1, 2, 0, 0), np.nan))
    first, *_ = chunk_files(store, "sampling_loss")
    _flip(first, 12)
    report = validate(store)
    assert report.codes == {"DI506", "DI301"}
    assert "chain=1, draw=2" in str(report.filter(code="DI301"))
    first.unlink()
    assert validate(store).codes == {"DI501", "DI301"}


def test_a_stale_consolidation_is_found(store_of: StoreOf) -> None:
    import warnings

    import zarr

    store = store_of("samples")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(store)
    assert validate(store).findings == ()
    edit_array(store, "n_beta", fill_value=0.0)
    assert validate(store, level="structure").findings == ()
    assert validate(store, level="completeness").codes == {"DI010"}
    assert validate(store, level="structure", consolidated=False).codes == {"DI201"}


def test_a_chunk_that_the_peer_may_have_omitted_is_a_note(reference: Path, tmp_path: Path) -> None:
    import shutil

    store = Path(shutil.copytree(reference / "full.zarr", tmp_path / "full.zarr"))
    chunk_files(store, "input_ids_code")[0].unlink()
    report = validate(store, profile="devinterp-2.0")
    assert [f.code for f in report.findings] == ["DI505"]
    chunk_files(store, "sampling_loss")[0].unlink()
    assert validate(store, profile="devinterp-2.0").filter(severity="error").codes == {"DI501"}
