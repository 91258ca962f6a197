"""Small transformers that belong to no library, each laid out as people lay theirs out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

VOCAB, D_MODEL, HEADS, LAYERS, POSITIONS = 64, 32, 4, 2, 32
HEAD_DIM = D_MODEL // HEADS


class Attention(nn.Module):
    """Causal self-attention with a fused projection, ``concat`` or ``grouped``, or ``separate`` ones.

    ``says`` is whether the module has the number of its heads as attributes.
    """

    def __init__(self, layout: str, kv_heads: int, *, says: bool, bias: bool = True) -> None:
        super().__init__()
        self._kv, self._layout = kv_heads, layout
        if says:
            self.num_heads, self.num_kv_heads = HEADS, kv_heads
        if layout == "separate":
            self.wq = nn.Linear(D_MODEL, D_MODEL, bias=bias)
            self.wk = nn.Linear(D_MODEL, kv_heads * HEAD_DIM, bias=bias)
            self.wv = nn.Linear(D_MODEL, kv_heads * HEAD_DIM, bias=bias)
        else:
            self.qkv = nn.Linear(D_MODEL, (HEADS + 2 * kv_heads) * HEAD_DIM, bias=bias)
        self.wo = nn.Linear(D_MODEL, D_MODEL, bias=bias)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, length, _ = x.shape
        if self._layout == "separate":
            parts = [self.wq(x), self.wk(x), self.wv(x)]
        elif self._layout == "concat":
            kv = self._kv * HEAD_DIM
            parts = list(self.qkv(x).split([D_MODEL, kv, kv], dim=-1))
        else:
            fused = self.qkv(x).view(rows, length, self._kv, -1, HEAD_DIM)
            parts = [p.flatten(2) for p in fused.split([HEADS // self._kv, 1, 1], dim=3)]
        return tuple(p.reshape(rows, length, -1, HEAD_DIM).transpose(1, 2) for p in parts)  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x)
        k, v = (part.repeat_interleave(HEADS // self._kv, dim=1) for part in (k, v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.wo(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(D_MODEL), attention
        self.norm2 = nn.LayerNorm(D_MODEL)
        self.mlp = nn.Sequential(nn.Linear(D_MODEL, 64), nn.GELU(), nn.Dropout(0.5), nn.Linear(64, D_MODEL))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PlainLM(nn.Module):
    """A language model of one's own; ``input_ids`` (batch, position) to logits."""

    def __init__(
        self, layout: str = "separate", kv_heads: int = HEADS, *, says: bool = False, tied: bool = False
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, D_MODEL)
        self.positions = nn.Embedding(POSITIONS, D_MODEL)
        self.layers = nn.ModuleList(Block(Attention(layout, kv_heads, says=says)) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(D_MODEL)
        self.head = nn.Linear(D_MODEL, VOCAB)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.tokens(input_ids) + self.positions.weight[: input_ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class NanoAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(D_MODEL, 3 * D_MODEL), nn.Linear(D_MODEL, D_MODEL)
        self.n_head = HEADS

    def forward(self, x: Tensor) -> Tensor:
        rows, length, _ = x.shape
        q, k, v = (p.view(rows, length, HEADS, -1).transpose(1, 2) for p in self.c_attn(x).split(D_MODEL, dim=2))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(mixed.transpose(1, 2).reshape(rows, length, D_MODEL))


class NanoMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(D_MODEL, 64), nn.Linear(64, D_MODEL)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(nn.functional.gelu(self.c_fc(x)))


class NanoBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.attn, self.ln_2, self.mlp = (
            nn.LayerNorm(D_MODEL),
            NanoAttention(),
            nn.LayerNorm(D_MODEL),
            NanoMLP(),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NanoGPT(nn.Module):
    """nanoGPT's layout: a ModuleDict, GPT-2's names with torch's Linear, tied embeddings, a tuple returned."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(VOCAB, D_MODEL),
                "wpe": nn.Embedding(POSITIONS, D_MODEL),
                "h": nn.ModuleList(NanoBlock() for _ in range(LAYERS)),
                "ln_f": nn.LayerNorm(D_MODEL),
            }
        )
        self.lm_head = nn.Linear(D_MODEL, VOCAB, bias=False)
        self.transformer["wte"].weight = self.lm_head.weight

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, None]:
        x = self.transformer["wte"](idx) + self.transformer["wpe"].weight[: idx.shape[1]]
        for block in self.transformer["h"]:
            x = block(x)
        return self.lm_head(self.transformer["ln_f"](x)), None


class TorchLM(nn.Module):
    """torch's own encoder layers, whose attention is a MultiheadAttention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, D_MODEL)
        layer = nn.TransformerEncoderLayer(D_MODEL, HEADS, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.to_logits = nn.Linear(D_MODEL, VOCAB)

    def forward(self, input_ids: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(input_ids.shape[1])
        return self.to_logits(self.encoder(self.embed(input_ids), mask=mask, is_causal=True))


class HookedAttention(nn.Module):
    """TransformerLens's parameters: a head axis of their own, keys and values underscored in grouped-query models."""

    def __init__(self, kv_heads: int) -> None:
        super().__init__()
        self.kv_heads, under = kv_heads, "" if kv_heads == HEADS else "_"
        self.k, self.v = f"{under}W_K", f"{under}W_V"
        self.kb, self.vb = f"{under}b_K", f"{under}b_V"
        for name, heads, shape in (
            ("W_Q", HEADS, (D_MODEL, HEAD_DIM)),
            (self.k, kv_heads, (D_MODEL, HEAD_DIM)),
            (self.v, kv_heads, (D_MODEL, HEAD_DIM)),
            ("W_O", HEADS, (HEAD_DIM, D_MODEL)),
            ("b_Q", HEADS, (HEAD_DIM,)),
            (self.kb, kv_heads, (HEAD_DIM,)),
            (self.vb, kv_heads, (HEAD_DIM,)),
        ):
            self.register_parameter(name, nn.Parameter(0.1 * torch.randn(heads, *shape)))
        self.b_O = nn.Parameter(torch.zeros(D_MODEL))
        self.hook_z = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        def project(weight: str, bias: str) -> Tensor:
            out = torch.einsum("bsd,hde->bhse", x, getattr(self, weight)) + getattr(self, bias)[:, None]
            return out.repeat_interleave(HEADS // out.shape[1], dim=1)

        q, k, v = project("W_Q", "b_Q"), project(self.k, self.kb), project(self.v, self.vb)
        z = self.hook_z(nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True))
        return torch.einsum("bhse,hed->bsd", z, self.W_O) + self.b_O


class HookedMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.W_in, self.b_in = nn.Parameter(0.1 * torch.randn(D_MODEL, 64)), nn.Parameter(torch.zeros(64))
        self.W_out, self.b_out = nn.Parameter(0.1 * torch.randn(64, D_MODEL)), nn.Parameter(torch.zeros(D_MODEL))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(x @ self.W_in + self.b_in) @ self.W_out + self.b_out


class HookedNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.ones(D_MODEL)), nn.Parameter(torch.zeros(D_MODEL))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, (D_MODEL,), self.w, self.b)


class HookedBlock(nn.Module):
    def __init__(self, kv_heads: int) -> None:
        super().__init__()
        self.ln1, self.attn, self.ln2, self.mlp = HookedNorm(), HookedAttention(kv_heads), HookedNorm(), HookedMLP()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class _Table(nn.Module):
    def __init__(self, **parameters: Tensor) -> None:
        super().__init__()
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))


class HookedTransformer(nn.Module):
    """A faithful small copy of TransformerLens's HookedTransformer, as far as parameters and ``cfg`` go."""

    def __init__(self, kv_heads: int = HEADS) -> None:
        super().__init__()
        fewer = None if kv_heads == HEADS else kv_heads
        self.cfg = SimpleNamespace(
            n_heads=HEADS, d_model=D_MODEL, d_head=HEAD_DIM, n_key_value_heads=fewer, n_layers=LAYERS
        )
        self.embed = _Table(W_E=0.1 * torch.randn(VOCAB, D_MODEL))
        self.pos_embed = _Table(W_pos=0.1 * torch.randn(POSITIONS, D_MODEL))
        self.blocks = nn.ModuleList(HookedBlock(kv_heads) for _ in range(LAYERS))
        self.ln_final = HookedNorm()
        self.unembed = _Table(W_U=0.1 * torch.randn(D_MODEL, VOCAB), b_U=torch.zeros(VOCAB))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed.W_E[tokens] + self.pos_embed.W_pos[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.ln_final(x) @ self.unembed.W_U + self.unembed.b_U


def seeded(build: Any, seed: int = 0) -> Any:
    """``build()`` with its own random numbers, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build().eval()
        with torch.no_grad():
            for param in model.parameters():
                param.add_(0.05 * torch.randn(param.shape))
    return model
