"""Everything the demo found out, and what it says about it in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from devinterp.demo.analysis import Influence
from devinterp.demo.comparison import Comparison
from devinterp.demo.settings import Settings

if TYPE_CHECKING:
    from devinterp.demo.train import Training

__all__ = ["Results"]

FLAT = 1.2  # largest over smallest, of what is called flat


@dataclass(frozen=True)
class Results:
    """The demo's results.

    Parameters
    ----------
    settings : Settings
        How it was made.
    weight_scale : float
        Root mean square of the trained weights of the heads (unit of the weights), to hold `Settings.spread` against.
    training : Training
        The course of training.
    comparison : Comparison
        Of the heads: by sampling, attention, removal and noise.
    refined : Dataset
        From `refined_llc`.
    n_betas : Dataset
        From `llc_over_n_beta`, of the head that matches prefixes best.
    checkpoints, classes : Dataset
        From `llc_over_checkpoints` and `susceptibility_classes`.
    influence : Influence
        From `influence`.
    verdicts : mapping of str to str
        What ``diagnose`` says of each restriction, of the whole model at each checkpoint (``3000/full``), and of the
        restrictions at ``refined_n_beta`` (``snippets/l0h0``).
    stores : mapping of str to int
        Validated stores, by path, with the number of findings.
    """

    settings: Settings
    weight_scale: float
    training: Training
    comparison: Comparison
    refined: xr.Dataset
    n_betas: xr.Dataset
    checkpoints: xr.Dataset
    classes: xr.Dataset
    influence: Influence
    verdicts: Mapping[str, str]
    stores: Mapping[str, int]

    @property
    def transition(self) -> int | None:
        """Training step at which the best prefix-matching score passes half of its final value.

        None where it never grew.
        """
        scores = np.asarray(self.training.prefix)
        if scores[-1] < 3 * scores[0]:
            return None
        return int(self.training.steps[int(np.argmax(scores >= scores[-1] / 2))])

    def sentences(self) -> dict[str, str]:
        """Say what was found, section by section, from the numbers alone.

        Keys are ``training``, ``heads``, ``refined``, ``llc``, ``influence``, ``susceptibilities``.
        """
        return {
            "training": self._training(),
            "heads": self.comparison.sentence(),
            "refined": self.comparison.refined_sentence(self.refined, self.settings.refined_n_beta),
            "llc": self._llc(),
            "influence": self._influence(),
            "susceptibilities": self._susceptibilities(),
        }

    def _training(self) -> str:
        first, second = self.training.first_half[-1], self.training.second_half[-1]
        if self.transition is None:
            return f"No head learned to match prefixes in {self.settings.train_steps} steps."
        return (
            f"Around step {self.transition} the model learns to copy: shuffled bytes cost {first:.2f} nat each when "
            f"first shown, {second:.2f} nat when shown again."
        )

    def _llc(self) -> str:
        steps, task, copied = (self.checkpoints[name].values for name in ("checkpoint", "task", "copied"))
        return (
            f"From step {steps[0]} to {steps[-1]}, n_beta times the loss rise on training rows goes from {task[0]:.1f} "
            f"to {task[-1]:.1f}, and the loss rise on copied bytes from {copied[0]:.2f} to {copied[-1]:.2f} nat. "
            f"{self._flat()}"
        )

    def _flat(self) -> str:
        """Whether n_beta times the loss rise may be called a learning coefficient."""
        levels, values = self.n_betas["n_beta"].values, self.n_betas["task"].values
        said = ", ".join(f"{value:.1f} at n_beta {level:g}" for level, value in zip(levels, values, strict=True))
        flat = values.min() > 0 and values.max() <= FLAT * values.min()
        return f"Around {self.comparison.circuit.induction} it is {said}: " + (
            "flat, as a learning coefficient is."
            if flat
            else "not flat over this range, so it is not a learning coefficient; it compares what has one n_beta."
        )

    def _influence(self) -> str:
        found = self.influence
        above = (np.sum(found.null >= found.auc) + 1) / (len(found.null) + 1)
        copying, source = found.between("snippets", "repeated"), found.between("snippets", "code")
        return (
            f"A pair of one kind influences each other more than a pair of two kinds in {100 * found.auc:.0f} % of "
            f"cases (AUC {found.auc:.3f}; kinds shuffled: {np.quantile(found.null, 0.025):.3f} to "
            f"{np.quantile(found.null, 0.975):.3f}, p = {above:.2g}). Two halves of the chains give matrices that "
            f"correlate {found.agreement:.2f}. Repeated snippets of code go with shuffled bytes shown twice "
            f"({copying:+.3f}), which they have only copying in common with, and with running code {source:+.3f}."
        )

    def _susceptibilities(self) -> str:
        column = self.classes["centred"].sel(token_class="second showing")
        errors = self.classes["centred_se"].sel(token_class="second showing")
        farthest = int(np.argmax(np.abs(column.values)))
        head, value, error = str(column["wr"].values[farthest]), float(column[farthest]), float(errors[farthest])
        part = "a member" if head in self.comparison.circuit.members else "no member"
        low, high = (float(bound(self.classes["reproducibility"].values)) for bound in (np.min, np.max))
        return (
            f"On copied bytes {head}, {part} of the circuit, is farthest from the mean of all heads: {value:+.2f} ± "
            f"{error:.2f} standard deviations (class mean ± standard error over chains). "
            f"On single bytes two halves of the chains correlate {low:.2f} to {high:.2f}, depending on the head."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain values that JSON can hold."""
        found, circuit = self.influence, self.comparison.circuit
        return {
            "training": {
                "steps": self.training.steps,
                "first_showing_loss": self.training.first_half,
                "second_showing_loss": self.training.second_half,
                "prefix_matching": self.training.prefix,
                "transition": self.transition,
            },
            "circuit": {
                "members": list(circuit.members),
                "prefix_matching": dict(
                    zip(self.comparison.circuit.names, self.comparison.circuit.prefix.tolist(), strict=True)
                ),
                "previous_token": dict(
                    zip(self.comparison.circuit.names, self.comparison.circuit.previous.tolist(), strict=True)
                ),
                "measures": self.comparison.measures,
                "agrees": self.comparison.agrees,
                "rank_correlation_with_sampling": self.comparison.ranks,
                "share_of_control": self.comparison.share_of_control.values.tolist(),
                "share_of_noise": self.comparison.share_of_noise.values.tolist(),
            },
            "refined": {
                "n_beta": self.settings.refined_n_beta,
                **{
                    name: dict(zip(self.refined["wr"].values.tolist(), self.refined[name].values.tolist(), strict=True))
                    for name in ("all", "copied")
                },
            },
            "n_beta": {
                "head": circuit.induction,
                "n_beta": self.n_betas["n_beta"].values.tolist(),
                "task": self.n_betas["task"].values.tolist(),
            },
            "llc": {
                "checkpoint": self.checkpoints["checkpoint"].values.tolist(),
                "task": self.checkpoints["task"].values.tolist(),
                "copied": self.checkpoints["copied"].values.tolist(),
            },
            "influence": {
                "auc": found.auc,
                "null_mean": float(found.null.mean()),
                "null_95": float(np.quantile(found.null, 0.95)),
                "chain_halves_correlation": found.agreement,
            },
            "susceptibilities": {
                name: {
                    str(wr): dict(zip(self.classes["token_class"].values.tolist(), row.tolist(), strict=True))
                    for wr, row in zip(self.classes["wr"].values, self.classes[name].values, strict=True)
                }
                for name in ("standardized", "centred", "centred_se")
            },
            "verdicts": dict(self.verdicts),
            "findings": dict(self.stores),
        }
