"""SGLD sampling of a model's loss around its weights: one run, a study, a series of checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from devinterp._renamed import successor
from devinterp.slt.sampling.engine.losses import LossFn
from devinterp.slt.sampling.one_run import sample
from devinterp.slt.sampling.running.progress import ProgressEvent
from devinterp.slt.sampling.series import from_revisions, from_state_dicts, sample_checkpoints
from devinterp.slt.sampling.settings import SamplerSettings
from devinterp.slt.sampling.study import sample_restrictions

__all__ = [
    "LossFn",
    "ProgressEvent",
    "SamplerSettings",
    "from_revisions",
    "from_state_dicts",
    "sample",
    "sample_checkpoints",
    "sample_restrictions",
]


if not TYPE_CHECKING:  # a checker shall know the names that there are

    def __getattr__(name: str) -> Any:
        return successor(__name__, name)
