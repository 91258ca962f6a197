"""Edits of the catalogue that take more than one call of `StoreEditor`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from devinterp.schema.rules.row_hash import hash_rows
from devinterp.testing.mutations.store_editor import StoreEditor

# ---- documents and folders


def link_to_itself(store: StoreEditor, key: str) -> None:
    """Make the object at a key a symbolic link to itself."""
    store.delete(key)
    (store.folder / key).symlink_to(store.folder / key)


def link_array_out(store: StoreEditor, path: str) -> None:
    """Move an array's folder out of the store, and leave a symbolic link to it."""
    outside = store.folder.parent / f"{store.folder.name}-outside"
    (store.folder / path).rename(outside)
    (store.folder / path).symlink_to(outside, target_is_directory=True)


def link_document_out(store: StoreEditor, path: str) -> None:
    """Make an array's document a symbolic link to a file of the system."""
    store.delete(f"{path}/zarr.json")
    (store.folder / path / "zarr.json").symlink_to("/etc/hostname")


def add_foreign_array(store: StoreEditor, name: str) -> None:
    """Write a group with an array of another program."""
    group = zarr.create_group(store.location.store, zarr_format=3)
    group.create_array(name, shape=(2,), dtype="f4", dimension_names=["time"])[...] = 1.0


def rename_every_array(store: StoreEditor, prefix: str) -> None:
    """Put a prefix before the names of all arrays of the root."""
    for path in list(store.arrays()):
        store.rename(path, f"{prefix}{path}")


def copy_document(store: StoreEditor, source: str, target: str) -> None:
    """Write the document of one node as that of another."""
    store.write_document(target, store.document(source))


def add_consolidated(store: StoreEditor, name: str, like: str) -> None:
    """List a node in the consolidated metadata, with the document of another."""
    document = store.document()
    gathered = document["consolidated_metadata"]["metadata"]
    gathered[name] = gathered[like]
    store.write_document("", document)


def forget_consolidated(store: StoreEditor, name: str) -> None:
    """Drop a node from the consolidated metadata."""
    document = store.document()
    del document["consolidated_metadata"]["metadata"][name]
    store.write_document("", document)


def nest_groups(store: StoreEditor, name: str, depth: int) -> None:
    """Put groups into each other."""
    for level in range(depth):
        store.add_group("/".join([name] * (level + 1)))


def add_groups(store: StoreEditor, prefix: str, count: int) -> None:
    """Add many groups."""
    for index in range(count):
        store.add_group(f"{prefix}{index}")


def nest_attributes(store: StoreEditor, path: str, depth: int) -> None:
    """Put attributes into each other."""
    text = json.dumps({**store.document(path), "attributes": "@"})
    store.put(f"{path}/zarr.json", text.replace('"@"', '{"a":' * depth + "1" + "}" * depth))


def nest_document(store: StoreEditor, key: str, depth: int) -> None:
    """Write a document of nothing but opening brackets."""
    store.put(key, "[" * depth)


def add_large_attribute(store: StoreEditor, name: str, length: int) -> None:
    """Put a long text into an attribute of the root."""
    store.set_attribute("", name, "x" * length)


def append_attribute(store: StoreEditor, path: str, dotted: str, value: Any) -> None:
    """Append to a list of the attributes."""
    found = store.document(path)["attributes"]
    for part in dotted.split("."):
        found = found[part]
    store.set_attribute(path, dotted, [*found, value])


# ---- chunks


def put_noise(store: StoreEditor, key: str, length: int) -> None:
    """Write random bytes at a key."""
    store.put(key, bytes(np.random.default_rng(0).integers(0, 256, length, dtype=np.uint8)))


def put_bomb(store: StoreEditor, path: str, checksum: bool = True) -> None:
    """Make an array's first chunk a few kilobytes that say that they hold 50 megabytes."""
    import google_crc32c
    from numcodecs.zstd import Zstd

    packed = Zstd(level=1).encode(np.zeros(50_000_000, dtype=np.uint8))
    tail = google_crc32c.value(packed).to_bytes(4, "little") if checksum else b""
    store.put(store.chunks(path)[0], packed + tail)


# ---- values


def transpose(store: StoreEditor, path: str, axes: list[int], names: list[str]) -> None:
    """Write an array's values with its axes in another order."""
    store.rewrite(path, {"dimension_names": names}, np.transpose(store.read(path), axes))


def double(store: StoreEditor, path: str) -> None:
    """Write an array's values twice, one after the other."""
    store.rewrite(path, values=np.concatenate([store.read(path)] * 2))


def mix_up_metrics(store: StoreEditor) -> None:
    """Make dot products with the noise as large as norms, and larger than the noise's."""
    store.change("metrics_dot_grad_noise", lambda dots: np.abs(dots) + store.read("metrics_noise") + 1.0)


def break_symmetry(store: StoreEditor) -> None:
    """Change the influence of sequence 0 on sequence 1, and not the other."""

    def change(values: NDArray[Any]) -> None:
        first, second = (int(np.argmax(store.read(f"batch_{i + 1}") == i)) for i in (0, 1))
        values[first, second] = 0.987 if values[first, second] < 0 else -0.987

    store.change("influences", change)


def break_diagonal(store: StoreEditor) -> None:
    """Change the correlation of a loss with itself."""
    first, second = store.read("batch_1"), store.read("batch_2")
    store.set_value("influences", f"0, {np.argmax(second == first[0])}, 1, 1", 0.5)


def repeat_cell(store: StoreEditor, source: str, target: str) -> None:
    """Give the last cell of a sweep the settings of the first one, in the root and in the cell."""
    for name in ("lr", "n_beta", "localization"):
        value = float(store.read(name)[0])
        store.set_value(name, 2, value)
        store.set_attribute(target, f"metadata.config.sampler.{name}", value)
    store.set_value(f"{target}/n_beta", "...", store.read(f"{source}/n_beta"))


def _keep(store: StoreEditor, condition: Callable[..., NDArray[np.bool_]]) -> None:
    keep = condition(*(store.read(f"context/{name}") for name in ("dataset_id", "batch", "position")))
    for path in [p for p in store.arrays() if p.startswith("context/")]:
        store.rewrite(path, values=store.read(path)[keep])


def drop_last_position(store: StoreEditor) -> None:
    """Leave the last token of every row out of the context."""
    _keep(store, lambda dataset, row, position: position < position.max())


def drop_last_observable(store: StoreEditor) -> None:
    """Remove the tokens of the last observable."""
    _keep(store, lambda dataset, row, place: dataset < dataset.max())


def fill_masked(store: StoreEditor, path: str, mask: str) -> None:
    """Put a loss where no position counts."""
    first = np.argwhere(store.read(mask) == 0)[0].tolist()
    leading = store.read(path).ndim - len(first)
    store.set_value(path, ", ".join(map(str, [*[0] * leading, *first])), 1.0)


def mask_row(store: StoreEditor, mask: str, row: int | str, losses: list[str]) -> None:
    """Let no position of a row count."""
    store.set_value(mask, row, 0)
    for path in losses:
        leading = store.read(path).ndim - store.read(mask).ndim
        store.set_value(path, ", ".join([*[":"] * leading, str(row)]), float("nan"))


def record_rows(store: StoreEditor, obs: str) -> None:
    """Record the hash of an observable's rows as they are."""
    visited = hash_rows(store.read(f"input_ids_{obs}"))
    store.set_attribute("", "metadata.provenance.observables", {obs: {"visited": visited}})


def reverse(store: StoreEditor, path: str) -> None:
    """Reverse the first dimension of an array."""
    store.change(path, lambda values: values[::-1].copy() if len(values) > 1 else values + 1)


def bump(store: StoreEditor, path: str) -> None:
    """Change the last value of an array into another that is legal there and in no other row."""

    def change(values: NDArray[Any]) -> None:
        values.flat[-1] = values.max() + 1 if values.ndim == 1 else (values.flat[-1] + 1) % 50

    store.change(path, change)


def drop_last_row(store: StoreEditor) -> None:
    """Leave the last row of the first observable out of the context."""
    _keep(store, lambda dataset, row, position: (dataset != 0) | (row < max(1, row[dataset == 0].max())))
