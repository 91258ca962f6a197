"""Pictures: functions that draw with matplotlib and return its artists, and texts coloured token by token."""

from __future__ import annotations

from devinterp.plot.accessor import PlotAccessor
from devinterp.plot.drawing.facets import Facets
from devinterp.plot.influence import influence_matrix, token_influence
from devinterp.plot.influence.ranked import influence_images, ranked_influences
from devinterp.plot.llc import llc_estimates, llc_over_checkpoints, llc_over_restrictions, llc_per_chain
from devinterp.plot.metrics import sgld_metrics
from devinterp.plot.susceptibility import susceptibility_classes, susceptibility_text
from devinterp.plot.susceptibility.components import component_tokens, components_over_checkpoints, susceptibility_pca
from devinterp.plot.susceptibility.patterns import susceptibility_patterns
from devinterp.plot.susceptibility.token_map import susceptibility_map
from devinterp.plot.sweep import sweep_map
from devinterp.plot.tokens.coloured import TokenText
from devinterp.plot.traces import loss_traces, running_means
from devinterp.plot.verdict import verdict_table

__all__ = [
    "Facets",
    "PlotAccessor",
    "TokenText",
    "component_tokens",
    "components_over_checkpoints",
    "influence_images",
    "influence_matrix",
    "llc_estimates",
    "llc_over_checkpoints",
    "llc_over_restrictions",
    "llc_per_chain",
    "loss_traces",
    "ranked_influences",
    "running_means",
    "sgld_metrics",
    "susceptibility_classes",
    "susceptibility_map",
    "susceptibility_patterns",
    "susceptibility_pca",
    "susceptibility_text",
    "sweep_map",
    "token_influence",
    "verdict_table",
]
