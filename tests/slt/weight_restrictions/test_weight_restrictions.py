"""The public face: unions, order, errors, and what the import costs."""

from __future__ import annotations

import subprocess
import sys

import pytest
import tiny_lm
import torch
from plain_transformers import HEADS, PlainLM, seeded

from devinterp.errors import RestrictionError
from devinterp.slt import weight_restrictions
from devinterp.slt.weight_restrictions import create_param_masks


@pytest.fixture(scope="module")
def model():
    return seeded(lambda: PlainLM("concat", 2, says=True))


def test_full_is_every_parameter_without_masks(model):
    assert create_param_masks(model, "full") == dict.fromkeys(name for name, _ in model.named_parameters())


def test_a_parameter_s_name_selects_it(model):
    assert create_param_masks(model, " layers.0.attn.wo.weight ") == {"layers.0.attn.wo.weight": None}


def test_case_and_spacing_do_not_matter(model):
    first = create_param_masks(model, "l1h2")
    for text in ("L1H2", " l1 h2 ", "l1  H2"):
        other = create_param_masks(model, text)
        assert list(first) == list(other)
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_a_list_is_the_union_in_the_model_s_order(model):
    order = [name for name, _ in model.named_parameters()]
    union = create_param_masks(model, ["unembed", "l1h3", "l1h0", "embed"])
    assert list(union) == [name for name in order if name in union]
    weight = "layers.1.attn.qkv.weight"
    heads = [create_param_masks(model, f"l1h{head}")[weight] for head in (3, 0)]
    assert torch.equal(union[weight], heads[0] | heads[1])
    assert union["head.weight"] is None
    reverse = create_param_masks(model, ("embed", "l1h0", "l1h3", "unembed"))
    assert list(reverse) == list(union)
    assert torch.equal(reverse[weight], union[weight])


def test_a_whole_parameter_swallows_its_slices(model):
    for restriction in (["l0h1", "l0 attn"], ["l0 attn", "l0h1"]):
        assert all(mask is None for mask in create_param_masks(model, restriction).values())


def test_all_heads_together_are_the_projections_without_the_output_bias(model):
    union = create_param_masks(model, [f"l0h{head}" for head in range(HEADS)])
    assert all(mask.all() for mask in union.values())
    assert set(create_param_masks(model, "l0 attn")) - set(union) == {"layers.0.attn.wo.bias"}


def test_full_combines_with_nothing(model):
    with pytest.raises(RestrictionError, match="'full' cannot be combined"):
        create_param_masks(model, ["full", "l0"])
    assert create_param_masks(model, ["full"]) == create_param_masks(model, "full")


@pytest.mark.parametrize("wrong", [None, 3, {"l0"}, b"l0", ["l0", 1], {"l0": None}])
def test_other_types_are_refused(model, wrong):
    with pytest.raises(RestrictionError, match="string or a list of strings"):
        create_param_masks(model, wrong)


def test_an_empty_list_is_refused(model):
    with pytest.raises(RestrictionError, match="selects nothing"):
        create_param_masks(model, [])


@pytest.mark.parametrize(
    ("restriction", "words"),
    [
        ("l2", r"'l2' names a layer that the model does not have\. Expected: a layer from 0 to 1\. Found: 2"),
        ("l9h0", "a layer from 0 to 1"),
        ("l0h4", r"a head from 0 to 3\. Found: 4"),
        ("l0g2", r"a key-value group from 0 to 1\. Found: 2"),
        ("l0atn", "Did you mean 'l0 attn'"),
        ("l0attn", "Did you mean 'l0 attn'"),
        ("layers.0.atn.wo.weight", "Did you mean 'layers.0.attn.wo.weight'"),
        ("LAYERS.0.ATTN.WO.WEIGHT", "Unknown restriction"),
        ("", "Unknown restriction"),
    ],
)
def test_what_the_model_does_not_have_is_refused_with_what_it_has(model, restriction, words):
    with pytest.raises(RestrictionError, match=words):
        create_param_masks(model, restriction)


def test_one_wrong_item_spoils_the_list(model):
    with pytest.raises(RestrictionError, match="l0h7"):
        create_param_masks(model, ["l0h0", "l0h7"])


def test_masks_are_what_sampling_takes(model):
    from devinterp.slt.sampling.inputs.parameter_masks import check_masks, sampled_size

    masks = create_param_masks(model, ["l0h0", "embed"])
    checked = check_masks(model, masks)
    assert list(checked) == list(masks)
    assert sampled_size(model, checked)[1] > 0


def test_gradients_outside_the_masks_are_not_needed():
    """Moving along the gradient inside the masks alone changes the loss: the masks select weights that matter."""
    model = tiny_lm.build_model()
    ids = torch.as_tensor(tiny_lm.build_tokens("train", 4))
    masks = create_param_masks(model, "l0h1")

    def loss():
        logits = model(ids[:, :-1])
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    before = loss()
    before.backward()
    with torch.no_grad():
        for name, param in model.named_parameters():
            if name in masks:
                param -= 0.5 * param.grad * masks[name]
        assert loss() < before


def test_importing_brings_no_torch():
    code = "import sys, devinterp.slt.weight_restrictions; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names():
    assert all(hasattr(weight_restrictions, name) for name in weight_restrictions.__all__)
    assert {"create_param_masks", "preview_restriction"} <= set(weight_restrictions.__all__)
