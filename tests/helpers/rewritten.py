"""Stores as other tools leave them: arrays written anew under other keys, chunks, shards, fill and codecs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from hypothesis import strategies as st
from zarr.codecs import BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec

from devinterp.store import locate
from devinterp.store.repair.apply import consolidate


def values(store: Path) -> dict[str, np.ndarray]:
    return {p.parent.name: zarr.open_array(p.parent, mode="r")[...] for p in sorted(store.glob("*/zarr.json"))}


def objects(store: Path) -> dict[str, bytes]:
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in store.rglob("*") if p.is_file()}


def rewrite(store: Path, name: str, data: np.ndarray | None = None, *, completed: bool = True, **how: Any) -> None:
    """Write an array of a store anew, as zarr itself would where nothing else is asked for."""
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    old = group[name]
    kept, attrs, dims = old[...] if data is None else data, dict(old.attrs), old.metadata.dimension_names
    array = group.create_array(
        name, shape=kept.shape, dtype=kept.dtype, attributes=attrs, dimension_names=dims, overwrite=True, **how
    )
    array[...] = kept
    if completed:
        consolidate(locate(store, mode="w"))


KEYS = st.builds(
    lambda name, separator: {"name": name, "separator": separator},
    st.sampled_from(["default", "v2"]),
    st.sampled_from(["/", "."]),
)


@st.composite
def rewrites(draw: Any, array: Any) -> dict[str, Any]:
    """How an array may be written anew: keys, chunks, shards, fill and codecs."""
    shape, kind = array.shape, array.dtype.kind
    chunks = tuple(draw(st.integers(1, n + 1)) for n in shape)
    how: dict[str, Any] = {"chunk_key_encoding": draw(KEYS), "chunks": chunks or "auto"}
    how["fill_value"] = draw(st.sampled_from([np.nan, 0.0, 1.5] if kind == "f" else [-1, 0, 7]))
    how["compressors"] = draw(
        st.sampled_from([None, [ZstdCodec()], [GzipCodec()], [ZstdCodec(), Crc32cCodec()], [Crc32cCodec()]])
    )
    how["serializer"] = BytesCodec(endian=draw(st.sampled_from(["little", "big"])))
    if len(shape) > 1 and draw(st.booleans()):
        how["filters"] = [TransposeCodec(order=tuple(reversed(range(len(shape)))))]
    if shape and draw(st.booleans()):
        how["shards"] = tuple(c * draw(st.integers(1, 3)) for c in chunks)
    how["config"] = {"write_empty_chunks": draw(st.booleans())}
    return how
