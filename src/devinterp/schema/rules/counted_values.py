"""Which values of a variable count, block by block, as the mask that the schema names for it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from devinterp.schema.reading.nodes import NotReadableError

if TYPE_CHECKING:
    from devinterp.schema.reading.nodes import ArrayNode
    from devinterp.schema.rules.context import Context

__all__ = ["Counted"]


class Counted:
    """Which values of one variable count.

    Parameters
    ----------
    context : Context
    array : ArrayNode
        The variable.
    mask : str
        The variable that is 1 where a value of it counts.

    Attributes
    ----------
    mask : str
    exact : bool
        Whether the mask says it of each value. Where its dimensions are others (a mean over rows), or where it cannot
        be read, a value counts if it is not NaN.
    """

    def __init__(self, context: Context, array: ArrayNode, mask: str) -> None:
        self._context, self._array, self.mask = context, array, mask
        sizes = dict(zip(array.dims, array.shape, strict=True))
        node = context.group.arrays[mask]
        self._dims = node.dims
        self.exact = all(sizes.get(d) == n for d, n in zip(node.dims, node.shape, strict=True))

    def of(self, block: NDArray[Any], offset: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return, for a block of the variable and the place of its first value, True where a value counts."""
        if self.exact:
            place = {
                d: slice(start, start + n)
                for d, start, n in zip(self._array.dims, offset, block.shape, strict=True)
                if d in self._dims
            }
            try:
                found = self._context.read(self.mask, **place) == 1
            except NotReadableError:  # what is wrong with the mask is a finding of its own
                self.exact = False
            else:
                order = [self._dims.index(d) for d in self._array.dims if d in self._dims]
                wide = tuple(n if d in self._dims else 1 for d, n in zip(self._array.dims, block.shape, strict=True))
                return np.broadcast_to(found.transpose(order).reshape(wide), block.shape)
        bad: NDArray[np.bool_] = np.isnan(block)
        return ~bad
