"""Whether a store is this request's: what differs between what a call asks for and what the store records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from devinterp.errors import StoreConflictError
from devinterp.plain_json import dig, plain_json
from devinterp.schema import load
from devinterp.schema.definition.may_differ import settings_that, that
from devinterp.store.location import Location
from devinterp.store.reading.path_state import read_group
from devinterp.store.writing.request import Container, SamplesRequest
from devinterp.wording import shown

__all__ = ["compare_requests", "differences"]


def differences(ours: Any, theirs: Any, where: str = "metadata") -> Iterator[str]:
    """Yield one line per leaf that two JSON documents do not share."""
    if where in _volatile():
        return
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        # What lies beside our own parts of the metadata, and beside our own settings, is somebody's note.
        own = {"metadata": {"config", "provenance"}, "metadata.config": _settings()}.get(where, theirs)
        for key in sorted({*ours, *(key for key in theirs if key in own)}):
            yield from differences(ours.get(key), theirs.get(key), f"{where}.{key}")
    elif ours != theirs:
        name = where.removeprefix("metadata.config.sampler.").removeprefix("metadata.")
        yield f"{name}: the store has {shown(theirs, 60)}, this call {shown(ours, 60)}"


@cache
def _settings() -> frozenset[str]:
    """Names that a schema gives to what stands directly in ``metadata.config``."""
    path = "properties.metadata.properties.config.properties"
    roots = (load(kind).node("/").attributes for kind in ("samples", "study", "series", "sweep"))
    return frozenset(name for attributes in roots for name in dig(attributes, path))


@cache
def _volatile() -> frozenset[str]:
    """Facts of the run, not of the request: they may differ between two calls for the same numbers."""
    return frozenset(f"metadata.{entry.path}" for entry in that("resume", "freely"))


def compare_requests(
    location: Location,
    requests: Mapping[str, SamplesRequest],
    containers: Mapping[str, Container],
    *,
    interrupted: bool,
) -> bool:
    """Return whether the request asks for more than the store has: groups, chains or draws.

    Raises
    ------
    StoreConflictError
        They differ in anything else; the message names every difference.
    """
    found: list[str] = []
    growth = False
    parts: dict[str, Container | SamplesRequest] = {**containers, **requests}
    for path, asked in parts.items():
        document = read_group(location, path)
        if document is None:
            growth = True
            continue
        stored = dig(document, "attributes.metadata") or {}
        found += _part(path, stored)
        if isinstance(asked, SamplesRequest):
            wanted, more = _grown_numbers(plain_json(asked.metadata()), stored)
        else:
            wanted, more = _grown_lists(plain_json(asked.metadata), stored, asked.grows)
        growth |= more
        found += [_prefix(path) + line for line in differences(wanted, stored)]
    if found:
        shown = found[:20] + ([f"and {len(found) - 20} more"] if len(found) > 20 else [])
        state = "An interrupted run" if interrupted else "A completed store"
        raise StoreConflictError(
            f"{state} of another request lies at {location.name}:\n  " + "\n  ".join(shown) + "\n",
            remedy="Choose another output_path, or call again with the settings, model, data and masks of that store.",
        )
    return growth


def _part(path: str, stored: Mapping[str, Any]) -> list[str]:
    """A part of what was sampled is not what a call asks for, though every setting is the same."""
    selection = stored.get("selection")
    return [f"{_prefix(path)}selection: the store holds a part of a run: {shown(selection, 60)}"] if selection else []


def _prefix(path: str) -> str:
    return "" if path == "/" else f"{path.strip('/')}: "


def _grown_lists(wanted: Any, stored: Any, grows: tuple[str, ...]) -> tuple[Any, bool]:
    """Take what a list was appended to for equal, and say whether there was one."""
    config, before = dict(wanted.get("config", {})), stored.get("config", {})
    more = False
    for name in grows:
        new, old = config.get(name), before.get(name)
        if isinstance(new, list) and isinstance(old, list) and new != old and set(map(str, old)) < set(map(str, new)):
            config[name], more = old, True
    return {**wanted, "config": config}, more


def _grown_numbers(wanted: Any, stored: Any) -> tuple[Any, bool]:
    """Take more chains or draws for equal, and say whether there are more."""
    config = dict(wanted.get("config", {}))
    sampler, before = dict(config.get("sampler", {})), dig(stored, "config.sampler") or {}
    more = False
    for name in settings_that("resume", "grows"):
        new, old = sampler.get(name), before.get(name)
        if isinstance(new, int) and isinstance(old, int) and new > old:
            sampler[name], more = old, True
    config["sampler"] = sampler
    grown = {**wanted, "config": config}
    if more and "provenance" in grown:  # a longer run visits further rows of the same dataset
        own = stored.get("provenance", {})
        follows = [entry.path.removeprefix("provenance.") for entry in that("resume", "follows")]
        grown["provenance"] = {**grown["provenance"], **{name: own.get(name) for name in follows}}
    return grown, more
