from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import lifelike
import numpy as np
import pytest
import xarray as xr

from devinterp.cli import main
from devinterp.slt.bif import compute_bif
from devinterp.slt.llc import compute_llc
from devinterp.slt.susceptibilities import compute_susceptibilities

SMALL = {"chains": 2, "draws": 20, "rows": 2, "save_metrics": False}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return lifelike.make_samples(tmp_path_factory.mktemp("cli") / "run.zarr", **SMALL)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return lifelike.make_study(tmp_path_factory.mktemp("cli") / "study.zarr", ["full", "l0 attn", "l0h1"], **SMALL)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    return lifelike.make_series(tmp_path_factory.mktemp("cli") / "series.zarr", **SMALL)


@pytest.fixture
def run(capsys):
    """Call the command line in this process: (exit code, standard output, standard error)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as done:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err, err
        return done.value.code, out, err

    return call


def records(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def opened(path):
    return xr.open_datatree(path, engine="zarr")


# validate


def test_a_valid_store_is_0_and_says_so(run, store):
    code, out, err = run("validate", store)
    assert (code, err) == (0, "")
    assert "valid (devinterp/samples@1, profile strict, level values): no findings" in out


def test_findings_are_1_with_code_place_expectation_and_remedy(run, store, tmp_path):
    broken = shutil.copytree(store, tmp_path / "b.zarr")
    Path(broken, "loss_code/c/0/0/0/0").unlink()
    code, out, _ = run("validate", broken, "--format", "json")
    document = json.loads(out)
    assert code == 1
    assert document["ok"] is False
    finding = next(f for f in document["findings"] if f["severity"] == "error")
    assert finding["path"].startswith("/loss_code")
    assert finding["code"].startswith("DI")
    assert finding["remedy"]
    assert run("validate", broken, "--level", "structure")[0] == 0


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_names_that_the_output_cannot_encode_are_escaped(encoding, tmp_path):
    from devinterp.testing import make_store

    store = make_store(tmp_path / "läufe 日.zarr", "study", members={"restriction": {"full": {}, "頭": {}}})
    shutil.rmtree(Path(store) / "頭" / "init_loss")
    for command, code in (("info", 0), ("validate", 1)):
        done = subprocess.run(
            [sys.executable, "-m", "devinterp", command, str(store)],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (code, b"")
        assert b"\\u65e5.zarr" in done.stdout


def test_what_cannot_be_read_is_2(run, store, tmp_path):
    assert run("validate", tmp_path / "nothing.zarr")[0] == 2
    assert "in this folder: run.zarr" in run("validate", store.parent)[1]
    code, out, _ = run("validate", store, tmp_path / "nothing.zarr", "--format", "json")
    assert code == 2
    assert [r["ok"] for r in json.loads(out)["reports"]] == [True, False]


def test_sarif_is_one_document_for_all_stores(run, store, study):
    code, out, _ = run("validate", store, study, "--format", "sarif", "--level", "structure")
    assert code == 0
    assert json.loads(out)["version"] == "2.1.0"


@pytest.mark.parametrize(
    "arguments", [["--level", "deep"], ["--profile", "lax"], ["--format", "xml"], ["--schema", "nosuch"], ["--what"]]
)
def test_wrong_usage_is_2_with_one_message_on_standard_error(run, store, arguments):
    code, out, err = run("validate", store, *arguments)
    assert (code, out) == (2, "")
    assert arguments[-1].lstrip("-") in err


def test_no_path_is_2(run):
    assert run("validate")[0] == 2


def test_peers_stores_are_valid_under_their_profile(run, reference):
    assert run("validate", reference / "full.zarr", "--profile", "devinterp-2.0")[0] == 0
    assert run("validate", reference / "full.zarr")[0] == 1


# analyses


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


def test_an_invalid_store_is_not_analysed_and_every_finding_is_shown(run, store, tmp_path):
    broken = shutil.copytree(store, tmp_path / "b.zarr")
    shutil.rmtree(Path(broken, "n_beta"))
    shutil.rmtree(Path(broken, "init_loss"))
    document = json.loads(Path(broken, "zarr.json").read_text())
    del document["consolidated_metadata"]
    Path(broken, "zarr.json").write_text(json.dumps(document))
    code, out, err = run("llc", broken)
    assert (code, out) == (2, "")
    assert "n_beta" in err
    assert "init_loss" in err


def test_a_fault_of_ours_is_neither_findings_nor_a_mistake(store, capsys, monkeypatch):
    monkeypatch.setattr("devinterp.slt.llc.compute_llc", lambda *_, **__: 1 / 0)
    with pytest.raises(SystemExit) as done:
        main(["llc", str(store)])
    assert done.value.code == 70
    assert "fault of devinterp" in capsys.readouterr().err


# info, schema, repair, report, demo


def test_info_tells_what_a_store_is(run, store, study):
    code, out, _ = run("info", store)
    assert code == 0
    for told in ("devinterp/samples@1", "completed", "lr=0.001", "code (2 rows)", "20/20"):
        assert told in out
    document = json.loads(run("info", study, "--format", "json")[1])
    assert [r["group"] for r in document["runs"]] == ["/full", "/l0 attn", "/l0h1"]


WRITER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {helpers!r})
import lifelike
from devinterp.store import open_run
with open_run({path!r}, {{"/": lifelike.request(chains=2, draws=100, rows=2, save_metrics=False)}}) as run:
    engine = lifelike.Engine(run, "/", scale=0.02, seed=1)
    engine.write_fixed()
    for chain in (0, 1):
        engine.run_chain(chain, stop_at=50, status="interrupted")
    Path({path!r} + ".half").touch()
    while not Path({path!r} + ".go").exists():
        time.sleep(0.02)
    for chain in (0, 1):
        engine.run_chain(chain)
    run.complete()
"""


def test_info_follows_a_store_while_another_process_writes_it(tmp_path):
    path = tmp_path / "run.zarr"
    code = WRITER.format(helpers=str(Path(lifelike.__file__).parent), path=str(path))
    watch = [sys.executable, "-m", "devinterp", "info", str(path), "--watch", "--interval", "0.1", "--format", "json"]
    with subprocess.Popen([sys.executable, "-c", code]) as writer:
        while not Path(f"{path}.half").exists():
            assert writer.poll() is None
            time.sleep(0.02)
        with subprocess.Popen(watch, stdout=subprocess.PIPE, text=True) as watcher:
            looks = [json.loads(watcher.stdout.readline())]  # the writer goes on when it has been seen half-way
            Path(f"{path}.go").touch()
            looks += [json.loads(line) for line in watcher.stdout]
    assert (writer.returncode, watcher.returncode) == (0, 0)
    first, last = looks[0], looks[-1]
    assert str(writer.pid) in first["writer"]
    assert not first["completed"]
    assert [c["draws"] for c in first["runs"][0]["chains"]] == [50, 50]
    seen = first["runs"][0]["so_far"]
    losses = opened(path)["loss_code"][:, :50].mean(["batch_code", "token_pos"]).values.astype(float)
    start = float(opened(path)["init_loss_code"].mean())
    assert seen["source"] == "loss_code"
    assert seen["llc"] == pytest.approx(30 * (losses.mean() - start), rel=1e-3)
    assert 0.9 < seen["rhat"] < 3
    assert last["completed"]
    progress = [look["runs"][0]["done"] for look in looks]
    assert progress == sorted(progress)
    assert progress[-1] == 1


def test_schema_is_shown_exported_and_checked(run, tmp_path, store):
    import jsonschema

    assert "devinterp/samples@1" in run("schema", "show")[1]
    assert "loss_{obs}" in run("schema", "show", "samples")[1]
    exported = json.loads(run("schema", "export", "samples")[1])
    validator = jsonschema.Draft202012Validator(exported)
    document = json.loads((store / "zarr.json").read_text())
    assert list(validator.iter_errors(document)) == []
    document["consolidated_metadata"]["metadata"]["loss_code"]["data_type"] = "float64"
    assert len(list(validator.iter_errors(document))) == 1
    assert json.loads(run("schema", "export", "samples", "--as", "document")[1])["schema"] == "devinterp/samples"
    extension = tmp_path / "lab.yaml"
    extension.write_text(
        "schema: lab/runs\nversion: 1\nextends: devinterp/samples@1\ndoc: Ours.\n"
        "nodes:\n  /:\n    doc: Ours.\n    variables:\n"
        "      temperature: {dims: [chain], dtype: float32, fill: NaN, unit: K, doc: Of the machine.}\n"
    )
    code, out, _ = run("schema", "check", extension)
    assert code == 0, out
    assert "temperature" in out
    extension.write_text("schema: lab/runs\nversion: one\ndoc: Ours.\n")
    assert run("schema", "check", extension)[0] == 1
    assert run("schema", "check", tmp_path / "nothing.yaml")[0] == 2


def test_repair_asks_or_is_told(run, store, tmp_path, monkeypatch):
    broken = shutil.copytree(store, tmp_path / "b.zarr")
    assert run("repair", broken) == (0, f"{broken}: nothing is lost\n", "")
    Path(broken, "loss_code/c/1/0/0/0").unlink()
    code, out, _ = run("repair", broken, "--dry-run")
    assert code == 1
    assert "0 of 20 draws stand" in out
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _, err = run("repair", broken)
    assert code == 1
    assert "--yes" in err
    assert run("validate", broken)[0] == 1
    assert run("repair", broken, "--yes")[0] == 0
    assert run("validate", broken)[0] == 0


@pytest.mark.needs("matplotlib")
def test_report_writes_one_file(run, store, tmp_path):
    code, out, err = run("report", store, "-o", tmp_path / "r.html", "--tokenizer", "bytes", "--title", "My <run>")
    assert (code, out) == (0, "")
    assert "written" in err
    assert "<title>My &lt;run&gt;</title>" in (tmp_path / "r.html").read_text()
    assert run("report", store, "-o", tmp_path)[0] == 2


def test_demo_hands_its_options_over(run, tmp_path, monkeypatch):
    import types

    seen = []
    fake = types.ModuleType("devinterp.demo.run")
    fake.main = lambda out, quick: seen.append((out, quick)) or 0
    monkeypatch.setitem(sys.modules, "devinterp.demo.run", fake)
    assert run("demo", "--out", tmp_path / "d", "--quick")[0] == 0
    assert seen == [(tmp_path / "d", True)]


# of every command


@pytest.mark.parametrize(
    "command", ["validate", "info", "llc", "bif", "susceptibilities", "report", "repair", "demo", "schema show"]
)
def test_help_has_examples(run, command):
    code, out, _ = run(*command.split(), "--help")
    assert code == 0
    assert "Examples:" in out
    assert f"devinterp {command}" in out


def test_the_list_of_commands_the_version_and_completion(run):
    import devinterp

    out = run("--help")[1]
    for name in ("validate", "info", "llc", "bif", "susceptibilities", "schema", "report", "repair", "demo"):
        assert name in out
    assert "--install-completion" in out
    assert run("--version")[1].split()[-1] == devinterp.__version__


def terminal(arguments, **environment):
    """Run at a pseudo-terminal and return what it showed."""
    import pty

    shown = bytearray()

    def read(descriptor):
        data = os.read(descriptor, 4096)
        shown.extend(data)
        return b""

    code = "import os, sys; os.environ.update({}); from devinterp.cli import main; main({})"
    pty.spawn([sys.executable, "-c", code.format(environment, [str(a) for a in arguments])], read, lambda _: b"")
    return shown.decode()


def test_colours_are_for_terminals_and_no_color_is_honoured(run, store):
    assert "\x1b[" not in run("validate", store)[1]
    assert "\x1b[1;32m" in terminal(["validate", store], TERM="xterm-256color")
    plain = terminal(["validate", store], TERM="xterm-256color", NO_COLOR="1")
    assert "32m" not in plain
    assert "no findings" in plain


def test_a_closed_pipe_is_no_fault(store):
    command = f"{sys.executable} -m devinterp bif {store} --format csv | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.startswith("batch_1")
    assert done.stderr == ""


def test_the_command_line_starts_without_torch_and_matplotlib():
    code = (
        "import sys\nfrom devinterp.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'matplotlib', 'pandera', 'arviz_stats', 'zarr'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


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
