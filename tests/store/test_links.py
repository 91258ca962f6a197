"""Symbolic links out of a store: refused unless they are asked for by name, the same name everywhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import xarray as xr

import devinterp
from devinterp.cli import main
from devinterp.errors import ValidationError
from devinterp.testing import make_store


def annexed(store: Path, pool: Path, which: str) -> Path:
    """Move files out of a store and leave links, as git-annex and DVC do."""
    pool.mkdir()
    for number, file in enumerate(sorted(p for p in store.rglob("*") if p.is_file())):
        if which == "all" or file.name != "zarr.json":
            shutil.move(file, pool / str(number))
            file.symlink_to(pool / str(number))
    return store


@pytest.mark.parametrize(("kind", "which"), [("samples", "all"), ("samples", "chunks"), ("study", "all")])
def test_links_out_of_a_store_are_followed_where_that_is_asked_for(tmp_path: Path, kind: str, which: str) -> None:
    make_store(tmp_path / "plain.zarr", kind)
    store = annexed(Path(shutil.copytree(tmp_path / "plain.zarr", tmp_path / "s.zarr")), tmp_path / "pool", which)
    report = devinterp.validate(store)
    assert {f.code for f in report.errors} == {"DI257"}
    assert "follow_links=True" in report.errors[0].remedy
    assert devinterp.validate(store, follow_links=True).ok
    expected = devinterp.open_store(tmp_path / "plain.zarr")
    for tree in (devinterp.open_store(store, follow_links=True, level="values"),
                 xr.open_datatree(store, engine="devinterp", follow_links=True)):  # fmt: skip
        assert tree.devinterp.llc().identical(expected.devinterp.llc())
    if which == "all":
        with pytest.raises(ValidationError, match="DI257"):
            devinterp.open_store(store)


@pytest.mark.parametrize(
    "command",
    [["validate"], ["info"], ["repair", "--dry-run"], ["llc", "--format", "json"], ["report", "-o", "{out}"], ["bif"]],
)
def test_the_command_line_has_the_same_option(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture
) -> None:
    store = annexed(Path(make_store(tmp_path / "s.zarr")), tmp_path / "pool", "all")
    name, *rest = [part.format(out=tmp_path / "r.html") for part in command]
    codes = []
    for more in ([], ["--follow-links"]):
        with pytest.raises(SystemExit) as ended:
            main([name, str(store), *rest, *more])
        codes.append(ended.value.code or 0)
    assert codes == [0 if name == "report" else codes[0], 0], capsys.readouterr()  # a report tells of what is invalid
    assert codes[0] or name == "report"


def test_what_a_repair_writes_replaces_links_and_not_what_they_lead_to(tmp_path: Path) -> None:
    parameters = {"num_chains": 2, "num_draws": 4}
    store = annexed(Path(make_store(tmp_path / "s.zarr", parameters=parameters)), tmp_path / "pool", "all")
    pool = {p.name: p.read_bytes() for p in (tmp_path / "pool").iterdir()}
    next(p for p in sorted((store / "loss_code").rglob("*")) if p.is_symlink() and p.name != "zarr.json").unlink()
    with pytest.raises(SystemExit) as ended:
        main(["repair", str(store), "--yes"])
    assert ended.value.code == 2
    for more in (["--yes"], ["--undo"], ["--yes"]):
        with pytest.raises(SystemExit) as ended:
            main(["repair", str(store), "--follow-links", *more])
        assert not ended.value.code
    assert devinterp.validate(store, follow_links=True).ok
    assert {p.name: p.read_bytes() for p in (tmp_path / "pool").iterdir()} == pool


def test_a_link_to_nothing_is_a_missing_chunk(tmp_path: Path) -> None:
    store = Path(make_store(tmp_path / "s.zarr"))
    for array, target in (("n_beta", store / "nothing"), ("init_loss", Path("/nonexistent/annex/x"))):
        chunk = next(p for p in (store / array).rglob("*") if p.is_file() and p.name != "zarr.json")
        chunk.unlink()
        chunk.symlink_to(target)
    report = devinterp.validate(store, follow_links=True)
    assert [(f.code, path) for f in report.errors for path in sorted(f.paths)] == [
        ("DI501", "/init_loss/c/0/0"),
        ("DI501", "/n_beta/c"),
    ]
    assert all("git annex get" in f.remedy for f in report.errors)
    assert {(f.code, path) for f in devinterp.validate(store).errors for path in f.paths} >= {("DI501", "/n_beta/c")}


def test_links_in_a_circle_come_to_an_end(tmp_path: Path) -> None:
    store = Path(make_store(tmp_path / "s.zarr", "study", consolidated=False))
    (store / "full" / "again").symlink_to(store)
    report = devinterp.validate(store, follow_links=True)
    assert not report.ok
