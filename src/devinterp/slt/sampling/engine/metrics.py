"""Diagnostics of the update: the norms and dot products of its components, from the update's own intermediates."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from devinterp.slt.sampling.engine.parameters import Block
from devinterp.slt.sampling.settings import METRICS

__all__ = ["UpdateMetrics", "pool_metrics"]

_NORMS = 6  # of METRICS, the rest are dot products
_ROW: Mapping[str, int] = {name: row for row, name in enumerate(METRICS)}


class UpdateMetrics:
    """Sums of squares and dot products of one step, per parameter.

    Products of a block of several parameters are gathered in rows, and each parameter's stretch of all rows is summed
    at once.

    Parameters
    ----------
    lr : float
    count : int
        Number of parameters.
    device : torch.device

    Attributes
    ----------
    sums : (metric, parameter) float32
        In the order of `METRICS`; 0 for what a step did not have.
    """

    def __init__(self, lr: float, count: int, device: torch.device) -> None:
        self._lr = lr
        self.sums = torch.zeros(len(METRICS), count, dtype=torch.float32, device=device)
        self._cells = [list(row.unbind()) for row in self.sums.unbind()]
        self._gathered: list[int] = []  # metrics whose products wait in the rows of the present block
        self._plans: dict[Block, tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]] = {}

    def gradient(self, block: Block, drift: torch.Tensor, precondition: torch.Tensor | None) -> torch.Tensor:
        """Take nβ g; return the scaled gradient, lr/2 mask G nβ g."""
        scaled = torch.mul(drift, 0.5 * self._lr, out=block.out("scaled"))
        self._add_product("unscaled_grad", block, scaled, scaled)
        if precondition is None and block.mask is None:
            return scaled
        term = drift
        if precondition is not None:
            term = torch.mul(precondition, term, out=block.out("scaled"))
        if block.mask is not None:
            term = torch.mul(block.mask, term, out=block.out("scaled"))
        scaled = torch.mul(term, 0.5 * self._lr, out=block.out("scaled"))
        self._add_product("scaled_grad", block, scaled, scaled)
        return scaled

    def distance(self, block: Block, displacement: torch.Tensor) -> None:
        """Take w - w0."""
        self._add_product("distance", block, displacement, displacement)

    def prior(
        self,
        block: Block,
        scaled: torch.Tensor,
        pull: torch.Tensor | None,
        decay: torch.Tensor | None,
        precondition: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """Take localization (w - w0) and weight_decay w; return lr/2 G mask times their sum, None where both are."""
        if pull is None and decay is None:
            return None
        scale: float | torch.Tensor = 0.5 * self._lr
        if precondition is not None:
            scale = torch.mul(precondition, 0.5 * self._lr, out=block.out("scale"))
        if block.mask is not None:
            scale = _times(scale, block.mask, block.out("scale"))
        terms = []
        for metric, term, buffer in (("localization", pull, "prior"), ("weight_decay", decay, "noise")):
            if term is not None:
                terms.append(_times(scale, term, block.out(buffer)))
                self._add_product(metric, block, terms[-1], terms[-1])
        # The noise is drawn into its buffer later, so the sum must not stay there.
        prior = torch.add(terms[0], terms[1] if len(terms) > 1 else 0, out=block.out("prior"))
        self._add_product("dot_grad_prior", block, scaled, prior)
        return prior

    def noise(
        self,
        block: Block,
        noise: torch.Tensor,
        root: torch.Tensor | None,
        scaled: torch.Tensor,
        prior: torch.Tensor | None,
    ) -> None:
        """Take mask N, which is applied as sqrt(lr) sqrt(G) mask N; the block's last."""
        factor: float | torch.Tensor = self._lr**0.5
        if root is not None:
            factor = torch.mul(root, self._lr**0.5, out=block.out("scale"))
        term = _times(factor, noise, block.out("pull"))
        self._add_product("noise", block, term, term)
        self._add_product("dot_grad_noise", block, scaled, term)
        if prior is not None:
            self._add_product("dot_prior_noise", block, prior, term)
        if block.together:
            self._sum_gathered(block)
        if root is None and block.mask is None:
            own = self.sums[:, block.first : block.last]
            own[_ROW["scaled_grad"]].copy_(own[_ROW["unscaled_grad"]])

    def _add_product(self, metric: str, block: Block, one: torch.Tensor, other: torch.Tensor) -> None:
        if block.together:
            torch.mul(one, other, out=block.rows[len(self._gathered)])
            self._gathered.append(_ROW[metric])
            return
        product = torch.mul(one.float(), other.float(), out=block.out("product"))
        torch.sum(product, dim=tuple(range(product.ndim)), out=self._cells[_ROW[metric]][block.first])

    def _sum_gathered(self, block: Block) -> None:
        """Sum each parameter's stretch of the gathered rows: torch sums a short row as it sums a tensor of its own."""
        stretches, found, rows = self._plan(block)
        for stretch, cell in zip(stretches, found.unbind(), strict=True):
            torch.sum(stretch, dim=1, out=cell)
        self.sums[:, block.first : block.last].index_copy_(0, rows, found.t())
        self._gathered.clear()

    def _plan(self, block: Block) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
        """What is summed to where; a block gathers the same products at every step."""
        if block not in self._plans:
            count = len(self._gathered)
            stretches = [block.rows[:count, start:end] for start, end in block.bounds]
            self._plans[block] = stretches, torch.empty(len(stretches), count), torch.tensor(self._gathered)
        return self._plans[block]


def _times(factor: float | torch.Tensor, term: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
    """Multiply in this order: a fresh result takes its memory layout, and sums over it their order, from the first."""
    if isinstance(factor, float):
        return torch.mul(term, factor, out=out)
    return torch.mul(factor, term, out=out)


def pool_metrics(sums: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Pool the diagnostics of parameters into one number per metric.

    Norms are taken per parameter, squared again, added in the order of the parameters and rooted; dot products add.
    Every operation is in float32.

    Parameters
    ----------
    sums : (step, metric, parameter) float32

    Returns
    -------
    (step, metric) float32
    """
    squares = np.square(_root(sums[:, :_NORMS]))
    # cumsum adds one by one; sum would add in pairs and round otherwise
    norms = _root(np.cumsum(squares, axis=-1, dtype=np.float32)[..., -1])
    dots = np.cumsum(sums[:, _NORMS:], axis=-1, dtype=np.float32)[..., -1]
    return np.concatenate([norms, dots], axis=1)


def _root(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Square root as torch takes it, which differs from numpy's in the last bit where torch was built with MKL."""
    root: npt.NDArray[np.float32] = torch.from_numpy(np.ascontiguousarray(values)).sqrt().numpy()
    return root
