"""A declared variable, written into a store that is there: validated beforehand, and all of it or nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore, WrapperStore

from devinterp.errors import DataError, MissingVariableError, StoreExistsError
from devinterp.schema import Schema, load, validate
from devinterp.schema.checks.bind import bind_tree
from devinterp.schema.checks.recognise import choose_schema
from devinterp.schema.definition.layout import array_attributes, chunk_shape
from devinterp.schema.definition.spec import ArrayLayout, Level, VariableSpec, legal_dims
from devinterp.schema.definition.suggest import suggestion
from devinterp.schema.findings.report import Collector
from devinterp.schema.reading.access import open_access
from devinterp.schema.reading.keys import DOCUMENT, STATE_FOLDER, document_key, join_key
from devinterp.schema.reading.limits import Limits
from devinterp.schema.reading.nodes import GroupNode
from devinterp.schema.reading.store_tree import gathered_documents, read_store
from devinterp.schema.rules.bound import Bound, members_of
from devinterp.store.filesystem import remove_empty
from devinterp.store.location import Location, StoreLike, locate
from devinterp.store.lock import LOCK_KEY, WriterLock
from devinterp.store.reading.open import root_document
from devinterp.store.zarr_metadata import group_document, open_array
from devinterp.wording import one_of

__all__ = ["write_variable", "write_variables"]


def write_variable(
    target: StoreLike,
    name: str,
    values: Any,
    *,
    group: str = "/",
    schema: str | Path | Mapping[str, Any] | Schema | None = None,
    profile: str = "strict",
    attributes: Mapping[str, Any] | None = None,
    level: Level = "values",
) -> None:
    """Add a variable that the schema declares to a store that is complete.

    Where a schema requires several that are not there, `write_variables` adds them in one.

    The store is validated as it will be before anything is written. Then chunks are written first, the array's own
    document next, the documents of the group and of the root last: a reader sees the store as it was, or as it is
    then. Whoever is killed on the way calls again.

    Parameters
    ----------
    target : path, URL or zarr Store
        A completed run, study or result.
    name : str
        As the schema has it (``accuracy_code`` for ``accuracy_{obs}``).
    values : DataArray or array
        A DataArray is transposed to declared dimensions; of another array the shape must be that of declared ones.
        Numbers are converted to the declared data type where that loses no kind of number.
    group : str
        Path of the group.
    schema : str, Path, mapping or Schema, optional
        An extension of the schema that the group names, whose variable this is: from then on the group names it. Within
        a study it must be installed, so that readers find it.
    profile : str
    attributes : mapping, optional
        Attributes of the group to be set with it.
    level : {"values", "completeness", "structure"}
        How far the store is validated; ``values`` reads all of it.

    Raises
    ------
    MissingVariableError
        There is no such group, or the schema declares no such variable.
    DataError
        The values have other dimensions or another data type than declared.
    StoreExistsError
        The variable is there already.
    ValidationError
        The store is not valid, or would not be; it was left as it was.
    StoreLockedError
        A live process writes to the store.
    """
    write_variables(
        target, {name: values}, group=group, schema=schema, profile=profile, attributes=attributes, level=level
    )


def write_variables(
    target: StoreLike,
    variables: Mapping[str, Any],
    *,
    group: str = "/",
    schema: str | Path | Mapping[str, Any] | Schema | None = None,
    profile: str = "strict",
    attributes: Mapping[str, Any] | None = None,
    level: Level = "values",
) -> None:
    """Add several variables to one group, all of them or none; everything else as `write_variable`.

    Parameters
    ----------
    target : path, URL or zarr Store
    variables : mapping of str to DataArray or array
        Values by name; a Dataset is one too.
    group, schema, profile, attributes, level
        As of `write_variable`.
    """
    location = locate(target, mode="w")
    root_document(location)
    path = "/" + group.strip("/")
    # A session of icechunk is its own transaction, and takes no lock of ours.
    lock = WriterLock(location, LOCK_KEY) if location.takes_any_key() else nullcontext()
    try:
        with lock:
            extension = None if schema is None else schema if isinstance(schema, Schema) else load(schema)
            new = dict(attributes or {}) | ({} if extension is None else {"devinterp_schema": extension.id})
            asked = extension if path == "/" else None
            # What the schema so far does not declare is what a call that was killed has left.
            root = _read(location)
            named = next((g.attrs.get("devinterp_schema") for g in root.subtree() if g.path == path), None)
            there = _bind(root, path, asked if asked is not None and named == asked.id else None, profile, {})
            for name in variables:
                if name in there.group.arrays and name in there.variables:
                    raise StoreExistsError(
                        f"The variable {name!r} is in {location.name} already; it was left untouched.",
                        remedy="Write it under another name, or into a copy of the store without it.",
                    )
            bound = _bind(root, path, asked, profile, new)
            beside = set(str(bound.group.attrs.get("coordinates", "")).split())
            for name in variables:
                bound.group.arrays.pop(name, None)
            blocks = []
            for name, values in variables.items():
                spec, placeholders = _declared(bound, name)
                layout, block = _lay_out(bound, name, spec, placeholders, values)
                _refuse_other_places(location, bound, layout, values)
                if spec.role == "coordinate" and layout.dims != (name,):
                    new["coordinates"] = " ".join(sorted(beside := beside | {name}))
                blocks.append((layout, block))
            items = _objects(location, bound, blocks, new)
            arrays = [join_key(path, name) for name in variables]
            after = Overlay(location.store, items, arrays)
            validate(after, schema=asked, profile=profile, level=level).raise_for_errors()
            _write(location, arrays, items)
    finally:
        if location.folder is not None:
            remove_empty(location.folder / STATE_FOLDER)


def _read(location: Location) -> GroupNode:
    tree = read_store(open_access(location.store), Limits(), Collector(), None)
    if tree is None:
        raise MissingVariableError(f"There is no group in {location.name}.")
    return tree.root


def _bind(root: GroupNode, path: str, asked: Schema | None, profile: str, new: Mapping[str, Any]) -> Bound:
    """Return the group with the schema that it has with these attributes."""
    findings, limits = Collector(), Limits()
    group = next((g for g in root.subtree() if g.path == path), None)
    if group is None:
        raise MissingVariableError(f"There is no group {path!r} in the store.")
    group.attrs.update(new)
    schema = choose_schema(root, asked, profile, findings)
    bounds = {} if schema is None else {b.path: b for b in bind_tree(root, schema, findings, limits)}
    if path not in bounds:
        raise MissingVariableError(f"The schema declares no group {path!r}.", found=new.get("devinterp_schema"))
    return bounds[path]


def _declared(bound: Bound, name: str) -> tuple[VariableSpec, dict[str, str]]:
    found = bound.node.find(name)
    names = {**bound.group.arrays, name: None}  # where no list says which members there are, names do
    members = members_of(bound.schema, bound.node, bound.root.attrs, names)
    if found is None or not all(member in members.get(family, {}) for family, member in found[1].items()):
        raise MissingVariableError(
            f"The schema {bound.schema.id} declares no variable {name!r}.",
            expected=one_of(sorted(bound.variables)),
            remedy=suggestion(name, bound.variables)
            or "Declare it in a schema that extends this one, and pass that as schema=.",
        )
    return found


def _lay_out(
    bound: Bound, name: str, spec: VariableSpec, placeholders: Mapping[str, str], values: Any
) -> tuple[ArrayLayout, NDArray[Any]]:
    legal = legal_dims(spec, placeholders)
    if np.ma.is_masked(values):
        raise DataError(
            f"Some values of {name!r} are masked.",
            expected="numbers",
            found=f"{int(np.ma.getmaskarray(values).sum())} masked",
            remedy="Fill them: values.filled(...).",
        )
    given = values if isinstance(values, xr.DataArray) else np.asarray(values)
    if isinstance(given, xr.DataArray):
        dims = next((d for d in legal if set(d) == set(given.dims)), None)
        block = np.asarray(given.transpose(*dims).values) if dims is not None else np.asarray(given.values)
    else:
        dims, block = next((d for d in legal if len(d) == given.ndim), None), np.asarray(given)
    if dims is None:
        raise DataError(
            f"The values of {name!r} have other dimensions than declared.",
            expected=" or ".join(map(str, legal)),
            found=tuple(given.dims) if isinstance(given, xr.DataArray) else f"{given.ndim} dimensions",
        )
    known = {d: n for a in bound.group.arrays.values() for d, n in zip(a.dims, a.shape, strict=True)}
    wrong = {d: n for d, n in zip(dims, block.shape, strict=True) if known.get(d, n) != n}
    if wrong:
        raise DataError(
            f"The values of {name!r} have other sizes than what is in the store.",
            expected={d: known[d] for d in wrong},
            found=wrong,
        )
    attrs = array_attributes(spec, placeholders)
    if isinstance(given, xr.DataArray):
        attrs = {**attrs, **{str(k): v for k, v in given.attrs.items()}}
    layout = ArrayLayout(
        name, dims, block.shape, spec.dtype, spec.fill, chunk_shape(spec, dims, block.shape), attrs, spec
    )
    return layout, _as_declared(name, spec, block)


def _refuse_other_places(location: Location, bound: Bound, layout: ArrayLayout, values: Any) -> None:
    """Refuse values whose coordinates say that they belong elsewhere than where they would come to lie."""
    coordinates = values.coords if isinstance(values, xr.DataArray) else {}
    for dim, size in zip(layout.dims, layout.shape, strict=True):
        if dim not in coordinates or dim not in bound.variables:
            continue
        theirs, ours = np.asarray(coordinates[dim].values), np.arange(size)
        if dim in bound.group.arrays:
            stored = zarr.open_array(location.store, path=join_key(bound.path, dim), mode="r")
            ours = np.asarray(stored[...])
        if theirs.dtype.kind in "iuf" and not np.array_equal(theirs, ours):
            raise DataError(
                f"The values of {layout.name!r} are not those of the places along {dim!r} in the store.",
                expected=ours.tolist()[:8],
                found=theirs.tolist()[:8],
                remedy=f"Select or sort them as they lie there: values.sel({dim}=...).",
            )


def _as_declared(name: str, spec: VariableSpec, block: NDArray[Any]) -> NDArray[Any]:
    if spec.dtype in ("string", "text"):
        right = block.dtype.kind in "UT" or all(isinstance(v, str) for v in block.ravel().tolist())
        wanted: Any = np.dtypes.StringDType()
    else:
        wanted = np.dtype(spec.dtype)
        right = np.can_cast(block.dtype, wanted, "same_kind")
    if not right:
        raise DataError(f"The values of {name!r} are of the wrong kind.", expected=spec.dtype, found=str(block.dtype))
    with np.errstate(over="ignore"):  # what is not a number then is for its checks to say
        return block.astype(wanted)


def _objects(
    location: Location,
    bound: Bound,
    blocks: Iterable[tuple[ArrayLayout, NDArray[Any]]],
    new: Mapping[str, Any],
) -> dict[str, bytes]:
    """Return every object that is to be written, by its key, in the order of writing."""
    memory = Location(MemoryStore(), "memory", None, None)
    documents = {}
    for layout, block in blocks:
        array = join_key(bound.path, layout.name)
        handle = open_array(memory, array, layout, bound.schema.storage)
        handle[...] = block
        documents[array] = handle.metadata.to_buffer_dict(default_buffer_prototype())[DOCUMENT].to_bytes()
    chunks = {key: cast(bytes, memory.get(key)) for key in sorted(memory.list_keys())}
    out = {**chunks, **{document_key(array): raw for array, raw in documents.items()}}
    root = root_document(location)
    gathered = gathered_documents(root)
    below = None if gathered is None else {**gathered, **{a: json.loads(raw) for a, raw in documents.items()}}
    attributes = dict(root.get("attributes", {}))
    if bound.path == "/":
        attributes.update(new)
    elif new:
        key = bound.path.strip("/")
        own = json.loads(cast(bytes, location.get(document_key(key))))
        out[document_key(key)] = group_document({**own.get("attributes", {}), **new})
        if below is not None:
            below[key] = json.loads(out[document_key(key)])
    if below is not None or (bound.path == "/" and new):
        out[DOCUMENT] = group_document(attributes, below)
    return out


def _write(location: Location, arrays: Iterable[str], items: Mapping[str, bytes]) -> None:
    """Write objects in order; where one cannot be written, everything is as it was."""
    documents = [key for key in items if key.endswith(DOCUMENT)]
    before = {key: location.get(key) for key in documents}
    _clear(location, arrays)
    try:
        # A session of icechunk, nothing of which is seen before its commit, wants an array before its chunks.
        for key in items if location.takes_any_key() else sorted(items, key=lambda key: not key.endswith(DOCUMENT)):
            if documents and key == documents[0]:
                location.fsync(k for k in items if not k.endswith(DOCUMENT))
            location.set(key, items[key])
        location.fsync(documents)
    except BaseException:
        for key, old in before.items():
            if old is not None and location.get(key) != old:
                location.set(key, old)
        _clear(location, arrays)
        raise


def _clear(location: Location, arrays: Iterable[str]) -> None:
    """Remove what a call that failed or was killed has left of arrays."""
    for array in arrays:
        # icechunk is asked for nothing below what is not there; who cannot remove cannot write
        with suppress(Exception):
            location.delete_below(array)


class Overlay(WrapperStore[Store]):
    """A store with some objects as they would be."""

    def __init__(self, store: Store, items: Mapping[str, bytes] | None = None, arrays: Iterable[str] = ()) -> None:
        super().__init__(store)
        self._items, self._arrays = dict(items or {}), set(arrays)

    def __str__(self) -> str:
        return str(self._store)

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Return what would lie at ``key``."""
        if key not in self._items:
            return await self._store.get(key, prototype, byte_range)
        memory = MemoryStore({key: prototype.buffer.from_bytes(self._items[key])})
        return await memory.get(key, prototype, byte_range)

    async def getsize(self, key: str) -> int:
        """Return the size of what would lie at ``key``."""
        return len(self._items[key]) if key in self._items else await self._store.getsize(key)

    async def exists(self, key: str) -> bool:
        """Whether something would lie at ``key``."""
        return key in self._items or await self._store.exists(key)

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield every key below ``prefix``."""
        if prefix.strip("/") not in self._arrays:  # of which nothing is there yet
            async for key in self._store.list_prefix(prefix):
                if key not in self._items:
                    yield key
        for key in self._items:
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names directly below ``prefix``."""
        start = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        names = {key.removeprefix(start).partition("/")[0] for key in self._items if key.startswith(start)}
        async for name in self._store.list_dir(prefix):
            names.add(name.strip("/"))
        for name in sorted(names):
            yield name
