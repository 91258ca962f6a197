"""Partners of a row: by rank with their labels, and as images."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from devinterp.errors import DataError, MissingVariableError, SettingError
from devinterp.plot import influence_images, influence_matrix, ranked_influences
from devinterp.slt.bif import compute_bif

LABELS = {"a": list("3113"), "b": list("331")}
ROWS = {"a": [4, 0, 2, 1], "b": [1, 0, 3]}


@pytest.fixture(scope="module")
def run():
    """Rows that are not tokens: the losses of those of one label go together."""
    rng = np.random.default_rng(0)
    classes = {"3": rng.normal(size=(2, 40)), "1": rng.normal(size=(2, 40))}
    variables, coords = {}, {}
    for name, labels in LABELS.items():
        losses = np.stack([classes[label] for label in labels], axis=2) + 0.2 * rng.normal(size=(2, 40, len(labels)))
        variables[f"loss_{name}"] = (("chain", "draw", f"batch_{name}", "token_pos"), losses[..., None].astype("f4"))
        variables[f"row_{name}"] = ((f"batch_{name}",), np.array(ROWS[name]))
        coords[f"label_{name}"] = ((f"batch_{name}",), np.array(labels))
    config = {"rows_are_tokens": False, "loss_unit": "bit", "observables": [{"obs_id": n, "name": n} for n in LABELS]}
    return xr.DataTree(xr.Dataset(variables, coords, {"metadata": {"config": config}}))


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


IMAGES = {name: np.arange(5)[:, None, None] + np.zeros((5, 3, 2)) + 10 * k for k, name in enumerate(LABELS)}


def texts(figure):
    figure.savefig("/dev/null", format="png")
    return " ".join(t.get_text() for t in figure.findobj(match=plt.Text))


def test_images_stand_by_rank_each_its_own(run):
    facets = influence_images(run, [0, 5], IMAGES, top=2)
    matrix = compute_bif(run, correlation_method="sequence")["influences"].values
    assert facets.axs.shape == (2, 5)
    of = [10 * (name == "b") + row for name in LABELS for row in ROWS[name]]
    for query, axes in zip([0, 5], facets.axs, strict=True):
        assert axes[0].images[0].get_array()[0, 0] == of[query]
        others = [k for k in np.argsort(-matrix[query]) if k != query]
        above = [k for k in others if matrix[query, k] > 0][:2]
        below = [k for k in others[::-1] if matrix[query, k] < 0][:2]
        for place, index in zip([1, 2], above, strict=False):
            assert axes[place].images[0].get_array()[0, 0] == of[index]
            assert axes[place].get_title() == f"{[*LABELS['a'], *LABELS['b']][index]}\n{matrix[query, index]:+.2f}"
        for place, index in zip([3, 4], below, strict=False):
            assert axes[place].images[0].get_array()[0, 0] == of[index]
    assert facets.axs[0, 1].get_title().startswith("3")


@pytest.mark.parametrize("shape", [(7, 3, 2), (7, 1, 3, 2), (7, 3, 2, 1), (7, 3, 5, 5), (7, 5, 5, 3), (7, 5, 5, 4)])
def test_images_of_every_layout_one_for_each_row(run, shape):
    images = np.random.default_rng(0).random(shape)
    result = compute_bif(run, correlation_method="sequence")
    texts(influence_images(result, 1, images, top=1).fig)


def test_what_is_no_image_is_one_clear_error(run):
    result = compute_bif(run, correlation_method="sequence")
    with pytest.raises(MissingVariableError, match="Pass the run"):
        influence_images(result, 0, IMAGES)
    with pytest.raises(MissingVariableError, match="There are no images of some"):
        influence_images(run, 0, {"a": IMAGES["a"]})
    with pytest.raises(DataError, match="too few images of 'a'"):
        influence_images(run, 0, {**IMAGES, "a": IMAGES["a"][:4]})
    for wrong, words in (
        (np.zeros((6, 3, 2)), "7 images"),
        (np.zeros((7, 3)), "not images"),
        (np.zeros((7, 2, 5, 5)), "no"),
    ):
        with pytest.raises(DataError, match=words):
            influence_images(result, 0, wrong)
    with pytest.raises(SettingError, match="between single losses"):
        influence_images(compute_bif(run), 0, np.zeros((7, 3, 2)))
    with pytest.raises(SettingError, match="at least 1"):
        influence_images(run, 0, IMAGES, top=0)


@pytest.mark.parametrize("top_k", [None, 3])
def test_rows_are_ranked_with_their_labels(run, top_k):
    facets = ranked_influences(run, 0, top=2, **({} if top_k is None else {"top_k": top_k}))
    assert {t.get_text() for t in facets.artists[1][:2]} == {"3"}
    widths = [bar.get_width() for bar in facets.artists[0]]
    assert widths == sorted(widths, reverse=True)
    assert "a, row 0 (3)" in texts(facets.fig)


def test_pictures_speak_of_rows_by_their_labels_and_in_their_unit(run):
    covariance = compute_bif(run, correlation_method="sequence", compute_covariance=True)
    axes = influence_matrix(covariance, order="labels").axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["1", "3", "1", "3"]
    assert axes.get_ylabel() == "row (batch_1): a, b"
    said = texts(axes.figure)
    assert "bit²" in said
    assert "nat" not in said.replace("correlation", "")
    plain = influence_matrix(run).axes
    assert [t.get_text() for t in plain.get_xticklabels()] == ["3", "1", "3", "3", "1"]
    with pytest.raises(MissingVariableError, match="row_labels"):
        influence_matrix(covariance.drop_vars(["label", "label_1", "label_2"]), order="labels")
    with pytest.raises(SettingError, match="'rows' or 'labels'"):
        influence_matrix(covariance, order="rank")


def test_the_query_may_be_of_an_observable_of_any_name(run):
    result = compute_bif(run, correlation_method="sequence")
    result.attrs |= {"observables": ["\u65e5\u672c\u8a9e" * 9, "b"]}
    facets = ranked_influences(result, 0)
    facets.fig.savefig("/dev/null", format="png")
    assert len(facets.axs.ravel()[0].get_title(loc="left")) <= 30
