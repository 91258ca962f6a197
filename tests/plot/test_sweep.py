from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from made_sweeps import make_sweep
from matplotlib.patches import Rectangle
from pictures import drawn

from devinterp.errors import SettingError
from devinterp.plot import (
    Facets,
    loss_traces,
    sweep_map,
)
from devinterp.slt.sweep.recommend import recommend
from devinterp.testing import make_tree


def test_a_sweep_has_a_panel_for_each_localization_and_frames_the_recommended_cell():
    tree = make_sweep((0.02, 0.1, 1.0), (0.0, 10.0), (1.0, 100.0), pilots=((0.1, 10.0, 1.0),))
    facets = sweep_map(tree)
    assert facets.names == ("localization = 1", "localization = 100")
    left, right = facets
    facets.fig.savefig("/dev/null", format="png")
    assert [p for p in left.patches if isinstance(p, Rectangle)]
    assert not [p for p in right.patches if isinstance(p, Rectangle)]
    texts = [t.get_text() for t in left.texts]
    assert len(texts) == 3, "one for each cell; the control, whose LLC is 0, is left out"
    assert "✓" in texts[0]
    assert "✗ diverged" in texts[2]
    assert [t.get_fontweight() for t in left.texts] == ["bold", "normal", "bold"], "what was extended is bold"
    assert [t.get_text() for t in left.get_xticklabels()] == ["0.02", "0.1", "1"]
    assert facets.artists[0].get_array().mask.tolist() == [[False, False, True]]


def test_one_panel_of_a_sweep_or_of_its_summary(ax):
    summary = make_sweep((0.02, 0.1), (0.0, 10.0), (1.0, 100.0)).devinterp.sweep()
    image = sweep_map(summary, ax=ax, localization=1.0)
    drawn(ax)
    np.testing.assert_allclose(image.get_array()[0, 0], float(summary["llc_mean"].sel(lr=0.02, n_beta=10.0)[0]))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("lr (step size)", "n_beta")
    with pytest.raises(SettingError, match="no such panel"):
        sweep_map(summary, localization=3.0)
    with pytest.raises(SettingError, match="one panel"):
        sweep_map(summary, ax=ax)


def test_what_a_grid_varies_besides_has_panels_of_its_own():
    one = make_sweep((0.02, 0.1), (0.0, 10.0), (1.0, 100.0)).devinterp.sweep()
    summary = xr.concat([one, one], xr.Variable("batch_size", [8, 16]), data_vars="all")
    facets = sweep_map(summary)
    titles = [f"localization = {v}, batch_size = {b}" for v in (1, 100) for b in (8, 16)]
    assert list(facets.names) == titles
    assert [axes.get_title(loc="left") for axes in facets] == [name.replace(", ", "\n") for name in titles]
    chosen = recommend(summary).settings
    framed = [
        name
        for name, axes in zip(facets.names, facets, strict=True)
        if any(isinstance(p, Rectangle) for p in axes.patches)
    ]
    assert framed == [f"localization = {chosen['localization']:g}, batch_size = {chosen['batch_size']:g}"]
    image = sweep_map(summary, panel={"localization": 100.0, "batch_size": 8})
    assert image.axes.get_title(loc="left") == "localization = 100, batch_size = 8"
    assert sweep_map(summary.sel(localization=1.0, batch_size=16)).axes.get_title(loc="left").strip() == titles[1]
    assert isinstance(summary.devinterp.plot(), Facets)


def test_traces_of_a_sweep_are_those_of_the_recommended_cell(ax):
    tree = make_sweep((0.002, 0.02), (0.0, 10.0), (1.0,))
    lines = loss_traces(tree, observable="task", ax=ax)
    alone = loss_traces(tree["lr=0.02,n_beta=10,localization=1"], observable="task", ax=ax)
    assert len(lines) == 4
    for one, other in zip(lines, alone, strict=True):
        np.testing.assert_array_equal(one.get_ydata(), other.get_ydata())


def test_a_sweep_of_controls_alone_has_nothing_to_draw():
    summary = make_tree("sweep_summary").to_dataset()
    assert "step_inflation" not in summary  # which it need not have
    recommend(summary)
    for control in ("n_beta", "lr"):
        alone = summary.isel({control: [0]}).assign_coords({control: [0.0]})
        with pytest.raises(SettingError, match="nothing to draw"):
            sweep_map(alone)
