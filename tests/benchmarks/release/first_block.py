"""The README's first block, in an environment that has the wheel and not the clone: first_block.py README.md

Run by `make release-check`. What the block takes for granted (a model, rows of tokens) is made here; everything else
comes from the installed package.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

import torch

import devinterp


class Bigram(torch.nn.Module):
    """The smallest language model: the next token depends on this one alone."""

    def __init__(self, vocabulary: int = 64, width: int = 16) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(vocabulary, width)
        self.unembed = torch.nn.Linear(width, vocabulary, bias=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.unembed(self.embed(input_ids))


def main() -> None:
    readme = Path(sys.argv[1]).read_text(encoding="utf-8")
    block = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert block is not None, "the README has no Python block"
    assert "site-packages" in devinterp.__file__, f"this is not the installed package: {devinterp.__file__}"
    torch.manual_seed(0)
    names = {"model": Bigram()} | {n: torch.randint(0, 64, (128, 17)) for n in ("dataset", "code", "prose")}
    os.chdir(tempfile.mkdtemp())
    exec(compile(block[1], "README.md", "exec"), names)
    found = names["tree"].devinterp.llc(over="observable", ci=0.9)
    print(f"The README's first block ran with devinterp {devinterp.__version__}: LLC {float(found['llc_mean']):.2f}")


if __name__ == "__main__":
    main()
