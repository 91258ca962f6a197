"""``tree.devinterp.plot``: every picture, by one line into its function."""

from __future__ import annotations

from typing import Any

import xarray as xr

from devinterp.errors import SettingError
from devinterp.plot.influence import influence_matrix, token_influence
from devinterp.plot.influence.ranked import influence_images, ranked_influences
from devinterp.plot.llc import llc_estimates
from devinterp.plot.metrics import sgld_metrics
from devinterp.plot.susceptibility import susceptibility_classes, susceptibility_text
from devinterp.plot.susceptibility.components import component_tokens, components_over_checkpoints, susceptibility_pca
from devinterp.plot.susceptibility.patterns import susceptibility_patterns
from devinterp.plot.susceptibility.token_map import susceptibility_map
from devinterp.plot.sweep import sweep_map
from devinterp.plot.traces import loss_traces, running_means
from devinterp.plot.verdict import verdict_table
from devinterp.slt.estimands import ESTIMANDS
from devinterp.slt.runs.kind import kind_of
from devinterp.wording import one_of

__all__ = ["PlotAccessor"]


class PlotAccessor:
    """Pictures of a run, a study, a series or a result.

    Every method takes ``ax=`` (a new figure otherwise) and returns matplotlib artists; a run or a study is analysed
    first, with the arguments that the picture does not know itself.

    Parameters
    ----------
    obj : DataTree or Dataset
        What ``sample()`` or an analysis returned.
    """

    def __init__(self, obj: xr.DataTree | xr.Dataset) -> None:
        self._obj = obj

    def __call__(self, **options: Any) -> Any:
        """Draw what fits the kind: traces of a run, the LLC of a study or series, an influence, classes."""
        kind = kind_of(self._obj)
        known = {"samples": "traces", "study": "llc", "series": "llc", "sweep": "sweep", "sweep_summary": "sweep"}
        known |= {each.kind: each.picture for each in ESTIMANDS.values() if each.picture}
        if kind not in known:
            raise SettingError("There is no picture of this.", expected=one_of(sorted(known)), found=kind)
        return getattr(self, known[kind])(**options)

    def traces(self, **options: Any) -> Any:
        """Draw loss traces; see `devinterp.plot.traces.loss_traces`."""
        return loss_traces(self._obj, **options)

    def running_means(self, **options: Any) -> Any:
        """Draw the LLC of the draws so far; see `devinterp.plot.traces.running_means`."""
        return running_means(self._obj, **options)

    def llc(self, **options: Any) -> Any:
        """Draw the LLC per chain, over restrictions or over checkpoints; see `devinterp.plot.llc.llc_estimates`."""
        return llc_estimates(self._obj, **options)

    def influence(self, **options: Any) -> Any:
        """Draw the influence between sequences; see `devinterp.plot.influence.influence_matrix`."""
        return influence_matrix(self._obj, **options)

    def token_influence(self, batch_1: int, batch_2: int, **options: Any) -> Any:
        """Draw the influence between the tokens of a pair; see `devinterp.plot.influence.token_influence`."""
        return token_influence(self._obj, batch_1, batch_2, **options)

    def influence_images(self, queries: Any, images: Any, **options: Any) -> Any:
        """Draw images and their strongest partners; see `devinterp.plot.influence.ranked.influence_images`."""
        return influence_images(self._obj, queries, images, **options)

    def ranked_influences(self, batch_1: int, target_position: int | None = None, **options: Any) -> Any:
        """Draw the strongest partners of a token or row; see `devinterp.plot.influence.ranked.ranked_influences`."""
        return ranked_influences(self._obj, batch_1, target_position, **options)

    def susceptibilities(self, classes: Any = None, **options: Any) -> Any:
        """Draw restrictions by token classes; see `devinterp.plot.susceptibility.susceptibility_classes`."""
        return susceptibility_classes(self._obj, classes, **options)

    def susceptibility_text(self, observable: str | None = None, batch: int = 0, **options: Any) -> Any:
        """Draw restrictions along a text; see `devinterp.plot.susceptibility.susceptibility_text`."""
        return susceptibility_text(self._obj, observable, batch, **options)

    def pca(self, show: Any = "restrictions", **options: Any) -> Any:
        """Draw principal components; see `devinterp.plot.susceptibility.components.susceptibility_pca`."""
        return susceptibility_pca(self._obj, show, **options)

    def component(self, component: int = 1, **options: Any) -> Any:
        """Draw loadings and top tokens; see `devinterp.plot.susceptibility.components.component_tokens`."""
        return component_tokens(self._obj, component, **options)

    def component_over_checkpoints(self, component: int = 1, **options: Any) -> Any:
        """Draw classes over training; see `devinterp.plot.susceptibility.components.components_over_checkpoints`."""
        return components_over_checkpoints(self._obj, component, **options)

    def token_map(self, method: Any = None, **options: Any) -> Any:
        """Draw tokens in two dimensions; see `devinterp.plot.susceptibility.token_map.susceptibility_map`."""
        return susceptibility_map(self._obj, method, **options)

    def patterns(self, wr: Any = None, **options: Any) -> Any:
        """Draw boxes by pattern; see `devinterp.plot.susceptibility.patterns.susceptibility_patterns`."""
        return susceptibility_patterns(self._obj, wr, **options)

    def metrics(self, quantity: Any = None, **options: Any) -> Any:
        """Draw the SGLD diagnostics; see `devinterp.plot.metrics.sgld_metrics`."""
        return sgld_metrics(self._obj, quantity, **options)

    def sweep(self, **options: Any) -> Any:
        """Draw the cells of a sweep, with verdicts; see `devinterp.plot.sweep.sweep_map`."""
        return sweep_map(self._obj, **options)

    def verdict(self, **options: Any) -> Any:
        """Draw what ``diagnose()`` says; see `devinterp.plot.verdict.verdict_table`."""
        return verdict_table(self._obj, **options)

    def __repr__(self) -> str:
        kind = kind_of(self._obj)
        names = [n for n in dir(self) if not n.startswith("_")]
        return f"<pictures of {kind}: {', '.join(f'.{n}()' for n in names)}>"
