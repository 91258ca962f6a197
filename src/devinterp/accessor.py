"""The ``devinterp`` accessor of DataTree and Dataset: every method is one line into a public function.

It holds nothing but the object it was made for, reads nothing until it is asked, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

if TYPE_CHECKING:
    from os import PathLike

    from devinterp.plot import PlotAccessor, TokenText
    from devinterp.schema import Report
    from devinterp.slt.diagnostics import Diagnosis, SeriesDiagnosis, StudyDiagnosis
    from devinterp.slt.sweep.recommend import Recommendation
    from devinterp.store import StoreLike

__all__ = ["DevinterpAccessor"]


@xr.register_datatree_accessor("devinterp")  # type: ignore[no-untyped-call]  # xarray types neither
@xr.register_dataset_accessor("devinterp")  # type: ignore[no-untyped-call]
class DevinterpAccessor:
    """Analyses, checks and pictures of what `devinterp.sample` and the analyses return.

    Parameters
    ----------
    obj : DataTree or Dataset
        A run, a study, a series, or a result.
    """

    __slots__ = ("_obj",)

    def __init__(self, obj: xr.DataTree | xr.Dataset) -> None:
        self._obj = obj

    # What it is

    @property
    def kind(self) -> str:
        """``samples``, ``study``, ``series``, ``sweep``, ``llc``, ``bif``, ``susceptibilities`` ..., or ``unknown``."""
        from devinterp.slt.runs.kind import kind_of

        return kind_of(self._obj)

    @property
    def config(self) -> Mapping[str, Any]:
        """``metadata.config``: the sampler's settings, the observables; empty where none is recorded."""
        from devinterp.plain_json import dig
        from devinterp.slt.runs.run import metadata_of

        return dig(metadata_of(self._obj), "config") or {}

    @property
    def provenance(self) -> Mapping[str, Any]:
        """``metadata.provenance``: identity of weights, rows, loss and mode; of a study or series what its runs share.

        Empty where none is recorded.
        """
        from devinterp.slt.runs.comparable import shared_provenance

        return shared_provenance(self._obj)

    @property
    def observables(self) -> tuple[str, ...]:
        """Ids of the observables, in the caller's order."""
        from devinterp.slt.runs.tree_overview import observables

        return observables(self._obj)

    def validate(self, *, profile: str = "strict") -> xr.DataTree | xr.Dataset:
        """Return the tree, or raise `ValidationError` with every finding; see `devinterp.validate`."""
        self.report(profile=profile).raise_for_errors()
        return self._obj

    def report(self, *, profile: str = "strict") -> Report:
        """Return every finding; see `devinterp.validate`."""
        from devinterp.schema import validate

        return validate(self._obj, profile=profile)

    def save(self, target: StoreLike) -> None:
        """Write the tree, or what was selected from one, to a new store; see `devinterp.slt.runs.save.save`."""
        from devinterp.slt.runs.save import save

        save(self._obj, target)

    # What follows from it

    def llc(
        self,
        *,
        over: Literal["draws", "steps", "observable", "paired"] = "draws",
        burnin: bool = False,
        observable: str | None = None,
        ci: float | None = None,
        allow_partial: bool = False,
        allow_mixed: bool = False,
    ) -> xr.Dataset:
        """Compute the local learning coefficient; see `devinterp.slt.llc.compute_llc`.

        ``n_beta * (E[L] - L_0)``, dimensionless: E[L] is the mean loss (nat) over the draws, L_0 that at the start. An
        interval is for this number at the run's own settings, not for the learning coefficient.
        """
        from devinterp.slt.llc import compute_llc

        return compute_llc(
            self._obj,
            over=over,
            burnin=burnin,
            observable=observable,
            ci=ci,
            allow_partial=allow_partial,
            allow_mixed=allow_mixed,
        )

    def wbic(
        self,
        *,
        num_samples: int | None = None,
        over: Literal["draws", "steps", "observable", "paired"] = "draws",
        observable: str | None = None,
        allow_partial: bool = False,
        allow_mixed: bool = False,
    ) -> xr.Dataset:
        """Compute the widely applicable Bayesian criterion, WBIC; see `devinterp.slt.information.wbic.compute_wbic`.

        ``n E[L]`` (nat) of a run at ``n_beta = n / ln n``: an estimate of the free energy, local to the start.
        """
        from devinterp.slt.information.wbic import compute_wbic

        return compute_wbic(
            self._obj,
            num_samples=num_samples,
            over=over,
            observable=observable,
            allow_partial=allow_partial,
            allow_mixed=allow_mixed,
        )

    def waic(
        self,
        *,
        per: Literal["token", "sequence"] = "token",
        observable: str | None = None,
        num_samples: int | None = None,
        allow_partial: bool = False,
        allow_mixed: bool = False,
    ) -> xr.Dataset:
        """Compute WAIC (nat) and singular fluctuation; see `devinterp.slt.information.waic.compute_waic`.

        ``-ln E[exp(-l)] + beta Var(l)`` and ``n_beta / 2 * Var(l)``, means over the samples' losses l.
        """
        from devinterp.slt.information.waic import compute_waic

        return compute_waic(
            self._obj,
            per=per,
            observable=observable,
            num_samples=num_samples,
            allow_partial=allow_partial,
            allow_mixed=allow_mixed,
        )

    def sweep(
        self,
        *,
        over: Literal["draws", "observable", "paired"] | None = None,
        observable: str | None = None,
        ci: float = 0.9,
        allow_partial: bool = False,
    ) -> xr.Dataset:
        """Summarise a sweep over its grid; see `devinterp.slt.sweep.compute_sweep`."""
        from devinterp.slt.sweep import compute_sweep

        return compute_sweep(self._obj, over=over, observable=observable, ci=ci, allow_partial=allow_partial)

    def temperature(
        self,
        *,
        largest: int = 3,
        over: Literal["draws", "observable", "paired"] | None = None,
        observable: str | None = None,
        ci: float = 0.9,
        allow_partial: bool = False,
    ) -> xr.Dataset:
        """Fit what a sweep's LLC tends to as n_beta grows; see `devinterp.slt.sweep.temperature.compute_temperature`.

        ``LLC(n_beta) = lambda - (m - 1) / (ln n_beta + c)``, for every multiplicity m up to `largest`.
        """
        from devinterp.slt.sweep.temperature import compute_temperature

        return compute_temperature(
            self._obj, largest=largest, over=over, observable=observable, ci=ci, allow_partial=allow_partial
        )

    def recommend(self, **options: Any) -> Recommendation:
        """Recommend a setting, from a sweep or the summary of one; see `devinterp.slt.sweep.recommend.recommend`."""
        from devinterp.slt.sweep.recommend import recommend

        return recommend(self._obj, **options)

    def bif(
        self,
        method: Literal["token", "sequence"] = "token",
        *,
        reduce_chain_dimension_method: Literal["stack", "mean"] = "stack",
        loss_keys: Literal["all"] | Sequence[str] = "all",
        batch_index_range_1: str | Sequence[int] = "all",
        batch_index_range_2: str | Sequence[int] = "all",
        average_tokenwise_bif: bool = False,
        compute_covariance: bool = False,
        batch_size: int = 32,
        device: Any = None,
        se: bool = False,
        top_k: int | None = None,
        lazy: bool | None = None,
        output_path: str | PathLike[str] | None = None,
        allow_partial: bool = False,
        allow_mixed: bool = False,
    ) -> xr.Dataset:
        """Compute the Bayesian influence function; see `devinterp.slt.bif.compute_bif`.

        ``Corr(l_i, l_j)`` over the draws of the losses of two tokens or sequences, dimensionless; with
        ``compute_covariance`` their covariance, nat². Positive where learning the one lowers the loss of the other: a
        normalised variant of the papers' influence, which is minus the covariance; see `reweighting`.
        """
        from devinterp.slt.bif import compute_bif

        return compute_bif(
            self._obj,
            correlation_method=method,
            reduce_chain_dimension_method=reduce_chain_dimension_method,
            loss_keys=loss_keys,
            batch_index_range_1=batch_index_range_1,
            batch_index_range_2=batch_index_range_2,
            average_tokenwise_bif=average_tokenwise_bif,
            compute_covariance=compute_covariance,
            batch_size=batch_size,
            device=device,
            se=se,
            top_k=top_k,
            lazy=lazy,
            output_path=output_path,
            allow_partial=allow_partial,
            allow_mixed=allow_mixed,
        )

    def reweighting(
        self,
        method: Literal["token", "sequence"] = "sequence",
        *,
        num_samples: int | None = None,
        loss_keys: Literal["all"] | Sequence[str] = "all",
        batch_index_range_1: str | Sequence[int] = "all",
        batch_index_range_2: str | Sequence[int] = "all",
        se: bool = False,
        allow_partial: bool = False,
    ) -> xr.Dataset:
        """Predict what weight on a sample does to others; see `devinterp.slt.bif.reweighting.compute_reweighting`.

        ``-beta Cov(l_i, l_j)`` over the draws (nat per unit of relative weight): negative where learning i helps j.
        """
        from devinterp.slt.bif.reweighting import compute_reweighting

        return compute_reweighting(
            self._obj,
            correlation_method=method,
            num_samples=num_samples,
            loss_keys=loss_keys,
            batch_index_range_1=batch_index_range_1,
            batch_index_range_2=batch_index_range_2,
            se=se,
            allow_partial=allow_partial,
        )

    def susceptibilities(
        self,
        sampling_task: str | None = None,
        observable_names: Sequence[str] | None = None,
        include_sampling_task: bool = False,
        *,
        baseline: Literal["init", "observable"] = "init",
        terms: bool = False,
        se: bool = False,
        allow_partial: bool = False,
        allow_mixed: bool = False,
    ) -> xr.DataTree:
        """Compute susceptibilities; see `devinterp.slt.susceptibilities.compute_susceptibilities`.

        ``Cov_C(phi, u - l) + E_C[phi] (E_full[l - u] - E_C[l - u])`` of every token's loss l, nat²: u is the sampling
        task's loss, phi its mean minus the loss at the start, C the weight restriction. The response of the posterior
        mean, as the papers have it, is ``n_beta`` times this.
        """
        from devinterp.slt.susceptibilities import compute_susceptibilities

        return compute_susceptibilities(
            self._tree,
            sampling_task,
            observable_names,
            include_sampling_task,
            baseline=baseline,
            terms=terms,
            se=se,
            allow_partial=allow_partial,
            allow_mixed=allow_mixed,
        )

    def diagnose(self, *, sampling_task: str | None = None) -> Diagnosis | StudyDiagnosis | SeriesDiagnosis:
        """Judge whether the run can be trusted; see `devinterp.slt.diagnostics.diagnose`.

        From R-hat (dimensionless), effective draws, rise and drift of the loss (nat), each with its standard error.
        """
        from devinterp.slt.diagnostics import diagnose

        return diagnose(self._obj, sampling_task=sampling_task)

    def to_arviz(self, *, log_likelihood: bool = False, allow_partial: bool = False) -> xr.DataTree:
        """Lay the run out as ArviZ expects it; see `devinterp.slt.uncertainty.arviz.to_arviz`.

        Losses stay in nat; ``log_likelihood`` is minus the loss.
        """
        from devinterp.slt.uncertainty.arviz import to_arviz

        return to_arviz(self._obj, log_likelihood=log_likelihood, allow_partial=allow_partial)

    # Susceptibilities, looked at

    def unflatten(self) -> xr.DataTree:
        """Give every observable an array of its own; see `devinterp.slt.susceptibilities.by_observable.unflatten`."""
        from devinterp.slt.susceptibilities.by_observable import unflatten

        return unflatten(self._tree)

    def flatten(self) -> xr.DataTree:
        """Go back from `unflatten`; see `devinterp.slt.susceptibilities.by_observable.flatten`."""
        from devinterp.slt.susceptibilities.by_observable import flatten

        return flatten(self._tree)

    def matrix(self, *, standardize: bool | Literal["columns"] = True, variable: str = "sus") -> xr.DataArray:
        """Tokens by restrictions, made comparable; see `devinterp.slt.susceptibilities.matrix.matrix`.

        ``(sus - mean) / sd`` of every restriction, in its own standard deviations (dimensionless); with ``True`` each
        token's mean over restrictions is removed as well; with ``False`` nat².
        """
        from devinterp.slt.susceptibilities.matrix import matrix

        return matrix(self._tree, standardize=standardize, variable=variable)

    def pca(self, n_components: int | None = None, *, standardize: bool | Literal["columns"] = True) -> xr.Dataset:
        """Principal components of the matrix; see `devinterp.slt.susceptibilities.matrix.pca`.

        ``matrix = scores @ loadings``, centred, of a series over all checkpoints together; loadings are unit vectors
        over restrictions, scores have its unit.
        """
        from devinterp.slt.susceptibilities.matrix import pca

        return pca(self._tree, n_components, standardize=standardize)

    def split_half(self, sampling_task: str | None = None, **options: Any) -> xr.Dataset:
        """Reproducibility between halves of the chains; see `devinterp.slt.susceptibilities.split_half.split_half`.

        The correlation (dimensionless) of every restriction's values from the one half with those from the other.
        """
        from devinterp.slt.susceptibilities.split_half import split_half

        return split_half(self._tree, sampling_task, **options)

    # Pictures

    @property
    def plot(self) -> PlotAccessor:
        """Pictures, by name, with units on their axes; needs matplotlib (``pip install 'devinterp[plot]'``)."""
        from devinterp.plot import PlotAccessor

        return PlotAccessor(self._obj)

    def tokens(self, *args: Any, **options: Any) -> TokenText:
        """Texts coloured token by token; see `devinterp.plot.tokens.tokens`.

        By loss or its change (nat), standardised susceptibility, or correlation with a chosen token.
        """
        from devinterp.plot.tokens import tokens

        return tokens(self._obj, *args, **options)

    @property
    def _tree(self) -> Any:
        """The object, as functions take it that refuse a Dataset themselves."""
        return self._obj

    def __repr__(self) -> str:
        from devinterp.slt.runs.tree_overview import overview_text

        return overview_text(self._obj)

    def _repr_html_(self) -> str:
        from devinterp.slt.runs.tree_overview import overview_html

        return overview_html(self._obj)
