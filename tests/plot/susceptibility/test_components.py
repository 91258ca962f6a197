from __future__ import annotations

import numpy as np
import pytest
from matplotlib import pyplot as plt
from patterned import VOCABULARY, patterned

from devinterp.errors import SettingError
from devinterp.plot import component_tokens, components_over_checkpoints
from devinterp.slt.susceptibilities.matrix import pca


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize("count", [2, 8, 300])
def test_bars_are_the_largest_loadings_and_lines_the_tokens_at_both_ends(count):
    tree = patterned(count)
    facets = component_tokens(tree, 1, tokenizer=VOCABULARY, top=5)
    facets.fig.savefig("/dev/null", format="png")
    found = pca(tree, standardize=True if count > 3 else "columns").isel(component=0)
    loadings = found["loadings"].values
    drawn = [bar.get_width() for bar in facets.artists[0]]
    np.testing.assert_allclose(drawn, np.sort(loadings[np.argsort(-np.abs(loadings), kind="stable")[:24]])[::-1])
    numbers = [float(text.get_text()) for text in facets.axs.ravel()[1].texts[::3]]
    scores = found["scores"].values
    assert len(numbers) == 10
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] == pytest.approx(scores.max(), abs=0.01)
    assert numbers[-1] == pytest.approx(scores.min(), abs=0.01)


def test_a_token_stands_with_what_is_before_it_in_its_own_row():
    tree = patterned(8)
    texts = component_tokens(tree, 1, tokenizer=VOCABULARY, top=30, window=100).axs.ravel()[1].texts
    context = tree["context"].to_dataset()
    rows = {
        "".join(VOCABULARY[i] for i in part["input_ids"].values) for _, part in context.groupby(["dataset_id", "batch"])
    }
    for before, token in zip(texts[1::3], texts[2::3], strict=True):
        shown = (before.get_text().lstrip("…") + token.get_text()).replace("·", " ").replace("⏎", "\n")
        assert any(shown in row for row in rows), shown


def test_over_checkpoints_a_line_is_the_mean_score_of_a_class_on_the_joint_component():
    tree = patterned(8, checkpoints=(0, 10, 100))
    labels = np.where(np.arange(tree["susceptibilities"].sizes["sus_flat"]) % 3 == 0, "third", "rest")
    lines = components_over_checkpoints(tree, 2, classes=labels)
    scores = pca(tree)["scores"].sel(component=2).transpose("checkpoint", "sus_flat").values
    for line, name in zip(lines, ("third", "rest"), strict=True):
        assert line.get_label().startswith(name)
        np.testing.assert_allclose(line.get_ydata(), scores[:, labels == name].mean(axis=1))
        np.testing.assert_array_equal(line.get_xdata(), [0, 10, 100])
    lines[0].axes.figure.savefig("/dev/null", format="png")


def test_many_classes_are_those_that_move_most():
    tree = patterned(8, checkpoints=(0, 10))
    assert len(components_over_checkpoints(tree, classes=lambda token: token, tokenizer=VOCABULARY)) == 8


def test_what_is_not_there_is_refused():
    with pytest.raises(SettingError, match="no such component"):
        component_tokens(patterned(3), 4, tokenizer=VOCABULARY)
    with pytest.raises(SettingError, match="several checkpoints"):
        component_tokens(patterned(3, checkpoints=(0, 1)), tokenizer=VOCABULARY)
    with pytest.raises(SettingError, match="one checkpoint"):
        components_over_checkpoints(patterned(3))
    with pytest.raises(SettingError, match="no such component"):
        components_over_checkpoints(patterned(3, checkpoints=(0, 1)), 0)


def test_names_stand_in_a_legend_as_they_are():
    """matplotlib leaves out what begins with an underscore, and reads TeX between dollars."""
    tree = patterned(8, checkpoints=(0, 10))
    classes = np.where(np.arange(tree["susceptibilities"].sizes["sus_flat"]) % 2 == 0, "_hidden", "$x_1$")
    axes = components_over_checkpoints(tree, 1, classes=classes)[0].axes
    texts = axes.get_legend().get_texts()
    assert sorted(text.get_text().split()[0] for text in texts) == ["$x_1$", "_hidden"]
    assert not any(text.get_parse_math() for text in texts)


def test_tokens_in_context_are_drawn_whatever_their_letters_and_ids_are_told_apart():
    tree = patterned(3)
    odd = ["_x", "$a^2$", "\u05e9\u05dc", "\U0001f600", "\u0301", "\x00", "\u202eabc", "\u65e5", "\n"]
    component_tokens(tree, tokenizer=lambda token: odd[token % len(odd)]).fig.savefig("/dev/null", format="png")
    texts = component_tokens(tree, window=3).axs.ravel()[1].texts
    assert any(before.get_text().strip().count(" ") == 2 for before in texts[1::3])
