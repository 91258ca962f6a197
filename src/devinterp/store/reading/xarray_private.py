"""What xarray wraps around a stored array that it opens lazily and gives out as it is."""

from __future__ import annotations

from typing import Any

try:
    from xarray.backends.zarr import ZarrArrayWrapper
    from xarray.core.indexing import CopyOnWriteArray, LazilyIndexedArray, MemoryCachedArray
except ImportError:  # they are not public: where another xarray has moved them, the ways around them are not taken
    LAYERS: tuple[Any, ...] = ()
else:
    LAYERS = (MemoryCachedArray, CopyOnWriteArray, LazilyIndexedArray, ZarrArrayWrapper)

__all__ = ["LAYERS"]
