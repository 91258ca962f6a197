"""SGLD sampling of a model's loss around its weights: one run, a study, a series of checkpoints, a sweep."""

from __future__ import annotations

from devinterp.slt.sampling.api import sample
from devinterp.slt.sampling.grid import sweep
from devinterp.slt.sampling.losses import LossFn
from devinterp.slt.sampling.progress import ProgressEvent
from devinterp.slt.sampling.restrictions import sample_restrictions
from devinterp.slt.sampling.series import from_revisions, from_state_dicts, sample_checkpoints
from devinterp.slt.sampling.settings import SamplerSettings

__all__ = [
    "LossFn",
    "ProgressEvent",
    "SamplerSettings",
    "from_revisions",
    "from_state_dicts",
    "sample",
    "sample_checkpoints",
    "sample_restrictions",
    "sweep",
]
