"""The table of estimands is whole: every row's schema, functions, options, command and method are there."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest
import typer
import typer.main
from made_runs import make_run, make_study

from devinterp.accessor import DevinterpAccessor
from devinterp.cli.analyse import command
from devinterp.cli.app import build
from devinterp.plot import PlotAccessor
from devinterp.schema import load
from devinterp.slt.estimands import ESTIMANDS, RUNS, Estimand, parameter_docs, resolve
from devinterp.slt.runs.kind import kind_of
from devinterp.slt.runs.tree_overview import calls

EACH = pytest.mark.parametrize("estimand", ESTIMANDS.values(), ids=list(ESTIMANDS))


@EACH
def test_all_that_a_row_names_is_there(estimand: Estimand) -> None:
    for kind in (estimand.kind, *estimand.variants):
        assert load(kind).kind == kind
        assert any(node.find(estimand.variable) for node in load(kind).nodes)
    named = [estimand.compute, estimand.sampling, estimand.section, estimand.records, estimand.screen, estimand.adapt]
    for dotted in filter(None, [*named, *estimand.documented]):
        assert callable(resolve(dotted)), dotted
    assert set(estimand.takes) <= set(RUNS)
    assert hasattr(DevinterpAccessor, estimand.kind)
    assert not estimand.picture or callable(getattr(PlotAccessor, estimand.picture))
    for call in estimand.then:
        assert hasattr(DevinterpAccessor, call.removesuffix("()"))
    arguments = set(inspect.signature(estimand.function()).parameters)
    assert {*estimand.renamed, *estimand.hidden} <= arguments
    assert importlib.import_module(estimand.compute.partition(":")[0]).__doc__


@EACH
def test_each_option_has_a_meaning_that_the_command_line_shows(estimand: Estimand) -> None:
    app = typer.Typer()
    app.command()(command(estimand))
    shown = {p.name: p for p in typer.main.get_command(app).params}
    for option in estimand.options():
        assert option.doc, option.name
        called = estimand.renamed.get(option.name, option.name)
        if option.name in estimand.hidden:
            assert called not in shown
            continue
        assert shown[called].help == " ".join(option.doc.replace("`", "").split())
        assert shown[called].default == option.default


def test_a_command_that_is_not_asked_for_is_only_named() -> None:
    names = list(typer.main.get_command(build(())).commands)
    assert names == list(typer.main.get_command(build()).commands)
    assert [len(c.params) for n, c in typer.main.get_command(build(())).commands.items() if n in ESTIMANDS] == [
        0
    ] * len(ESTIMANDS)


def test_the_table_is_read_without_what_it_names() -> None:
    code = (
        "import sys, devinterp; from devinterp.slt.estimands import ESTIMANDS;"
        "print([m for m in sys.modules if m in {e.compute.split(':')[0] for e in ESTIMANDS.values()}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_overview_offers_what_takes_a_tree_and_that_alone() -> None:
    for obj in (make_run(), make_study()):
        kind = kind_of(obj)
        offered = calls(kind).split()
        assert [f"{e.kind}()" for e in ESTIMANDS.values() if f"{e.kind}()" in offered] == [
            f"{e.kind}()" for e in ESTIMANDS.values() if kind in e.takes
        ]
        assert "validate()" in offered


def test_parameters_that_share_a_line_share_what_is_said() -> None:
    def function(a, b, *rest):
        """Do.

        Parameters
        ----------
        a, b : int
            Two
            numbers.
        *rest

        Returns
        -------
        c : int
            Not a parameter.
        """

    assert parameter_docs(function) == {"a": "Two numbers.", "b": "Two numbers.", "*rest": ""}


@pytest.mark.parametrize("kind", ESTIMANDS)
def test_an_option_says_what_it_means_also_where_its_docstring_names_another_function(kind):
    said = {option.name: option.doc for option in ESTIMANDS[kind].options()}
    assert not [name for name, text in said.items() if text.startswith("As in")]
    assert said["allow_partial"].startswith("Accept")
