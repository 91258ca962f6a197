"""Susceptibilities: how the posterior of a part of the weights responds to a shift of the data.

For a weight restriction C, the sampling task's loss u and the loss l of a probe token, with phi the mean of u over
(batch, token) minus the loss at the start, expectations over (chain, draw):

    sus = E_C[phi * mean(u)] - E_C[phi * l] - E_C[phi] * (E_full[u] - E_full[l])
        = Cov_C(phi, u - l) + E_C[phi] * (E_full[l - u] - E_C[l - u])                    (sus_cov + sus_shift)

The response of E_C[phi] to a share of the data that moves to the token is n_beta times sus_cov; sus has no such factor,
as devinterp 2.0 has none.

Baker, Wang, Hoogland & Murfet 2025, "Structural inference: interpreting small language models with susceptibilities",
`arXiv:2504.18274 <https://arxiv.org/abs/2504.18274>`_, appendix C.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from devinterp._renamed import successor
from devinterp.slt.susceptibilities.compute import compute_susceptibilities
from devinterp.slt.susceptibilities.one_call import susceptibilities

if TYPE_CHECKING:
    from devinterp.slt.sampling import sample_restrictions as sample_restrictions

__all__ = ["compute_susceptibilities", "sample_restrictions", "susceptibilities"]


if not TYPE_CHECKING:  # a checker shall know the names that there are

    def __getattr__(name: str) -> Any:
        if name == "sample_restrictions":  # needs torch, which analysis does without
            from devinterp.slt.sampling import sample_restrictions

            return sample_restrictions
        return successor(__name__, name)
