from __future__ import annotations

import csv
import io
import json

import lifelike
import numpy as np
import pytest
import xarray as xr
from command_line import SMALL, opened, records

from devinterp.slt.bif import compute_bif
from devinterp.slt.llc import compute_llc
from devinterp.slt.susceptibilities import compute_susceptibilities


def test_llc_to_every_target_is_the_function_s(run, study, tmp_path):
    expected = compute_llc(opened(study), over="observable", ci=0.9)
    options = ["--over", "observable", "--ci", "0.9"]
    for name in ("llc.zarr", "llc.csv", "llc.json"):
        code, out, err = run("llc", study, *options, "-o", tmp_path / name)
        assert (code, out) == (0, "")
        assert "written" in err
    back = opened(tmp_path / "llc.zarr").to_dataset()
    np.testing.assert_array_equal(back["llc_ci"], expected["llc_ci"])
    rows = records(tmp_path / "llc.csv")
    assert [r["wr"] for r in rows] == ["full", "l0 attn", "l0h1"]
    np.testing.assert_array_equal([float(r["llc_mean"]) for r in rows], expected["llc_mean"])
    document = json.loads((tmp_path / "llc.json").read_text())
    assert document["variables"]["llc_mean"]["data"] == expected["llc_mean"].values.tolist()
    assert document["attributes"]["over"] == "observable"
    code, out, _ = run("llc", study, *options)
    assert "l0 attn" in out
    assert "90 % interval" in out
    assert not [line for line in out.splitlines() if line != line.rstrip()]


def test_bif_to_every_target_is_the_function_s(run, store, tmp_path):
    expected = compute_bif(opened(store), correlation_method="sequence")
    for name in ("b.zarr", "b.csv", "b.json"):
        assert run("bif", store, "--method", "sequence", "-o", tmp_path / name)[0] == 0
    np.testing.assert_allclose(opened(tmp_path / "b.zarr")["influences"], expected["influences"], atol=1e-6)
    rows = records(tmp_path / "b.csv")
    assert len(rows) == 16
    place = {"batch_1": int(rows[5]["batch_1"]), "batch_2": int(rows[5]["batch_2"])}
    assert float(rows[5]["influence"]) == pytest.approx(float(expected["influences"].sel(place)), abs=1e-6)
    assert json.loads((tmp_path / "b.json").read_text())["dimensions"]["batch_1"] == 4


def test_bif_selects_and_shows_the_strongest(run, store, study):
    code, out, _ = run("bif", store, "--queries", "0,2-3", "--corpus", "prose", "--format", "csv", "--average")
    assert code == 0
    pairs = {(r["batch_1"], r["batch_2"]) for r in csv.DictReader(io.StringIO(out))}
    assert pairs == {(a, b) for a in "023" for b in "23"}
    code, out, _ = run("bif", study, "--restriction", "l0h1")
    assert code == 0
    assert "strongest" in out
    assert run("bif", study, "--restriction", "l7")[0] == 2
    assert run("bif", store, "--queries", "nobody")[0] == 2


def test_susceptibilities_to_every_target_are_the_function_s(run, study, tmp_path):
    expected = compute_susceptibilities(opened(study), se=True)["susceptibilities"]
    for name in ("s.zarr", "s.csv", "s.json"):
        assert run("susceptibilities", study, "--se", "-o", tmp_path / name)[0] == 0
    back = opened(tmp_path / "s.zarr")["susceptibilities"]
    np.testing.assert_array_equal(back["sus_se"], expected["sus_se"])
    rows = records(tmp_path / "s.csv")
    np.testing.assert_allclose([float(r["l0 attn"]) for r in rows], expected["sus"].sel(wr="l0 attn"), rtol=1e-6)
    ids = opened(study)["full/input_ids_prose"].values
    assert int(rows[0]["token"]) == ids[0, 1]
    assert "susceptibilities" in json.loads((tmp_path / "s.json").read_text())["groups"]
    assert "l0 attn" in run("susceptibilities", study)[1]


def test_a_series_is_analysed_along_checkpoint_or_at_one(run, series, tmp_path):
    rows, sus = tmp_path / "llc.csv", tmp_path / "sus.csv"
    assert run("llc", series, "--over", "observable", "--ci", "0.9", "-o", rows)[0] == 0
    expected = compute_llc(opened(series), over="observable", ci=0.9)["llc_mean"]
    assert [(r["checkpoint"], r["wr"]) for r in records(rows)] == [
        (str(s), w) for s in (900, 1000) for w in ("full", "l0h0")
    ]
    np.testing.assert_allclose([float(r["llc_mean"]) for r in records(rows)], expected.values.ravel())
    assert run("susceptibilities", series, "--include-sampling-task", "-o", sus)[0] == 0
    result = compute_susceptibilities(opened(series), include_sampling_task=True)["susceptibilities"]
    np.testing.assert_allclose([float(r["l0h0"]) for r in records(sus)], result["sus"].values.ravel(), rtol=1e-5)
    assert [r["checkpoint"] for r in records(sus)] == ["900"] * result.sizes["sus_flat"] + ["1000"] * (
        result.sizes["sus_flat"]
    )
    code, out, _ = run("susceptibilities", series, "--include-sampling-task")
    assert code == 0
    assert out.count("l0h0") == 2
    code, out, _ = run("llc", series, "--checkpoint", "900", "--format", "csv")
    assert code == 0
    assert out.startswith("wr,")
    assert run("bif", series, "--checkpoint", "1000", "--method", "sequence")[0] == 0
    for arguments, said in (
        (("bif", series), "Choose one with --checkpoint, for instance 1000"),
        (("llc", series, "--checkpoint", "3"), "no checkpoint 3"),
        (("llc", series / "900", "--checkpoint", "900"), "is for series"),
    ):
        code, _, err = run(*arguments)
        assert code == 2
        assert said in " ".join(err.split())
    code, out, _ = run("info", series)
    assert code == 0
    assert "900/full" in out


def test_missing_numbers_are_null_in_json_and_empty_in_csv(run, tmp_path):
    failed = lifelike.make_samples(tmp_path / "f.zarr", failing={0: 5}, **SMALL)
    code, out, err = run("llc", failed, "--format", "json")
    assert code == 0
    assert json.loads(out)["variables"]["llc_per_chain"]["data"][0] is None
    assert "warning: " in err
    assert ".py" not in err  # a message, not a line of our code
    (row,) = csv.DictReader(io.StringIO(run("llc", failed, "--format", "csv")[1]))
    assert row["llc_chain_0"] == ""


def test_stores_of_devinterp_2_are_analysed_without_being_asked(run, reference):
    code, out, _ = run("llc", reference / "full.zarr", "--over", "steps", "--burnin", "--format", "json")
    assert code == 0
    stored = xr.open_dataset(reference / "llc.zarr", engine="zarr", consolidated=False)
    assert json.loads(out)["variables"]["llc_mean"]["data"] == pytest.approx(float(stored["llc_mean"]), abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["llc", "nothing.zarr"], "no store"),
        (["llc", "{store}", "-o", "x.parquet"], ".zarr, .csv or .json"),
        (["llc", "{store}", "-o", "{store}"], "left untouched"),
        (["llc", "{store}", "--over", "observable", "--observable", "poems"], "poems"),
        (["llc", "{store}", "--ci", "7"], "between 0 and 1"),
        (["susceptibilities", "{store}"], "without a restriction"),
        pytest.param(
            ["report", "{store}", "--tokenizer", "/nowhere/tokenizer.json"],
            "could not be loaded",
            marks=pytest.mark.needs("transformers"),
        ),
        (["report", "{store}", "--tokenizer", "bites"], "Did you mean 'bytes'?"),
        (["report", "{store}", "-o", "nowhere/report.html"], "no folder nowhere"),
        (["llc", "{store}", "-o", "nowhere/llc.csv"], "no folder nowhere"),
        (["repair", "nothing.zarr"], "no store"),
        (["schema", "show", "poems"], "no schema"),
        (["schema", "show", "sample"], "Did you mean 'samples'?"),
        (["llc", "{folder}"], "Name a store in this folder: run.zarr."),
        (["info", "{store}/zarr.json"], "is a file"),
        (["demo", "--out", "{store}/zarr.json"], "is a file"),
        (["info", "nothing.zarr"], "no store"),
    ],
)
def test_a_mistake_is_one_message_and_2(run, store, arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*(a.format(store=store, folder=store.parent) for a in arguments))
    assert (code, out) == (2, "")
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_every_estimand_has_a_command_that_writes_what_its_function_returns(run, store, tmp_path):
    for kind, options in {"waic": [], "reweighting": ["--num-samples", "64"]}.items():
        target = ["--observable", "prose"] if kind == "waic" else ["--weighted", "0-1"]
        assert run(kind, store, *options, *target, "-o", tmp_path / f"{kind}.zarr")[0] == 0
        back = opened(tmp_path / f"{kind}.zarr")
        assert back.attrs["devinterp_schema"] == f"devinterp/{kind}@1"
        assert run("validate", tmp_path / f"{kind}.zarr")[0] == 0
        code, out, _ = run(kind, store, *options, *target)
        assert (code, len(out.splitlines()) > 1) == (0, True)
    assert "not sampled at the temperature" in run("wbic", store, "--num-samples", "5000")[2]
