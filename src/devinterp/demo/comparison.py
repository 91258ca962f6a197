"""The heads side by side: what attention, sampling, removal and noise say of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from devinterp.demo.analysis import rank_correlation
from devinterp.demo.circuit import Circuit

__all__ = ["Comparison"]


@dataclass(frozen=True)
class Comparison:
    """Several measures of the same heads.

    Parameters
    ----------
    circuit : Circuit
        What attention shows.
    heads : Dataset
        What sampling shows, from `head_effects`.
    baselines : Dataset
        What that is held against, from `baselines`.
    n_beta : float
        Of the sampling.
    """

    circuit: Circuit
    heads: xr.Dataset
    baselines: xr.Dataset
    n_beta: float

    @property
    def measures(self) -> dict[str, dict[str, float]]:
        """What each measure says of each head: attention (unit 1), and rises of the loss on copied bytes (nat)."""
        names = self.circuit.names
        found = {"attention": self.circuit.attention, "sampling": self.heads["copied"].sel(wr=list(names)).values}
        for label, column in (("removal", "removed"), ("noise", "noise"), ("control", "control")):
            found[label] = self.baselines[f"{column}_copied"].sel(wr=list(names)).values
        return {label: dict(zip(names, values.tolist(), strict=True)) for label, values in found.items()}

    @property
    def agrees(self) -> dict[str, bool]:
        """Of each measure: whether the heads that attention names are those that it ranks highest."""
        members = set(self.circuit.members)

        def highest(values: Mapping[str, float]) -> set[str]:
            return set(sorted(values, key=values.__getitem__, reverse=True)[: len(members)])

        return {
            label: bool(members) and highest(values) == members
            for label, values in self.measures.items()
            if label != "attention"
        }

    @property
    def ranks(self) -> dict[str, float]:
        """Rank correlation of sampling with each other measure, over all heads."""
        values = {label: np.array(list(each.values())) for label, each in self.measures.items()}
        sampled = values.pop("sampling")
        return {label: rank_correlation(sampled, each) for label, each in values.items()}

    @property
    def share_of_control(self) -> xr.DataArray:
        """Loss rise on training rows as a share of that at ``n_beta = 0``, (wr,); 1 where the loss has no part."""
        return self._share("control_task")

    @property
    def share_of_noise(self) -> xr.DataArray:
        """Loss rise on training rows as a share of that under noise of the same size, (wr,)."""
        return self._share("noise_task")

    def sentence(self) -> str:
        """Say what the measures have in common, and what sampling adds to noise."""
        members, effects = self.circuit.members, self.measures["sampling"]
        if not members:
            return "Attention shows no induction circuit, so there is nothing to compare with."
        agrees, ranks = self.agrees, self.ranks
        said = ", ".join(f"{name} {effects[name]:.2f}" for name in members)
        outside = max(effects[name] for name in effects if name not in members)
        where = {label: "names the same heads" if yes else "names others" for label, yes in agrees.items()}
        both = (self.share_of_control, self.share_of_noise)
        shares = [f"{100 * float(bound(each)):.0f}" for each in both for bound in (min, max)]
        adds = (
            "Noise of the same size, which knows nothing of the loss, ranks them alike: the order is no evidence for "
            "the posterior, how much less the loss rises is."
            if ranks["noise"] > 0.9
            else "Noise of the same size ranks them otherwise: part of the order is the posterior's."
        )
        return (
            f"Attention shows the circuit {' + '.join(members)}. Sampling {where['sampling']}: the loss on copied "
            f"bytes rises by {said} nat, at most {outside:.2f} for any other head. Removing a head "
            f"{where['removal']}. Rank correlations of sampling over all heads: {ranks['removal']:.2f} with removal, "
            f"{ranks['attention']:.2f} with attention, {ranks['noise']:.2f} with noise of the same size, "
            f"{ranks['control']:.2f} with n_beta = 0. {adds} On training rows the sampled heads cost {shares[0]} to "
            f"{shares[1]} % of what they do at n_beta = 0 (100 would mean that the loss has no part), and {shares[2]} "
            f"to {shares[3]} % of what noise of the same size does. {self._apart()}"
        )

    @property
    def largest(self) -> tuple[str, str]:
        """The head with the largest rise on copied bytes, and the one with the largest on training rows."""
        heads = self.heads.sel(wr=list(self.circuit.names))
        copied, task = (str(heads["wr"].values[np.argmax(heads[name].values)]) for name in ("copied", "task"))
        return copied, task

    def _apart(self) -> str:
        copied, task = self.largest
        if copied == task:
            return f"{copied} has both the largest rise on copied bytes and the largest on training rows."
        return (
            f"{copied} has the largest rise on copied bytes, but {task} the largest on training rows: how much a head "
            "matters for one behaviour is not how sharply all of the loss rises around it."
        )

    def refined_sentence(self, refined: xr.Dataset, n_beta: float) -> str:
        """Say whether the head that matters most to copied bytes has the largest LLC on copied text alone.

        ``refined`` is from `refined_llc`, sampled at ``n_beta``.
        """
        if not self.circuit.members:
            return "Attention shows no induction circuit, so there is no head to ask about."
        first = self.largest[0]
        heads = refined.sel(wr=list(self.circuit.names))
        sharpest = str(heads["wr"].values[int(np.argmax(heads["copied"].values))])
        own, other = (heads.sel(wr=name) for name in (first, sharpest))
        said = f"Sampled on snippets alone, which copying predicts, at n_beta {n_beta:g}: "
        if first == sharpest:
            return said + (
                f"{first}, whose sampling costs copied bytes the most, has the largest data-refined LLC as well, "
                f"{_refined(own)}."
            )
        said += (
            f"{first}, whose sampling costs copied bytes the most, has a data-refined LLC of {_refined(own)}, and "
            f"{sharpest} the largest, {_refined(other)}: "
        )
        if float(other["copied_ci"][0]) <= float(own["copied_ci"][1]):
            return said + "their intervals overlap, so which of the two is larger is open."
        return said + "the head that matters most to copying is not the one around which its loss is sharpest."

    def _share(self, column: str) -> xr.DataArray:
        heads = list(self.circuit.names)
        return self.heads["task"].sel(wr=heads) / self.n_beta / self.baselines[column].sel(wr=heads)


def _refined(found: xr.Dataset) -> str:
    low, high = found["copied_ci"].values
    return f"{float(found['copied']):.1f} ± {(high - low) / 2:.1f}"
