"""The grid of settings that both implementations are run on. Imports nothing of either, so that both can load it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "helpers"))

import tiny_lm

BASE = {
    "lr": 1e-3,
    "n_beta": 30.0,
    "num_chains": 2,
    "num_draws": 5,
    "batch_size": 4,
    "num_init_loss_batches": 3,
    "localization": 10.0,
    "save_metrics": True,
    "device": "cpu",
}


class Dropping(nn.Module):
    """The tiny model with dropout before its unembedding: the global generator is used by every forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny_lm.build_model()
        self.dropout = nn.Dropout(0.1)
        self.inner.norm = nn.Sequential(self.inner.norm, self.dropout)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.inner(input_ids)


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config)


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def frozen() -> nn.Module:
    model = tiny_lm.build_model()
    model.embed.weight.requires_grad_(False)
    model.blocks[0].up.bias.requires_grad_(False)
    return model


def unused() -> nn.Module:
    model = tiny_lm.build_model()
    model.spare = nn.Linear(5, 3)  # never gets a gradient, so it draws no noise
    return model


def double() -> nn.Module:
    return tiny_lm.build_model().double()


def half() -> nn.Module:
    return tiny_lm.build_model().bfloat16()


def last_three(model: nn.Module, input_ids: torch.Tensor) -> torch.Tensor:
    """A loss of its own: squared distance of the logit of the next token from 3."""
    logits = model(input_ids)
    return (logits[:, :-1].gather(-1, input_ids[:, 1:, None])[..., 0] - 3.0) ** 2


def head(model: nn.Module) -> dict[str, Any]:
    return tiny_lm.head_masks(model, 0, 1)


def fractional(model: nn.Module) -> dict[str, Any]:
    """Masks that weigh, out of the model's order, with one parameter left whole."""
    parameters = dict(model.named_parameters())
    generator = torch.Generator().manual_seed(5)
    return {
        "unembed.weight": torch.rand(parameters["unembed.weight"].shape, generator=generator),
        "blocks.1.ln1.bias": None,
        "embed.weight": torch.rand(parameters["embed.weight"].shape, generator=generator) > 0.5,
    }


def case(
    model: Callable[[], nn.Module] = tiny_lm.build_model, masks: Any = None, loss: Any = None, **settings: Any
) -> Any:
    return {"model": model, "masks": masks, "loss_fn": loss, "settings": {**BASE, **settings}}


RMSPROP = {"sampling_method": "rmsprop_sgld"}

CASES: dict[str, Any] = {
    "base": case(),
    "no metrics": case(save_metrics=False),
    "no localization": case(localization=0.0),
    "weight decay": case(llc_weight_decay=3.0),
    "weight decay alone": case(localization=0.0, llc_weight_decay=3.0),
    "weight decay, no metrics": case(llc_weight_decay=3.0, save_metrics=False),
    "bounding box": case(bounding_box_size=0.02),
    "bounding box, no metrics": case(bounding_box_size=0.02, save_metrics=False),
    "burn-in and thinning": case(num_burnin_steps=3, num_steps_bw_draws=3),
    "accumulation": case(gradient_accumulation_steps=3),
    "no shuffle": case(shuffle=False),
    "unmatched chains": case(match_sampling_input_ids_across_chains=False),
    "init noise": case(init_noise=0.05),
    "init noise, masked": case(masks=head, init_noise=0.05),
    "noise level": case(noise_level=0.3),
    "no noise": case(noise_level=0.0),
    "n_beta 0": case(n_beta=0.0),
    "seeds": case(init_seed=7, obs_seed=11),
    "second pass over the data": case(num_draws=12, batch_size=10, num_init_loss_batches=8),
    "one head": case(masks=head),
    "one head, no metrics": case(masks=head, save_metrics=False),
    "fractional masks": case(masks=fractional),
    "fractional masks, decay": case(masks=fractional, llc_weight_decay=2.0),
    "rmsprop": case(**RMSPROP),
    "rmsprop, no metrics": case(save_metrics=False, **RMSPROP),
    "rmsprop, kwargs": case(sampling_method_kwargs={"alpha": 0.9, "eps": 0.01}, **RMSPROP),
    "rmsprop, short kwargs": case(rmsprop_alpha=0.5, rmsprop_eps=1.0, **RMSPROP),
    "rmsprop, masks, decay, box": case(masks=fractional, llc_weight_decay=2.0, bounding_box_size=0.05, **RMSPROP),
    "rmsprop, one head": case(masks=head, llc_weight_decay=2.0, save_metrics=False, **RMSPROP),
    "frozen parameters": case(model=frozen),
    "parameter without gradient": case(model=unused),
    "float64 model": case(model=double),
    "float64 model, rmsprop": case(model=double, llc_weight_decay=2.0, **RMSPROP),
    "dropout": case(model=Dropping),
    "dropout, init noise, unmatched": case(
        model=Dropping, init_noise=0.02, match_sampling_input_ids_across_chains=False, gradient_accumulation_steps=2
    ),
    "own loss": case(loss=last_three),
    "GPT-2": case(model=gpt2),
    "Llama": case(model=llama, **RMSPROP),
}  # fmt: skip

APART: dict[str, Any] = {
    "bfloat16 model": case(model=half),
    "bfloat16 model, no noise": case(model=half, noise_level=0.0),
}
"""Different by intention: here sampled weights and losses are kept in float32, there both are rounded to bfloat16."""

QUICK = ("base", "burn-in and thinning", "accumulation", "init noise, masked", "rmsprop, masks, decay, box", "dropout")


def tokens(name: str) -> np.ndarray:
    return tiny_lm.build_tokens(name)


OBSERVABLES = {"train": 2, "code 2": 1}
"""Names and batches per draw; the second one's name has a space."""
