"""`devinterp validate --staged`: the stores that a commit is about to change."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from devinterp.cli import main
from devinterp.cli.validate import staged_stores
from devinterp.errors import SettingError
from devinterp.testing import make_store

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(*arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with two stores committed, one of them without the usual suffix."""
    monkeypatch.chdir(tmp_path)
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):  # the suite may itself run in a hook
        monkeypatch.delenv(name, raising=False)
    git("init", "-q")
    make_store(tmp_path / "runs" / "a.zarr", "samples")
    make_store(tmp_path / "runs" / "study", "study")
    (tmp_path / "notes.txt").write_text("x")
    git("add", "-A")
    git("commit", "-qm", "stores")
    return tmp_path


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as done:
        main([*arguments])
    return done.value.code


def test_nothing_staged_is_valid(repository):
    (repository / "notes.txt").write_text("y")
    git("add", "-A")
    assert staged_stores() == []
    assert call("validate", "--staged") == 0


def test_a_removed_chunk_is_found_although_no_hook_hands_over_its_name(repository, capsys):
    git("rm", "-q", next(str(p) for p in Path("runs/a.zarr").glob("sampling_loss/c/*/*/*/*")))
    assert staged_stores() == [repository / "runs/a.zarr"]
    assert call("validate", "--staged", "--format", "json") == 1
    (report,) = json.loads(capsys.readouterr().out)["reports"]
    assert {f["code"] for f in report["findings"]} == {"DI501"}


def test_a_group_inside_a_store_stands_for_the_whole_store(repository, monkeypatch):
    (repository / "runs/study/full/extra.txt").write_text("x")
    git("add", "-A")
    monkeypatch.chdir(repository / "runs")  # called from below: names are the repository's all the same
    assert staged_stores() == [repository / "runs/study"]


@pytest.mark.parametrize("name", ["with blank.zarr", "quoted\"'.zarr", "ä.zarr", "-dash.zarr"])
def test_any_name_is_found(repository, name):
    shutil.copytree(repository / "runs/a.zarr", repository / name)
    git("add", "-A")
    assert staged_stores() == [repository / name]


def test_a_store_that_lost_its_root_document_is_looked_at_and_one_that_is_gone_is_not(repository):
    git("rm", "-q", "runs/a.zarr/zarr.json")
    git("rm", "-rq", "runs/study")
    assert staged_stores() == [repository / "runs/a.zarr"]
    assert call("validate", "--staged") == 2


def test_without_a_repository_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(SettingError, match="Name the stores instead"):
        staged_stores()


def test_neither_a_path_nor_staged_is_wrong_usage(capsys):
    assert call("validate") == 2
    assert "--staged" in capsys.readouterr().err
