"""Token rows: reading them from what the caller has, checking them, and the order in which chains visit them."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from devinterp.errors import DataError
from devinterp.names import check_observable_names
from devinterp.slt.sampling.settings import SamplerSettings

__all__ = ["Feed", "Observable", "SamplingData", "TokenRows", "build_observables", "check_vocabulary", "loader_order"]

IdArray = npt.NDArray[np.integer[Any]]

_BLOCK_ROWS = 4096
_LENGTH_ROWS = 1_000_000
_FINGERPRINT_ROWS = 64


class TokenRows:
    """Rows of token ids behind one interface: integer indices in, an (n, token) int64 array out.

    Parameters
    ----------
    data : datasets.Dataset, sequence of {"input_ids": ...}, or 2-D integer array or tensor
        The caller's dataset. It is read by index only and never changed.
    name : str
        What messages call it.

    Raises
    ------
    DataError
        It is empty, its ids are not integers, or its rows are not 1-D sequences of one length, at least 2.
    """

    def __init__(self, data: Any, name: str) -> None:
        self.name = name
        self._data = data
        self._kind = _kind_of(data, name)
        if self._kind == "huggingface":
            # A transform of the caller's (tokenising on the fly, say) stays; a mere output format is dropped.
            if data.format["type"] != "custom":
                self._data = data.with_format("numpy", columns=["input_ids"])
        elif self._kind == "array":
            self._data = data.detach().cpu().numpy() if isinstance(data, torch.Tensor) else np.asarray(data)
            if self._data.ndim != 2:
                raise DataError(
                    f"{name} is not a table of token ids.",
                    expected="two dimensions, (rows, tokens)",
                    found=f"shape {self._data.shape}",
                )
        if len(self) == 0:
            raise DataError(f"{name} is empty.", expected="at least one row", found="0 rows")
        self._check_lengths()
        self.length = int(self.take(np.zeros(1, dtype=np.int64)).shape[1])
        if self.length < 2:
            raise DataError(
                f"The sequences of {name} are too short: a loss needs a next token.",
                expected="at least 2 tokens",
                found=f"{self.length}",
            )

    def __len__(self) -> int:
        return len(self._data)

    def _check_lengths(self) -> None:
        """Compare the lengths of all rows, also of those that the run does not visit, where that reads no ids."""
        lengths: set[int] = set()
        if self._kind == "huggingface" and self._data.format["type"] != "custom":
            column = self._data.with_format("arrow", columns=["input_ids"])
            for start in range(0, len(self), _LENGTH_ROWS):
                part = column[start : start + _LENGTH_ROWS]["input_ids"]
                offsets = (chunk.value_lengths() for chunk in part.chunks if hasattr(chunk, "value_lengths"))
                lengths.update(*(values.unique().to_pylist() for values in offsets))
        elif isinstance(self._data, list | tuple):
            lengths.update(
                len(row) for row in (_row_of(row, self.name) for row in self._data) if hasattr(row, "__len__")
            )
        if len(lengths) > 1:
            raise self._unequal(lengths)

    def _unequal(self, lengths: set[int]) -> DataError:
        return DataError(
            f"The sequences of {self.name} have unequal lengths.",
            expected="one length for all rows",
            found=", ".join(map(str, sorted(lengths)[:6])),
            remedy="Pack or cut them to one length, as devinterp.utils.tokenize_and_concatenate does.",
        )

    def take(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Read rows.

        Parameters
        ----------
        indices : (n,) int64

        Returns
        -------
        (n, token) int64

        Raises
        ------
        DataError
            The rows differ in length, or are not integers.
        """
        if self._kind == "array":
            block = self._data[indices]
        elif self._kind == "huggingface":
            block = self._data[indices.tolist()]["input_ids"]
        else:
            block = [_row_of(self._data[int(i)], self.name) for i in indices]
        return self._as_ids(block, indices)

    def _as_ids(self, block: Any, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if isinstance(block, torch.Tensor):
            block = block.detach().cpu().numpy()
        if not (isinstance(block, np.ndarray) and block.dtype != object):
            rows = [row.detach().cpu().numpy() if isinstance(row, torch.Tensor) else np.asarray(row) for row in block]
            flat = [row for row in rows if row.ndim != 1]
            if flat:
                raise DataError(
                    f"A row of {self.name} is not a sequence of token ids.",
                    expected="one dimension",
                    found=f"shape {flat[0].shape}",
                )
            lengths = {len(row) for row in rows}
            if len(lengths) > 1:
                raise self._unequal(lengths)
            block = np.stack(rows)
        if block.dtype.kind not in "iu":
            raise DataError(
                f"The token ids of {self.name} are not integers.", expected="an integer dtype", found=block.dtype
            )
        if block.ndim != 2:
            raise DataError(
                f"The rows of {self.name} are not sequences of token ids.",
                expected="one dimension per row",
                found=f"rows of shape {block.shape[1:]}",
            )
        length = getattr(self, "length", block.shape[1])
        if block.shape[1] != length:
            raise self._unequal({length, block.shape[1]})
        ids: npt.NDArray[np.int64] = block.astype(np.int64, copy=False)
        return ids


def _kind_of(data: Any, name: str) -> str:
    if isinstance(data, torch.Tensor | np.ndarray):
        return "array"
    datasets = sys.modules.get("datasets")  # never imported for the caller's sake
    if datasets is not None and isinstance(data, datasets.Dataset):
        if "input_ids" not in data.column_names and data.format["type"] != "custom":
            raise DataError(
                f"{name} has no column 'input_ids'.", expected="'input_ids'", found=", ".join(data.column_names)
            )
        return "huggingface"
    if isinstance(data, str | bytes | Mapping) or not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise DataError(
            f"{name} cannot be read by row.",
            expected="a HuggingFace Dataset, an indexable of {'input_ids': ...}, or a 2-D integer array or tensor",
            found=type(data).__name__,
        )
    return "indexable"


def _row_of(row: Any, name: str) -> Any:
    if isinstance(row, Mapping):
        if "input_ids" not in row:
            raise DataError(
                f"A row of {name} has no 'input_ids'.", expected="'input_ids'", found=", ".join(map(str, row))
            )
        return row["input_ids"]
    return row


def fingerprint(rows: TokenRows) -> dict[str, Any]:
    """Identify a dataset by its length and a hash of at most 64 rows spread evenly over it.

    Unlike the hash of the rows that a run visits, it is the same for every run on the dataset, and for an observable
    made from it.
    """
    spread = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _FINGERPRINT_ROWS)).astype(np.int64))
    return {"rows": hash_rows(rows.take(spread)), "length": len(rows)}


def loader_order(num_rows: int, *, shuffle: bool, seed: int) -> npt.NDArray[np.int64]:
    """Order of the rows in the first pass of a `torch.utils.data.DataLoader` with a generator of its own.

    Parameters
    ----------
    num_rows : int
        Rows of the dataset.
    shuffle : bool
        False gives the rows as they stand.
    seed : int
        Seed of the loader's CPU generator.

    Returns
    -------
    (num_rows,) int64
    """
    if not shuffle:
        return np.arange(num_rows, dtype=np.int64)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    # A DataLoader draws the base seed of its workers first, even without workers.
    torch.empty((), dtype=torch.int64).random_(generator=generator)
    order: npt.NDArray[np.int64] = torch.randperm(num_rows, generator=generator).numpy()
    return order


@dataclass(frozen=True)
class Feed:
    """Batches of one chain by number; the first pass over the data repeats in the same order.

    Attributes
    ----------
    ids : (n, token) integer array
        Rows that are held.
    positions : (m,) int64
        Which held row stands where in the pass, a multiple of `batch_size` long.
    batch_size : int
    per_pass : int
        Batches of a whole pass; `positions` may stop earlier where a run does not get that far.
    """

    ids: IdArray
    positions: npt.NDArray[np.int64]
    batch_size: int
    per_pass: int

    def batch(self, number: int) -> torch.Tensor:
        """Return micro-batch `number` of the chain, (batch_size, token) int64 on the CPU."""
        start = (number % self.per_pass) * self.batch_size
        rows = self.ids[self.positions[start : start + self.batch_size]]
        return torch.from_numpy(rows.astype(np.int64, copy=False))


class SamplingData:
    """The sampling dataset as a run sees it: the rows that it visits, checked and held in memory.

    Ids are held in the smallest of uint16, int32 and int64 that takes them.

    Parameters
    ----------
    rows : TokenRows
        The caller's dataset.
    settings : sequence of SamplerSettings
        They decide which rows are visited. Several (a study with overrides) agree in everything that decides the
        order, and differ in how far they go.

    Attributes
    ----------
    identity : dict
        `fingerprint` of the dataset.
    num_rows, length : int
        Rows of the dataset, tokens per row.
    ids : (n, token) integer array
        The rows that are visited.

    Raises
    ------
    DataError
        There are fewer rows than a batch has.
    """

    def __init__(self, rows: TokenRows, settings: Sequence[SamplerSettings]) -> None:
        first = settings[0]
        if len(rows) < first.batch_size:
            raise DataError(
                f"{rows.name} is too small for one batch.",
                expected=f"at least batch_size = {first.batch_size} rows",
                found=f"{len(rows)} rows",
            )
        self.num_rows, self.length = len(rows), rows.length
        self.identity = fingerprint(rows)
        self._batch_size = first.batch_size
        self._per_pass = len(rows) // first.batch_size
        held = max(map(self._held, settings))
        self.shared = first.match_sampling_input_ids_across_chains or not first.shuffle
        chains = 1 if self.shared else max(each.num_chains for each in settings)
        orders = [
            loader_order(len(rows), shuffle=first.shuffle, seed=first.loader_seed(chain))[:held]
            for chain in range(chains)
        ]
        if self.shared:
            visited, self._positions = orders[0], [np.arange(held, dtype=np.int64)]
        else:
            visited, inverse = np.unique(np.concatenate(orders), return_inverse=True)
            self._positions = list(inverse.astype(np.int64).reshape(chains, held))
        self.ids = read_compact(rows, visited)

    def _held(self, settings: SamplerSettings) -> int:
        needed = max(settings.num_batches, settings.num_init_batches)
        return min(self._per_pass, needed) * self._batch_size

    def feed(self, chain: int) -> Feed:
        """Return the batches of `chain`."""
        return Feed(self.ids, self._positions[0 if self.shared else chain], self._batch_size, self._per_pass)

    def visited(self, settings: SamplerSettings) -> dict[str, Any]:
        """Return the number and the sha256 of the rows that a run with `settings` visits, in the order of its chains.

        The hash takes the ids as little-endian int64, whatever they are held in.
        """
        held = self._held(settings)
        chains = self._positions[: 1 if self.shared else settings.num_chains]
        positions = np.concatenate([order[:held] for order in chains])
        return {"rows": hash_rows(self.ids, positions), "count": len(positions)}


def read_compact(rows: TokenRows, indices: npt.NDArray[np.int64]) -> IdArray:
    """Read rows block by block into the smallest dtype that takes them; negative ids are refused."""
    blocks: list[IdArray] = []
    largest = 0
    for start in range(0, len(indices), _BLOCK_ROWS):
        block = rows.take(indices[start : start + _BLOCK_ROWS])
        low, high = int(block.min()), int(block.max())
        if low < 0:
            row = int(indices[start + int(np.argmin(block.min(axis=1)))])
            raise DataError(
                f"{rows.name} has a negative token id.", expected="ids of at least 0", found=f"{low} in row {row}"
            )
        largest = max(largest, high)
        blocks.append(block.astype(_smallest(high)))
    dtype = _smallest(largest)
    return np.concatenate([block.astype(dtype, copy=False) for block in blocks])


def _smallest(largest: int) -> type[np.integer[Any]]:
    if largest <= np.iinfo(np.uint16).max:
        return np.uint16
    return np.int32 if largest <= np.iinfo(np.int32).max else np.int64


def check_vocabulary(ids: IdArray, vocabulary: int | None, name: str) -> None:
    """Raise `DataError` where an id does not fit a vocabulary of the given size."""
    if vocabulary is not None and ids.size and int(ids.max()) >= vocabulary:
        raise DataError(
            f"{name} has token ids outside the model's vocabulary.",
            expected=f"ids below {vocabulary}",
            found=int(ids.max()),
            remedy="Tokenise with the model's own tokenizer.",
        )


def hash_rows(ids: IdArray, positions: npt.NDArray[np.int64] | None = None) -> str:
    """Return the sha256 of rows of an (n, token) array, independent of the dtype that it is held in."""
    digest = hashlib.sha256(f"{ids.shape[1]}:".encode())
    for start in range(0, len(ids if positions is None else positions), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        rows = ids[block] if positions is None else ids[positions[block]]
        digest.update(np.ascontiguousarray(rows, dtype="<i8").tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Observable:
    """Fixed rows whose per-token loss is evaluated at every draw.

    Attributes
    ----------
    obs_id : str
        The name, made safe for a variable's name.
    name : str
        As the caller wrote it.
    batches_per_draw : int
    rows : (batch_{obs},) int64
        Indices into the observable's dataset.
    ids : (batch_{obs}, token) int64 tensor
        Token ids, on the CPU.
    identity : dict
        `fingerprint` of its dataset.
    """

    obs_id: str
    name: str
    batches_per_draw: int
    rows: npt.NDArray[np.int64]
    ids: torch.Tensor
    identity: Mapping[str, Any]

    def provenance(self) -> dict[str, Any]:
        """Return the identity of the dataset and the sha256 of the fixed rows."""
        return {**self.identity, "visited": hash_rows(self.ids.numpy())}


def build_observables(
    observables: Mapping[str, Any], settings: SamplerSettings, *, length: int
) -> tuple[Observable, ...]:
    """Choose and read the rows of every observable.

    Parameters
    ----------
    observables : mapping of str to a dataset or a (dataset, batches_per_draw) tuple
    settings : SamplerSettings
    length : int
        Tokens per row of the sampling dataset, which the observables share.

    Raises
    ------
    SettingError
        Names clash, or a number of batches is no positive integer.
    DataError
        An observable has too few rows, rows of another length, or no integer ids.
    """
    if not isinstance(observables, Mapping):
        raise DataError(
            "observables must be a dict.",
            expected="a mapping of names to datasets or (dataset, batches_per_draw) tuples",
            found=type(observables).__name__,
        )
    built = []
    for (name, spec), obs_id in zip(observables.items(), check_observable_names(observables), strict=True):
        data, batches = spec if _is_pair(spec) else (spec, settings.batches_per_draw)
        label = f"The observable {name!r}"
        batches = settings.override(batches_per_draw=batches).batches_per_draw
        rows = TokenRows(data, label)
        size = settings.batch_size * batches
        if len(rows) < size:
            raise DataError(
                f"{label} has too few rows.",
                expected=f"at least batch_size * batches_per_draw = {size}",
                found=f"{len(rows)} rows",
                remedy="Pass (dataset, batches_per_draw) with fewer batches, or more rows.",
            )
        if rows.length != length:
            raise DataError(
                f"{label} has sequences of another length than the sampling dataset.",
                expected=f"{length} tokens",
                found=f"{rows.length} tokens",
            )
        indices = np.asarray(random.Random(settings.obs_seed).sample(range(len(rows)), size), dtype=np.int64)
        ids = torch.from_numpy(read_compact(rows, indices).astype(np.int64))
        built.append(Observable(obs_id, str(name), batches, indices, ids, fingerprint(rows)))
    return tuple(built)


def _is_pair(spec: Any) -> bool:
    return isinstance(spec, tuple) and len(spec) == 2 and not isinstance(spec[1], Sequence | Mapping | np.ndarray)
