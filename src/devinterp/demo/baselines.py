"""What the sampling of heads is held against: the head removed, and noise in its weights that knows no loss.

Noise comes in two sizes. The control is the law that SGLD samples at ``n_beta = 0``, where localization alone holds the
weights: if sampling differs from it, the loss had a part. Noise of the size of the draws tells how far they went from
where they went.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from devinterp.demo.analysis import COPIED, REPEATED, TASK
from devinterp.demo.circuit import Circuit
from devinterp.demo.model import AttentionOnly, per_token_loss
from devinterp.demo.settings import Settings
from devinterp.slt.weight_restrictions import create_param_masks

__all__ = ["baselines", "loss_rises"]

ROWS = {"copied": (REPEATED, COPIED), "task": (TASK, slice(None))}


def baselines(model: AttentionOnly, study: xr.DataTree, circuit: Circuit, settings: Settings) -> xr.Dataset:
    """How much the loss rises without a head, and with noise in its weights.

    Parameters
    ----------
    model : AttentionOnly
        As it was trained.
    study : DataTree
        Its heads, sampled with ``save_metrics``. The rows are those of its observables: everything is compared on the
        same ones.
    circuit : Circuit
        The heads, restrictions of the study, and which of them were sampled by smaller steps.
    settings : Settings
        How the study was sampled, and how many draws of noise to take.

    Returns
    -------
    Dataset
        Mean rises (wr,), nat, on copied bytes and on training rows: ``removed_copied`` and ``removed_task``, without
        the head; ``control_{rows}``, with the noise of ``n_beta = 0``; ``noise_{rows}``, with noise of the mean square
        size of the draws; and of the latter two the standard errors ``{name}_se``. ``spread`` (wr,), unit of the
        weights: root mean square distance of a weight from its trained value at the draws; ``allowed`` (wr,): what
        localization alone would allow.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    results = []
    for head in circuit.names:
        masks = {name: mask for name, mask in create_param_masks(model, head).items() if mask is not None}
        rows = {name: torch.from_numpy(study[head][f"input_ids_{obs}"].values) for name, (obs, _) in ROWS.items()}
        lr = settings.lr_of(head, circuit.members)
        allowed, burnin = settings.spread(lr), settings.pace(lr)["num_burnin_steps"]
        distance = study[head]["metrics_distance"].isel(step=slice(burnin, None)).astype(np.float64)
        spread = float(np.sqrt((distance**2).mean() / sum(int(mask.sum()) for mask in masks.values())))
        gone = {name: -model.get_parameter(name).detach() * mask for name, mask in masks.items()}
        own = {f"removed_{name}": value for name, value in loss_rises(model, rows, gone).items()}
        own |= {"spread": spread, "allowed": allowed}
        for kind, width in (("control", allowed), ("noise", spread)):
            draws = [loss_rises(model, rows, each) for each in _noise(masks, width, settings.noise_draws, generator)]
            for name in ROWS:
                values = np.array([draw[name] for draw in draws])
                own[f"{kind}_{name}"] = float(values.mean())
                own[f"{kind}_{name}_se"] = float(values.std(ddof=1) / np.sqrt(len(values)))
        results.append(xr.Dataset(own))
    return xr.concat(results, xr.Variable("wr", list(circuit.names)))


@torch.no_grad()
def loss_rises(model: AttentionOnly, rows: Mapping[str, Tensor], shift: Mapping[str, Tensor]) -> dict[str, float]:
    """How much the mean loss rises when weights are shifted.

    ``rows`` has the tokens (row, position) of ``copied``, of which only copied bytes count, and of ``task``; ``shift``
    what is added to parameters, by name. Returns the rise (nat) on each.
    """
    trained: dict[str, Tensor] = dict(model.named_parameters())

    def losses(weights: dict[str, Tensor]) -> dict[str, float]:
        def forward(ids: Tensor) -> Tensor:
            return torch.func.functional_call(model, weights, (ids,))  # type: ignore[no-any-return]

        return {name: per_token_loss(forward, rows[name])[:, used].mean().item() for name, (_, used) in ROWS.items()}

    before, after = losses(trained), losses({name: trained[name] + own for name, own in shift.items()})
    return {name: after[name] - before[name] for name in ROWS}


def _noise(
    masks: Mapping[str, Tensor], width: float, draws: int, generator: torch.Generator
) -> Iterator[dict[str, Tensor]]:
    for _ in range(draws):
        yield {name: width * mask * torch.randn(mask.shape, generator=generator) for name, mask in masks.items()}
