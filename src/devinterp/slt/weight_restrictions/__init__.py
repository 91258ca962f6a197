"""Weight restrictions: sample only some of a model's weights.

A restriction names a part of a transformer, ``"l0h1"`` is head 1 of layer 0, or of any module tree, ``"module:conv1"``.
:func:`create_param_masks`, where the grammar stands, turns it into the masks that ``sample()`` takes, for HuggingFace
models, TransformerLens models and any other ``torch.nn.Module``. There is no table of architectures: layers,
projections and heads are read from the model itself, from its configuration, module tree and shapes, and where these do
not decide (a fused projection of unknown order), from which weights the attention's output depends on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from devinterp._renamed import successor
from devinterp.slt.weight_restrictions.masks import create_param_masks
from devinterp.slt.weight_restrictions.preview import RestrictionPreview, SelectedParameter, preview_restriction

__all__ = ["RestrictionPreview", "SelectedParameter", "create_param_masks", "preview_restriction"]


if not TYPE_CHECKING:  # a checker shall know the names that there are

    def __getattr__(name: str) -> Any:
        return successor(__name__, name)
