"""Names of devinterp 0 to 2.0: each works, answers by its successor, or says where its work is done now."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from devinterp import _renamed
from devinterp.errors import RenamedError, StoreConflictError

# Read from the wheels on PyPI: every public name that a module of theirs defines, or had taken from another one of the
# package; of 3 every name that an API page had; and what public programs import that no release had, or had as private.
RELEASES = json.loads((Path(__file__).parent / "data" / "old_names.json").read_text())
NAMES = sorted({(m, n) for release in RELEASES.values() for m, names in release.items() for n in names})
# What of 2.0.1 is still called as it was; to_obs_id, whose one argument has another name, is called by position.
CALLS = json.loads((Path(__file__).parent / "data" / "old_signatures.json").read_text())
MODULES = sorted({m for release in RELEASES.values() for m in release})
ALIASES = sorted((m, n) for m, names in _renamed.OLD_NAMES.items() for n, told in names.items() if told.startswith(">"))


@pytest.fixture(autouse=True)
def nobody_was_warned(monkeypatch):
    monkeypatch.setattr(_renamed, "_warned", set())


@pytest.mark.needs("torch")
@pytest.mark.parametrize("module", MODULES)
def test_every_old_module_can_be_imported(module):
    import_module(module)


@pytest.mark.needs("torch")
@pytest.mark.parametrize(("module", "name"), NAMES, ids=[".".join(n) for n in NAMES])
def test_every_old_name_is_answered(module, name):
    told = None if name in vars(import_module(module)) else _renamed.told_of(module, name)
    if told is None:
        assert hasattr(import_module(module), name), "neither here nor in the table"
    elif told.startswith(">"):
        with pytest.warns(DeprecationWarning, match="is now"):
            assert getattr(import_module(module), name) is not None
    else:
        with pytest.raises(ImportError) as caught:
            exec(f"from {module} import {name}", {})
        assert isinstance(caught.value, RenamedError)
        assert caught.value.remedy.startswith(told)


@pytest.mark.needs("torch")
def test_the_page_says_how_many_names_are_answered_and_by_what():
    told = [_renamed.told_of(m, n) for m, n in NAMES if n not in vars(import_module(m))]
    told = [each for each in told if each is not None]  # what a module makes when it is asked is there
    alias = sum(each.startswith(">") for each in told)
    page = (Path(__file__).parents[1] / "docs" / "howto" / "migrate.md").read_text(encoding="utf-8")
    counted = r"had (\d+) public.*?: (\d+) are where they were, (\d+) still work.*? and (\d+) raise"
    (numbers,) = re.findall(counted, page, re.S)
    assert [*map(int, numbers)] == [len(NAMES), len(NAMES) - len(told), alias, len(told) - alias]


def test_the_table_has_nothing_that_works():
    """A row over a name that there is would never be read."""
    for module, names in _renamed.OLD_NAMES.items():
        for name in names:
            real = sys.modules.get(module)
            assert real is None or name not in vars(real), f"{module}.{name}"


@pytest.mark.needs("torch")
@pytest.mark.parametrize(("module", "name"), ALIASES)
def test_an_alias_is_its_successor_and_warns_once_at_the_line_that_uses_it(module, name):
    where, _, new = _renamed.OLD_NAMES[module][name][1:].partition(":")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = [getattr(import_module(module), name) for _ in range(3)]
    assert all(each is getattr(import_module(where), new) for each in found)
    assert [(w.category, w.filename) for w in told] == [(DeprecationWarning, __file__)]


@pytest.mark.needs("torch")
@pytest.mark.parametrize(("called", "signature"), CALLS.items())
def test_what_can_still_be_called_takes_the_arguments_that_it_took(called, signature):
    module, _, name = called.rpartition(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        now = inspect.signature(getattr(import_module(module), name)).parameters
    scope: dict[str, Any] = {}
    exec(f"def old{signature}: ...", scope)
    old = inspect.signature(scope["old"]).parameters.values()
    at = [p.name for p in old if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [p.name for p in now.values() if p.kind is p.POSITIONAL_OR_KEYWORD][: len(at)] == at
    assert {p.name for p in old} <= set(now)
    defaults = {p.name: p.default for p in old if p.default is not p.empty}
    assert defaults == {name: now[name].default for name in defaults}


@pytest.mark.needs("torch")
def test_old_helpers_compute_what_they_computed():
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from devinterp.slt.lm_loss import lm_cross_entropy_loss, lm_forward_logits
        from devinterp.slt.observables import to_obs_id
    assert to_obs_id("1 my data-set!") == "_1_my_data_set_"
    model, ids = torch.nn.Embedding(7, 7), torch.tensor([[1, 2, 3], [4, 5, 6]])
    logits = lm_forward_logits(model, ids)
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    torch.testing.assert_close(lm_cross_entropy_loss(logits, ids), expected)


def test_a_name_that_never_was_is_an_attribute_error_and_a_module_that_never_was_is_not_found():
    import devinterp.utils

    assert not hasattr(devinterp.utils, "nothing")
    with pytest.raises(ModuleNotFoundError):
        import_module("devinterp.nothing")


def test_a_star_takes_the_names_of_a_module_that_have_successors():
    scope: dict[str, Any] = {}
    with pytest.warns(DeprecationWarning, match="is now"):
        exec("from devinterp.slt.susceptibility_views import *", scope)
    assert {*_renamed.OLD_NAMES["devinterp.slt.susceptibility_views"]} <= {*scope}


def test_a_store_conflict_is_a_runtime_error_too():
    assert issubclass(StoreConflictError, RuntimeError | FileExistsError)
    with pytest.raises(RuntimeError, match="lies at"):
        raise StoreConflictError("Another request's store lies at the path.")


def test_old_names_answer_through_their_packages_and_by_a_star_and_cost_no_heavy_package():
    """What a package had imported was in it, and nothing said of a star left a NameError, lines later."""
    programs = (
        "import devinterp; devinterp.optim.sgld.SGLD",
        "import devinterp.slt as slt; slt.mala.MalaAcceptanceRate",
        "from devinterp import slt; slt.observables.Observable",
        "from devinterp.optim import *",
        "from devinterp.vis_utils import *",
        "from devinterp.zoo.test_utils import *",
    )
    code = f"""import sys
for program in {programs}:
    try:
        exec(program, {{}})
    except Exception as error:
        print(type(error).__name__)
print({{'torch', 'pandera'}} & set(sys.modules))"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == [*len(programs) * ["RenamedError"], "set()"]
