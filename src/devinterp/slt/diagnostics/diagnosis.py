"""What a diagnosis holds: the numbers of a run and of its chains, and the verdicts on them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from devinterp.schema.definition.spec import NAT
from devinterp.slt.diagnostics.equilibration import Equilibration
from devinterp.slt.diagnostics.step_bias import StepBias
from devinterp.slt.runs.results import with_unit

__all__ = ["TITLES", "ChainDiagnosis", "Code", "Diagnosis", "SeriesDiagnosis", "StudyDiagnosis", "Verdict", "number"]

Code = Literal[
    "good",
    "diverged",
    "incomplete",
    "below_start",
    "step_bias",
    "gradient_noise",
    "clamped",
    "not_converged",
    "chains_disagree",
    "one_chain",
    "spikes",
    "little_signal",
]

# How grave each is: verdicts.py. How it is mended: verdicts.py and sweep/recommend.py. Its colour: plot/verdict.py.
TITLES: dict[Code, str] = {
    "good": "good",
    "diverged": "diverged",
    "incomplete": "draws are missing",
    "below_start": "loss fell below its start",
    "step_bias": "step too long",
    "gradient_noise": "minibatch noise",
    "clamped": "clamped at the box",
    "not_converged": "not converged",
    "chains_disagree": "chains disagree",
    "one_chain": "one chain alone",
    "spikes": "spikes",
    "little_signal": "too little signal",
}
"""Every verdict's code, and its name in words."""

EFFECTIVE_PER_CHAIN = 10.0  # draws of which a run has enough


@dataclass(frozen=True)
class Verdict:
    """One thing that is right or wrong with a run.

    Attributes
    ----------
    code : str
        ``good``, ``diverged``, ``incomplete``, ``below_start``, ``step_bias``, ``gradient_noise``, ``clamped``,
        ``not_converged``, ``chains_disagree``, ``one_chain``, ``spikes`` or ``little_signal``.
    evidence : str
        The numbers it rests on.
    remedy : str
        Which setting to try next; empty for ``good``.
    """

    code: Code
    evidence: str
    remedy: str = ""

    @property
    def title(self) -> str:
        """The verdict in words."""
        return TITLES[self.code]

    def __str__(self) -> str:
        return f"{self.title}: {self.evidence}" + (f" Try next: {self.remedy}" if self.remedy else "")


@dataclass(frozen=True)
class ChainDiagnosis:
    """One chain.

    Attributes
    ----------
    chain : int
        Position along ``chain``.
    status : str
        ``complete``, or why it is not.
    draws_missing : bool
        Whether what it lacks was not sampled, or is lost, where no step of it was wrong.
    n_draws : int
        Finite draws, a prefix.
    n_nonfinite : int
        Draws that are not finite.
    n_spikes : int
        Draws whose change from the draw before is far outside what changes usually are, or that lie between two such
        for less than a quarter of the chain.
    rise : float or None
        Mean loss minus the loss at the start (nat).
    drift : float or None
        Mean of the last third of the draws minus that of the first (nat).
    rhat : float or None
        Rank-normalised R-hat between the two halves of this chain.
    ess : float or None
        Effective draws (bulk) of this chain alone.
    mcse : float or None
        Monte Carlo standard error of this chain's mean loss (nat).
    signal_to_variation : float or None
        Rise over the standard deviation of the change from draw to draw.
    """

    chain: int
    status: str
    draws_missing: bool
    n_draws: int
    n_nonfinite: int
    n_spikes: int
    rise: float | None = None
    drift: float | None = None
    rhat: float | None = None
    ess: float | None = None
    mcse: float | None = None
    signal_to_variation: float | None = None


@dataclass(frozen=True)
class Diagnosis:
    """All that was found out about a run.

    Attributes
    ----------
    label : str
        The restriction's name within a study.
    source : str
        The variable the trace was taken from.
    rows : {"fixed", "minibatch"}
        Whether the same rows were evaluated at every draw.
    start, start_se : float or None
        Loss at the start (nat), and its standard error as a reference for the trace: 0 where it is of the same rows.
        None where it is not known for these rows.
    rise, rise_se : float or None
        Mean loss minus the loss at the start (nat), and its standard error.
    llc : float or None
        n_beta times the rise.
    rhat, ess_bulk, mcse : float or None
        By arviz-stats, over the complete chains: rank-normalised split R-hat, effective draws, and the Monte Carlo
        standard error of the mean loss (nat).
    drift, drift_se : float or None
        Mean of the last third of the draws minus that of the first (nat), all chains, and its standard error.
    signal_to_variation : float or None
        Median over chains.
    gradient_to_noise : float or None
        Median over steps of the norm of the gradient term over that of the noise, where metrics were saved.
    step_bias : StepBias or None
        By how much the step size inflates the LLC, measured from the metrics or at least, by the settings.
    shared_noise : float
        What the standard errors of independent chains are multiplied with where chains share minibatches; at least 1.
    equilibration : Equilibration
        What of the posterior the draws may lack, and what still grows.
    chains : tuple of ChainDiagnosis
        One per chain.
    verdicts : tuple of Verdict
        The gravest first; at least one.
    settings : mapping
        The settings that remedies speak of.
    unit : str
        Unit of the losses, where that is not nat.
    """

    label: str
    source: str
    rows: Literal["fixed", "minibatch"]
    start: float | None
    start_se: float | None
    rise: float | None
    rise_se: float | None
    llc: float | None
    rhat: float | None
    ess_bulk: float | None
    mcse: float | None
    drift: float | None
    drift_se: float | None
    signal_to_variation: float | None
    gradient_to_noise: float | None
    chains: tuple[ChainDiagnosis, ...]
    step_bias: StepBias | None = None
    shared_noise: float = 1.0
    equilibration: Equilibration = field(default_factory=Equilibration)
    verdicts: tuple[Verdict, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    unit: str = NAT

    @property
    def verdict(self) -> Verdict:
        """The gravest verdict."""
        return self.verdicts[0]

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return self.verdict.code == "good"

    @property
    def effective(self) -> float | None:
        """Effective draws as they are judged: ``ess_bulk`` over ``shared_noise`` squared."""
        return None if self.ess_bulk is None else self.ess_bulk / self.shared_noise**2

    @property
    def effective_needed(self) -> float:
        """How many effective draws are enough: ten for each complete chain."""
        return EFFECTIVE_PER_CHAIN * sum(c.status == "complete" for c in self.chains)

    def effective_text(self) -> str:
        """Effective draws and how many are needed; rounded down, so that too few are never written as enough."""
        return f"{'–' if self.effective is None else math.floor(self.effective)} / {self.effective_needed:.0f}"

    def measured(self, value: str) -> str:
        """A loss, or a difference of losses, with its unit."""
        return with_unit(value, self.unit, within=True)

    def _inflation(self) -> str:
        found = self.step_bias
        if found is None:
            return "an unknown factor"
        besides = f" and RMSprop by up to {found.preconditioner:.2f}" if found.preconditioner is not None else ""
        return f"{'' if found.source == 'metrics' else 'at least '}{found.inflation:.2f}{besides}"

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain, JSON-able types; an infinite inflation as None."""
        out = asdict(self)
        if self.step_bias is not None and not math.isfinite(self.step_bias.inflation):
            out["step_bias"]["inflation"] = None
        out["chains"] = [asdict(chain) for chain in self.chains]
        out["verdicts"] = [{**asdict(v), "title": v.title} for v in self.verdicts]
        out["settings"] = dict(self.settings)
        return out

    def __str__(self) -> str:
        head = f"{self.label}: " if self.label else ""
        numbers = [
            f"R-hat {number(self.rhat)}",
            f"{number(self.ess_bulk, 0)} effective draws",
            self.measured(f"rise {number(self.rise, 4)} ± {number(self.rise_se, 4)}"),
            self.measured(f"drift {number(self.drift, 4)} ± {number(self.drift_se, 4)}"),
            f"step inflates by {self._inflation()}",
            f"on {self.source}",
        ]
        lines = [f"{head}{self.verdict.title} ({', '.join(numbers)})", *(f"  {verdict}" for verdict in self.verdicts)]
        lines += [
            f"  chain {c.chain}: {c.status}, {c.n_draws} draws, rise {number(c.rise, 4)} ± {number(c.mcse, 4)}, "
            f"drift {number(c.drift, 4)}, R-hat of its halves {number(c.rhat)}, {number(c.ess, 0)} effective, "
            f"{c.n_nonfinite} non-finite, {c.n_spikes} spikes"
            for c in self.chains
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(str(self))}</pre>"


class StudyDiagnosis(dict[str, Diagnosis]):
    """Diagnoses by restriction name."""

    @property
    def good(self) -> bool:
        """Whether nothing is wrong with any run."""
        return all(diagnosis.good for diagnosis in self.values())

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain, JSON-able types."""
        return {name: diagnosis.to_dict() for name, diagnosis in self.items()}

    def __str__(self) -> str:
        return "\n".join(str(diagnosis) for diagnosis in self.values())

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(str(self))}</pre>"


class SeriesDiagnosis(dict[int, StudyDiagnosis]):
    """Diagnoses of studies by training step."""

    @property
    def good(self) -> bool:
        """Whether nothing is wrong with any run."""
        return all(study.good for study in self.values())

    @property
    def runs(self) -> StudyDiagnosis:
        """The diagnosis of every run by its path, ``1000/full``."""
        return StudyDiagnosis({f"{step}/{name}": d for step, study in self.items() for name, d in study.items()})

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain, JSON-able types; training steps as text."""
        return {str(step): study.to_dict() for step, study in self.items()}

    def __str__(self) -> str:
        return str(self.runs)

    def _repr_html_(self) -> str:
        return self.runs._repr_html_()


def number(value: float | None, digits: int = 2) -> str:
    """A number for people, where there is one."""
    return "unknown" if value is None else f"{value:.{digits}f}"
