from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from made_runs import fail_chain, make_run, make_study

import devinterp
from devinterp.accessor import DevinterpAccessor
from devinterp.errors import DataError, MissingVariableError, ValidationError
from devinterp.slt.bif import compute_bif
from devinterp.slt.diagnostics import diagnose
from devinterp.slt.estimands import ESTIMANDS
from devinterp.slt.llc import compute_llc
from devinterp.slt.susceptibilities import compute_susceptibilities
from devinterp.slt.susceptibilities.by_observable import flatten, unflatten
from devinterp.slt.susceptibilities.matrix import matrix, pca
from devinterp.slt.susceptibilities.split_half import split_half
from devinterp.slt.sweep import compute_sweep
from devinterp.slt.uncertainty.arviz import to_arviz
from devinterp.testing import make_tree


def test_every_analysis_is_the_public_function():
    tree, study = make_run(), make_study()
    xr.testing.assert_identical(tree.devinterp.llc(), compute_llc(tree))
    xr.testing.assert_identical(tree.to_dataset().devinterp.llc(), compute_llc(tree))
    xr.testing.assert_identical(study.devinterp.llc(over="observable"), compute_llc(study, over="observable"))
    xr.testing.assert_identical(tree.devinterp.bif(method="sequence"), compute_bif(tree, correlation_method="sequence"))
    xr.testing.assert_identical(tree.devinterp.bif(top_k=2), compute_bif(tree, top_k=2))
    result = study.devinterp.susceptibilities(terms=True)
    assert result.identical(compute_susceptibilities(study, terms=True))
    assert result.devinterp.unflatten().identical(unflatten(result))
    assert unflatten(result).devinterp.flatten().identical(flatten(unflatten(result)))
    xr.testing.assert_identical(result.devinterp.matrix(), matrix(result))
    xr.testing.assert_identical(result.devinterp.pca(1), pca(result, 1))
    xr.testing.assert_identical(make_study(chains=4).devinterp.split_half(), split_half(make_study(chains=4)))
    assert tree.devinterp.to_arviz().identical(to_arviz(tree))
    assert tree.devinterp.diagnose() == diagnose(tree)


@pytest.mark.parametrize(
    ("method", "function", "renamed"),
    [
        *((kind, each.function(), {"correlation_method": "method"}) for kind, each in ESTIMANDS.items()),
        ("diagnose", diagnose, {}),
        ("sweep", compute_sweep, {}),
        ("to_arviz", to_arviz, {}),
        ("matrix", matrix, {}),
        ("pca", pca, {}),
    ],
)
def test_signatures_do_not_drift(method, function, renamed):
    ours = list(inspect.signature(getattr(DevinterpAccessor, method)).parameters.values())[1:]
    theirs = list(inspect.signature(function).parameters.values())[1:]
    assert [(p.name, p.default) for p in ours] == [(renamed.get(p.name, p.name), p.default) for p in theirs]


def test_kinds_are_recognised_with_and_without_their_attribute():
    tree, study = make_run(), make_study()
    made = {
        "samples": tree,
        "study": study,
        "llc": compute_llc(tree),
        "bif": compute_bif(tree),
        "bif_topk": compute_bif(tree, top_k=1),
        "susceptibilities": compute_susceptibilities(study),
        "unknown": xr.Dataset({"x": 1}),
    }
    for kind, obj in made.items():
        assert obj.devinterp.kind == kind
        bare = obj.copy()
        bare.attrs.pop("devinterp_schema", None)
        assert bare.devinterp.kind == kind


def test_what_the_store_says_of_itself():
    tree, study = make_run(), make_study()
    assert tree.devinterp.config["sampler"]["lr"] == 1e-3
    assert tree.devinterp.provenance == {}
    assert tree.devinterp.observables == ("train", "code", "math")
    assert study.devinterp.observables == ("train", "code", "math")
    assert study.devinterp.config["sampling_task"] == "train"
    assert compute_bif(tree).devinterp.observables == ("code", "math", "train")
    assert compute_susceptibilities(study).devinterp.observables == ("code", "math")
    assert xr.Dataset().devinterp.observables == ()
    assert xr.Dataset().devinterp.config == {}


def test_validate_returns_the_object_or_raises_with_every_finding():
    result = compute_llc(make_run())
    assert result.devinterp.validate() is result
    assert result.devinterp.report().ok
    broken = result.assign(extra=1, other=2)
    with pytest.raises(ValidationError) as error:
        broken.devinterp.validate()
    assert len(error.value.report.errors) >= 1
    assert {"extra", "other"} <= set(
        " ".join(p for f in error.value.report.errors for p in f.paths).replace("/", "").split()
    )


def test_the_overview_reads_no_loss():
    class Untouchable(np.lib.mixins.NDArrayOperatorsMixin):
        shape, dtype, ndim = (3, 40, 5, 6), np.dtype("float32"), 4

        def __array__(self, *args, **kwargs):
            raise AssertionError("a loss was read")

        def __array_function__(self, *args, **kwargs):
            raise AssertionError("a loss was read")

    tree = make_run()
    dims = tree["loss_train"].dims
    lazy = xr.DataTree(tree.to_dataset().assign(loss_train=(dims, Untouchable())))
    text = repr(lazy.devinterp)
    assert "SGLD run" in text
    assert "complete" in text
    assert "3 chains, 40 draws" in text
    assert "diagnose()" in text


def test_the_overview_tells_what_is_wrong():
    failed = fail_chain(make_run(), 1, 9)
    assert "chain 1 failed at step 14" in repr(failed.devinterp)
    unfinished = make_run()
    unfinished.attrs["completed"] = 0
    assert "not completed" in repr(unfinished.devinterp)
    study = make_study()
    study["l0h0"] = fail_chain(study["l0h0"], 0, 3)
    assert "l0h0: chain 0 failed" in repr(study.devinterp)
    for obj in (failed, study, compute_llc(make_run()), compute_susceptibilities(make_study()), xr.Dataset()):
        assert obj.devinterp._repr_html_().startswith("<table>")


def test_the_overview_of_a_result_tells_the_number_and_how_it_was_made():
    text = repr(compute_llc(make_run(), over="observable", observable="train", ci=0.9).devinterp)
    assert "90 % interval" in text
    assert "over observable, observable train" in text
    assert "3 used, 0 excluded" in text
    parts = compute_susceptibilities(make_study()).devinterp.unflatten()
    assert "flatten()" in repr(parts.devinterp)
    assert "no devinterp data" not in repr(parts.devinterp)


def test_a_result_is_not_taken_for_a_run():
    with pytest.raises(MissingVariableError, match="no losses"):
        compute_llc(make_run()).devinterp.llc()


def test_the_overview_escapes_names():
    study = make_study(("full", "<b>bold"))
    assert "<b>" not in study.devinterp._repr_html_()
    assert "&lt;b&gt;bold" in study.devinterp._repr_html_()


def test_the_accessor_cannot_be_changed():
    with pytest.raises(AttributeError):
        make_run().devinterp.cache = 1


def test_plot_and_tokens_are_found():
    tree = make_run()
    from devinterp.plot import PlotAccessor

    assert isinstance(tree.devinterp.plot, PlotAccessor)
    assert "devinterp-tokens" in str(tree.devinterp.tokens(tokenizer=str).to_html())


def test_importing_the_package_registers_it_and_stays_light():
    code = (
        "import sys, xarray as xr, devinterp; heavy = {'torch', 'pandera', 'matplotlib', 'arviz_stats', 'dask'};"
        "assert xr.DataTree().devinterp.kind == 'unknown'; print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert devinterp.__version__


@pytest.mark.parametrize(
    ("kind", "dim", "methods"),
    [
        ("susceptibilities", "sus_flat", ("plot", "tokens", "pca", "matrix")),
        ("susceptibilities", "ctx_flat", ("tokens", "unflatten")),
        ("susceptibilities", "wr", ("plot", "tokens", "pca")),
        ("sweep", "cell", ("llc", "waic", "wbic")),
        ("sweep_summary", "lr", ("plot", "recommend")),
        ("sweep_summary", "bound", ("plot", "recommend")),
        ("llc", "chain", ("plot",)),
        ("bif", "batch_1", ("plot",)),
    ],
)
def test_of_a_result_of_which_nothing_is_left_there_is_one_error(kind, dim, methods):
    empty = make_tree(kind).isel({dim: []}, missing_dims="ignore")
    for method in methods:
        with pytest.raises(DataError, match=f"Nothing is left along .*{dim}"):
            getattr(empty.devinterp, method)()
