"""Where in the sampled row a loss or a token stands: what names the places of results, also of a selection."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xarray as xr

from devinterp.errors import DataError
from devinterp.store.reading.fast_chunks import stored_size

__all__ = ["target_positions", "token_positions"]


def target_positions(dataset: xr.Dataset, *, has_tokens: bool) -> npt.NDArray[np.int64]:
    """Return the position of the token that each loss along ``token_pos`` predicts, 1-indexed in the sampled row.

    A coordinate ``token_pos`` tells it, which selections keep. Without one nothing but the sizes shows whether
    positions were left out.

    Raises
    ------
    DataError
        It is not known which positions are left.
    """
    size = int(dataset.sizes.get("token_pos", 0))
    named = _places(dataset, "token_pos")
    if named is not None:
        return named + 1
    tokens = dataset.sizes.get("token", size + 1) if has_tokens else size + 1
    if tokens != size + 1 or _was_cut(dataset, "token_pos"):
        raise _unknown_positions("losses", "token_pos", f"{size} losses beside {tokens} tokens")
    return np.arange(1, size + 1)


def token_positions(dataset: xr.Dataset, *, beside_losses: bool = True) -> npt.NDArray[np.int64]:
    """Return the position of each token along ``token``, 0-indexed in the sampled row; see `target_positions`.

    Parameters
    ----------
    beside_losses : bool
        Single losses are labelled too, so that it must be known which tokens they are of.
    """
    size = int(dataset.sizes.get("token", 0))
    named = _places(dataset, "token")
    if named is not None:
        return named
    losses = _places(dataset, "token_pos")
    needed = int(dataset.sizes.get("token_pos", 0)) + 1 if losses is None else int(losses.max(initial=-1)) + 2
    if size < needed or (beside_losses and losses is None and size != needed) or _was_cut(dataset, "token"):
        raise _unknown_positions("tokens", "token", f"{size} tokens for losses that reach position {needed - 1}")
    return np.arange(size)


def _places(dataset: xr.Dataset, dim: str) -> npt.NDArray[np.int64] | None:
    if dim not in dataset.coords or dataset[dim].dims != (dim,):
        return None
    values = np.asarray(dataset[dim].values)
    whole = np.issubdtype(values.dtype, np.integer) and values.min(initial=0) >= 0
    if not whole or np.unique(values).size < values.size:
        raise DataError(
            f"The coordinate {dim!r} does not say where the values belong.",
            expected="distinct integers from 0, the positions in the sampled row",
            found=values.tolist()[:8],
            remedy=f"Drop it (tree.drop_vars({dim!r})), or assign the positions.",
        )
    return values.astype(np.int64)


def _was_cut(dataset: xr.Dataset, dim: str) -> bool:
    """Whether a variable that was read from a store was longer along ``dim`` there.

    As long as it is read lazily, its array says so. In memory only its chunks are known, whole ones in our stores;
    in those of others they may be longer than the array, and tell where those of losses and tokens fit each other.
    """
    chunks: dict[str, set[int]] = {"token_pos": set(), "token": set()}
    for name, array in dataset.variables.items():
        own = [d for d in chunks if d in array.dims]
        if not own or not str(name).startswith(("loss_", "input_ids_")):
            continue
        stored = stored_size(array, dim) if own == [dim] else None
        if stored is not None:
            return stored > array.sizes[dim]
        chunks[own[0]].add(int((array.encoding.get("preferred_chunks") or {}).get(own[0], 0)))
    losses, tokens = chunks["token_pos"], chunks["token"]
    longer = any(size > dataset.sizes[dim] for size in chunks[dim])
    return longer and (not tokens or not losses or {size + 1 for size in losses} == tokens)


def _unknown_positions(what: str, dim: str, found: str) -> DataError:
    """Return the error of a selection that does not tell which positions are left."""
    return DataError(
        f"It is not known which positions of the rows these {what} are of.",
        expected=f"every position, or a coordinate {dim!r} that tells which are left",
        found=found,
        remedy="Select in the result instead, or number the positions before selecting: "
        "tree.to_dataset().assign_coords(token_pos=range(tree.sizes['token_pos']), token=range(tree.sizes['token'])).",
    )
