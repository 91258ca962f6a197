"""The LLC: per chain, over restrictions, over checkpoints."""

from __future__ import annotations

from devinterp.plot.llc.estimates import llc_estimates, llc_per_chain
from devinterp.plot.llc.over_checkpoints import llc_over_checkpoints
from devinterp.plot.llc.over_restrictions import llc_over_restrictions

__all__ = ["llc_estimates", "llc_over_checkpoints", "llc_over_restrictions", "llc_per_chain"]
