"""Reading blocks of a lazily opened array straight from its chunk files.

Zarr decodes every chunk on one event loop, through two copies that are got and given back each time: where a file lies
on this machine, that takes twice to three times as long as reading and decoding it, and two threads gain nothing. The
validator has a decoder of its own, because it must not trust sizes; analyses of local stores read through it as well
(one chunk: `devinterp.schema.reading.store_values`).
Measured on two cores: susceptibilities of a study 1.4 to 1.5 times as fast as through Zarr, for 31 to 47 MB more memory
(``tests/benchmarks/analysis``).
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype

from devinterp.errors import StoreError, StoreGoneError
from devinterp.plain_json import dig
from devinterp.schema.findings.report import Collector
from devinterp.schema.reading.access import LocalAccess
from devinterp.schema.reading.array_metadata import NUMERIC, fill_number, read_array_document
from devinterp.schema.reading.keys import DOCUMENT, join_key
from devinterp.schema.reading.limits import Limits
from devinterp.schema.reading.nodes import ArrayNode
from devinterp.schema.reading.store_values import StoreValues
from devinterp.schema.reading.target import plain_folder
from devinterp.store.location import refuse_gone
from devinterp.store.reading.xarray_private import stored_array
from devinterp.wording import shown

__all__ = ["block_reader", "refuse_gone_tree", "stored_size"]

BlockReader = Callable[[slice, slice], NDArray[Any]]


def block_reader(variable: xr.Variable) -> BlockReader:
    """Return a function that reads part of a variable along its first two dimensions.

    Parameters
    ----------
    variable : xarray.Variable
        At least two dimensions, opened lazily; slices of it (``isel``) as well.

    Returns
    -------
    callable
        Of two slices with start and stop, to an array that is the caller's: what ``variable[a, b].values`` is, to the
        byte. It may be called from several threads at once. Where the array does not lie in a folder of this machine,
        in codecs that the validator knows, or where a chunk cannot be read, xarray and Zarr read it, and raise what
        they raise.
    """

    def through_zarr(first: slice, second: slice) -> NDArray[Any]:
        # Indexing the variable, not a DataArray, keeps xarray from remembering the values of the whole.
        return np.asarray(variable[first, second].values)

    found = _stored(variable)
    if found is None:
        return through_zarr
    values, node, key, folder = found

    def direct(first: slice, second: slice) -> NDArray[Any]:
        region = {
            dim: slice(outer.start + inner.start, outer.start + inner.stop)
            for dim, outer, inner in zip(node.dims[:2], key[:2], (first, second), strict=True)
        } | {dim: slice(outer.start, outer.stop) for dim, outer in zip(node.dims[2:], key[2:], strict=True)}
        try:
            return values.read(node, region)
        except StoreError:
            refuse_gone(folder, join_key(node.path, "c"))
            return through_zarr(first, second)

    return direct


class _OpenedFolder(LocalAccess):
    """The folder of a tree that is open: what is read there goes the way of what zarr would read."""

    def get(self, key: str, limit: int) -> bytes | None:
        found = super().get(key, limit)
        if found is None:
            refuse_gone(Path(self.name), key)
        return found


def stored_size(variable: xr.Variable, dim: str) -> int | None:
    """Return the size along ``dim`` of the stored array that a variable is lazily read from; None where none is."""
    handle, _ = stored_array(variable)
    names = None if handle is None else handle.metadata.dimension_names  # type: ignore[union-attr]
    return None if handle is None or names is None or dim not in names else handle.shape[names.index(dim)]


def refuse_gone_tree(dataset: xr.Dataset) -> None:
    """Refuse a dataset that is lazily read from a folder which was moved, deleted or replaced, whoever opened it.

    It is asked once per analysis. Values that xarray and Zarr read by themselves (``tree["loss_a"].values``) are not:
    to notice there, every chunk would have to be preceded by another look at the disk.

    Raises
    ------
    StoreGoneError
    """
    handles = [stored_array(v)[0] for v in sorted(dataset.variables.values(), key=lambda v: -v.ndim)]
    stored = [(folder, h) for h in handles if h is not None and (folder := plain_folder(h.store)) is not None]
    if not stored:
        return
    folder, handle = stored[0]
    refuse_gone(folder, join_key(handle.path, "c"))
    array = folder / handle.path
    lying = _read(array / DOCUMENT).get("shape", list(handle.shape))
    grown = isinstance(lying, list) and len(lying) == len(handle.shape)
    if not (grown and all(new >= old for new, old in zip(lying, handle.shape, strict=True))):
        raise _replaced(
            array,
            f"the shape {shown(tuple(handle.shape))}, or a larger one",
            f"the shape {shown(tuple(lying) if isinstance(lying, list) else lying)}",
        )
    opened = _begun(dataset.attrs)
    if opened is not None and len({(folder / h.path).parent for folder, h in stored}) == 1:
        begun = _begun(_read(array.parent / DOCUMENT).get("attributes"))
        if begun not in (None, opened):
            raise _replaced(array.parent, f"the run that was begun {opened}", f"one that was begun {begun}")


def _begun(attrs: Any) -> Any:
    """Return when a run was begun, which it keeps when it is resumed or extended; None where that is not recorded."""
    environments = dig(attrs, "metadata.run.environments")
    return dig(environments[0], "started") if isinstance(environments, list) and environments else None


def _read(document: Path) -> Any:
    return json.loads(document.read_bytes()) if document.is_file() else {}


def _replaced(place: Path, expected: str, found: str) -> StoreGoneError:
    return StoreGoneError(
        f"Something else lies at {place} than was opened: the store was replaced.",
        expected=expected,
        found=found,
        remedy="Open the store again.",
    )


def _stored(variable: xr.Variable) -> tuple[StoreValues, ArrayNode, list[range], Path] | None:
    """Return where a variable lies and which part of the stored array it is; None where this is not plain to see."""
    handle, key = stored_array(variable)
    if handle is None or not all(isinstance(part, slice) and part.step in (None, 1) for part in key.tuple):
        return None
    folder = plain_folder(handle.store)
    if folder is None or handle.metadata.zarr_format != 3:
        return None
    node = _node(handle.metadata, handle.path)
    if node is None or node.storage is None or node.dtype not in NUMERIC or len(set(node.dims)) != len(node.shape):
        return None
    if np.dtype(node.dtype) != variable.dtype or fill_number(node.storage.fill) is None:
        return None
    values = StoreValues(_OpenedFolder(folder, follow_links=True), Limits())
    values.omittable.add(node.path)
    return values, node, [range(size)[part] for size, part in zip(node.shape, key.tuple, strict=True)], folder


# By the identity of zarr's metadata, which never change (an array that is resized gets others), and by where the array
# lies: arrays alike may share them. A run's arrays are read again and again, and to write and read a document took as
# long as to read the values of a small one.
_nodes: dict[tuple[int, str], tuple[weakref.ref[Any], ArrayNode | None]] = {}


def _node(metadata: Any, path: str) -> ArrayNode | None:
    place = id(metadata), path
    known = _nodes.get(place)
    if known is not None and known[0]() is metadata:
        return known[1]
    document = json.loads(metadata.to_buffer_dict(default_buffer_prototype())[DOCUMENT].to_bytes())
    node = read_array_document(document, f"/{path}", Limits(), Collector())
    _nodes[place] = weakref.ref(metadata, lambda _: _nodes.pop(place, None)), node
    return node
