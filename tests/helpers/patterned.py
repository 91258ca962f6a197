"""Susceptibilities of a text whose patterns are known: what a restriction answers to is planted."""

from __future__ import annotations

import re

import numpy as np
import xarray as xr

from devinterp.plot.tokens.patterns import PATTERNS, token_patterns
from devinterp.slt.susceptibilities.flat_form import flat_tree

TEXT = (
    "The cat sat on the mat (see page 12), and the cat sat on the mat again. def area(width, height): return width * "
    "height  # 3 lines\n    if area(2, 7) == 14:\n        print(area(2, 7))\nIn 1997 the mat was sold [for 25]. "
) * 6
WORDS = re.findall(r" ?[A-Za-z]{1,4}|\d{1,3}|\s+|[^\sA-Za-z\d]", TEXT)
VOCABULARY = sorted(set(WORDS))


def patterned(restrictions: int, *, rows: int = 8, tokens: int = 24, checkpoints: tuple[int, ...] = ()) -> xr.DataTree:
    """Restriction i answers to the pattern i modulo their number, the more the later the checkpoint."""
    rng = np.random.default_rng(0)
    size = tokens + 1
    ids = np.array([[VOCABULARY.index(w) for w in WORDS[i * size : (i + 1) * size]] for i in range(rows)])
    texts = [[VOCABULARY[i] for i in row] for row in ids]
    found = [token_patterns(row) for row in texts]
    of = np.stack([np.concatenate([each[name][1:] for each in found]) for name in PATTERNS], axis=1).astype(float)
    answers = 3 * of[:, np.arange(restrictions) % len(PATTERNS)]
    noise = 0.3 * rng.normal(size=answers.shape)
    strengths = np.linspace(0, 1, len(checkpoints)) if checkpoints else np.ones(1)
    sus = np.stack([strength * answers + noise for strength in strengths]).astype(np.float32)
    half = rows // 2
    return flat_tree(
        {"sus": sus if checkpoints else sus[0]},
        {"prose": ids[:half], "code": ids[half:]},
        [f"l{i // 8}h{i % 8}" for i in range(restrictions)],
        {},
        batches=[np.arange(half), np.arange(rows - half)],
        targets=[np.arange(1, size)] * 2,
        positions=[np.arange(size)] * 2,
        **({"checkpoints": np.array(checkpoints)} if checkpoints else {}),
    )
