"""Pictures at their ends: nothing to show, one of a thing, hundreds, names that are long."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from made_runs import fail_chain, make_run, make_series, make_study
from made_sweeps import make_sweep
from matplotlib.figure import Figure
from patterned import VOCABULARY, patterned

from devinterp.errors import DataError
from devinterp.plot import (
    component_tokens,
    influence_images,
    influence_matrix,
    llc_estimates,
    loss_traces,
    ranked_influences,
    running_means,
    susceptibility_classes,
    susceptibility_map,
    susceptibility_patterns,
    susceptibility_pca,
    susceptibility_text,
    sweep_map,
    token_influence,
    verdict_table,
)
from devinterp.plot.drawing.style import note, title
from devinterp.plot.llc.over_checkpoints import MARKS
from devinterp.plot.sweep import SHORT
from devinterp.slt.bif import compute_bif
from devinterp.slt.diagnostics.diagnosis import TITLES
from devinterp.slt.llc import compute_llc


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def texts_of(figure):
    figure.savefig("/dev/null", format="png")
    return [text for axes in figure.axes for text in axes.texts]


def without_values(count):
    tree = patterned(count).copy(deep=True)
    tree["susceptibilities"]["sus"].values[:] = np.nan
    return tree


def without_influences(**options):
    found = compute_bif(make_run(), **options)
    return found.assign(influences=found["influences"] * np.nan)


def test_every_verdict_has_a_mark_and_a_short_name():
    assert set(MARKS) == set(SHORT) == set(TITLES)
    assert len(set(SHORT.values())) == len(SHORT)


@pytest.mark.parametrize("width", [2.0, 4.0, 8.0])
@pytest.mark.parametrize("above", ["x", "a title of forty letters or some more of it"])
@pytest.mark.parametrize("said", ["short", "a remark that is as long as remarks can be"])
def test_a_remark_and_a_title_stand_side_by_side_or_below_each_other(width, above, said):
    axes = Figure(figsize=(width, 2), layout="constrained").add_subplot()
    title(axes, above)
    note(axes, said)
    axes.figure.draw_without_rendering()
    left, right = axes._left_title.get_window_extent(), axes._right_title.get_window_extent()
    letters = left.y0 if not axes.get_title(loc="left").endswith("\n") else (left.y0 + left.y1) / 2
    assert left.x1 <= right.x0 or right.y1 <= letters + 2
    assert axes.get_title(loc="left").strip() == above


NOTHING = {
    "classes": lambda: susceptibility_classes(without_values(3)),
    "text": lambda: susceptibility_text(without_values(3), "code", tokenizer=VOCABULARY),
    "patterns": lambda: susceptibility_patterns(without_values(3), tokenizer=VOCABULARY),
    "influence": lambda: influence_matrix(without_influences(correlation_method="sequence")),
    "tokens": lambda: token_influence(without_influences(), 0, 1),
    "ranked": lambda: ranked_influences(without_influences(correlation_method="sequence"), 0),
    "traces": lambda: loss_traces(fail_chain(make_run(chains=1), 0, 0), observable="code"),
    "means": lambda: running_means(fail_chain(make_run(chains=1), 0, 0), observable="code"),
    "chains": lambda: llc_estimates(compute_llc(make_run(), ci=0.9) * np.nan),
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_picture_without_values_says_so(name):
    with np.errstate(invalid="ignore"), xr.set_options(keep_attrs=True):
        NOTHING[name]()
    assert "no values" in {text.get_text() for text in texts_of(plt.gcf())}


@pytest.mark.parametrize("draw", [susceptibility_pca, component_tokens, susceptibility_map])
def test_components_of_nothing_are_refused_with_the_restrictions_that_lack_values(draw):
    tree = patterned(5).copy(deep=True)
    tree["susceptibilities"]["sus"].values[3, 2] = np.nan
    with pytest.raises(DataError, match=r"1 of \d+ without one, of the restrictions l0h2"):
        draw(tree)


def test_restrictions_without_an_estimate_are_told():
    result = compute_llc(make_study(("full", "a", "b")), ci=0.9).copy(deep=True)
    for name in ("llc_mean", "llc_ci", "llc_per_chain"):
        result[name].loc[{"wr": "a"}] = np.nan
    llc_estimates(result)
    assert [text.xy[1] for text in texts_of(plt.gcf()) if text.get_text() == "no estimate"] == [1]


def test_a_single_draw_is_seen():
    one = make_run(draws=1)
    for lines in (loss_traces(one, observable="code"), running_means(one, observable="code")):
        assert {line.get_marker() for line in lines} == {"o"}


def test_what_is_not_a_chain_is_told_where_chains_are_too_many_for_a_legend():
    many = make_run(chains=30, draws=5)
    assert loss_traces(many, observable="code")[0].axes.get_title(loc="right") == "30 chains; dashed: the start"
    assert "black: their mean" in running_means(many, observable="code")[0].axes.get_title(loc="right")
    llc_estimates(many)
    axes = plt.gca()
    axes.figure.draw_without_rendering()
    boxes = [tick.get_window_extent() for tick in axes.get_xticklabels()]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


def test_of_many_curves_the_largest_are_named_and_all_are_within_the_axes():
    one = compute_llc(make_study(("full", "a")), ci=0.9)
    many = one.isel(wr=[0] + [1] * 29) * xr.DataArray(np.arange(1.0, 31.0), dims="wr")
    many = many.assign_coords(wr=["full", *(f"l0h{i}" for i in range(29))])
    series = xr.concat([many, 2 * many], dim="checkpoint").assign_coords(checkpoint=[0, 143_000])
    series.attrs = one.attrs
    curves = llc_estimates(series)
    axes = plt.gca()
    assert len(curves) == 30
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["full", *(f"l0h{i}" for i in range(22, 29))]
    assert "8 of 30 named" in axes.get_title(loc="right")
    low, high = axes.get_ylim()
    assert low < series["llc_ci"].min()
    assert high > series["llc_ci"].max()
    axes.figure.savefig("/dev/null", format="png")


def test_training_steps_far_apart_stand_by_powers_of_ten():
    series = make_series((0, 100, 1000, 100_000), ("full",))
    series.devinterp.plot.llc(verdicts=False)
    axes = plt.gca()
    axes.figure.draw_without_rendering()
    places = axes.transData.transform([(step, 0) for step in (0, 100, 1000, 100_000)])[:, 0]
    assert np.diff(places).min() > 0.1 * axes.get_window_extent().width
    panels = llc_estimates(series, col="checkpoint", verdicts=False)
    assert panels.names == ("step 0", "step 100", "step 1000", "step 100000")


def test_every_restriction_is_named_within_the_axes_where_there_is_room():
    tree = patterned(8)
    long = tree["susceptibilities"].to_dataset().assign_coords(wr=[f"transformer.h.{i}.attn.weight" for i in range(8)])
    for each in (tree, xr.DataTree.from_dict({"/susceptibilities": long})):
        axes = susceptibility_pca(each).axes
        axes.figure.draw_without_rendering()
        names = [text.get_window_extent() for text in axes.texts]
        frame = axes.get_window_extent()
        assert len(names) == 8
        assert all(frame.x0 - 2 <= box.x0 and box.x1 <= frame.x1 + 2 for box in names)
        assert not any(a.overlaps(b) for a, b in itertools.combinations(names, 2))


def test_bars_stand_beside_their_own_lines():
    facets = ranked_influences(make_run(), 0, 3, top=2)
    facets.fig.draw_without_rendering()
    bars = [bar.get_window_extent() for bar in facets.artists[0]]
    lines = [text.get_window_extent() for text in facets.artists[1]]
    assert len(bars) == len(lines) == 4
    assert all(bar.y0 < (line.y0 + line.y1) / 2 < bar.y1 for bar, line in zip(bars, lines, strict=True))


def test_an_image_for_each_of_ten_classes_and_no_place_that_no_partner_fills():
    run = make_run(rows={"train": 12})
    facets = influence_images(run, list(range(10)), np.zeros((12, 4, 4)), top=6)
    assert len(facets.axs) == 10
    assert len(facets) > 64
    assert any(row[-1].images for row in facets.axs)


def test_names_in_a_verdict_have_room_and_only_a_loss_that_drifts_is_marked():
    study = make_study(("full", "transformer.h.0.attn.c_attn.weight", "b"), draws=60)
    verdict_table(study)
    axes = plt.gca()
    axes.figure.draw_without_rendering()
    texts = {text.get_text(): text for text in axes.texts}
    name = texts["transformer.h.0.attn.c_attn.weight"].get_window_extent()
    assert name.x1 < texts["chains"].get_window_extent().x0 + 2
    for label, diagnosis in study.devinterp.diagnose().items():
        row = [t for t in axes.texts if t.get_position()[1] == list(study.children).index(label)]
        drift = next(t for t in row if abs(t.get_position()[0] - texts["drift (nat)"].get_position()[0]) < 1e-6)
        assert ("✗" in drift.get_text()) == any("the loss still drifts" in v.evidence for v in diagnosis.verdicts)


def test_the_frame_of_a_sweep_says_what_it_is_also_where_nothing_is_good():
    bad = make_sweep((1.0, 3.0), (100.0,), (100.0,))
    assert "none is good" in sweep_map(bad).axes.get_title(loc="right")
    several = sweep_map(make_sweep((0.02, 0.1), (10.0,), (1.0, 100.0)))
    assert several.fig.get_suptitle() == "framed: recommended"
