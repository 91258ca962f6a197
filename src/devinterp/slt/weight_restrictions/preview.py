"""Show what a restriction selects."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from devinterp.slt.weight_restrictions.masks import create_param_masks

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["RestrictionPreview", "SelectedParameter", "preview_restriction"]

_BAR = 12


@dataclass(frozen=True)
class SelectedParameter:
    """How much of one parameter is selected.

    Attributes
    ----------
    name : str
        The parameter.
    shape : tuple of int
        Its shape.
    selected, total : int
        Numbers of elements (1).
    """

    name: str
    shape: tuple[int, ...]
    selected: int
    total: int

    @property
    def fraction(self) -> float:
        """Selected share of the elements, from 0 to 1."""
        return self.selected / self.total if self.total else 0.0


@dataclass(frozen=True)
class RestrictionPreview:
    """What a restriction selects; prints as a table, and shows as one in notebooks.

    Attributes
    ----------
    title : str
        The restriction.
    rows : tuple of SelectedParameter
        The parameters with a mask, in the masks' order.
    model_total : int
        Number of elements of all of the model's parameters (1).
    """

    title: str
    rows: tuple[SelectedParameter, ...]
    model_total: int

    @property
    def selected(self) -> int:
        """Number of selected elements (1)."""
        return sum(row.selected for row in self.rows)

    @property
    def fraction(self) -> float:
        """Selected share of the model's elements, from 0 to 1."""
        return self.selected / self.model_total if self.model_total else 0.0

    def _summary(self) -> str:
        return f"{self.selected:,} of {self.model_total:,} weights ({self.fraction:.2%}) in {len(self.rows)} parameters"

    def __str__(self) -> str:
        width = max((len(row.name) for row in self.rows), default=0)
        shapes = max((len(_shape(row)) for row in self.rows), default=0)
        counts = max((len(_count(row)) for row in self.rows), default=0)
        lines = [f"{self.title}: {self._summary()}"]
        for row in self.rows:
            bar = "█" * round(row.fraction * _BAR)
            cells = f"{row.name:<{width}}  {_shape(row):<{shapes}}  {_count(row):>{counts}}  {row.fraction:7.2%}"
            lines.append(f"  {cells}  {bar}".rstrip())
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><td style='text-align:left'><code>{html.escape(row.name)}</code></td><td>{_shape(row)}</td>"
            f"<td style='text-align:right'>{row.selected:,}</td><td style='text-align:right'>{row.total:,}</td>"
            f"<td style='text-align:right'>{row.fraction:.2%}</td>"
            f"<td><progress max='1' value='{row.fraction:.6g}'></progress></td></tr>"
            for row in self.rows
        )
        return (
            "<table class='devinterp-restriction'>"
            f"<caption><b>{html.escape(self.title)}</b>: {self._summary()}</caption>"
            "<thead><tr><th>parameter</th><th>shape</th><th>selected</th><th>of</th><th>%</th><th></th></tr></thead>"
            f"<tbody>{cells}</tbody></table>"
        )


def preview_restriction(
    model: Module,
    restriction: str | Sequence[str] | Mapping[str, Tensor | None],
    *,
    num_heads: int | None = None,
    num_kv_heads: int | None = None,
    qkv_layout: Literal["concat", "grouped"] | None = None,
    layers: str | None = None,
) -> RestrictionPreview:
    """Return what a restriction selects: counts and percentages per parameter, as text and in notebooks.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    restriction : str, sequence of str, or mapping of str to Tensor or None
        A restriction, or masks such as :func:`create_param_masks` returns.
    num_heads, num_kv_heads, qkv_layout, layers
        As in :func:`create_param_masks`.

    Returns
    -------
    RestrictionPreview

    Raises
    ------
    RestrictionError
        As :func:`create_param_masks`; or the masks do not fit the model.
    """
    if isinstance(restriction, Mapping):
        from devinterp.slt.sampling.inputs.parameter_masks import check_masks

        return _preview(model, check_masks(model, restriction, "restriction"), "masks")
    masks = create_param_masks(
        model,
        restriction,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        qkv_layout=qkv_layout,
        layers=layers,
    )
    title = restriction.strip() if isinstance(restriction, str) else " + ".join(one.strip() for one in restriction)
    return _preview(model, masks, title)


def _preview(model: Module, masks: Mapping[str, Tensor | None], title: str) -> RestrictionPreview:
    """Count what masks select; they must fit the model."""
    params = dict(model.named_parameters())
    rows = tuple(
        SelectedParameter(
            name=name,
            shape=tuple(params[name].shape),
            selected=params[name].numel() if mask is None else int(mask.count_nonzero()),
            total=params[name].numel(),
        )
        for name, mask in masks.items()
    )
    return RestrictionPreview(title, rows, sum(param.numel() for param in params.values()))


def _shape(row: SelectedParameter) -> str:
    return "×".join(map(str, row.shape)) or "scalar"


def _count(row: SelectedParameter) -> str:
    return f"{row.selected:,} of {row.total:,}"
