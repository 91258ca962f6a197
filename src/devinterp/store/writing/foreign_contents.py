"""What a store holds beside what its request asks for: it stays, or the store is refused before anything is written.

Attributes that no schema declares, the id of a schema that extends ours, arrays that it declares.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from devinterp.errors import SchemaError, StoreConflictError
from devinterp.schema import validate
from devinterp.schema.checks.bind import load_by_id
from devinterp.schema.reading.keys import document_key
from devinterp.store.reading.path_state import read_group

if TYPE_CHECKING:
    from devinterp.store.location import Location
    from devinterp.store.writing.run import Run

__all__ = ["check_growth", "keep_others", "other_arrays"]


def keep_others(run: Run) -> None:
    """Have the run keep what lies in its groups beside its own: attributes, and documents of other arrays."""
    for group in (*run.containers, *run.requests):
        document = read_group(run.location, group)
        if document is not None:
            run.kept_attributes[group] = document.get("attributes", {})
            run.kept_documents.update(other_arrays(run.location, group, _names(run, group)))


def other_arrays(location: Location, group: str, known: Iterable[str]) -> dict[str, bytes]:
    """Return the documents of arrays of a group that are not among the ``known``, by their keys."""
    found = {}
    for name in set(location.list_dir(group.strip("/"))) - set(known):
        key = document_key(group, name)
        raw = None if name.startswith(".") or name.endswith(".json") else location.get(key)
        if raw is not None and json.loads(raw).get("node_type") == "array":
            found[key] = raw
    return found


def check_growth(run: Run, grown: Mapping[str, set[str]]) -> None:
    """Refuse a completed store that could not be whole again after it has grown.

    Parameters
    ----------
    run : Run
        With what it keeps (`keep_others`).
    grown : mapping of str to set of str
        By group, the dimensions that get longer.

    Raises
    ------
    StoreConflictError
        It is of a schema that is not installed, is not valid, or holds arrays of an extension along a dimension that
        would grow: nobody here knows their values.
    """
    for group, attributes in run.kept_attributes.items():
        named = attributes.get("devinterp_schema")
        why = _unknown(named) if isinstance(named, str) else None
        if why is not None:
            raise StoreConflictError(
                f"{run.location.name} cannot grow: the schema {named!r} {_of(group)} {why}, so that nobody could say "
                "whether the store is valid afterwards.",
                remedy="Install the package that registers the schema, or sample into another output_path.",
            )
    for key, raw in run.kept_documents.items():
        group, _, name = key.rpartition("/")[0].rpartition("/")
        dims = json.loads(raw).get("dimension_names") or []
        longer = sorted(grown.get(f"/{group}", set()) & set(dims))
        if longer:
            raise StoreConflictError(
                f"{run.location.name} cannot grow along {', '.join(longer)}: it holds {name!r}, which sampling did not "
                "write and cannot make longer.",
                expected="variables of the run alone",
                found=f"{name} ({', '.join(map(str, dims))})",
                remedy="Remove that variable first and write it again afterwards, or sample into another output_path.",
            )
    report = validate(run.location.read_only().store, level="structure")
    if not report.ok:
        first = report.errors[0]
        raise StoreConflictError(
            f"{run.location.name} cannot grow: it is not valid as it is. {first.code} {first.path}: {first.message}",
            expected=first.expected,
            found=first.found,
            remedy="See devinterp.validate for all of it; mend the store, or sample into another output_path.",
        )


def _names(run: Run, group: str) -> set[str]:
    layout = run.layout(group) if group in run.requests else run.containers[group].layout()
    return set() if layout is None else set(layout.arrays)


def _of(group: str) -> str:
    return "that it names" if group == "/" else f"that its group {group.strip('/')!r} names"


def _unknown(identity: str) -> str | None:
    """Say why a schema cannot be asked, None where it can."""
    try:
        return "is not installed" if load_by_id(identity, "strict") is None else None
    except SchemaError as error:
        return f"cannot be loaded ({error})"
