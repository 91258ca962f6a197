"""A language of 23 words that a two-layer transformer learns in seconds; the tutorials sample around that model.

Half of the sequences *chatter*: each word follows from the one before, with fixed probabilities. The other half *echo*: a
random stretch of 4 to 10 words, over and over, so that everything after the first round can be copied. Copying takes an
induction circuit: a head of layer 0 that looks at the word before, and heads of layer 1 that use it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

WORDS = "abcdefghijklmnopqrstuvw"
BOS = len(WORDS)
VOCAB = len(WORDS) + 1
LENGTH = 25  # tokens of a row, BOS included

# From each word two or three others are likely.
NEXT = np.random.default_rng(0).dirichlet(np.full(len(WORDS), 0.05), len(WORDS)).cumsum(axis=1)


def chatter(rows: int, seed: int) -> Tensor:
    """Rows whose words follow from each other: (rows, LENGTH) int64."""
    rng = np.random.default_rng(seed)
    ids = np.full((rows, LENGTH), BOS)
    ids[:, 1] = rng.integers(0, BOS, rows)
    for t in range(2, LENGTH):
        ids[:, t] = (rng.random((rows, 1)) > NEXT[ids[:, t - 1]]).sum(axis=1).clip(max=BOS - 1)
    return torch.from_numpy(ids)


def echo(rows: int, seed: int) -> Tensor:
    """Rows that repeat a random stretch: (rows, LENGTH) int64."""
    rng = np.random.default_rng(seed)
    period = rng.integers(4, 11, (rows, 1))
    stretch = rng.integers(0, BOS, (rows, LENGTH))
    ids = np.take_along_axis(stretch, np.arange(LENGTH - 1) % period, axis=1)
    return torch.from_numpy(np.pad(ids, ((0, 0), (1, 0)), constant_values=BOS))


def both(rows: int, seed: int) -> Tensor:
    """Half chatter, half echo: what the model is trained on."""
    return torch.cat([chatter(rows // 2, seed), echo(rows // 2, seed)])


def decode(ids: Tensor | np.ndarray) -> list[str]:
    """Tokens as text, BOS as a caret."""
    return [(WORDS + "^")[int(i)] for i in ids]


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.split(p(x)) for p in (self.q_proj, self.k_proj, self.v_proj))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))

    def pattern(self, x: Tensor) -> Tensor:
        """How much each query looks at each key: (batch, head, query, key)."""
        q, k = self.split(self.q_proj(x)), self.split(self.k_proj(x))
        scores = q @ k.mT / q.shape[-1] ** 0.5
        return scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf).softmax(-1)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Layer(nn.Module):
    """Attention that adds to the residual stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attn(x)


class LM(nn.Module):
    """Two layers of two attention heads: a plain torch module that returns logits."""

    def __init__(self, width: int = 32, heads: int = 2, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, width)
        self.position = nn.Embedding(LENGTH, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.unembed = nn.Linear(width, VOCAB, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids) + self.position.weight[: input_ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.unembed(x)


def loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Loss of each next word, in nat: (rows, LENGTH - 1)."""
    return nn.functional.cross_entropy(model(ids[:, :-1]).mT, ids[:, 1:], reduction="none")


def train(steps: int = 600, seed: int = 0, keep: tuple[int, ...] = ()) -> tuple[LM, dict[int, dict[str, Tensor]]]:
    """Train a model; return it with copies of its weights after the steps in ``keep``."""
    torch.manual_seed(seed)
    model, kept = LM(), {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps + 1):
        if step in keep:
            kept[step] = {name: weight.clone() for name, weight in model.state_dict().items()}
        if step < steps:
            mean = loss(model, both(32, seed=step)).mean()
            optimizer.zero_grad()
            mean.backward()
            optimizer.step()
            schedule.step()
    return model, kept
