from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import lifelike
import pytest
from command_line import opened

from devinterp.cli import main


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


def test_names_that_the_output_cannot_encode_are_escaped(tmp_path, monkeypatch):
    from devinterp.testing import make_store

    store = make_store(tmp_path / "läufe 日.zarr", "study", members={"restriction": {"full": {}, "頭": {}}})
    shutil.rmtree(Path(store) / "頭" / "init_loss")
    for encoding in ("ascii", "cp1252"):
        for command, code in (("info", 0), ("validate", 1)):
            streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
            with monkeypatch.context() as patch:
                for name, stream in streams.items():
                    patch.setattr(sys, name, stream)
                with pytest.raises(SystemExit) as done:
                    main([command, str(store)])
            shown = {name: stream.flush() or stream.buffer.getvalue() for name, stream in streams.items()}
            assert (done.value.code, shown["stderr"]) == (code, b"")
            assert b"\\u65e5.zarr" in shown["stdout"]


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


def test_info_tells_what_a_store_is(run, store, study):
    code, out, _ = run("info", store)
    assert code == 0
    for told in ("devinterp/samples@1", "completed", "lr=0.001", "code (2 rows)", "20/20"):
        assert told in out
    document = json.loads(run("info", study, "--format", "json")[1])
    assert [r["group"] for r in document["runs"]] == ["/full", "/l0 attn", "/l0h1"]


def test_info_says_that_a_store_holds_a_part_of_a_run(run, tmp_path):
    from devinterp.testing import make_tree

    make_tree(parameters={"num_chains": 2, "num_draws": 3}).isel(chain=[1]).devinterp.save(tmp_path / "part.zarr")
    assert "part:        of a run (chain 1)" in run("info", tmp_path / "part.zarr")[1]


def test_info_follows_a_store_while_another_process_writes_it(tmp_path):
    from devinterp.store import open_run

    path = tmp_path / "run.zarr"
    watch = [sys.executable, "-m", "devinterp", "info", str(path), "--watch", "--interval", "0.1", "--format", "json"]
    with open_run(path, {"/": lifelike.request(chains=2, draws=100, rows=2, save_metrics=False)}) as run:
        engine = lifelike.Engine(run, "/", scale=0.02, seed=1)
        engine.write_fixed()
        for chain in (0, 1):
            engine.run_chain(chain, stop_at=50, status="interrupted")
        with subprocess.Popen(watch, stdout=subprocess.PIPE, text=True) as watcher:
            looks = [json.loads(watcher.stdout.readline())]  # that half of it is there has been seen
            for chain in (0, 1):
                engine.run_chain(chain)
            run.complete()
            looks += [json.loads(line) for line in watcher.stdout]
    assert watcher.returncode == 0
    first, last = looks[0], looks[-1]
    assert str(os.getpid()) in first["writer"]
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
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("schema: lab/runs\nversion: one\ndoc: Ours.\n")
    assert run("schema", "check", wrong)[0] == 1
    code, out, error = run("schema", "check", wrong, extension)
    assert (code, "lab.yaml: in order" in out, "wrong.yaml: not in order" in error) == (1, True, True)
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


@pytest.mark.parametrize(
    "command", ["validate", "info", "llc", "bif", "susceptibilities", "report", "repair", "demo", "schema show"]
)
def test_help_has_examples(run, command):
    code, out, _ = run(*command.split(), "--help")
    assert code == 0
    assert "Examples:" in out
    assert f"devinterp {command}" in out
    assert max(map(len, out.splitlines())) <= 80


def test_the_help_says_of_each_operand_what_it_is_and_cuts_no_sentence(run):
    out = " ".join(run("bif", "--help")[1].split())
    assert "Sequences of the first operand" in out
    assert "Sequences of the second operand" in out
    out = " ".join(run("reweighting", "--help")[1].split())
    assert "Sequences that are given weight:" in out
    assert "Sequences whose loss changes" in out
    assert "..." not in run("schema", "--help")[1].partition("Commands:")[2]


def test_the_list_of_commands_the_version_and_completion(run):
    import devinterp

    out = run("--help")[1]
    for name in ("validate", "info", "llc", "bif", "susceptibilities", "schema", "report", "repair", "demo"):
        assert name in out
    assert "--install-completion" in out
    assert run("--version")[1].split()[-1] == devinterp.__version__


def terminal(arguments, *environments):
    """Run at a pseudo-terminal, once in each environment after the other, and return what each showed."""
    import pty

    shown = bytearray()

    def read(descriptor):
        data = os.read(descriptor, 4096)
        shown.extend(data)
        return data  # whoever returns nothing is asked no more

    code = """
import contextlib, os
from devinterp.cli import main
for environment in {}:
    os.environ.update(environment)
    with contextlib.suppress(SystemExit):
        main({})
    print("that was all", flush=True)
"""
    pty.spawn([sys.executable, "-c", code.format(environments, [str(a) for a in arguments])], read, lambda _: b"")
    return shown.decode().split("that was all")[: len(environments)]


def test_colours_are_for_terminals_and_no_color_is_honoured(run, store):
    assert "\x1b[" not in run("validate", store)[1]
    coloured, plain = terminal(["validate", store], {"TERM": "xterm-256color"}, {"NO_COLOR": "1"})
    assert "\x1b[1;32m" in coloured
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
