from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import lifelike
import numpy as np
import pytest
from browser import find_chromium, visit

from devinterp.errors import StoreError, StoreNotFoundError
from devinterp.report import build_report, write_report
from devinterp.report.elements import listing
from devinterp.report.script import SCRIPT
from devinterp.slt.runs.grid import cell_name
from devinterp.store import Container, locate, open_run
from devinterp.store.reading.status import read_status

NASTY = "<img src=x onerror=alert(1)>"
SMALL = {"chains": 2, "draws": 20, "rows": 2, "save_metrics": False}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "study.zarr"
    return lifelike.make_study(path, ["full", "l0h0", "l0 attn", NASTY], chains=2, draws=40, rows=4)


@pytest.fixture(scope="module")
def page(study):
    return build_report(study, tokenizer=lambda token: NASTY if token % 7 == 0 else chr(token))


class Page(HTMLParser):
    void = frozenset({"br", "hr", "img", "meta", "wbr", "image", "use", "path", "line"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.ids: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [v for k, v in attrs if k == "id"]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [v for k, v in attrs if k == "id"]

    def handle_endtag(self, tag):
        if tag in self.void:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_it_is_well_formed_and_no_id_comes_twice(page):
    parsed = Page(page)
    assert parsed.wrong == []
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids))


def test_every_part_of_a_study_is_there(page):
    for anchor in ("sampled", "validation", "diagnosis", "llc", "traces", "susceptibilities", "bif", "texts"):
        assert f'<section id="{anchor}">' in page
        assert f'href="#{anchor}"' in page
    assert "Not shown" not in page


def test_names_and_tokens_are_text_whatever_they_say(page):
    parsed = Page(page)
    assert "&lt;img src=x onerror=alert(1)&gt;" in page  # it is shown ...
    assert "img" not in parsed.tags  # ... and is not an element
    assert not [k for k, _ in parsed.attributes if k.startswith("on")]


def test_the_only_script_is_the_one_whose_hash_the_policy_names(page):
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page, flags=re.DOTALL)
    assert scripts == [("", SCRIPT)]
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    (policy,) = [v for k, v in Page(page).attributes if k == "content" and str(v).startswith("default-src")]
    assert policy.endswith(f"; script-src 'sha256-{digest}'")


def test_many_restrictions_have_both_ends_a_map_and_all_numbers(tmp_path):
    names = ["full", *(f"l{layer}h{head}" for layer in range(6) for head in range(7)), "l0 mlp"]
    path = lifelike.make_study(tmp_path / "many.zarr", names, chains=2, draws=20, rows=2, save_metrics=False)
    text = build_report(path)
    assert "Not shown" not in text
    for shown in ("the 20 largest of 44", "the 20 smallest of 44", "LLC of every head, by layer", "all 44 in numbers"):
        assert shown in text
    table = text[text.index("all 44 in numbers") :].split("</table>")[0]
    assert [table.count(f">{name}<") for name in names] == [1] * 44
    diagnosis = text[text.index('id="diagnosis"') : text.index('id="llc"')]
    assert all(f">{name}<" in diagnosis for name in names)
    assert "of single heads" not in build_report(lifelike.make_study(tmp_path / "f.zarr", names[:3], **SMALL))


def test_it_refers_to_nothing_outside_itself(page):
    parsed = Page(page)
    links = [v or "" for k, v in parsed.attributes if k in ("src", "href", "xlink:href", "action", "data", "srcset")]
    assert [v for v in links if not v.startswith(("#", "data:image/png;base64,"))] == []
    assert not re.search(r"url\((?!#)", page)
    assert any(v is not None and v.startswith("default-src 'none'") for k, v in parsed.attributes if k == "content")


def test_pictures_take_the_page_s_colour(page):
    assert "currentColor" in page
    assert "#010203" not in page


def test_a_run_with_a_failed_chain_says_so(tmp_path):
    path = lifelike.make_samples(tmp_path / "run.zarr", failing={1: 13}, draws=30, rows=4, save_metrics=False)
    text = build_report(path)
    assert "2 of 3 chains" in text
    assert "the loss is not finite" in text
    assert '<section id="susceptibilities">' not in text
    assert '<section id="metrics">' not in text


def test_a_run_that_goes_on_is_reported_as_far_as_it_came(tmp_path):
    path = tmp_path / "run.zarr"
    with open_run(path, {"/": lifelike.request(draws=120, rows=4)}) as run:
        engine = lifelike.Engine(run, "/", scale=0.02, seed=1)
        engine.write_fixed()
        for chain in range(3):
            engine.run_chain(chain, stop_at=60, status="interrupted")
        run.publish()
    text = build_report(path)
    assert "not completed" in text
    assert "51.6 %" in text  # 60 of 120 draws: 129 of 250 steps
    assert "Local learning coefficient" in text


def test_a_series_shows_its_curve_and_its_last_checkpoint(tmp_path):
    path = lifelike.make_series(tmp_path / "series.zarr", chains=2, draws=20, rows=2, save_metrics=False)
    text = build_report(path)
    assert "training step" in text
    assert "Not shown" not in text
    assert "900, 1000" in text
    assert [r.group for r in read_status(locate(path)).runs][:2] == ["/900/full", "/900/l0h0"]


def test_a_sweep_shows_its_cells_and_the_run_that_is_recommended(tmp_path):
    path, values = tmp_path / "sweep.zarr", ((1e-3, 0.0), (1e-3, 30.0), (2e-3, 30.0))
    cells, requests = [], {}
    for lr, n_beta in values:
        asked = lifelike.request(chains=2, draws=40, rows=4, save_metrics=False)
        own = {"lr": lr, "n_beta": n_beta, "localization": 10.0}
        cells.append(cell_name(own))
        requests[f"/{cells[-1]}"] = replace(asked, parameters={**asked.parameters, **own})
    coordinates = {s: [r.parameters[s] for r in requests.values()] for s in ("lr", "n_beta", "localization")}
    config = {"config": {"cells": cells, "sampling_task": "code"}}
    above = {"/": Container("devinterp/sweep@1", config, coordinates, grows=("cells",))}
    with open_run(path, requests, containers=above) as run:
        for index, group in enumerate(run.requests):
            lifelike._fill(run, group, 0.02, index, {})
        run.complete()
    text = build_report(path)
    assert "Not shown" not in text
    assert "Which settings?" in text
    assert "framed: recommended" in text
    assert "the recommended cell, lr=" in text
    assert "all 3 cells in numbers" in text
    assert [r.group.strip("/") for r in read_status(locate(path)).runs] == cells


def test_a_store_of_devinterp_2_has_a_report(reference):
    text = build_report(reference / "full.zarr", profile="devinterp-2.0")
    assert "None" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)
    assert '<section id="llc">' in text


def test_a_result_and_a_missing_store_are_refused(reference, tmp_path):
    with pytest.raises(StoreError, match="no run to report on"):
        build_report(reference / "llc.zarr")
    with pytest.raises(StoreNotFoundError):
        build_report(tmp_path / "nothing.zarr")


def test_a_file_appears_whole_or_not_at_all(study, tmp_path, monkeypatch):
    monkeypatch.setattr("devinterp.report.build.build_report", lambda *_, **__: "<p>new</p>")
    target = tmp_path / "page.html"
    target.write_text("the old one")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("no room")))
    with pytest.raises(OSError, match="no room"):
        write_report(study, target)
    assert target.read_text() == "the old one"
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


needs_chromium = pytest.mark.skipif(
    find_chromium() is None, reason="no Chromium on this machine: apt-get install chromium"
)


@needs_chromium
def test_the_visit_itself_sees_a_request_and_a_console_message(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("<img src='http://127.0.0.1:9/x.png'><script>console.log('hello there')</script>")
    seen = visit(path, tmp_path / "page.png", width=600, height=200, dark=False)
    assert seen.requests == ["http://127.0.0.1:9/x.png"]
    assert any("hello there" in line for line in seen.console)


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(400, True), (1600, False)])
def test_chromium_shows_it_without_a_word_and_without_a_request(page, tmp_path, width, dark):
    from matplotlib.image import imread

    path = tmp_path / "page.html"
    path.write_text(page, encoding="utf-8")
    seen = visit(path, tmp_path / "page.png", width=width, height=1600, dark=dark)
    assert seen.console == []
    assert seen.requests == []
    pixels = imread(seen.picture)[:, :width, :3]
    corner = float(pixels[-3:, :3].mean())
    assert corner < 0.2 if dark else corner > 0.95  # the page's background
    assert np.abs(pixels - pixels[-1, 0]).max(axis=2).mean() > 0.02  # and something on it


@needs_chromium
def test_long_tables_are_searched_and_sorted_in_chromium(tmp_path):
    rows = [[f"l{i // 4}h{i % 4}", f"{(7 * i) % 13 - 6} ± 1" if i else "–"] for i in range(12)]
    table = listing(["restriction", "LLC"], rows, numbers=["LLC"])
    drive = """
      const box = document.querySelector("input"), [name, value] = document.querySelectorAll("th button");
      const rows = () => [...document.querySelectorAll("tbody tr")].filter((row) => !row.hidden);
      const shown = () => rows().map((row) => row.cells[0].textContent).join(" ");
      const told = [];
      for (const button of [value, value, name]) { button.click(); told.push(shown()); }
      box.value = " L2H1 "; box.dispatchEvent(new Event("input")); told.push(shown());
      console.log("told " + told.join(" | ") + " end");
    """
    path = tmp_path / "page.html"
    path.write_text(f"{table}<script>{SCRIPT}</script><script>{drive}</script>", encoding="utf-8")
    (line,) = visit(path, tmp_path / "page.png", width=600, height=200, dark=False).console
    told = line.split("told ")[1].split(" end")[0].split(" | ")
    ascending = [rows[i][0] for i in sorted(range(1, 12), key=lambda i: (7 * i) % 13)]
    assert told[0].split() == [*ascending[::-1], "l0h0"]  # what is not known comes last either way
    assert told[1].split() == [*ascending, "l0h0"]
    assert told[2].split() == [row[0] for row in rows]
    assert told[3] == "l2h1"
