"""Small language models made of odd parts: whatever a module may do that a memory of its output must not miss."""

from __future__ import annotations

import torch
from torch import nn

VOCAB, WIDTH = 11, 6


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.tanh(self.up(self.norm(x))))


class Pair(Plain):
    """Gives out a tuple, in which its input comes back."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return super().forward(x), {"before": x}


class InPlace(Plain):
    """Writes to its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x += self.down(torch.tanh(self.up(self.norm(x.clone()))))
        return x


class Remembers(Plain):
    """Leaves something for others to read, and not in its output."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = torch.zeros(())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.gate = x.mean().detach()
        return super().forward(x)


class Counts(Plain):
    """Does something else at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x) * (1 + 0.001 * (self.calls % 7))


class Buffered(Plain):
    """Keeps a running mean."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean(dim=(0, 1)))
        return super().forward(x) - self.mean


class Branches(Plain):
    """Goes by the numbers, inside."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.mean().item() > 0 else x - self.down(torch.relu(self.up(x)))


class Modal(Plain):
    """Gives other numbers without gradients, as torch's faster ways may."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * (1.0 if torch.is_grad_enabled() else 1.001)


class ModalWhereLong(Plain):
    """Does so in long rows alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * (1.001 if x.shape[1] > 24 and not torch.is_grad_enabled() else 1.0)


class Drops(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.dropout(x, 0.1, self.training))


PARTS = {
    each.__name__: each
    for each in (Plain, Pair, InPlace, Remembers, Counts, Buffered, Branches, Modal, ModalWhereLong, Drops)
}
WAYS = ("plain", "branch", "early", "late", "twice", "in place", "position", "gate")


class Odd(nn.Module):
    """input_ids (batch, seq) -> logits (batch, seq, VOCAB), through `parts`, in one of WAYS around them.

    branch: a block is left out by what the rows hold. early: the embedding comes again at the end, where the numbers
    are so. late: a middle activation does. twice: the first part is called again at the end. in place: positions are
    added to the embedding's own output. position: another module's weight is read. gate: the end reads what a part
    remembers.
    """

    def __init__(self, parts: tuple[str, ...], way: str = "plain", *, tied: bool = False) -> None:
        super().__init__()
        self.way = way
        self.embed, self.position = nn.Embedding(VOCAB, WIDTH), nn.Embedding(16, WIDTH)
        self.parts = nn.ModuleList(PARTS[name]() for name in parts)
        self.scale = nn.Parameter(torch.ones(WIDTH))
        self.unembed = nn.Linear(WIDTH, VOCAB, bias=False)
        if tied:
            self.unembed.weight = self.embed.weight

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(input_ids)
        first = x.clone()
        positions = self.position.weight[: input_ids.shape[1]]
        if self.way == "in place":
            x += positions
        elif self.way == "position":
            x = x + positions
        middle = x
        for number, part in enumerate(self.parts):
            if self.way == "branch" and number == 1 and int(input_ids.sum()) % 2:
                continue
            x = part(x)
            if isinstance(x, tuple):
                x = x[0] + 0.1 * x[1]["before"]
            if number == len(self.parts) // 2:
                middle = x
        x = x * self.scale
        if self.way == "early" and float(x.detach().sum()) > 0:
            x = x + first
        elif self.way == "late":
            x = x + middle
        elif self.way == "twice":
            x = self.parts[0](x)
            x = x[0] if isinstance(x, tuple) else x
        elif self.way == "gate":
            x = x + sum(getattr(part, "gate", 0.0) for part in self.parts)
        return self.unembed(x)


def build(parts: tuple[str, ...], way: str = "plain", *, tied: bool = False, seed: int = 0) -> Odd:
    torch.manual_seed(seed)
    return Odd(parts, way, tied=tied)
