"""The Bayesian influence function (BIF): how the losses of tokens, or of sequences, move together.

    BIF(z, z') = Corr(l_z, l_z')      over the draws of SGLD

A normalised variant of the influence in the papers, which is the *negative covariance*: positive where the two losses
rise and fall together, so that learning one lowers the loss of the other, as in devinterp 2.0. With the papers' sign
and scale it is in `devinterp.slt.bif.reweighting`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from devinterp._renamed import successor
from devinterp.slt.bif.compute import CorrelationMethod as CorrelationMethod
from devinterp.slt.bif.compute import compute_bif
from devinterp.slt.bif.one_call import bif

__all__ = ["bif", "compute_bif"]


if not TYPE_CHECKING:  # a checker shall know the names that there are

    def __getattr__(name: str) -> Any:
        return successor(__name__, name)
