"""The estimands: for each its schema, the function that computes it, its options, table and picture.

The accessor's overview, the command line, reports and the pages of the documentation read this table. Whoever adds an
estimand writes its schema and its function, a row here, and a method of the accessor. Names of functions are strings,
resolved on use: reading the table imports nothing.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

__all__ = ["ESTIMANDS", "Estimand", "Option", "parameter_docs", "resolve"]

RUNS = ("samples", "study", "series", "sweep")


@dataclass(frozen=True)
class Option:
    """One option of an estimand: an argument of its function, as its signature and docstring have it."""

    name: str
    type: Any
    default: Any
    doc: str


@dataclass(frozen=True, kw_only=True)
class Estimand:
    """What can be estimated from a run, and where everything about it stands.

    Attributes
    ----------
    kind : str
        Name of its schema, of the accessor's method and of the command.
    title : str
        What it is called in running text.
    variable : str
        The variable that its results have, and nothing else has.
    compute : str
        ``module:function``; its first argument is the tree, its docstring says what each option means.
    takes : tuple of str
        The kinds of trees that it is computed from.
    sampling : str
        ``module:function`` that samples and computes in one call, where there is one.
    variants : mapping of str to str
        Other schemas that its results may have, with their titles.
    then : tuple of str
        What can be called on a result, besides ``validate()`` and ``report()``.
    picture : str
        The method of `devinterp.plot.PlotAccessor` that draws a result, where there is one.
    section : str
        ``module:function`` from a report's subject to its part of the page, none where it is empty; by default its
        numbers as a table.
    documented : tuple of str
        Further public functions, ``module:function``, that its part of the API page describes.
    renamed : mapping of str to str
        Options that the command line calls otherwise.
    hidden : tuple of str
        Options that the command line does not have.
    adapt : str
        ``module:function`` that fits the options to where the command line writes a result.
    records, screen : str
        ``module:function``: a result as rows of a table, and printed for people.
    heads : mapping of str to str
        What the screen calls a column, where its name does not say it.
    examples : tuple of str
        Calls that the command's help shows.
    """

    kind: str
    title: str
    variable: str
    compute: str
    takes: tuple[str, ...] = RUNS
    sampling: str = ""
    variants: Mapping[str, str] = field(default_factory=dict)
    then: tuple[str, ...] = ()
    picture: str = ""
    section: str = "devinterp.report.analyses:numbers"
    documented: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()
    adapt: str = ""
    records: str = "devinterp.cli.records:records"
    screen: str = "devinterp.cli.records:screen"
    heads: Mapping[str, str] = field(default_factory=dict)
    examples: tuple[str, ...] = ()

    @property
    def named(self) -> str:
        """The title with its article."""
        return self.title if self.title.endswith("s") else f"the {self.title}"

    def function(self) -> Callable[..., Any]:
        """Return the function that computes it."""
        found: Callable[..., Any] = resolve(self.compute)
        return found

    def options(self) -> list[Option]:
        """Return the options of the function: every argument but the tree."""
        function = self.function()
        names = vars(import_module(function.__module__))
        docs = parameter_docs(function)
        _, *arguments = inspect.signature(function).parameters.values()
        return [
            # Annotations are strings; what only type checkers import (torch) has no type here, and no command has it.
            Option(a.name, None if a.name in self.hidden else eval(a.annotation, names), a.default, _said(a.name, docs))
            for a in arguments
        ]


def resolve(dotted: str) -> Any:
    """Return what ``module:name`` names."""
    module, _, name = dotted.partition(":")
    return getattr(import_module(module), name)


def _said(name: str, docs: Mapping[str, str]) -> str:
    """What a parameter means, also where its docstring says no more than which function's it is like."""
    where = re.match(r"As in `(devinterp[\w.]*)\.(\w+)`\.", docs[name])
    return docs[name] if where is None else _said(name, parameter_docs(resolve(f"{where[1]}:{where[2]}")))


def parameter_docs(function: Any) -> dict[str, str]:
    """Return what a numpydoc docstring says of each parameter, stars included in the names, as one line each."""
    text = inspect.getdoc(function) or ""
    found: dict[str, list[str]] = {}
    names: list[str] = []
    for section in re.findall(
        r"(?:^|\n)(?:(?:Other )?Parameters|Attributes)\n-+\n(.*?)(?=\n\w[\w ]*\n-+\n|\Z)", text, flags=re.S
    ):
        for line in section.splitlines():
            if line and not line.startswith(" "):
                names = [name.strip() for name in line.split(" : ")[0].split(",")]
                found |= {name: [] for name in names}
            elif line.strip():
                for name in names:
                    found[name].append(line.strip())
    return {name: " ".join(lines) for name, lines in found.items()}


ESTIMANDS: dict[str, Estimand] = {
    each.kind: each
    for each in (
        Estimand(
            kind="llc",
            title="local learning coefficient",
            variable="llc_mean",
            compute="devinterp.slt.llc:compute_llc",
            sampling="devinterp.slt.llc:llc",
            picture="llc",
            documented=("devinterp.slt.llc:data_refined_llc",),
            section="devinterp.report.analyses:llc",
            heads={"llc_mean": "LLC", "llc_std": "std", "llc_scalar": "LLC (pooled)"},
            examples=(
                "run.zarr",
                "run.zarr --over observable --ci 0.9",
                "series.zarr -o llc.csv",
                "old.zarr --over steps --burnin --format json",
            ),
        ),
        Estimand(
            kind="wbic",
            title="widely applicable Bayesian information criterion",
            variable="wbic",
            compute="devinterp.slt.information.wbic:compute_wbic",
            takes=("samples", "study", "series"),
            examples=("run.zarr", "series.zarr --num-samples 5000 --over observable -o wbic.csv"),
        ),
        Estimand(
            kind="waic",
            title="widely applicable information criterion",
            variable="waic",
            compute="devinterp.slt.information.waic:compute_waic",
            examples=("run.zarr", "run.zarr --num-samples 5000", "series.zarr --per sequence -o waic.csv"),
        ),
        Estimand(
            kind="temperature",
            title="limit of the local learning coefficient",
            variable="limit",
            compute="devinterp.slt.sweep.temperature:compute_temperature",
            takes=("sweep",),
            examples=("trials.zarr", "trials.zarr --largest 2 -o limits.csv"),
        ),
        Estimand(
            kind="susceptibilities",
            title="susceptibilities",
            variable="sus",
            compute="devinterp.slt.susceptibilities:compute_susceptibilities",
            takes=("study", "series"),
            sampling="devinterp.slt.susceptibilities:susceptibilities",
            then=("unflatten()", "matrix()", "pca()", "tokens()", "plot"),
            picture="susceptibilities",
            section="devinterp.report.analyses:susceptibilities",
            documented=tuple(
                f"devinterp.slt.susceptibilities.{name}"
                for name in (
                    "by_observable:unflatten",
                    "by_observable:flatten",
                    "matrix:matrix",
                    "matrix:pca",
                    "split_half:split_half",
                )
            ),
            renamed={"observable_names": "observables"},
            records="devinterp.cli.records:sus_records",
            screen="devinterp.cli.records:show_susceptibilities",
            examples=(
                "study.zarr",
                "study.zarr --se -o sus.zarr",
                "study.zarr --observables code,prose --baseline observable -o sus.csv",
            ),
        ),
        Estimand(
            kind="bif",
            title="Bayesian influence function",
            variable="influences",
            compute="devinterp.slt.bif:compute_bif",
            takes=("samples", "series"),
            sampling="devinterp.slt.bif:bif",
            variants={"bif_topk": "strongest influences"},
            then=("tokens()", "plot"),
            picture="influence",
            section="devinterp.report.analyses:influence",
            documented=("devinterp.slt.bif.strongest:topk_of_source",),
            renamed={
                "correlation_method": "method",
                "loss_keys": "observables",
                "batch_index_range_1": "queries",
                "batch_index_range_2": "corpus",
                "average_tokenwise_bif": "average",
                "compute_covariance": "covariance",
            },
            hidden=("reduce_chain_dimension_method", "batch_size", "device", "lazy", "output_path", "allow_mixed"),
            adapt="devinterp.cli.records:fit_bif",
            records="devinterp.cli.records:bif_records",
            screen="devinterp.cli.records:show_bif",
            examples=(
                "run.zarr --method sequence",
                "run.zarr -o influence.zarr",
                "run.zarr --queries code --corpus prose --top-k 5 -o partners.csv",
            ),
        ),
        Estimand(
            kind="reweighting",
            title="predicted effects of reweighting",
            variable="effects",
            compute="devinterp.slt.bif.reweighting:compute_reweighting",
            takes=("samples",),
            section="",
            renamed={
                "correlation_method": "method",
                "loss_keys": "observables",
                "batch_index_range_1": "weighted",
                "batch_index_range_2": "changed",
            },
            records="devinterp.cli.records:pair_records",
            screen="devinterp.cli.records:show_bif",
            examples=("run.zarr --num-samples 5000", "run.zarr --weighted code --changed prose --se -o effects.csv"),
        ),
    )
}
"""By kind, in the order that people read of them."""
