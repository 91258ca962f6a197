"""Is this run to be trusted? R-hat, effective draws, drift and signal, with a verdict and what to try next.

Everything is computed on the sampling task's *fixed rows* where the store has them: minibatch losses are blind, since
all chains see the same minibatches and their noise drowns where the chains went.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from devinterp._renamed import successor
from devinterp.slt.diagnostics.diagnosis import ChainDiagnosis, Diagnosis, SeriesDiagnosis, StudyDiagnosis, Verdict
from devinterp.slt.diagnostics.of_run import diagnose

__all__ = ["ChainDiagnosis", "Diagnosis", "SeriesDiagnosis", "StudyDiagnosis", "Verdict", "diagnose"]


if not TYPE_CHECKING:  # a checker shall know the names that there are

    def __getattr__(name: str) -> Any:
        return successor(__name__, name)
