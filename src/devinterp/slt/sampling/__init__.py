"""SGLD sampling of a model's loss around its weights: `sample` and `sample_restrictions`."""

from __future__ import annotations

from devinterp.slt.sampling.api import sample
from devinterp.slt.sampling.losses import LossFn
from devinterp.slt.sampling.progress import ProgressEvent
from devinterp.slt.sampling.restrictions import sample_restrictions
from devinterp.slt.sampling.settings import SamplerSettings

__all__ = ["LossFn", "ProgressEvent", "SamplerSettings", "sample", "sample_restrictions"]
