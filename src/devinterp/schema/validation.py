"""`validate`: one call for stores, trees and datasets, that always ends with a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from devinterp.errors import MissingDependencyError, SettingError, StoreError
from devinterp.schema.checks.completeness import check_completeness
from devinterp.schema.checks.recognise import choose_schema, fitting_node
from devinterp.schema.checks.structure import check_structure, offer_profile, run_rules
from devinterp.schema.checks.values import check_values
from devinterp.schema.definition.frozen import FrozenMapping
from devinterp.schema.findings.codes import RuleCode
from devinterp.schema.findings.report import Collector, Report, clip
from devinterp.schema.reading.access import Access, open_access
from devinterp.schema.reading.limits import Limits
from devinterp.schema.reading.memory_tree import read_view
from devinterp.schema.reading.memory_values import ViewValues
from devinterp.schema.reading.store_tree import read_store
from devinterp.schema.reading.store_values import StoreValues
from devinterp.schema.rules.bound import Bound

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from pathlib import Path

    import xarray as xr
    import zarr
    from zarr.abc.store import Store

    from devinterp.schema.definition.schema import Schema
    from devinterp.schema.definition.spec import Level

__all__ = ["validate"]

LEVELS: tuple[Level, ...] = ("structure", "completeness", "values")


def validate(
    target: str | os.PathLike[str] | Store | zarr.Group | xr.DataTree | xr.Dataset,
    *,
    profile: str = "strict",
    level: Level = "values",
    schema: str | Path | Mapping[str, Any] | Schema | None = None,
    consolidated: bool | None = None,
    limits: Limits | None = None,
    storage_options: dict[str, Any] | None = None,
    follow_links: bool = False,
) -> Report:
    """Check a store, tree or dataset against its schema, and report everything that is wrong at once.

    Nothing of the store is run, nothing is written, and memory stays within ``limits.memory``.

    Parameters
    ----------
    target : path, URL, zarr Store or Group, DataTree or Dataset
        A URL is anything that fsspec knows; a path may be a ZIP archive of a store. A tree or dataset in memory may be
        a selection: sizes are then not compared with settings.
    profile : str
        ``strict``: exactly the schema. ``open``: undeclared names only warn. ``devinterp-2.0``: as devinterp 2.0 wrote.
    level : {"structure", "completeness", "values"}
        ``structure`` reads metadata alone. ``completeness`` also looks whether every chunk is there, and no other.
        ``values`` also reads the data, chunk by chunk. Each includes those before it.
    schema : str, Path, mapping or Schema, optional
        What to check against, as `load` takes it. By default what the attribute ``devinterp_schema`` names; where there
        is none, the kind is recognised by its names.
    consolidated : bool, optional
        Whether to take consolidated metadata; by default where they are there.
    limits : Limits, optional
        Bounds on memory, sizes and numbers.
    storage_options : dict, optional
        Passed to fsspec for a URL.
    follow_links : bool
        Whether symbolic links may lead out of the store's folder, as those of git-annex and DVC do. Only for stores of
        people that you trust: a link can name any file that you can read.

    Returns
    -------
    Report
        ``report.ok`` says whether there was an error; ``report.raise_for_errors()`` raises `ValidationError`.

    Raises
    ------
    SettingError
        ``target`` or ``level`` is nothing that can be validated.
    SchemaError
        The schema or profile that was asked for does not exist.
    """
    if level not in LEVELS:
        raise SettingError("There is no such level.", expected=" or ".join(LEVELS), found=repr(level))
    bounds = limits or Limits()
    findings = Collector()
    if _in_memory(target):
        return _validate_view(target, profile, level, schema, bounds, findings)
    try:
        access = open_access(target, storage_options, bounds.memory, follow_links=follow_links)
    except (StoreError, MissingDependencyError) as error:
        findings.add(RuleCode.UNREADABLE, "/", error.problem, expected=error.expected, remedy=error.remedy)
        return _report(str(target), profile, level, None, findings)
    return _validate_store(access, profile, level, schema, consolidated, bounds, findings)


def _in_memory(target: Any) -> bool:
    import sys

    xarray = sys.modules.get("xarray")  # nobody has a DataTree who has not imported it
    return xarray is not None and isinstance(target, xarray.DataTree | xarray.Dataset)


def _validate_view(target: Any, profile: str, level: Level, asked: Any, limits: Limits, findings: Collector) -> Report:
    root = read_view(target)
    name = f"<{type(target).__name__} in memory>"
    only, schema = None, None
    if asked is None and not hasattr(target, "children") and "devinterp_schema" not in root.attrs:
        fitting = fitting_node(root, profile)
        if fitting is not None:
            schema, node = fitting
            only = Bound(schema, node, root, root, root)
    if only is None:
        schema = choose_schema(root, asked, profile, findings)
    if schema is None:
        return _report(name, profile, level, None, findings)
    checked = check_structure(root, schema, findings, limits, only)
    values = ViewValues(limits)
    if level != "structure":
        run_rules(checked, "completeness", values, findings)
    if level == "values":
        check_values(checked, values, limits, findings)
        run_rules(checked, "values", values, findings)
    findings.skip("/", "sizes against settings, storage and chunks", "the tree is in memory, and may be a selection")
    if only is None:
        offer_profile(root, schema, findings, limits)
    return _report(name, profile, level, schema, findings)


def _validate_store(
    access: Access,
    profile: str,
    level: Level,
    asked: Any,
    consolidated: bool | None,
    limits: Limits,
    findings: Collector,
) -> Report:
    tree = read_store(access, limits, findings, consolidated)
    if tree is None:
        return _report(access.name, profile, level, None, findings)
    schema = choose_schema(tree.root, asked, profile, findings)
    if schema is None:
        return _report(access.name, profile, level, None, findings)
    checked = check_structure(tree.root, schema, findings, limits)
    values = StoreValues(access, limits)
    if level != "structure":
        check_completeness(access, tree, checked, values, limits, findings)
        run_rules(checked, "completeness", values, findings)
    if level == "values":
        check_values(checked, values, limits, findings)
        run_rules(checked, "values", values, findings)
    offer_profile(tree.root, schema, findings, limits)
    return _report(access.name, profile, level, schema, findings)


def _report(name: str, profile: str, level: Level, schema: Schema | None, findings: Collector) -> Report:
    return Report(
        target=clip(name, 2000),
        profile=profile,
        level=level,
        schema=None if schema is None else schema.id,
        kind=None if schema is None else schema.kind,
        findings=findings.findings(),
        checked=FrozenMapping(findings.checked),
        not_checked=findings.not_checked(),
    )
