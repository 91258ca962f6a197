"""Rows as torch collates them: tensors that have a row each along the first dimension, in dicts, lists and tuples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from devinterp.slt.sampling.inputs.callables import raw_bytes

__all__ = [
    "Batch",
    "Where",
    "each_tensor",
    "first_tokens",
    "hash_nested",
    "join",
    "num_rows",
    "take_rows",
    "tensors_within",
]

Where = slice | npt.NDArray[np.int64]
"""Which rows."""

_BLOCK_ROWS = 4096


class Batch(NamedTuple):
    """Rows that a loss is evaluated on.

    Attributes
    ----------
    rows : tensor, or dict, list or tuple of them
        What the loss is called with.
    counts : (batch, token_pos) bool tensor or None
        The positions that count; None where all do.
    tokens : bool
        Whether the rows are of token ids.
    """

    rows: Any
    counts: torch.Tensor | None = None
    tokens: bool = False

    @property
    def ids(self) -> torch.Tensor:
        """Token ids of rows that are of tokens, (batch, token) int64."""
        ids: torch.Tensor = self.rows["input_ids"] if isinstance(self.rows, dict) else self.rows
        return ids

    @property
    def beside(self) -> Mapping[str, torch.Tensor] | None:
        """What a language model is given beside the ids, where a token is missing."""
        return {n: t for n, t in self.rows.items() if n != "input_ids"} if isinstance(self.rows, dict) else None

    def where_counted(self, values: torch.Tensor, other: float) -> torch.Tensor:
        """Return values (batch, token_pos), with another number where the position does not count."""
        return values if self.counts is None else torch.where(self.counts, values, other)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        moved: Batch = each_tensor(self, lambda tensor: tensor.to(device))
        return moved

    def some(self, where: Where) -> Batch:
        """Return some of the rows."""
        taken: Batch = take_rows(self, where)
        return taken

    @property
    def size(self) -> int:
        """Number of rows."""
        return num_rows(self.rows)


def each_tensor(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return a copy of plain containers, with every tensor changed."""
    return _each(value, lambda leaf: change(leaf) if isinstance(leaf, torch.Tensor) else leaf)


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a copy of containers, with everything changed that is none of them; a list of text is none."""
    if isinstance(value, Mapping):
        return {key: _each(one, change) for key, one in value.items()}
    if isinstance(value, list | tuple) and not _is_text(value):
        return _like(value, tuple(_each(one, change) for one in value))
    return change(value)


def _like(value: Any, parts: tuple[Any, ...]) -> Any:
    """Return a list or tuple of the same type: named tuples take their fields one by one."""
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


def tensors_within(value: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor | Sequence[str | bytes]]]:
    """Yield the tensors, and the lists of text, of plain containers, each with the path to it."""
    if isinstance(value, torch.Tensor) or _is_text(value):
        yield path, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from tensors_within(one, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for key, one in enumerate(value):
            yield from tensors_within(one, f"{path}.{key}")


def num_rows(value: Any) -> int:
    """Return how many rows there are."""
    return len(next(tensors_within(value))[1])


def take_rows(value: Any, where: Where) -> Any:
    """Return some of the rows, in the same containers."""
    places = where if isinstance(where, slice) else torch.from_numpy(where)

    def take(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return leaf[places]
        if _is_text(leaf):
            return leaf[where] if isinstance(where, slice) else type(leaf)(leaf[place] for place in where)
        return leaf

    return _each(value, take)


def first_tokens(batch: Batch, rows: int, tokens: int) -> Batch | None:
    """Return the beginnings of the first rows, for a look at a model; None where the batch is hardly longer."""
    if not batch.tokens or batch.ids.numel() <= 2 * rows * tokens:
        return None
    counts = None if batch.counts is None else batch.counts[:rows, : tokens - 1].clone()
    return Batch(each_tensor(batch.rows, lambda each: each[:rows, :tokens].clone()), counts, tokens=True)


def join(parts: list[Any]) -> Any:
    """Put rows that were read one after the other together."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, torch.Tensor):
        return torch.cat(parts)
    if _is_text(first):
        return type(first)(text for part in parts for text in part)
    if isinstance(first, Mapping):
        return {key: join([part[key] for part in parts]) for key in first}
    return _like(first, tuple(join(list(same)) for same in zip(*parts, strict=True)))


def hash_nested(value: Any, positions: npt.NDArray[np.int64] | None = None) -> str:
    """Return the sha256 of rows: path, dtype, shape and bytes of every tensor."""
    digest = hashlib.sha256()
    for path, leaf in tensors_within(value):
        kind = f"{leaf.dtype}:{tuple(leaf.shape[1:])}" if isinstance(leaf, torch.Tensor) else "text"
        digest.update(f"{path}:{kind};".encode())
        for start in range(0, len(leaf if positions is None else positions), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            some = take_rows(leaf, block if positions is None else positions[block])
            if isinstance(some, torch.Tensor):
                digest.update(raw_bytes(some))
                continue
            for text in some:
                raw = text if isinstance(text, bytes) else text.encode()
                digest.update(f"{len(raw)}:".encode() + raw)
    return digest.hexdigest()


def _is_text(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], str | bytes)
