from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from matplotlib import pyplot as plt
from patterned import VOCABULARY, patterned

from devinterp.errors import SettingError
from devinterp.plot import susceptibility_classes, susceptibility_patterns
from devinterp.plot.susceptibility.patterns import REST, patterns_of
from devinterp.plot.tokens.patterns import PATTERNS


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def test_a_box_is_of_the_tokens_of_its_pattern():
    tree = patterned(6)
    found = patterns_of(tree, VOCABULARY)
    assert tuple(found) == (*PATTERNS, REST)
    values = tree["susceptibilities"]["sus"].values
    for i, name in enumerate(PATTERNS):  # restriction i was made to answer to pattern i
        assert values[found[name], i].min() > values[~found[name], i].max()
    boxes = susceptibility_patterns(tree, "l0h2", tokenizer=VOCABULARY, standardize=False)
    shown = [name for name in found if found[name].any()]
    medians = [line.get_xdata()[0] for line in boxes["medians"]]
    np.testing.assert_allclose(medians, [np.median(values[found[name], 2]) for name in shown], rtol=1e-6)


def test_the_order_of_the_context_does_not_matter():
    tree = patterned(6)
    shuffled = tree.copy()
    order = np.random.default_rng(0).permutation(tree["context"].sizes["ctx_flat"])
    shuffled["context"] = tree["context"].to_dataset().isel(ctx_flat=order)
    for name, found in patterns_of(tree, VOCABULARY).items():
        np.testing.assert_array_equal(found, patterns_of(shuffled, VOCABULARY)[name])


@pytest.mark.parametrize("count", [2, 8, 300])
def test_many_restrictions_are_the_dozen_whose_patterns_lie_furthest_apart(count):
    facets = susceptibility_patterns(patterned(count), tokenizer=VOCABULARY)
    assert len(facets) == min(count, 12)
    facets.fig.savefig("/dev/null", format="png")
    one = susceptibility_patterns(patterned(count), ["l0h1", "l0h0"], tokenizer=VOCABULARY)
    assert one.names == ("l0h1", "l0h0")


def test_what_is_not_there_is_refused():
    with pytest.raises(SettingError, match="no such restriction"):
        susceptibility_patterns(patterned(3), "l9h9", tokenizer=VOCABULARY)
    with pytest.raises(SettingError, match="ax takes one"):
        susceptibility_patterns(patterned(3), tokenizer=VOCABULARY, ax=plt.subplots()[1])
    for draw in (susceptibility_patterns, partial(susceptibility_classes, classes="kind")):
        with pytest.raises(SettingError, match="ids alone"):  # all of them would be digits
            draw(patterned(3))
    with pytest.raises(SettingError, match="one checkpoint"):
        susceptibility_patterns(patterned(3, checkpoints=(0, 1)), tokenizer=VOCABULARY)


def test_labels_of_panels_side_by_side_do_not_run_into_each_other():
    facets = susceptibility_patterns(patterned(8), tokenizer=VOCABULARY)
    facets.fig.canvas.draw()
    boxes = [ax.xaxis.label.get_window_extent().padded(15) for ax in facets if ax.get_xlabel()]
    assert len(boxes) >= 2
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_panels_beside_one_without_values_show_all_of_their_boxes():
    tree = patterned(3).copy(deep=True)
    tree["susceptibilities"]["sus"].values[:, 1] = np.nan
    tree["susceptibilities"]["sus"].values[:, ::2] *= 1e6
    facets = susceptibility_patterns(tree, tokenizer=VOCABULARY, standardize=False)
    assert np.abs(facets.axs.ravel()[0].get_xlim()).max() > 1e3
