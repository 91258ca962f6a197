"""What the numbers of a diagnosis mean: the verdicts of the sampling guide, and what to try next."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from devinterp.slt.diagnostics.diagnosis import Diagnosis, Verdict, number

__all__ = ["judge"]

RHAT_LIMIT = 1.1
EFFECTIVE_PER_CHAIN = 10.0
DRIFT_ERRORS = 3.0  # a drift counts beyond this many standard errors ...
DRIFT_SHARE = 0.1  # ... and this share of the rise
SIGNAL_ERRORS = 2.0
FEWEST_DRAWS = 12


def judge(d: Diagnosis, trace: npt.NDArray[np.float64]) -> list[Verdict]:
    """Judge a run; the gravest verdict first.

    Parameters
    ----------
    d : Diagnosis
        The numbers, without verdicts.
    trace : array, shape (chain, draw)
        Mean loss (nat) of the complete chains.
    """
    found: list[Verdict] = []
    failed = [c for c in d.chains if c.status != "complete"]
    settings = d.settings
    lower_lr = f"a lower lr ({_third(settings.get('lr'))})" if settings.get("lr") else "a lower lr"
    if failed:
        which = "; ".join(f"chain {c.chain}: {c.status}" for c in failed)
        remedy = f"{lower_lr}, then a lower n_beta or a higher localization."
        found.append(
            Verdict("diverged", f"{len(failed)} of {len(d.chains)} chains did not complete ({which}).", remedy)
        )
    if trace.shape[0] == 0:
        return found
    tail = float(trace[:, -max(1, trace.shape[1] // 3) :].mean())
    if not failed and d.start is not None and d.start > 0 and tail > 2 * d.start:
        evidence = f"the loss rose from {d.start:.3g} to {tail:.3g} nat, more than twofold."
        found.append(Verdict("diverged", evidence, f"{lower_lr}, or a higher localization."))
    if trace.shape[1] < FEWEST_DRAWS:
        evidence = f"{trace.shape[1]} draws per chain are too few to judge by."
        found.append(Verdict("not_converged", evidence, f"num_draws of at least {10 * FEWEST_DRAWS}."))
        return found
    error = d.rise_se or 0.0
    if d.rise is not None and d.rise < -SIGNAL_ERRORS * error:
        evidence = f"the mean loss lies {-d.rise:.3g} ± {error:.2g} nat below the loss at the start."
        remedy = f"a model trained further (its weights do not minimise this loss), {_localization(d)}, {lower_lr}."
        found.append(Verdict("below_start", evidence, remedy))
    drifts = d.drift is not None and d.drift_se is not None and abs(d.drift) > DRIFT_ERRORS * d.drift_se
    if drifts and abs(d.drift or 0.0) > DRIFT_SHARE * abs(d.rise or 0.0):
        evidence = (
            f"the loss still drifts, by {d.drift:+.3g} ± {d.drift_se:.2g} nat from the first to the last third of "
            f"the draws, where the whole rise is {number(d.rise, 4)}."
        )
        found.append(Verdict("not_converged", evidence, _longer(d)))
    if d.rhat is not None and d.rhat > RHAT_LIMIT:
        evidence = f"R-hat is {d.rhat:.2f} (below {RHAT_LIMIT} is good) on {d.source}."
        found.append(Verdict("chains_disagree", evidence, _longer(d)))
    if d.ess_bulk is not None and d.ess_bulk < EFFECTIVE_PER_CHAIN * trace.shape[0]:
        evidence = f"{trace.size} draws are worth {d.ess_bulk:.0f} independent ones."
        remedy = f"num_steps_bw_draws of {4 * int(settings.get('num_steps_bw_draws', 1))}, or more draws."
        found.append(Verdict("not_converged", evidence, remedy))
    if d.rise is not None and abs(d.rise) <= SIGNAL_ERRORS * error:
        evidence = f"the loss rose by {d.rise:.3g} ± {error:.2g} nat, which is nothing."
        remedy = "a higher n_beta or lr, a lower localization"
        paired = d.rows == "fixed" and d.start_se == 0
        remedy += "." if paired else ", or a store that keeps init_loss of the sampling task's rows."
        found.append(Verdict("little_signal", evidence, remedy))
    if not found:
        evidence = (
            f"R-hat {number(d.rhat)}, {number(d.ess_bulk, 0)} effective draws, no drift, "
            f"rise {number(d.rise, 4)} ± {number(d.rise_se, 4)} nat on {d.source}"
        )
        blind = " (minibatch losses are blind to chains that disagree)" if d.rows == "minibatch" else ""
        found.append(Verdict("good", f"{evidence}{blind}."))
    return found


def _longer(d: Diagnosis) -> str:
    burnin, draws = d.settings.get("num_burnin_steps"), d.settings.get("num_draws")
    between = d.settings.get("num_steps_bw_draws", 1)
    if burnin is None or draws is None:
        return "a longer burn-in and more draws."
    return f"num_burnin_steps of {int(burnin) + int(draws) * int(between)}, then num_draws of {2 * int(draws)}."


def _localization(d: Diagnosis) -> str:
    value = d.settings.get("localization")
    return f"a higher localization ({3 * value:.3g})" if value else "a higher localization"


def _third(value: Any) -> str:
    return f"{float(value) / 3:.2g}"
