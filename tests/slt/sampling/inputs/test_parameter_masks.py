"""Masks are checked against the model and identified by what they select."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_lm import build_model, head_masks
from torch import nn

from devinterp.errors import DevinterpWarning, RestrictionError
from devinterp.slt.sampling.inputs.parameter_masks import check_masks, hash_masks, sampled_size, scaled_weights

MODEL = build_model()
NAMES = [name for name, _ in MODEL.named_parameters()]


def tied():
    model = nn.Module()
    model.embed = nn.Embedding(5, 3)
    model.unembed = nn.Linear(3, 5, bias=False)
    model.unembed.weight = model.embed.weight
    return model


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        ({"nothing": None}, "'nothing'"),
        ({"embed.weight": torch.ones(3, 3)}, "wrong shape"),
        ({"embed.weight": True}, "not an array"),
        ({"embed.weight": [[True]]}, "not an array"),
        ({"embed.weight": torch.full((64, 32), float("nan"))}, "not finite"),
        ({"embed.weight": torch.zeros(64, 32, dtype=torch.bool)}, "selects no weight"),
        ({}, "selects no weight"),
        (["embed.weight"], "must map"),
        ("l0h1", "must map"),
    ],
)
def test_bad_masks_are_one_clear_error(masks, words):
    with pytest.raises(RestrictionError, match=words):
        check_masks(MODEL, masks)


def test_a_tied_parameter_is_known_by_its_first_name():
    with pytest.raises(RestrictionError, match=r"embed\.weight.*tied"):
        check_masks(tied(), {"unembed.weight": None})


def test_frozen_parameters_alone_cannot_be_sampled():
    model = build_model()
    model.embed.weight.requires_grad_(False)
    with pytest.raises(RestrictionError, match="requires_grad"):
        check_masks(model, {"embed.weight": None})
    assert sampled_size(model, check_masks(model, None))[0] == len(NAMES) - 1


def test_none_is_every_parameter_whole_in_the_models_order():
    masks = check_masks(MODEL, None)
    assert list(masks) == NAMES
    assert set(masks.values()) == {None}
    assert sampled_size(MODEL, masks) == (len(NAMES), sum(p.numel() for p in MODEL.parameters()))
    assert hash_masks(MODEL, masks) is None


def test_masks_may_be_arrays():
    mask = np.zeros((64, 32), dtype=bool)
    mask[3] = True
    masks = check_masks(MODEL, {"embed.weight": mask})
    assert torch.equal(masks["embed.weight"], torch.from_numpy(mask))
    assert sampled_size(MODEL, masks) == (1, 32)


def test_the_identity_depends_on_names_order_and_values_and_not_on_the_dtype():
    base = head_masks(MODEL, 0, 1)
    first = hash_masks(MODEL, base)
    assert hash_masks(MODEL, {k: m.float() for k, m in base.items()}) == first
    changed = {k: m.clone() for k, m in base.items()}
    changed["blocks.0.qkv.bias"][0] ^= True
    others = [
        changed,
        dict(reversed(base.items())),
        dict.fromkeys(base),
        {k: m.float() * 0.5 for k, m in base.items()},
        head_masks(MODEL, 0, 2),
        dict.fromkeys(reversed(NAMES)),
    ]
    hashes = [hash_masks(MODEL, other) for other in others]
    assert len({first, *hashes}) == len(others) + 1
    assert None not in hashes


@pytest.mark.parametrize(
    ("values", "words", "not_said"),
    [
        ((1.0, 0.5), "temperature of m", "climbs the loss"),
        ((1.0, -1.0), "climbs the loss", "temperature"),
        ((-0.5, 2.0), "temperature of m.*climbs the loss", None),
    ],
)
def test_a_mask_that_scales_is_warned_of_by_what_it_does(values, words, not_said):
    mask = torch.zeros_like(MODEL.embed.weight)
    mask[0, :2] = torch.tensor(values)
    with pytest.warns(DevinterpWarning, match=words) as told:
        masks = check_masks(MODEL, {"embed.weight": mask})
    assert len(told) == 1
    assert not_said is None or not_said not in str(told[0].message)
    assert scaled_weights(masks) == {"scaled": sum(value != 1 for value in values)}
