"""Open a store as a lazily loaded `xarray.DataTree`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from devinterp.errors import (
    ChainFailedWarning,
    IncompleteStoreError,
    MissingVariableError,
    SettingError,
    StoreError,
    StoreNotFoundError,
    warn_caller,
)
from devinterp.plain_json import dig
from devinterp.schema.checks.recognise import has_completed
from devinterp.schema.findings.codes import RuleCode
from devinterp.schema.reading.store_tree import gathered_documents
from devinterp.store.location import Location, StoreLike, locate
from devinterp.store.reading.fast_open import open_many_groups
from devinterp.store.reading.path_state import read_group
from devinterp.store.reading.unreadable import refuse_unreadable

__all__ = ["failed_chains", "open_store", "open_tree", "root_document"]


def open_store(
    target: StoreLike,
    *,
    group: str | None = None,
    profile: str = "strict",
    level: Literal["structure", "completeness", "values"] | None = "structure",
    consolidated: bool | None = None,
    chunks: Any = None,
    allow_partial: bool = False,
    storage_options: dict[str, Any] | None = None,
    follow_links: bool = False,
) -> xr.DataTree:
    """Open and validate a store.

    Parameters
    ----------
    target : path, URL or zarr Store
    group : str, optional
        Open only this group and what lies below it (``"l0h0"``, ``"512/full"``); the whole store is validated.
    profile : str
        ``strict``, ``open`` or ``devinterp-2.0``.
    level : {"structure", "completeness", "values"} or None
        How far to validate first; None opens without a look.
    consolidated : bool, optional
        Whether to read consolidated metadata; by default where it is there.
    chunks : int, dict or "auto", optional
        As in `xarray.open_datatree`: opens dask arrays instead of lazily loaded ones.
    allow_partial : bool
        Open a store whose run has not completed.
    storage_options : dict, optional
        Passed to fsspec for a URL.
    follow_links : bool
        Whether validation accepts symbolic links out of the store's folder; see `devinterp.validate`.

    Returns
    -------
    xarray.DataTree

    Raises
    ------
    StoreNotFoundError
        There is nothing there.
    IncompleteStoreError
        The run has not completed and ``allow_partial`` is False.
    ValidationError
        The store breaks its schema; the error carries every finding.
    MissingVariableError
        There is no such group.
    """
    location = locate(target, storage_options=storage_options)
    document = root_document(location)
    attributes = document.get("attributes", {})
    if "devinterp_schema" in attributes and not has_completed(attributes) and not allow_partial:
        raise IncompleteStoreError(
            f"The run in {location.name} has not completed.",
            remedy="Call sample() again with the same arguments to resume it, or open it with allow_partial=True.",
        )
    if level is not None:
        from devinterp.schema import validate

        report = validate(location.store, profile=profile, level=level, follow_links=follow_links)
        if allow_partial:
            report = report.without("incomplete")
        report.raise_for_errors()
    tree = open_tree(location, consolidated=consolidated, chunks=chunks)
    return tree if group is None else _below(tree, group, location.name)


def _below(tree: xr.DataTree, group: str, name: str) -> xr.DataTree:
    """Return a group with what lies below it, as a tree of its own."""
    if not isinstance(group, str):
        raise SettingError("A group is named by its path.", expected="text, such as 'full'", found=repr(group))
    found = {node.path: node for node in tree.subtree}.get("/" + group.strip("/"))
    if found is None:
        raise MissingVariableError(
            f"There is no group {group!r} in {name}.",
            expected=", ".join(g.strip("/") for g in tree.groups[1:21]) or "no group but the root",
        )
    return tree if found is tree else found.copy()


def root_document(location: Location) -> Mapping[str, Any]:
    """Return the root group's ``zarr.json``, or raise what says why there is none."""
    document = read_group(location)
    if document is None:
        if location.folder is not None and not Path(location.folder).exists():
            raise StoreNotFoundError(f"There is no store at {location.name}.")
        if location.folder is not None and not Path(location.folder).is_dir():
            raise StoreNotFoundError(
                f"{location.name} is a file.", expected="the folder of a store, or its ZIP archive (.zip)"
            )
        if _is_older(location):
            raise StoreError(
                f"{location.name} is a Zarr v2 store.",
                expected="Zarr v3",
                remedy=RuleCode.ZARR_V2.remedy,
            )
        inside = sorted(p.name for p in Path(location.folder).glob("*.zarr")) if location.folder is not None else []
        raise StoreNotFoundError(
            f"There is no Zarr group at {location.name}.",
            expected="a zarr.json",
            remedy=f"Name a store in this folder: {', '.join(inside[:5])}." if inside else None,
        )
    return document


def _is_older(location: Location) -> bool:
    """Whether there are documents of Zarr v2."""
    try:
        return location.exists(".zgroup") or location.exists(".zmetadata")
    except KeyError:  # icechunk takes no such key
        return False


def open_tree(location: Location, *, consolidated: bool | None = None, chunks: Any = None) -> xr.DataTree:
    """Open without validating; warn of failed chains in a completed store."""
    document = root_document(location)
    location = location.watched()
    if consolidated is None:
        consolidated = gathered_documents(document) is not None
    try:
        tree = open_many_groups(location, document) if consolidated and chunks is None else None
        if tree is None:
            with warnings.catch_warnings():
                # The state folder of a run that goes on is not part of the hierarchy, and need not be.
                warnings.filterwarnings("ignore", message=r"Object at \.devinterp", category=UserWarning)
                tree = xr.open_datatree(
                    location.store,  # type: ignore[arg-type]  # xarray takes Zarr stores, and does not say so
                    engine="zarr",
                    consolidated=consolidated,
                    chunks=chunks,
                    zarr_format=3,  # else Zarr v2's documents are asked for, which some servers answer with 403
                )
    except Exception as error:  # zarr raises a bare TypeError, ValueError ... at metadata that it does not read
        refuse_unreadable(location, document, consolidated, error)
        raise
    _make_names_drawable(tree)
    warn_of_failed_chains(tree, location.name)
    return tree


def _make_names_drawable(tree: xr.DataTree) -> None:
    """Give index coordinates of text the one type that xarray draws along; a store goes on holding what it holds."""
    for node in tree.subtree:
        names = [n for n in node.to_dataset(inherit=False).indexes if node.coords[n].dtype.kind in "TO"]
        for name in names:
            variable = node.coords[name].variable
            if all(isinstance(value, str) for value in variable.values):
                text = variable.copy(data=np.array(variable.values.tolist(), np.str_))
                node.dataset = node.to_dataset(inherit=False).assign_coords({name: text})


def failed_chains(tree: xr.DataTree) -> list[str]:
    """Say of every failed chain of a completed store which it is, at what step it ended, and why."""
    failed = []
    for node in tree.subtree:
        chains = dig(node.attrs, "metadata.run.chains") if node.attrs.get("completed") else None
        for index, chain in enumerate(chains if isinstance(chains, list) else []):
            if dig(chain, "status") == "failed":
                where = "" if node.path == "/" else f"{node.path.strip('/')} "
                failed.append(f"{where}chain {index} at step {chain.get('step')} ({chain.get('reason')})")
    return failed


def warn_of_failed_chains(tree: xr.DataTree, name: str) -> None:
    """Warn once, naming every failed chain of a completed store."""
    failed = failed_chains(tree)
    if failed:
        warn_caller(
            f"{name}: {len(failed)} chain(s) failed and are left out of every analysis: {'; '.join(failed[:10])}.",
            ChainFailedWarning,
        )
