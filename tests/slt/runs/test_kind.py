"""What a tree is, is decided in one place, and as the schema that it names decides it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from made_runs import make_run, make_series, make_study
from made_sweeps import make_sweep

import devinterp
from devinterp.errors import SettingError
from devinterp.schema import load
from devinterp.slt.bif import compute_bif
from devinterp.slt.llc import compute_llc
from devinterp.slt.runs.kind import kind_of
from devinterp.slt.susceptibilities import compute_susceptibilities
from devinterp.slt.susceptibilities.by_observable import unflatten
from devinterp.slt.sweep import compute_sweep
from devinterp.testing import make_tree

SWEEP: dict[str, Any] = {"lr": [1e-4, 1e-3], "n_beta": [30.0], "localization": [10.0]}
KINDS = ("samples", "study", "series", "sweep", "sweep_summary", "llc", "bif", "bif_topk", "susceptibilities")


def extension(folder: Path, name: str, base: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(f"schema: lab/{name}\nversion: 1\nextends: {base}\ndoc: Ours, and nothing more.\nnodes: {{}}\n")
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_tree_is_what_its_schema_goes_back_to(kind: str, installed: Any, tmp_path: Path) -> None:
    base = extension(tmp_path, "gradients", f"devinterp/{kind}@1")
    installed(base, extension(tmp_path, "hessians", "lab/gradients@1"))
    for name in (f"devinterp/{kind}@1", "lab/gradients@1", "lab/hessians@1"):
        tree = make_tree(kind)
        tree.attrs["devinterp_schema"] = name
        assert kind_of(tree) == load(name).kind == kind
        plain = repr(make_tree(kind).devinterp).splitlines()
        assert repr(tree.devinterp).splitlines()[1] == plain[1]
        assert repr(tree.devinterp).splitlines()[-1] == plain[-1]  # what can be called


def test_an_extension_of_samples_is_analysed_and_drawn(installed: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib").use("Agg")
    installed(extension(tmp_path, "gradients", "devinterp/samples@1"))
    tree, plain = make_run(), make_run()
    tree.attrs["devinterp_schema"] = "lab/gradients@1"
    xr.testing.assert_identical(tree.devinterp.llc(), plain.devinterp.llc())
    assert tree.devinterp.diagnose() == plain.devinterp.diagnose()
    assert "diagnose() llc()" in repr(tree.devinterp)
    assert len(tree.devinterp.plot()) == len(plain.devinterp.plot())


@pytest.mark.parametrize("named", ["lab/gradients@1", "devinterp/samples@99", "nonsense", 7, None])
def test_variables_tell_where_the_schema_cannot(named: Any) -> None:
    study = make_study()
    made = {
        "samples": make_run(),
        "study": study,
        "series": make_series(),
        "sweep": make_sweep(**SWEEP),
        "sweep_summary": compute_sweep(make_sweep(**SWEEP)),
        "llc": compute_llc(make_run()),
        "bif": compute_bif(make_run()),
        "bif_topk": compute_bif(make_run(), top_k=1),
        "susceptibilities": compute_susceptibilities(study),
    }
    for kind, obj in made.items():
        obj = obj.copy()
        obj.attrs["devinterp_schema"] = named
        assert kind_of(obj) == kind
    assert kind_of(compute_susceptibilities(study)["susceptibilities"]) == "susceptibilities"
    assert kind_of(unflatten(compute_susceptibilities(study))) == "unflattened"
    unknown = xr.Dataset({"x": 1}, attrs={"devinterp_schema": named})
    assert kind_of(unknown) == {"lab/gradients@1": "gradients", "devinterp/samples@99": "samples"}.get(named, "unknown")


def test_a_broken_extension_does_not_keep_a_tree_from_being_looked_at(installed: Any, tmp_path: Path) -> None:
    installed(extension(tmp_path, "gradients", "lab/not_there@1"))
    tree = make_run()
    tree.attrs["devinterp_schema"] = "lab/gradients@1"
    assert kind_of(tree) == "samples"


def test_restrictions_and_observables_may_be_called_like_groups_of_results() -> None:
    names = ("full", "susceptibilities", "context")
    study = xr.DataTree.from_dict({f"/{name}": make_run(k).to_dataset() for k, name in enumerate(names)})
    assert kind_of(study) == "study"
    study = make_study(rows={"train": 3, "susceptibilities": 2, "context": 2})
    assert kind_of(unflatten(compute_susceptibilities(study))) == "unflattened"


def test_a_part_of_a_result_is_refused_by_the_picture_that_it_is_not_enough_for() -> None:
    pytest.importorskip("matplotlib").use("Agg")
    with pytest.raises(devinterp.errors.MissingVariableError, match="nothing here to draw"):
        compute_llc(make_run())[["loss_trace"]].devinterp.plot.llc()
    with pytest.raises(devinterp.errors.MissingVariableError, match="nothing here to draw"):
        compute_bif(make_run())[["input_ids"]].devinterp.plot.influence()


@pytest.mark.parametrize("obj", [None, {"full": 1}, np.zeros(3), xr.DataArray(0)])
def test_what_is_no_tree_is_refused(obj: Any) -> None:
    with pytest.raises(SettingError, match="DataTree or xarray"):
        kind_of(obj)
