from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from made_runs import make_series
from pictures import drawn, many

from devinterp.errors import ProvenanceError, SettingError
from devinterp.plot import llc_estimates, llc_over_checkpoints, llc_over_restrictions, llc_per_chain
from devinterp.slt.llc import compute_llc


def test_llc_per_chain_draws_the_estimates_and_their_interval(run, ax):
    result = compute_llc(run, ci=0.9)
    bars = llc_estimates(result, ax=ax)
    points = [line.get_ydata()[0] for line in ax.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(points, result["llc_per_chain"])
    low, high = np.sort(bars.lines[2][0].get_segments()[0][:, 1])
    np.testing.assert_allclose([low, high], result["llc_ci"])
    assert "90 % interval" in ax.get_title(loc="right")
    assert "dimensionless" in ax.get_ylabel()


def test_llc_of_a_study_names_every_restriction_verbatim(study, ax):
    llc_estimates(study, ax=ax)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["full", "l0h0", "l0 attn", "$a$"]
    assert "fixed rows of code" in ax.get_title(loc="left")  # the estimate with less noise comes first
    drawn(ax)


@pytest.mark.parametrize("count", [2, 50])
def test_rows_of_restrictions_do_not_overlap(study, count):
    llc_estimates(many(compute_llc(study), count))
    axes = plt.gca()
    axes.figure.canvas.draw()
    boxes = [t.get_window_extent() for t in axes.get_yticklabels()]
    assert len(boxes) == count
    assert all(a.y0 >= b.y1 - 0.5 for a, b in itertools.pairwise(boxes))


def test_a_full_that_dwarfs_the_rest_is_written_and_does_not_set_the_scale(study, ax):
    result = compute_llc(study, over="observable", ci=0.9).copy(deep=True)
    for name in ("llc_mean", "llc_per_chain", "llc_ci"):
        result[name].loc[{"wr": "full"}] += 100.0
    bars = llc_estimates(result, ax=ax)
    assert np.isnan(bars.lines[0].get_xdata()[0])
    assert ax.get_xlim()[1] < 10
    low, high = result["llc_ci"].sel(wr="full").values
    assert f"({low:.3g} to {high:.3g})" in ax.texts[0].get_text()
    assert np.isfinite(result["llc_mean"]).all()  # what was given is as it was
    drawn(ax)


def test_the_largest_restrictions_are_kept_and_the_rest_is_told(study, ax):
    result = many(compute_llc(study), 50)
    llc_estimates(result, limit=10, sort=True, ax=ax)
    assert len(ax.get_yticklabels()) == 10
    assert "10 largest of 50" in ax.get_title(loc="right")


def test_llc_over_checkpoints_is_a_curve_in_the_order_of_training(study, ax):
    results = [compute_llc(study), compute_llc(study) * 2]
    series = xr.concat(results, dim="checkpoint").assign_coords(checkpoint=[200, 100])
    curves = llc_estimates(series, ax=ax)
    assert len(curves) == 4
    assert curves[0].lines[0].get_xdata().tolist() == [100, 200]
    assert ax.get_xlabel() == "training step"


def marked_points(ax):
    marks = [line for line in ax.lines if line.get_linestyle() == "None" and line.get_marker() in "oXvDs"]
    return sum(len(line.get_xdata()) for line in marks)


def test_the_llc_of_a_series_is_one_call_with_intervals_and_verdicts(ax):
    series = make_series((200, 100, 300), draws=120)
    full, *_ = series.devinterp.plot.llc(ax=ax)
    assert full.lines[0].get_xdata().tolist() == [100, 200, 300]
    expected = series.devinterp.llc(over="observable", ci=0.9).sel(wr="full").sortby("checkpoint")
    np.testing.assert_allclose(full.lines[0].get_ydata(), expected["llc_mean"])
    ends = np.stack([segment[:, 1] for segment in full.lines[2][0].get_segments()])
    np.testing.assert_allclose(ends, expected["llc_ci"])
    diagnosis = series.devinterp.diagnose()
    wrong = [(step, d) for step, study in diagnosis.items() for d in study.values() if not d.good]
    assert marked_points(ax) == len(wrong) > 0
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert {d.verdict.title for _, d in wrong} <= set(labels)
    assert {"full", "l0h0"} <= set(labels)
    assert "90 % interval" in ax.get_title(loc="right")


def test_the_verdicts_of_a_curve_are_those_of_the_rows_it_shows(ax):
    series = make_series(draws=120)
    noisy = series.copy()
    for node in noisy.subtree:
        if "loss_code" in node.dataset:  # its chains disagree, those of the sampling task are as they were
            shifts = xr.DataArray(np.arange(node.sizes["chain"], dtype=np.float32) * 5, dims="chain")
            node["loss_code"] = node["loss_code"] + shifts
    noisy.devinterp.plot.llc(ax=ax, over="observable", observable="code")
    judged = noisy.devinterp.diagnose(sampling_task="code")
    other = noisy.devinterp.diagnose()
    assert {d.verdict.title for d in judged.runs.values()} != {d.verdict.title for d in other.runs.values()}
    assert marked_points(ax) == sum(not d.good for d in judged.runs.values()) == len(judged.runs)
    labels = {text.get_text() for text in ax.get_legend().get_texts()}
    assert {d.verdict.title for d in judged.runs.values()} <= labels


def test_verdicts_can_be_left_out_or_given_with_a_result(ax):
    series = make_series(draws=120)
    series.devinterp.plot.llc(ax=ax, verdicts=False)
    assert marked_points(ax) == 0
    result, diagnosis = series.devinterp.llc(ci=0.9), series.devinterp.diagnose()
    result.devinterp.plot.llc(ax=ax, verdicts=diagnosis)
    assert marked_points(ax) == sum(not d.good for d in diagnosis.runs.values()) > 0


def test_a_curve_of_mixed_settings_says_so(ax):
    mixed = make_series((100, 1000), n_beta=lambda step: step / 100)
    with pytest.raises(ProvenanceError, match="n_beta"):
        mixed.devinterp.plot.llc(ax=ax)
    mixed.devinterp.plot.llc(ax=ax, allow_mixed=True)
    assert "different n_beta" in ax.get_title(loc="right")


def test_the_observable_in_a_title_may_have_any_name(run):
    result = compute_llc(run, over="observable", ci=0.9)
    result.attrs["observable"] = "\u65e5\u672c\u8a9e" * 9
    drawn(llc_estimates(result).lines[0].axes)


def test_each_picture_of_an_llc_takes_what_was_sampled_and_refuses_what_it_cannot_draw(study, run):
    alike = [draw(study).lines[0].get_xdata() for draw in (llc_over_restrictions, llc_estimates)]
    np.testing.assert_allclose(*alike)
    assert llc_per_chain(run).lines[0].get_ydata() == llc_estimates(run).lines[0].get_ydata()
    for draw, wrong in ((llc_over_restrictions, run), (llc_over_checkpoints, study), (llc_per_chain, study)):
        with pytest.raises(SettingError, match="not one of such an LLC"):
            draw(wrong)
