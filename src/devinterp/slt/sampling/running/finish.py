"""The end of a run: validated, completed, opened for the caller, with a word on the chains that failed."""

from __future__ import annotations

import warnings

import xarray as xr

from devinterp.errors import AllChainsFailedError, ChainFailedWarning, SamplingError, warn_caller
from devinterp.store import Location, Run
from devinterp.store.reading.open import failed_chains, open_tree

__all__ = ["complete_run", "open_finished", "open_quietly", "validate_store"]


def complete_run(run: Run) -> None:
    """Validate and complete the store of a run whose chains have all ended.

    Raises
    ------
    AllChainsFailedError
        No chain of the whole run survived.
    """
    if all(run.progress(*key).status == "failed" for key in run.chains):
        run.publish()
        raise AllChainsFailedError(
            f"All chains failed: {'; '.join(_failures(run)[:10])}.",
            remedy="Lower lr, then n_beta; a higher localization makes a step that is too long longer.",
        )
    run.note_seconds()
    run.complete(validate_store)


def _failures(run: Run) -> list[str]:
    failed = []
    for group, chain in run.chains:
        progress = run.progress(group, chain)
        if progress.status == "failed":
            where = f"{group.strip('/')} chain {chain}".strip()
            failed.append(f"{where} at step {progress.step} ({progress.reason})")
    return failed


def validate_store(location: Location) -> None:
    """Validate a store that is about to be completed; it raises where the store breaks its schema."""
    from devinterp.schema import validate

    validate(location.store, level="completeness").without("incomplete").raise_for_errors()


def open_quietly(location: Location) -> xr.DataTree:
    """Open a completed store without a word on chains that failed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ChainFailedWarning)
        return open_tree(location)


def open_finished(run: Run) -> xr.DataTree:
    """Open a completed run's store; warn once, at the caller's line, of the chains that failed."""
    if not run.finished:
        raise SamplingError("The store is not complete.")
    tree = open_quietly(run.location)
    failed = failed_chains(tree)  # from the store: the run's own files are gone once it is complete
    if failed:
        warn_caller(
            f"{len(failed)} of {len(run.chains)} chains failed and are left out of every analysis: "
            f"{'; '.join(failed[:10])}{' ...' if len(failed) > 10 else ''}.",
            ChainFailedWarning,
        )
    return tree
