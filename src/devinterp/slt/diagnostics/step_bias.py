"""How much a finite step inflates the posterior that SGLD samples, and what of it is known before sampling.

In a direction of curvature h, with a = n_beta h + localization + weight decay, gradients of variance s**2 (of n_beta
times the loss) and x = lr a / 4, y = lr s**2 / 4, the stationary variance of a weight is (1 + y) / (1 - x) times the
posterior's 1 / a. A direction that the loss leaves flat has a = localization: ``1 / (1 - lr * localization / 4)`` holds
for every direction at least, and the chain diverges where x reaches 1. Of the update's own terms,
``|drift|**2 / |noise|**2`` is (1 + y) / (1 - x) - 1 on average over the weights, and ``(|gradient|**2 + gradient .
prior) / (2 lr)`` is what x adds to the LLC, plus y / 2 for every weight. The LLC itself is ``2 gradient . prior /
(lr**2 localization)``, half of n_beta times the mean of (w - w0) . dL/dw: of the very loss that is sampled, whatever
was observed. Of a loss that is homogeneous of degree p both are p / 2 times as large, and their ratio is right.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from devinterp.errors import StepBiasWarning, warn_caller
from devinterp.plain_json import dig
from devinterp.slt.runs.read_blocks import read_whole
from devinterp.slt.runs.run import Samples

__all__ = [
    "LARGEST_INFLATION",
    "StepBias",
    "least_inflation",
    "relaxation_steps",
    "step_advice",
    "step_bias",
    "warn_of_step",
]

LARGEST_INFLATION = 1.1
"""A step that inflates an estimate by more than this is not good."""

NOISE_APART = 0.5  # of the gradient's square at the draws, that the first step's may be, to be subtracted
LARGEST_SHARE = 0.99  # of the LLC that the step is said to have added

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StepBias:
    """By how much the step size inflates what is sampled.

    Attributes
    ----------
    inflation : float
        The LLC over that of vanishing steps; at least this much where ``source`` is ``"settings"``. Infinite where
        the chain diverges.
    source : {"settings", "metrics"}
        The bound that the settings give, or measured from the saved metrics.
    noise_share : float or None
        Largest share of the LLC that the noise of the minibatches' gradients may have added, from the gradient at the
        first step, which starts from the trained weights; None where it is not known.
    preconditioner : float or None
        By what factor the LLC may be too large besides, since RMSprop's preconditioner follows the weights; about the
        most that it may be, reached where each weight has a gradient of its own. None where it is not known, or not
        RMSprop.
    """

    inflation: float
    source: Literal["settings", "metrics"]
    noise_share: float | None = None
    preconditioner: float | None = None


def _pull(settings: Mapping[str, Any]) -> float | None:
    """``lr`` times the precision of the prior, in the direction where a step is smallest; None where not recorded."""
    lr, localization = settings.get("lr"), settings.get("localization")
    if lr is None or localization is None:
        return None
    return float(lr) * (float(localization) + float(settings.get("llc_weight_decay") or 0.0))


def _gain(settings: Mapping[str, Any]) -> float:
    """What RMSprop multiplies the step of a weight without gradients with, the most that it does; 1 for plain SGLD."""
    if settings.get("sampling_method") != "rmsprop_sgld":
        return 1.0
    eps = _rmsprop(settings, "eps")
    return 1.0 / eps if eps else math.inf


def _rmsprop(settings: Mapping[str, Any], name: Literal["eps", "alpha"]) -> float | None:
    """A constant of RMSprop; None where it is not recorded."""
    value = settings.get(f"rmsprop_{name}")
    value = (settings.get("sampling_method_kwargs") or {}).get(name) if value is None else value
    return None if value is None else float(value)


def least_inflation(settings: Mapping[str, Any]) -> float | None:
    """Inflation of the variance in a direction that the loss leaves flat, ``1 / (1 - lr * localization / 4)``.

    With ``sgmcmc_sgld`` every other direction is inflated more. With ``rmsprop_sgld`` it is that of weights whose
    gradients are far below ``rmsprop_eps``, whose steps are ``1 / rmsprop_eps`` times as long.

    Parameters
    ----------
    settings : mapping
        Under the argument names of `devinterp.sample`.

    Returns
    -------
    float or None
        None where ``lr`` or ``localization`` is not recorded; infinite where such a direction diverges.
    """
    pull = _pull(settings)
    if pull is None:
        return None
    x = pull * _gain(settings) / 4 if pull else 0.0
    return 1 / (1 - x) if x < 1 else math.inf


def relaxation_steps(settings: Mapping[str, Any]) -> float | None:
    """Steps in which a direction that the loss leaves flat forgets its start, ``2 / (lr * localization)``.

    None where it is not recorded; infinite without localization.
    """
    pull = _pull(settings)
    if pull is None:
        return None
    return 2 / (pull * _gain(settings)) if pull else math.inf


def step_advice(settings: Mapping[str, Any]) -> str:
    """Which step size keeps the inflation within bounds, as far as the settings tell."""
    limit = 4 * (1 - 1 / LARGEST_INFLATION)
    pull, gain = _pull(settings), _gain(settings)
    lr = float(settings.get("lr") or 0.0)
    if not pull or not math.isfinite(gain) or pull * gain <= limit:
        return f"a lower lr ({lr / 3:.2g})" if lr else "a lower lr"
    fits = 0.9 * limit * lr / (pull * gain)
    more = math.ceil(lr / fits)
    return f"lr = {fits:.1g} (so that lr * localization stays below {limit:.2f}) with {more} times the steps"


def warn_of_step(settings: Iterable[Mapping[str, Any]]) -> None:
    """Say, before anything is sampled, that a step is too long to be good; once, of the worst of several runs.

    Parameters
    ----------
    settings : iterable of mapping
        Of each run, under the argument names of `devinterp.sample`.
    """
    known = {least: each for each in settings if (least := least_inflation(each)) is not None}
    least = max(known, default=1.0)
    if least <= LARGEST_INFLATION:
        return
    worst = known[least]
    rmsprop = worst.get("sampling_method") == "rmsprop_sgld"
    product = f"lr * localization is {_pull(worst):.3g}"
    product += f", and {_gain(worst):.3g} times that where gradients are far below rmsprop_eps" if rmsprop else ""
    if math.isinf(least):
        what = "from 4 on a direction that the loss leaves flat diverges"
    elif rmsprop:
        what = f"there a variance is {least:.2f} times the posterior's"
    else:
        what = f"every variance is at least {least:.2f} times the posterior's, and the LLC as much too large"
    warn_caller(f"The step is too long: {product}; {what}. Choose {step_advice(worst)}.", StepBiasWarning)


def step_bias(run: Samples, used: Sequence[int], llc: float | None = None) -> StepBias | None:
    """Find the inflation of a run: from its metrics where they were saved, else the bound that its settings give.

    Parameters
    ----------
    run : Samples
        The run.
    used : sequence of int
        The chains to look at.
    llc : float, optional
        The run's LLC on fixed rows of the sampling task, for runs without localization; of others the metrics tell it.
        With it the inflation of the LLC itself is found, and not only that of the weights on average, among which a
        few steep directions vanish.

    Returns
    -------
    StepBias or None
        None where neither metrics nor settings are there.
    """
    settings = dig(run.metadata, "config.sampler") or {}
    least = least_inflation(settings)
    measured = _measured(run, list(used), settings, llc)
    if measured is not None:
        return measured
    if least is None:
        return None
    # Of RMSprop's bound it is not known whether any weight attains it.
    return StepBias(least if settings.get("sampling_method") != "rmsprop_sgld" else 1.0, "settings")


def _measured(run: Samples, used: list[int], settings: Mapping[str, Any], llc: float | None) -> StepBias | None:
    names = ("scaled_grad", "localization", "weight_decay", "noise", "dot_grad_prior")
    if not used or any(f"metrics_{name}" not in run.dataset for name in names):
        return None
    kept = [*names, *(name for name in ("unscaled_grad", "distance") if f"metrics_{name}" in run.dataset)]
    read = read_whole({name: run.variable(f"metrics_{name}", ("chain", "step")) for name in kept})
    steps: dict[str, F64] = {name: values[used] for name, values in read.items()}
    burnin = int(run.setting("num_burnin_steps") or 0)
    burnin = burnin if burnin < steps["noise"].shape[1] else 0
    pull, decay = (steps[name][:, burnin:] for name in ("localization", "weight_decay"))
    if (pull > 0).any() and (decay > 0).any():
        return None  # the dot product of the two is not kept, and their means cancel against the gradient's
    gradient, noise = steps["scaled_grad"][:, burnin:] ** 2, steps["noise"][:, burnin:] ** 2
    dot = steps["dot_grad_prior"][:, burnin:]
    drift = gradient + 2 * dot + pull**2 + decay**2
    valid = np.isfinite(drift) & np.isfinite(noise)
    injected = float(noise[valid].mean()) if valid.any() else 0.0
    if injected <= 0:
        return None
    weights = 1 + float(drift[valid].mean()) / injected
    lr = settings.get("lr")
    if not lr or run.setting("noise_level") not in (None, 1.0):
        return StepBias(weights, "metrics")
    # Of G g: (lr / 2)**2 times the mean of G g**2, and the G that belongs to it. Of G alone, metrics have the square.
    square, gain, plain = float(gradient[valid].mean()), 1.0, steps["scaled_grad"]
    if settings.get("sampling_method") == "rmsprop_sgld":
        if "unscaled_grad" not in steps:
            return StepBias(weights, "metrics")
        plain = steps["unscaled_grad"]
        unscaled = float((plain[:, burnin:][valid] ** 2).mean())
        gain = math.sqrt(square / unscaled) if unscaled > 0 else 1.0
    added = float(dot[valid].mean()) / gain
    localization = float(settings.get("localization") or 0.0)
    if localization and not (decay > 0).any():
        llc = 2 * added / (float(lr) ** 2 * localization * gain)
    # From the trained weights, where there is no init_noise and no step was left out.
    alone, started = plain[:, 0] ** 2, "distance" in steps and bool((steps["distance"][:, 0] == 0).all())
    started = started and bool(np.isfinite(alone).all())
    at_start, at_draws = (float(alone.mean()) * gain if started else 0.0), square / gain
    chance = at_start if at_start <= NOISE_APART * at_draws else at_draws
    follows = None
    if settings.get("sampling_method") == "rmsprop_sgld" and at_draws > 0:
        noisy = chance / at_draws
        follows = _preconditioner(settings, (weights - 1 - noisy * square / injected) / weights, gain, 1 - noisy)
    if llc is None or llc <= 0 or not started:
        return StepBias(weights, "metrics", preconditioner=follows)
    own = 1 / (1 - min(max((at_draws - chance + added) / (2 * float(lr) * llc), 0.0), LARGEST_SHARE))
    return StepBias(max(weights, own), "metrics", min(1.0, at_start / (2 * float(lr)) / llc), follows)


def _preconditioner(settings: Mapping[str, Any], x: float, gain: float, own: float) -> float | None:
    """About the most that RMSprop adds by following the weights, which move ``own`` of the gradients' square."""
    eps, alpha = _rmsprop(settings, "eps"), _rmsprop(settings, "alpha")
    if eps is None or alpha is None:
        return None
    kept = alpha * (1 - 2 * min(max(x, 0.0), 1.0)) ** 2
    return 1 + (1 - alpha) / (1 - kept) * own * max(0.0, 1 - eps * gain) if kept < 1 else 1.0
