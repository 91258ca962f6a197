"""Find a schema document, check it against the grammar, apply what it extends, and freeze it."""

from __future__ import annotations

import copyreg
import json
from collections.abc import Mapping
from functools import cache, lru_cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml

from devinterp.errors import SchemaError, warn_caller
from devinterp.schema.definition.build import freeze_schema
from devinterp.schema.definition.extend import merge_documents
from devinterp.schema.definition.schema import Schema
from devinterp.schema.definition.suggest import closest
from devinterp.wording import one_of, shown

__all__ = ["available", "find_schema", "load", "load_document", "schemas_folder", "usable"]

ENTRY_POINT_GROUP = "devinterp.schemas"


@cache
def schemas_folder() -> Path:
    """Return the folder of the documents: inside an installed package, or beside ``src`` in a checkout."""
    package = Path(__file__).resolve().parents[2]
    installed, checkout = package / "_schemas", package.parents[1] / "schemas"
    for folder in (installed, checkout):
        if (folder / "grammar.schema.json").is_file():
            return folder
    raise SchemaError(
        "The folder schemas/ is not there.",
        expected=f"{installed} (installed) or {checkout} (editable)",
        remedy="Reinstall devinterp: the wheel carries it.",
    )


def available() -> dict[str, Path]:
    """Return the ids of every schema that can be loaded by name, ours and those of entry points, with their files."""
    found = _ours()
    for identity, path in _installed():
        found.setdefault(identity, path)
    return found


def find_schema(identity: str) -> Path | None:
    """Return the file of an installed schema by its full id, or None; ``identity`` is never taken as a path."""
    # Entry points cost a look at every installed distribution: 25 ms.
    return _ours().get(identity) or dict(reversed(_installed())).get(identity)


@lru_cache(maxsize=1)
def _installed() -> tuple[tuple[str, Path], ...]:
    """Ids and files of the schemas that other packages register; one that is broken is left out, with a warning."""
    found = []
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            # The entry's value names a package and, after the colon, a document inside it: nothing is called.
            path = _entry_path(entry.module, entry.attr)
            document = load_document(path)
        except (Exception, SystemExit) as error:  # whatever another package does wrong harms nothing but itself
            _leave_out(f"The schema that the entry point {entry.name!r} names", f"{type(error).__name__}: {error}")
            continue
        found.append((f"{document['schema']}@{document['version']}", path))
    return tuple(found)


@lru_cache(maxsize=256)  # once each
def _leave_out(what: str, why: str) -> None:
    warn_caller(f"{what} cannot be used, and is left out: {why}")


def usable() -> dict[str, Schema]:
    """Return every schema that can be loaded by name; what is installed and broken is left out, with a warning.

    A document may be sound and no longer fit what it extends, or extend itself in a circle.
    """
    found = {}
    ours = _ours()
    for identity, path in available().items():
        try:
            found[identity] = load(path)
        except (SchemaError, OSError) as error:
            if identity in ours:
                raise
            _leave_out(f"The installed schema {identity!r}", str(error))
    return found


def _ours() -> dict[str, Path]:
    paths = sorted(schemas_folder().glob("*.yaml"))
    return {f"{document['schema']}@{document['version']}": p for p in paths for document in [load_document(p)]}


def _entry_path(module: str, attribute: str) -> Path:
    from importlib.resources import files

    target = files(module).joinpath(*attribute.split(".")) if attribute else files(module)
    for candidate in (Path(str(target)), Path(f"{target}.yaml")):
        if candidate.is_file():
            return candidate
    raise SchemaError(
        f"The entry point {module}:{attribute} of group {ENTRY_POINT_GROUP!r} names no schema document.",
        expected=f"a file {target}.yaml",
    )


@lru_cache(maxsize=1)
def _grammar() -> Any:
    import jsonschema

    document = json.loads((schemas_folder() / "grammar.schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(document)


_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's reads ten times as fast


class _StrictLoader(_Safe):  # type: ignore[misc]
    """SafeLoader that refuses a key given twice, which YAML itself would silently let the last win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        own = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = sorted({k for k in own if own.count(k) > 1})
        if twice:
            raise SchemaError(f"The key {twice[0]!r} is given twice in a schema document ({node.start_mark}).")
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


@lru_cache(maxsize=64)
def _read(path: Path, stamp: tuple[int, int]) -> Any:
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SchemaError(f"{path} is not a YAML document: {error}") from error
    check_grammar(document, str(path))
    if path.parent != schemas_folder():
        _check_attributes(document, str(path))
    return document


def load_document(path: str | Path) -> dict[str, Any]:
    """Read one document and check it against the grammar, without applying what it extends."""
    path = Path(path)
    if not path.is_file():
        raise SchemaError(
            f"There is no schema document at {path}.", remedy=f"Known by name: {shown(sorted(_names()))}."
        )
    status = path.stat()
    document: dict[str, Any] = _read(path, (status.st_mtime_ns, status.st_size))
    return document


def _names() -> list[str]:
    return [p.stem for p in schemas_folder().glob("*.yaml")]


def check_grammar(document: object, source: str) -> None:
    """Raise `SchemaError` with every place where ``document`` leaves the grammar."""
    problems = sorted(_grammar().iter_errors(document), key=lambda e: list(map(str, e.absolute_path)))
    if problems:
        lines = [f"  {'/'.join(map(str, e.absolute_path)) or '(top)'}: {e.message[:200]}" for e in problems[:20]]
        raise SchemaError(f"{source} breaks the schema grammar in {len(problems)} place(s):\n" + "\n".join(lines))


def _check_attributes(document: Mapping[str, Any], source: str) -> None:
    """Raise `SchemaError` where what a document says of attributes is not JSON Schema, or leads elsewhere."""
    import jsonschema

    own = {f"nodes/{path}": node.get("attributes") for path, node in document.get("nodes", {}).items()}
    for name, profile in document.get("profiles", {}).items():
        own |= {f"profiles/{name}{path}": schema for path, schema in profile.get("attributes", {}).items()}
    for place, schema in own.items():
        try:
            jsonschema.Draft202012Validator.check_schema(schema or {})
        except jsonschema.SchemaError as error:
            where = "/".join(map(str, error.absolute_path))
            raise SchemaError(
                f"{source} has attributes that are not JSON Schema, at {place}/{where}: {error.message}"
            ) from error
        if reference := _reference(schema):
            raise SchemaError(
                f"{source} refers to another schema for attributes, at {place}.",
                expected="a JSON Schema that stands by itself: nothing is fetched to validate a store",
                found=reference,
            )


def _reference(schema: Any) -> str | None:
    inner = schema.values() if isinstance(schema, Mapping) else schema if isinstance(schema, list) else ()
    own = [str(schema[key]) for key in ("$ref", "$dynamicRef") if isinstance(schema, Mapping) and key in schema]
    return own[0] if own else next((found for value in inner if (found := _reference(value))), None)


def load(source: str | Path | Mapping[str, Any], *, profile: str = "strict") -> Schema:
    """Load a schema.

    Parameters
    ----------
    source : str, Path or mapping
        A kind (``"samples"``), an id (``"devinterp/samples@1"``), the path of a document, or a document.
    profile : str
        ``strict``, ``open``, ``devinterp-2.0``, or another that the document declares.

    Returns
    -------
    Schema

    Raises
    ------
    SchemaError
        The document is not there, breaks the grammar, loosens what it extends, or has no such profile.
    """
    if isinstance(source, Mapping):
        check_grammar(source, "The document")
        _check_attributes(source, "The document")
        return _build(dict(source), profile)
    path = _locate(source)
    status = path.stat()
    return _load(path, (status.st_mtime_ns, status.st_size), profile)


@lru_cache(maxsize=64)
def _load(path: Path, stamp: tuple[int, int], profile: str) -> Schema:
    return _build(load_document(path), profile)


def _restore(document: dict[str, Any], profile: str, extends: tuple[str, ...]) -> Schema:
    """Return the schema that was pickled: the installed one where that says the same, since a schema is itself."""
    own = freeze_schema(document, profile, extends, partial(load, profile=profile))
    path = find_schema(own.id)
    installed = None if path is None else load(path)
    if installed is None or installed.to_dict() != own.to_dict():
        return own
    return load(str(path), profile=profile)


def _reduce(schema: Schema) -> tuple[Any, ...]:
    return (_restore, (dict(schema.document), schema.profile, schema.extends))


copyreg.pickle(Schema, _reduce)


def _locate(source: str | Path) -> Path:
    if isinstance(source, Path) or str(source).endswith((".yaml", ".yml")):
        path = Path(source)
        if not path.is_file():
            raise SchemaError(f"There is no schema document at {path}.")
        return path
    text = str(source)
    folder = schemas_folder()
    if "@" not in text and "/" not in text and (folder / f"{text}.yaml").is_file():
        return folder / f"{text}.yaml"
    exact = find_schema(text)
    if exact is not None:
        return exact
    known = available()
    matches = [i for i in known if i == text or i.rsplit("@", 1)[0] == text]
    if matches:
        return known[max(matches, key=lambda i: int(i.rsplit("@", 1)[1]))]
    near = closest(text, [*_names(), *known])
    raise SchemaError(
        f"There is no schema {text!r}.",
        expected=one_of(sorted(known)),
        remedy=f"Did you mean {near!r}?"
        if near is not None
        else "Give the path of a YAML document, or install the package that registers it under "
        f"the entry-point group {ENTRY_POINT_GROUP!r}.",
    )


def _build(document: dict[str, Any], profile: str) -> Schema:
    chain: list[str] = []
    merged = document
    seen = {f"{document['schema']}@{document['version']}"}
    while "extends" in merged:
        base_id = merged["extends"]
        if base_id in seen:
            raise SchemaError(f"The schema {base_id!r} extends itself.")
        seen.add(base_id)
        chain.append(base_id)
        merged = merge_documents(load_document(_locate(base_id)), merged)
    return freeze_schema(merged, profile, tuple(chain), partial(load, profile=profile))
