"""The local learning coefficient (LLC) of a run.

    llc = n_beta * (E[L] - L_0)

with E[L] the mean loss over the draws of SGLD and L_0 the loss at the start (Lau et al. 2023,
`arXiv:2308.12108 <https://arxiv.org/abs/2308.12108>`_, equation 4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from devinterp._renamed import successor
from devinterp.slt.llc.compute import compute_llc
from devinterp.slt.llc.one_call import data_refined_llc, llc

__all__ = ["compute_llc", "data_refined_llc", "llc"]


if not TYPE_CHECKING:  # a checker shall know the names that there are

    def __getattr__(name: str) -> Any:
        return successor(__name__, name)
