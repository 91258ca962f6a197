from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pytest
from matplotlib import pyplot as plt
from patterned import VOCABULARY, patterned

from devinterp.errors import MissingDependencyError, SettingError
from devinterp.plot import susceptibility_map
from devinterp.plot.susceptibility import token_map


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture
def installed(monkeypatch):
    """Say which packages there are, and record how a stand-in of theirs is called."""
    calls = []

    class Method:
        def __init__(self, **options):
            calls.append(options)

        def fit_transform(self, values):
            return values[:, :2]

    def install(*names):
        monkeypatch.setattr(token_map, "find_spec", lambda name: object() if name in names else None)
        umap, manifold = ModuleType("umap"), ModuleType("sklearn.manifold")
        umap.UMAP = manifold.TSNE = Method
        monkeypatch.setitem(sys.modules, "umap", umap)
        monkeypatch.setitem(sys.modules, "sklearn", ModuleType("sklearn"))
        monkeypatch.setitem(sys.modules, "sklearn.manifold", manifold)
        return calls

    return install


def named(drawn):
    return drawn[0].axes.get_title(loc="left")


@pytest.mark.parametrize(("packages", "name"), [(("umap", "sklearn"), "UMAP"), (("sklearn",), "t-SNE"), ((), "PCA")])
def test_the_picture_says_which_method_made_it(installed, packages, name):
    calls = installed(*packages)
    drawn = susceptibility_map(patterned(8), tokenizer=VOCABULARY, seed=3)
    assert f"({name})" in named(drawn)
    assert [call["random_state"] for call in calls] == [3] * bool(packages)


def test_what_is_asked_for_is_used_or_refused(installed):
    calls = installed("umap")
    with pytest.raises(MissingDependencyError, match=r"t-SNE needs scikit-learn.*devinterp\[map\]"):
        susceptibility_map(patterned(8), "tsne", tokenizer=VOCABULARY)
    susceptibility_map(patterned(8), "umap", tokenizer=VOCABULARY, method_options={"min_dist": 0.3, "n_neighbors": 4})
    assert calls == [{"random_state": 0, "n_neighbors": 4, "n_jobs": 1, "min_dist": 0.3}]
    with pytest.raises(SettingError, match="no such method"):
        susceptibility_map(patterned(8), "mds", tokenizer=VOCABULARY)
    with pytest.raises(SettingError, match="too little"):
        susceptibility_map(patterned(1), "pca", tokenizer=VOCABULARY)


@pytest.mark.parametrize(("method", "options"), [("tsne", {"max_iter": 300}), ("umap", {"n_epochs": 50})])
@pytest.mark.filterwarnings("ignore")  # of other libraries about each other
def test_the_real_methods_keep_neighbours_and_draw_the_same_for_a_seed(method, options):
    """Where they are installed: of the extra `map`, the environment of the tests has scikit-learn."""
    package, name = token_map.PACKAGES[method]
    if find_spec(package) is None:
        pytest.skip(f"{name} is not installed")
    group = np.repeat([0, 1, 2], 20)
    values = np.random.default_rng(0).normal(size=(60, 8)) + 9.0 * np.eye(8)[group]
    used, where = token_map._lay_out(values, method, 5, options)
    assert (used, where.shape) == (method, (60, 2))
    apart = np.linalg.norm(where[:, None] - where[None], axis=-1) + np.diag(np.full(60, np.inf))
    np.testing.assert_array_equal(group[apart.argmin(axis=1)], group)
    np.testing.assert_array_equal(token_map._lay_out(values, method, 5, options)[1], where)


@pytest.mark.parametrize("count", [2, 8, 300])
def test_components_keep_the_distances_that_two_dimensions_can(count):
    """Of two restrictions, all of them."""
    tree = patterned(count)
    drawn = susceptibility_map(tree, "pca", classes="observable", standardize=False)
    where = np.concatenate([points.get_offsets() for points in drawn])
    values = tree["susceptibilities"]["sus"].values.astype(float)
    apart = [np.linalg.norm(each[:, None] - each[None], axis=-1) for each in (where, values)]
    assert (apart[0] <= apart[1] + 1e-6).all()
    if count == 2:
        np.testing.assert_allclose(apart[0], apart[1], atol=1e-6)
    drawn[0].axes.figure.savefig("/dev/null", format="png")


def test_of_many_tokens_some_are_drawn_the_same_for_a_seed():
    tree = patterned(8)
    first, again, other = (
        np.concatenate(
            [
                points.get_offsets()
                for points in susceptibility_map(tree, "pca", classes="observable", most_tokens=50, seed=seed)
            ]
        )
        for seed in (0, 0, 1)
    )
    assert first.shape == (50, 2)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
