"""What xarray wraps around a stored array that it opens lazily and gives out as it is, and what is inside."""

from __future__ import annotations

from typing import Any

import xarray as xr
import zarr

try:
    from xarray.backends.zarr import ZarrArrayWrapper
    from xarray.core.indexing import CopyOnWriteArray, LazilyIndexedArray, MemoryCachedArray
except ImportError:  # they are not public: where another xarray has moved them, the ways around them are not taken
    LAYERS: tuple[Any, ...] = ()
else:
    LAYERS = (MemoryCachedArray, CopyOnWriteArray, LazilyIndexedArray, ZarrArrayWrapper)

__all__ = ["LAYERS", "stored_array"]


def stored_array(variable: xr.Variable) -> tuple[zarr.Array[Any] | None, Any]:
    """Return the stored array that a variable is lazily read from, and the indexer into it, or None."""
    data: Any = variable._data
    while type(data) in LAYERS[:2]:  # xarray puts them around what an engine gives out, once more where they are there
        data = data.array
    if tuple(map(type, (data, getattr(data, "array", None)))) != LAYERS[2:]:
        return None, None
    handle = data.array._array
    return (handle, data.key) if isinstance(handle, zarr.Array) else (None, None)
