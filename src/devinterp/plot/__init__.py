"""Pictures: functions that draw with matplotlib and return its artists, and texts coloured token by token."""

from __future__ import annotations

from devinterp.plot.accessor import PlotAccessor
from devinterp.plot.drawing.facets import Facets
from devinterp.plot.influence import influence_matrix, token_influence
from devinterp.plot.llc import llc_estimates, llc_over_checkpoints, llc_over_restrictions, llc_per_chain
from devinterp.plot.metrics import sgld_metrics
from devinterp.plot.susceptibility import susceptibility_classes, susceptibility_pca, susceptibility_text
from devinterp.plot.sweep import sweep_map
from devinterp.plot.tokens.coloured import TokenText
from devinterp.plot.traces import loss_traces
from devinterp.plot.verdict import verdict_table

__all__ = [
    "Facets",
    "PlotAccessor",
    "TokenText",
    "influence_matrix",
    "llc_estimates",
    "llc_over_checkpoints",
    "llc_over_restrictions",
    "llc_per_chain",
    "loss_traces",
    "sgld_metrics",
    "susceptibility_classes",
    "susceptibility_pca",
    "susceptibility_text",
    "sweep_map",
    "token_influence",
    "verdict_table",
]
