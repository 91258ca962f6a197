"""The demo's language model: two layers of attention and nothing else.

Without feed-forward layers the only way to predict a repeated byte is a circuit of two heads, one that looks
at the previous byte and one that looks for the same prefix (Elhage et al. 2021, Olsson et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from devinterp.demo.corpus import CONTEXT, VOCAB

__all__ = ["AttentionOnly", "Config", "build_model", "per_token_loss"]


@dataclass(frozen=True)
class Config:
    """Sizes of the model, under the names that HuggingFace configurations use."""

    vocab_size: int = VOCAB
    hidden_size: int = 64
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    max_position_embeddings: int = CONTEXT + 1


class Attention(nn.Module):
    """Causal self-attention whose pattern can be looked at."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, position, width) to the same shape."""
        query, key, value = (self._split(proj(x)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        output: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(x.shape))
        return output

    def pattern(self, x: Tensor) -> Tensor:
        """Return how much each query attends to each key: (batch, head, query, key), rows sum to 1."""
        query, key = self._split(self.q_proj(x)), self._split(self.k_proj(x))
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        shares: Tensor = scores.masked_fill(future, -torch.inf).softmax(-1)
        return shares

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.heads, -1).transpose(1, 2)


class Layer(nn.Module):
    """An attention that adds to the residual stream."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attn = Attention(config)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, position, width) to the same shape."""
        added: Tensor = x + self.attn(x)
        return added


class AttentionOnly(nn.Module):
    """An attention-only transformer over bytes.

    Without normalisation each head adds to the residual stream on its own, and the induction circuit forms in
    a third of the steps that it takes with it.

    Parameters
    ----------
    config : Config
        Its sizes.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.unembed = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the logits.

        ``input_ids`` is (batch, position). Returns (batch, position, vocab): the logits of the next byte.
        """
        x = self._embedded(input_ids)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.unembed(x)
        return logits

    @torch.no_grad()
    def attention(self, input_ids: Tensor) -> Tensor:
        """Return every head's attention pattern.

        ``input_ids`` is (batch, position): the tokens to look at. Returns (layer, head, batch, query, key): the share
        of each query's attention that each key gets, 0 for keys in the future.
        """
        x, patterns = self._embedded(input_ids), []
        for layer in self.layers:
            patterns.append(layer.attn.pattern(x).transpose(0, 1))  # type: ignore[operator, union-attr]
            x = layer(x)
        return torch.stack(patterns)

    def _embedded(self, input_ids: Tensor) -> Tensor:
        embedded: Tensor = self.embed(input_ids) + self.position.weight[: input_ids.shape[1]]
        return embedded


def build_model(seed: int, config: Config | None = None) -> AttentionOnly:
    """Make an untrained model whose weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AttentionOnly(config or Config())


def per_token_loss(model: Callable[[Tensor], Tensor], input_ids: Tensor) -> Tensor:
    """Loss of each byte given those before it.

    ``input_ids`` is (batch, position). Returns (batch, position - 1): negative log-likelihood, in nats.
    """
    logits = model(input_ids[:, :-1])
    loss: Tensor = nn.functional.cross_entropy(logits.transpose(1, 2), input_ids[:, 1:], reduction="none")
    return loss
