from __future__ import annotations

from dataclasses import replace

import lifelike
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from made_runs import make_series
from patterned import VOCABULARY, patterned
from pictures import drawn, opened

from devinterp.errors import MissingVariableError, SettingError
from devinterp.plot import (
    Facets,
    PlotAccessor,
    influence_matrix,
    llc_estimates,
    loss_traces,
    ranked_influences,
    running_means,
    sgld_metrics,
    susceptibility_classes,
    susceptibility_pca,
    susceptibility_text,
    token_influence,
    verdict_table,
)
from devinterp.plot.drawing.numbers import with_error
from devinterp.plot.drawing.style import symmetric_limit
from devinterp.plot.tokens.decode import drawable
from devinterp.slt.bif import compute_bif
from devinterp.slt.diagnostics.verdicts import judge
from devinterp.slt.llc import compute_llc


def test_traces_have_a_line_for_each_chain_burn_in_and_units(run, ax):
    lines = loss_traces(run, ax=ax)
    assert [line.get_label() for line in lines] == ["chain 0", "chain 1", "chain 2"]
    assert "burn-in" in [t.get_text() for t in ax.texts]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("SGLD step", "loss (nat)")
    assert "at the start" in [t.get_text() for t in ax.get_legend().get_texts()]
    drawn(ax)


def test_traces_of_fixed_rows_are_the_mean_losses_of_the_draws(run, ax):
    lines = loss_traces(run, observable="code", smooth=1, ax=ax)
    expected = run["loss_code"].mean(["batch_code", "token_pos"]).values
    np.testing.assert_allclose(np.stack([line.get_ydata() for line in lines]), expected, rtol=1e-5)
    start = [line for line in ax.lines if line.get_label() == "at the start"]
    np.testing.assert_allclose(start[0].get_ydata(), run["init_loss_code"].mean().item(), rtol=1e-5)


def test_a_backend_that_shows_pictures_as_they_are_drawn_goes_on_doing_so(run, monkeypatch):
    """That of a notebook, loaded by the first picture, where the program has not imported pyplot itself."""
    new_figure = plt.subplots

    def loads_the_backend(*args, **options):
        mpl.interactive(True)
        return new_figure(*args, **options)

    monkeypatch.setattr(plt, "subplots", loads_the_backend)
    with mpl.rc_context({"interactive": False}):
        loss_traces(run)
        assert mpl.is_interactive()


def test_a_failed_chain_ends_where_it_ended(tmp_path, ax):
    tree = opened(lifelike.make_samples(tmp_path / "f.zarr", failing={1: 13}, draws=30, rows=2))
    lines = loss_traces(tree, over="draws", smooth=1, ax=ax)
    assert lines[1].get_label() == "chain 1 (stopped)"
    assert len(lines[1].get_xdata()) == 13
    assert "X" in [line.get_marker() for line in ax.lines]


def test_col_gives_a_panel_for_each_value(run, study):
    panels = loss_traces(run, col="observable")
    assert isinstance(panels, Facets)
    assert panels.names == ("code", "prose")
    assert [ax.get_title(loc="left") for ax in panels] == ["code", "prose"]
    assert len(loss_traces(study, col="wr")) == 4
    with pytest.raises(SettingError, match="panels"):
        loss_traces(run, col="wr")
    with pytest.raises(SettingError, match="ax goes with one"):
        loss_traces(run, col="observable", ax=panels.axs[0, 0])


def test_a_series_has_panels_by_checkpoint_and_by_restriction():
    series = make_series()
    traces = series.devinterp.plot.traces(col="checkpoint")
    assert traces.names == ("step 100", "step 1000", "step 3000")
    curves = series.devinterp.plot.llc(col="wr")
    assert curves.names == ("full", "l0h0")
    assert len(series.devinterp.plot.llc(col="checkpoint")) == 3
    assert len(series.devinterp.plot.verdict()) == 6


@pytest.mark.parametrize("name", ["traces", "metrics", "influence", "susceptibilities", "pca"])
def test_pictures_of_one_checkpoint_say_how_to_choose_it(name):
    series = make_series()
    with pytest.raises(MissingVariableError, match=r"tree\.sel\(checkpoint=3000\)"):
        getattr(series.devinterp.plot, name)()


def test_the_influence_matrix_marks_observables_and_is_symmetric_about_zero(run, ax):
    image = influence_matrix(run, ax=ax)
    expected = compute_bif(run, correlation_method="sequence")["influences"]
    np.testing.assert_allclose(image.get_array(), expected, rtol=1e-6)
    low, high = image.get_clim()
    assert low == -high
    assert high < 1  # the diagonal does not set the scale
    assert [t.get_text() for t in ax.get_yticklabels()] == ["code", "prose"]
    drawn(ax)


def test_token_influence_has_the_tokens_on_its_axes(run, ax):
    image = token_influence(run, 0, 5, tokenizer="bytes", ax=ax)
    pair = compute_bif(run)["influences"].sel(batch_1=0, batch_2=5)
    np.testing.assert_allclose(image.get_array(), pair, atol=1e-6)
    ids = run["input_ids_code"].values[0][1:]
    assert [t.get_text() for t in ax.get_yticklabels()] == [chr(i).replace(" ", "·") for i in ids]
    assert "prose, row 1" in ax.get_xlabel()
    drawn(ax)
    with pytest.raises(SettingError, match="no sequence 99"):
        token_influence(compute_bif(run), 99, 0)
    with pytest.raises(MissingVariableError, match="between tokens"):
        token_influence(compute_bif(run, correlation_method="sequence"), 0, 1)


def test_tokens_that_the_font_lacks_are_spelt(run, ax):
    token_influence(run, 0, 1, tokenizer=lambda token: "\u4e2d$x$\n", ax=ax)
    assert ax.get_yticklabels()[0].get_text().startswith("\\u4e2d")
    drawn(ax)


def test_class_means_are_those_of_the_standardised_matrix(sus, ax):
    image = susceptibility_classes(sus, ax=ax)
    values = sus["susceptibilities"]["sus"].values.astype(float)
    standard = (values - values.mean(axis=0)) / values.std(axis=0)
    ids = sus["susceptibilities"]["dataset_id"].values
    expected = np.stack([standard[ids == k].mean(axis=0) for k in (0, 1)], axis=1)
    np.testing.assert_allclose(image.get_array(), expected, rtol=1e-6)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["code (96)", "prose (96)"]
    assert "±" in ax.texts[0].get_text()
    drawn(ax)


def test_classes_by_kind_by_function_and_by_label(sus, ax):
    kinds = susceptibility_classes(sus, tokenizer="bytes", ax=ax)
    assert kinds.get_array().shape[0] == 3
    byte = susceptibility_classes(sus, lambda text: "upper" if text.isupper() else "rest", tokenizer="bytes")
    assert byte.get_array().shape == (3, 2)
    labels = ["a", "b"] * (sus["susceptibilities"].sizes["sus_flat"] // 2)
    assert susceptibility_classes(sus, labels, standardize=False).get_array().shape == (3, 2)
    with pytest.raises(SettingError, match="one class for each token"):
        susceptibility_classes(sus, labels[:-1])


def test_a_class_of_few_tokens_does_not_set_the_scale(sus, ax):
    tree = sus.copy(deep=True)
    values = tree["susceptibilities"]["sus"].values
    values[:3] = 50 * values.std(axis=0)
    labels = np.where(np.arange(len(values)) < 3, "few", np.arange(len(values)) % 2)
    image = susceptibility_classes(tree, labels, ax=ax)
    largest = np.abs(image.get_array()[:, 1:]).max()
    assert image.get_clim() == pytest.approx((-largest, largest))
    few = image.get_array()[:, 0]
    assert (few > largest).all()
    drawn(ax)


def test_susceptibility_along_a_text(sus, ax):
    image = susceptibility_text(sus, "prose", 2, tokenizer="bytes", ax=ax)
    assert image.get_array().shape == (3, lifelike.TOKENS)
    assert {t.get_rotation() for t in ax.get_xticklabels()} == {0.0}  # single characters stand upright
    susceptibility_text(sus, "prose", 2, tokenizer=lambda token: f"<{token}>", ax=ax)
    assert {t.get_rotation() for t in ax.get_xticklabels()} == {90.0}
    drawn(ax)
    with pytest.raises(SettingError, match="no row 9"):
        susceptibility_text(sus, "prose", 9)


def test_principal_components_name_restrictions_and_colour_classes(sus, ax):
    susceptibility_pca(sus, ax=ax)
    assert {t.get_text() for t in ax.texts} <= {"l0h0", "l0 attn", "$a$"}
    assert "% of the variance" in ax.get_xlabel()
    assert len(susceptibility_pca(sus, "tokens")) == 2
    with pytest.raises(SettingError, match="are 3 components"):
        susceptibility_pca(sus, components=(1, 9))
    one = sus["susceptibilities"].to_dataset().isel(wr=[0])
    with pytest.raises(SettingError, match="one component"):
        susceptibility_pca(one)


def test_metrics_show_norms_angles_and_distance(run):
    panels = sgld_metrics(run)
    assert len(panels) == 3
    norms, cosines, distance = panels
    assert norms.get_yscale() == "log"
    assert {line.get_label() for line in panels.artists[0]} == {"noise", "gradient", "localization"}
    assert cosines.get_ylim() == (-1.05, 1.05)
    assert "weight units" in distance.get_ylabel()
    panels.fig.savefig("/dev/null", format="png")


def test_a_run_without_metrics_says_how_to_get_them(tmp_path):
    tree = opened(lifelike.make_samples(tmp_path / "r.zarr", draws=10, rows=2, save_metrics=False))
    with pytest.raises(MissingVariableError, match="save_metrics=True"):
        sgld_metrics(tree)


def test_the_verdict_tells_runs_chains_and_what_is_wrong(study, tmp_path, ax):
    verdicts = verdict_table(study, ax=ax)
    assert len(verdicts) == 4
    assert all(v.get_text()[0] in "✓✗" for v in verdicts)
    drawn(ax)
    failed = opened(lifelike.make_samples(tmp_path / "f.zarr", failing={1: 13}, draws=30, rows=2))
    (verdict,) = verdict_table(failed)
    assert "diverged" in verdict.get_text()
    assert "2/3 ✗" in [t.get_text() for t in plt.gca().texts]


@pytest.mark.parametrize(
    ("ess", "shared", "shown"), [(100.0, 2.0, "25 / 30 ✗"), (29.9, 1.0, "29 / 30 ✗"), (47.0, 1.0, "47 / 30")]
)
def test_effective_draws_stand_beside_how_many_are_needed(run, ess, shared, shown):
    """100 of them were marked as too few beside 47 that were enough: what was judged against what stood nowhere."""
    found = replace(run.devinterp.diagnose(), ess_bulk=ess, shared_noise=shared, verdicts=())
    trace = np.random.default_rng(0).normal(size=(len(found.chains), 40))
    verdict_table(replace(found, verdicts=tuple(judge(found, trace))))
    assert shown in [t.get_text() for t in plt.gca().texts]


def test_names_are_cut_where_they_do_not_differ_and_tokens_at_the_end():
    names = ["transformer.h.0.attn.c_attn.weight", "transformer.h.0.attn.c_proj.weight", "l0h0"]
    shown = drawable(names, longest=24, names=True)
    assert len(set(shown)) == 3
    assert [len(t) for t in shown] == [24, 24, 4]
    assert shown[0].startswith("transformer")
    assert shown[0].endswith("attn.weight")
    assert drawable(["abcdefgh"], longest=4) == ["abc…"]


def test_numbers_have_the_digits_that_their_error_supports():
    assert with_error(0.037712, 0.0021) == "0.038 ± 0.002"
    assert with_error(-0.0004, 0.003) == "0.000 ± 0.003"  # and no minus before a zero
    assert with_error(12.34, 2.0) == "12 ± 2"
    assert with_error(1.23456, None) == with_error(1.23456, 0.0) == "1.23"
    assert with_error(1e-12, 3e-13) == "1.00e-12 ± 3e-13"
    assert with_error(None, 0.1) == with_error(float("nan"), 0.1) == "–"


def test_scales_are_symmetric_and_bounded_by_what_most_values_are():
    assert symmetric_limit([-3.0, 1.0]) == (3.0, False)
    values = np.r_[np.linspace(-1, 1, 2000), 100.0]
    limit, beyond = symmetric_limit(values)
    assert limit < 1.1
    assert beyond
    assert symmetric_limit([0.0, 0.0])[0] == 1.0
    with pytest.raises(SettingError):
        symmetric_limit([1.0], limit=-1)


def test_the_accessor_draws_what_fits_the_kind(run, study, sus):
    assert len(PlotAccessor(run)()) == 3
    assert run.devinterp.plot.traces()[0].axes is not None
    PlotAccessor(study)()
    PlotAccessor(compute_bif(run, correlation_method="sequence"))()
    PlotAccessor(sus)()
    assert ".influence()" in repr(PlotAccessor(run))
    with pytest.raises(SettingError, match="no picture"):
        PlotAccessor(xr.Dataset({"x": 1}))()


def test_stores_and_results_of_devinterp_2_can_be_drawn(reference):
    loss_traces(opened(reference / "full.zarr"))
    influence_matrix(xr.open_dataset(reference / "bif_token.zarr", engine="zarr", consolidated=False))
    susceptibility_classes(opened(reference / "susceptibilities.zarr"))
    llc_estimates(xr.open_dataset(reference / "llc.zarr", engine="zarr", consolidated=False))


def test_without_matplotlib_the_extra_is_named(run, monkeypatch):
    import sys

    from devinterp.errors import MissingDependencyError

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"devinterp\[plot\]"):
        loss_traces(run)


def test_running_means_end_at_the_llc_of_each_chain(run, ax):
    lines = running_means(run, observable="code", ax=ax)
    found = compute_llc(run, over="observable", observable="code")
    np.testing.assert_allclose([line.get_ydata()[-1] for line in lines[:-1]], found["llc_per_chain"], rtol=1e-5)
    assert lines[-1].get_label() == "their mean"
    np.testing.assert_allclose(lines[-1].get_ydata()[-1], found["llc_mean"], rtol=1e-5)
    part = compute_llc(run.isel(draw=slice(10, 20)), over="observable", observable="code")
    lines = running_means(run, observable="code", burnin=10, ax=ax)
    assert lines[-1].get_xdata()[9] == 20
    np.testing.assert_allclose(lines[-1].get_ydata()[9], part["llc_mean"], rtol=1e-5)
    with pytest.raises(SettingError, match="no mean to draw"):
        running_means(run, burnin=40)
    drawn(ax)


def test_ranked_influences_are_those_of_the_matrix_and_of_the_strongest(run):
    whole = compute_bif(run)
    query = whole["influences"].sel(batch_1=2, target_position=5)
    outside = query.where(query["batch_2"] != 2).values.ravel()
    outside = np.sort(outside[np.isfinite(outside)])
    facets = ranked_influences(whole, 2, 5, top=4, tokenizer="bytes")
    bars = [bar.get_width() for bar in facets.artists[0]]
    np.testing.assert_allclose(bars, [*outside[::-1][:4], *outside[:4][::-1]], rtol=1e-6)
    facets.fig.savefig("/dev/null", format="png")
    for source in (compute_bif(run, top_k=6), run):
        strongest = [bar.get_width() for bar in ranked_influences(source, 2, 5, top=4, tokenizer="bytes").artists[0]]
        np.testing.assert_allclose(strongest, bars, rtol=1e-5)
    with pytest.raises(SettingError, match="no such token"):
        ranked_influences(whole, 2, 99)
    with pytest.raises(SettingError, match="no sequence 77"):
        ranked_influences(whole, 77, 5)
    with pytest.raises(MissingVariableError, match="between tokens"):
        ranked_influences(compute_bif(run, correlation_method="sequence"), 2, 5)


@pytest.mark.parametrize("draw", [susceptibility_classes, susceptibility_text])
def test_a_picture_of_many_restrictions_says_at_both_ends_what_its_columns_are(draw):
    for count, above in ((8, False), (300, True)):
        axes = draw(patterned(count), tokenizer=VOCABULARY).axes
        ticks = axes.xaxis.get_major_ticks()
        assert [tick.label2.get_visible() for tick in ticks] == [above] * len(ticks)
        if above:
            axes.figure.draw_without_rendering()
            assert [t.label2.get_text() for t in ticks] == [t.label1.get_text() for t in ticks] != [""] * len(ticks)
        plt.close("all")
