"""What is known of a model: plain data, filled by :mod:`.stack`, :mod:`.attention` and :mod:`.heads`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, Parameter

    from devinterp.slt.weight_restrictions.module_names import Role


@dataclass(frozen=True)
class Layer:
    """One layer of the stack.

    Attributes
    ----------
    index : int
        Its number.
    path : str
        Where it is in the model, for messages.
    parts : dict of str to Module
        The modules it consists of: one, under ``""``, unless attention and feed-forward are kept in parallel lists.
    """

    index: int
    path: str
    parts: dict[str, Module]


@dataclass(frozen=True)
class Projection:
    """One parameter of an attention unit and what it is there for."""

    name: str
    role: Role
    param: Parameter
    module: Module
    is_bias: bool


@dataclass(frozen=True)
class AttentionUnit:
    """The projections of one attention module, and every other parameter it owns.

    Attributes
    ----------
    path : str
        Path of the smallest module that holds all projections.
    modules : tuple of Module
        From the one that owns the queries up to the one at ``path``: where attributes like ``num_heads`` are sought.
    projections : tuple of Projection
        Those of a known role, in the model's order.
    params : tuple of str
        Names of all its parameters but the norms', in the model's order.
    """

    path: str
    modules: tuple[Module, ...]
    projections: tuple[Projection, ...]
    params: tuple[str, ...]

    def of(self, *roles: Role, bias: bool = False) -> list[Projection]:
        """Return the projections of these roles, weights unless ``bias``."""
        return [p for p in self.projections if p.role in roles and p.is_bias == bias]


@dataclass(frozen=True)
class HeadSlices:
    """Which head each index along one axis of a parameter belongs to.

    Attributes
    ----------
    name : str
        The parameter.
    axis : int
        The axis that heads divide.
    query, key_value : Tensor
        (axis size,) int64: the query head, and the key-value head, of each index; −1 for none.
    """

    name: str
    axis: int
    query: Tensor
    key_value: Tensor


@dataclass(frozen=True)
class Heads:
    """The heads of one attention unit."""

    num_heads: int
    num_kv_heads: int
    slices: tuple[HeadSlices, ...] = field(default=())
