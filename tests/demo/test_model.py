from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from devinterp.demo.corpus import CONTEXT, VOCAB  # noqa: E402
from devinterp.demo.model import AttentionOnly, build_model, per_token_loss  # noqa: E402
from devinterp.slt.weight_restrictions import create_param_masks  # noqa: E402


@pytest.fixture(scope="module")
def model() -> AttentionOnly:
    return build_model(0)


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, VOCAB, (3, CONTEXT + 1)))


def test_shapes(model: AttentionOnly, ids: torch.Tensor) -> None:
    assert model(ids).shape == (3, CONTEXT + 1, VOCAB)
    assert per_token_loss(model, ids).shape == (3, CONTEXT)
    assert model.attention(ids).shape == (2, 4, 3, CONTEXT + 1, CONTEXT + 1)


def test_the_loss_is_the_negative_log_likelihood_of_the_next_token(model: AttentionOnly, ids: torch.Tensor) -> None:
    likelihood = model(ids).log_softmax(-1)
    expected = -likelihood[1, 7, ids[1, 8]]
    torch.testing.assert_close(per_token_loss(model, ids)[1, 7], expected)


def test_no_position_sees_a_later_one(model: AttentionOnly, ids: torch.Tensor) -> None:
    changed = ids.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % VOCAB
    torch.testing.assert_close(model(ids)[:, :20], model(changed)[:, :20])
    assert not torch.allclose(model(ids)[:, 20:], model(changed)[:, 20:])


def test_attention_is_causal_and_sums_to_one(model: AttentionOnly, ids: torch.Tensor) -> None:
    attention = model.attention(ids)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 4, 3, CONTEXT + 1))
    assert (attention.triu(1) == 0).all()


def test_the_pattern_that_is_shown_is_the_one_that_is_used(model: AttentionOnly, ids: torch.Tensor) -> None:
    layer = model.layers[0].attn
    x = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(0))
    value = layer.v_proj(x).reshape(2, 9, 4, 16).transpose(1, 2)
    mixed = (layer.pattern(x) @ value).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(layer(x), layer.o_proj(mixed))


def test_the_seed_alone_decides_the_weights_and_the_callers_generator_stays() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = build_model(1), build_model(1), build_model(2)
    assert torch.equal(torch.get_rng_state(), before)
    pairs = list(zip(first.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) and not torch.equal(a, c) for a, b, c in pairs)


def test_every_head_is_found_as_a_weight_restriction(model: AttentionOnly) -> None:
    covered = torch.zeros(64)
    for head in range(4):
        masks = create_param_masks(model, f"l1h{head}")
        assert set(masks) == {f"layers.1.attn.{name}_proj.weight" for name in "qkvo"}
        covered += masks["layers.1.attn.q_proj.weight"].any(1).float()
    assert (covered == 1).all()
