"""What the numbers of a diagnosis mean: the verdicts of the sampling guide, and what to try next.

Nothing here looks at the level of the loss: a constant added to it changes no verdict, nor does multiplying the loss
and dividing n_beta by the same number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from devinterp.slt.diagnostics.diagnosis import ChainDiagnosis, Diagnosis, Verdict, number
from devinterp.slt.diagnostics.step_bias import LARGEST_INFLATION, least_inflation, relaxation_steps, step_advice
from devinterp.steps import StepLayout

__all__ = ["FEWEST_DRAWS", "RHAT_LIMIT", "SPIKE_SHARE", "judge"]

RHAT_LIMIT = 1.1
DRIFT_ERRORS = 3.0  # a drift counts beyond this many standard errors ...
DRIFT_SHARE = 0.1  # ... and this share of the rise
DISTANCE_GROWTH, DISTANCE_ERRORS = 0.2, 6.0  # of its square; the error is from the few chains alone
GROWTH = 2.0  # of the rise, from the first to the last third, that is no approach to a level
SIGNAL_ERRORS = 2.0
FEWEST_DRAWS = 12
SPIKE_SHARE = 0.01  # of the draws
LARGEST_UNSEEN = 0.5  # of a flat direction's variance
LARGEST_NOISE_SHARE = 0.1  # of the LLC, that minibatch noise may have added
LEAST_TOLD = 1.01  # of what RMSprop's preconditioner may add
BOX_DEVIATIONS = 3.0  # standard deviations of a weight that only localization holds, within the box

_MISSING = "the same sample() call, which goes on where it was stopped; devinterp validate says which chunks are lost."

F64 = npt.NDArray[np.float64]


def judge(d: Diagnosis, trace: F64, weights: int | None = None) -> list[Verdict]:
    """Judge a run; the gravest verdict first.

    Parameters
    ----------
    d : Diagnosis
        The numbers, without verdicts.
    trace : array, shape (chain, draw)
        Mean loss (nat) of the complete chains.
    weights : int, optional
        How many weights were sampled.
    """
    found: list[Verdict] = []
    failed = [c for c in d.chains if c.status != "complete"]
    wrong, lacking = ([c for c in failed if c.draws_missing is missing] for missing in (False, True))
    if wrong:
        found.append(Verdict("diverged", _named(wrong, d, "did not complete"), _shorter(d)))
    if lacking:
        found.append(Verdict("incomplete", _named(lacking, d, "lack draws"), _MISSING))
    if trace.shape[0] == 0:
        return found
    if d.settings.get("lr") == 0:
        evidence = "lr is 0: every draw is the start, a control that says nothing of the posterior."
        return [*found, Verdict("not_converged", evidence, "an lr above 0, unless the control is what was asked for.")]
    level = float(d.settings.get("noise_level", 1.0))
    if level != 1:
        evidence = f"noise_level is {level:g}: " + (
            f"this samples at {level**2:.3g} times the temperature, and an LLC is about {level**2:.3g} times as large."
            if level
            else "this is gradient descent, which samples nothing."
        )
        found.append(Verdict("not_converged", evidence, "a noise_level of 1, the posterior's."))
        if not level:
            return found
    if not failed:
        found += _grows(d, trace, weights)
    if trace.shape[1] < FEWEST_DRAWS:
        evidence = f"{trace.shape[1]} draws per chain are too few to judge by."
        found.append(Verdict("not_converged", evidence, f"num_draws of at least {10 * FEWEST_DRAWS}."))
        return found
    for rule in (_below_start, _step, _box, _level, _agreement, _reach, _spikes, _signal):
        found += rule(d, trace)
    return found or [_good(d)]


def _grows(d: Diagnosis, trace: F64, weights: int | None) -> Iterator[Verdict]:
    if weights is not None and d.llc is not None and d.rise is not None and d.llc > 0:
        error = SIGNAL_ERRORS * (d.rise_se or 0.0) * d.llc / d.rise
        if d.llc - error > LARGEST_INFLATION * weights / 2:
            evidence = f"the LLC is {d.llc:.4g}, more than half of the {weights} sampled weights, which none exceeds."
            yield Verdict("diverged", evidence, _shorter_or_held(d))
            return
    third = trace.shape[1] // 3
    if d.start is None or third < 4 or not _beyond(d.drift, d.drift_se) or (d.drift or 0.0) <= 0:
        return
    first, second, last = (float(trace[:, k * third : (k + 1) * third].mean()) - d.start for k in range(3))
    if last > GROWTH * max(first, 0.0) and last - second >= second - first:
        evidence = (
            f"the rise of the loss grows, and ever faster: {first:.3g}, {second:.3g}, {d.measured(f'{last:.3g}')}."
        )
        yield Verdict("diverged", evidence, _shorter_or_held(d))


def _named(those: Sequence[ChainDiagnosis], d: Diagnosis, what: str) -> str:
    which = "; ".join(f"chain {c.chain}: {c.status}" for c in those)
    return f"{len(those)} of {len(d.chains)} chains {what} ({which})."


def _below_start(d: Diagnosis, _: F64) -> Iterator[Verdict]:
    if d.rise is not None and d.rise < -SIGNAL_ERRORS * (d.rise_se or 0.0):
        evidence = (
            f"the mean loss lies {d.measured(f'{-d.rise:.3g} ± {d.rise_se or 0.0:.2g}')} below the loss at the start."
        )
        remedy = "a model trained further (its weights do not minimise this loss)"
        n_beta = d.settings.get("n_beta")
        remedy += f", or a lower n_beta ({_third(n_beta)} in place of {n_beta:g})." if n_beta else "."
        yield Verdict("below_start", evidence, remedy)


def _step(d: Diagnosis, _: F64) -> Iterator[Verdict]:
    bias = d.step_bias
    if bias is None:
        return
    noisy = bias.noise_share is not None and bias.noise_share > LARGEST_NOISE_SHARE
    if bias.inflation > LARGEST_INFLATION and (not noisy or _bound(d) > LARGEST_INFLATION):
        how = "measured from the metrics" if bias.source == "metrics" else "by lr * localization alone"
        size = "without bound" if math.isinf(bias.inflation) else f"by {'at least ' * (bias.source == 'settings')}"
        size += "" if math.isinf(bias.inflation) else f"a factor of {bias.inflation:.2f}"
        evidence = f"the step inflates the LLC {size} ({how}; up to {LARGEST_INFLATION} is good)."
        yield Verdict("step_bias", evidence, f"{step_advice(d.settings)}.")
    if noisy:
        evidence = (
            f"the gradients at the trained weights, noise of minibatches unless these do not minimise the loss, "
            f"may have added {100 * (bias.noise_share or 0.0):.2g} % of the LLC."
        )
        rows = int(d.settings.get("batch_size") or 0)
        larger = f"a larger batch_size ({4 * rows})" if rows else "a larger batch_size"
        yield Verdict("gradient_noise", evidence, f"{larger} or gradient_accumulation_steps, or {_lower_lr(d)}.")


def _box(d: Diagnosis, _: F64) -> Iterator[Verdict]:
    box = d.settings.get("bounding_box_size")
    if box is None:
        return
    hold = float(d.settings.get("localization", 0.0)) + float(d.settings.get("llc_weight_decay", 0.0))
    reach = BOX_DEVIATIONS / math.sqrt(hold) if hold > 0 else math.inf
    if box < reach:
        spread = f"spreads by {1 / math.sqrt(hold):.2g}" if hold else "is not held at all"
        evidence = (
            f"weights are clamped at {box:g} from their start, where one that the loss leaves flat {spread}: those "
            "that reach a face of the box stay on it, which no posterior does."
        )
        more = f"localization of {(BOX_DEVIATIONS / box) ** 2:.3g}" if box > 0 else "a localization"
        yield Verdict("clamped", evidence, f"no bounding_box_size, or in its place a {more} or more.")


def _level(d: Diagnosis, trace: F64) -> Iterator[Verdict]:
    still = np.flatnonzero(np.ptp(trace, axis=1) == 0)
    if still.size:
        evidence = f"{still.size} of {trace.shape[0]} chains never change: they are stuck, or their weights are held."
        yield Verdict("not_converged", evidence, "a larger lr, float32 weights, masks that let weights through.")
    rise = d.rise if d.equilibration.step_rise is None else d.equilibration.step_rise
    size, own = DRIFT_SHARE * abs(d.rise or 0.0), DRIFT_SHARE * abs(rise or 0.0)
    if _beyond(d.drift, d.drift_se) and abs(d.drift or 0.0) > size:
        evidence = (
            f"the loss still drifts, by {d.measured(f'{d.drift:+.3g} ± {d.drift_se:.2g}')} from the first to the last "
            f"third of the draws, where the whole rise is {number(d.rise, 4)}."
        )
        yield Verdict("not_converged", evidence, _longer(d))
    elif (
        _beyond(d.equilibration.burnin_drift, d.equilibration.burnin_drift_se)
        and abs(d.equilibration.burnin_drift or 0.0) > own
    ):
        by = d.measured(f"{d.equilibration.burnin_drift:+.3g} ± {d.equilibration.burnin_drift_se:.2g}")
        evidence = (
            f"the loss drifts from the second half of the burn-in to the draws, by {by}, where the whole rise is "
            f"{number(rise, 4)}."
        )
        yield Verdict("not_converged", evidence, _longer(d))
    growth, error = d.equilibration.growth or 0.0, d.equilibration.growth_se or 0.0
    least = d.equilibration.least_growth or 0.0
    # Beyond its errors; or so much in every single chain, of several, that few chains need not be asked for an error.
    if (least > 0 and growth > max(DISTANCE_GROWTH, DISTANCE_ERRORS * error)) or (error and least > DISTANCE_GROWTH):
        evidence = f"the squared distance from the start still drifts, by {100 * growth:+.2g} %."
        remedy = _longer(d) if _localization(d) else "a localization, which every direction can settle in."
        yield Verdict("not_converged", evidence, remedy)


def _agreement(d: Diagnosis, trace: F64) -> Iterator[Verdict]:
    if d.rhat is not None and d.rhat > RHAT_LIMIT:
        evidence = f"R-hat is {d.rhat:.2f} (below {RHAT_LIMIT} is good) on {d.source}."
        yield Verdict("chains_disagree", evidence, _longer(d))
    if trace.shape[0] == 1:
        evidence = "one chain has no other to agree with, and a level that it has not left looks like convergence."
        yield Verdict("one_chain", evidence, "num_chains of 4.")


def _reach(d: Diagnosis, trace: F64) -> Iterator[Verdict]:
    if d.equilibration.unseen is not None and d.equilibration.unseen > LARGEST_UNSEEN and _localization(d):
        steps = relaxation_steps(d.settings) or math.inf
        evidence = (
            f"directions that the loss leaves nearly flat relax within {steps:.3g} steps: the draws lack "
            f"{100 * d.equilibration.unseen:.0f} % of their variance, and no drift shows it."
        )
        remedy = f"num_burnin_steps of {math.ceil(steps):d}, a larger lr or a larger localization."
        yield Verdict("not_converged", evidence, remedy)
    if d.effective is not None and d.effective < d.effective_needed:
        evidence = f"{trace.size} draws are worth {d.effective:.0f} independent ones"
        remedy = f"num_steps_bw_draws of {4 * int(d.settings.get('num_steps_bw_draws', 1))}, or more draws"
        if (d.ess_bulk or 0.0) >= d.effective_needed:
            evidence += f", {d.ess_bulk:.0f} if what the chains do alike, sharing their minibatches, is chance"
            if d.step_bias is None or d.step_bias.source == "settings":
                remedy += "; save_metrics=True tells how much of it can be more than chance"
        yield Verdict("not_converged", f"{evidence}.", f"{remedy}.")


def _spikes(d: Diagnosis, trace: F64) -> Iterator[Verdict]:
    count = sum(c.n_spikes for c in d.chains if c.status == "complete")
    if count > SPIKE_SHARE * trace.size:
        evidence = f"{count} of {trace.size} draws jump far outside what changes from draw to draw usually are."
        yield Verdict("spikes", evidence, _shorter(d))


def _signal(d: Diagnosis, _: F64) -> Iterator[Verdict]:
    error = d.rise_se or 0.0
    if d.rise is not None and abs(d.rise) <= SIGNAL_ERRORS * error:
        evidence = f"the loss rose by {d.measured(f'{d.rise:.3g} ± {error:.2g}')}, which is nothing."
        remedy = "more draws, a larger batch_size, or a lower localization; a higher n_beta for the loss to weigh more"
        paired = d.rows == "fixed" and d.start_se == 0
        yield Verdict(
            "little_signal",
            evidence,
            remedy + ("." if paired else ", or a store that keeps init_loss of the sampling task's rows."),
        )


def _good(d: Diagnosis) -> Verdict:
    evidence = (
        f"R-hat {number(d.rhat)}, {number(d.ess_bulk, 0)} effective draws, no drift, "
        f"rise {d.measured(f'{number(d.rise, 4)} ± {number(d.rise_se, 4)}')} on {d.source}"
    )
    notes = ["minibatch losses are blind to chains that disagree"] if d.rows == "minibatch" else []
    if d.step_bias is None or d.step_bias.source == "settings":
        notes.append("the step's bias is not measured: save_metrics=True does")
    follows = 1.0 if d.step_bias is None else d.step_bias.preconditioner or 1.0
    if follows > LEAST_TOLD:
        notes.append(
            f"RMSprop's preconditioner follows the weights, for which the LLC may be up to {100 * (follows - 1):.2g} % "
            "too large besides, the more the smaller the steps: a larger rmsprop_alpha or rmsprop_eps makes it less"
        )
    if d.settings.get("localization") == 0:
        notes.append("without localization, directions that the loss leaves flat are not judged")
    if d.settings.get("n_beta") == 0:
        notes.append("n_beta is 0: a control, in which the loss plays no part")
    return Verdict("good", evidence + (f" ({'; '.join(notes)})." if notes else "."))


def _beyond(value: float | None, error: float | None) -> bool:
    return value is not None and error is not None and abs(value) > DRIFT_ERRORS * error


def _localization(d: Diagnosis) -> float:
    return float(d.settings.get("localization", 0.0))


def _bound(d: Diagnosis) -> float:
    return least_inflation(d.settings) or 1.0


def _lower_lr(d: Diagnosis) -> str:
    return step_advice(d.settings)


def _shorter(d: Diagnosis) -> str:
    """Against a step that is unstable: localization, which is part of what the step is multiplied with, is no help."""
    held = _bound(d) > LARGEST_INFLATION
    return f"{_lower_lr(d)}." if held else f"{_lower_lr(d)}, then a lower n_beta."


def _shorter_or_held(d: Diagnosis) -> str:
    """Against a loss that grows: the step where it is at fault or may be, else what holds the chain."""
    measured = d.step_bias is not None and d.step_bias.source == "metrics"
    if _bound(d) > LARGEST_INFLATION or (d.step_bias is not None and d.step_bias.inflation > LARGEST_INFLATION):
        return _shorter(d)
    value = _localization(d)
    hold = f"a higher localization ({3 * value:.3g})" if value else "a localization"
    n_beta = float(d.settings.get("n_beta") or 0.0)
    hold += f" or a lower n_beta ({_third(n_beta)})." if n_beta else "."
    return hold if measured else f"{_lower_lr(d)}; where it grows all the same, {hold}"


def _longer(d: Diagnosis) -> str:
    layout = StepLayout.of({"num_steps_bw_draws": 1, **d.settings})
    if layout is None:
        return "a longer burn-in and more draws."
    return f"num_burnin_steps of {layout.num_steps}, then num_draws of {2 * layout.draws}."


def _third(value: float) -> str:
    return f"{float(value) / 3:.2g}"
