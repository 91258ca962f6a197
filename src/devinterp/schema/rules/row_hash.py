"""What identifies rows of token ids: a hash of their values, whatever they are held in."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["hash_rows"]

_BLOCK_ROWS = 4096


def hash_rows(ids: npt.NDArray[Any], positions: npt.NDArray[np.int64] | None = None) -> str:
    """Return the sha256 of rows of an (n, token) array, independent of the dtype that it is held in."""
    digest = hashlib.sha256(f"{ids.shape[1]}:".encode())
    for start in range(0, len(ids if positions is None else positions), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        rows = ids[block] if positions is None else ids[positions[block]]
        digest.update(np.ascontiguousarray(rows, dtype="<i8").tobytes())
    return digest.hexdigest()
