"""The quick demo, end to end: what it leaves behind exists, is valid, and says the same."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

torch = pytest.importorskip("torch")

from devinterp.demo.run import main  # noqa: E402
from devinterp.demo.settings import Settings  # noqa: E402
from devinterp.schema import validate  # noqa: E402
from devinterp.slt.llc import compute_llc  # noqa: E402

pytestmark = pytest.mark.slow

FIGURES = ("training", "heads", "llc", "influence", "susceptibilities")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "out"
    assert main(folder, quick=True) == 0
    return folder


def test_every_store_is_valid_and_opens_with_plain_xarray(out: Path) -> None:
    for store in sorted(out.glob("*.zarr")):
        report = validate(store)
        assert report.ok, str(report)
        tree = xr.open_datatree(store, engine="zarr", consolidated=False)
        assert tree.attrs["completed"] == 1
    study = xr.open_datatree(out / "study.zarr", engine="zarr", consolidated=False)
    assert set(study.children) == {"full", *(f"l{layer}h{head}" for layer in range(2) for head in range(4))}


def test_the_numbers_written_are_those_of_the_stores(out: Path) -> None:
    results = json.loads((out / "results.json").read_text())
    study = xr.open_datatree(out / "study.zarr", engine="zarr", consolidated=False)
    llc = compute_llc(study, over="observable", observable="train")["llc_mean"]
    series = xr.open_datatree(out / "checkpoints.zarr", engine="zarr", consolidated=False)
    along = compute_llc(series, over="observable", observable="train")["llc_mean"].sel(wr="full")
    assert results["llc"]["task"] == pytest.approx(along.values.tolist())
    assert results["llc"]["checkpoint"] == list(Settings.quick().checkpoints)
    assert 0 <= results["influence"]["auc"] <= 1
    assert results["findings"] == dict.fromkeys(
        ("study.zarr", "checkpoints.zarr", "n-beta-600.zarr", "n-beta-200-train.zarr", "n-beta-200-snippets.zarr"), 0
    )
    head = results["n_beta"]["head"]
    assert results["n_beta"]["n_beta"] == [200, 600, 2000]
    assert results["n_beta"]["task"][-1] == pytest.approx(float(llc.sel(wr=head)))
    assert {"full", "l1h3", "10/full", "40/full", "snippets/l1h3"} <= set(results["verdicts"])
    copied = xr.open_datatree(out / "n-beta-200-snippets.zarr", engine="zarr", consolidated=False)
    refined = compute_llc(copied, over="observable")["llc_mean"]
    assert results["refined"]["copied"] == pytest.approx(dict(zip(refined["wr"].values, refined.values, strict=True)))
    assert results["refined"]["n_beta"] == 200
    measures = results["circuit"]["measures"]
    assert set(measures) == {"attention", "sampling", "removal", "noise", "control"}
    assert all(set(own) == set(study.children) - {"full"} for own in measures.values())


def test_the_checkpoints_are_a_series_along_training(out: Path) -> None:
    series = xr.open_datatree(out / "checkpoints.zarr", engine="zarr", consolidated=False)
    settings = Settings.quick()
    assert series["checkpoint"].values.tolist() == list(settings.checkpoints)
    assert [series[f"{step}/full"].sizes["draw"] for step in settings.checkpoints] == [settings.checkpoint_draws] * 2
    bars = series.devinterp.plot.llc(ax=Figure().add_subplot())
    assert bars[0].lines[0].get_xdata().tolist() == list(settings.checkpoints)


def test_what_is_sampled_on_snippets_alone_sees_no_other_text(out: Path) -> None:
    """The data-refined LLC's posterior is that of one kind; the LLC beside it has the same settings on all text."""
    copied, all_text = (
        xr.open_datatree(out / f"n-beta-200-{kind}.zarr", engine="zarr", consolidated=False)
        for kind in ("snippets", "train")
    )
    for tree, repeats in ((copied, 1.0), (all_text, 0.25)):
        kind = "snippets" if tree is copied else "train"
        rows = tree[f"full/input_ids_{kind}"].values[:, 1:]  # of the sampling task: the first of what is sampled on
        periods = [any((row[p:] == row[:-p]).all() for p in range(8, 32)) for row in rows]
        assert np.mean(periods) == pytest.approx(repeats, abs=0.12)
    settings = [tree["l1h0"].attrs["metadata"]["config"]["sampler"] for tree in (copied, all_text)]
    assert settings[0] == settings[1]


def test_the_weights_of_every_checkpoint_are_kept(out: Path) -> None:
    steps = Settings.quick().checkpoints
    states = [torch.load(out / "weights" / f"step-{step:05d}.pt", weights_only=True) for step in steps]
    assert not torch.equal(states[0]["embed.weight"], states[-1]["embed.weight"])


def test_figures_are_pictures_and_the_page_needs_nothing_from_elsewhere(out: Path) -> None:
    import matplotlib.image

    for name in FIGURES:
        picture = matplotlib.image.imread(out / "figures" / f"{name}.png")
        assert picture.shape[0] > 300
        assert np.ptp(picture[..., :3]) > 0.5
    links: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            links.extend(value or "" for key, value in attrs if key in ("src", "href"))

    Links().feed((out / "index.html").read_text(encoding="utf-8"))
    assert len(links) == len(FIGURES)
    assert all(link.startswith("data:image/png;base64,") for link in links)


def test_a_second_run_into_the_same_folder_finds_its_stores_and_says_the_same(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, stamp = (out / "results.json").read_text(), (out / "study.zarr" / "zarr.json").stat().st_mtime_ns
    assert main(out, quick=True) == 0
    assert (out / "results.json").read_text() == before
    assert (out / "study.zarr" / "zarr.json").stat().st_mtime_ns == stamp
    printed = capsys.readouterr().out
    assert "Heads: loss rise on copied bytes" in printed
    assert str(out / "study.zarr") in printed
