"""Masks of the reference package, in its own virtual environment; started by ``table.py``.

    PEER_PYTHON tests/benchmarks/masks/peer.py FOLDER

Reads ``FOLDER/restrictions.json`` (model type to restrictions) and writes ``FOLDER/{type}.peer.pickle`` for each:
restriction to {parameter: array or None}, or to the text of the exception.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "helpers"))

import torch
from isolated import run_isolated
from tiny_models import preload, tiny_model

from devinterp.slt.weight_restrictions import create_param_masks


def masks(model_type: str, restrictions: list[str]) -> dict[str, Any]:
    torch.set_num_threads(1)
    model = tiny_model(model_type)
    found: dict[str, Any] = {}
    for restriction in restrictions:
        try:
            selected = create_param_masks(model, restriction)
            found[restriction] = {
                name: None if mask is None else mask.numpy().copy() for name, mask in selected.items()
            }
        except Exception as error:
            found[restriction] = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    preload()
    for model_type, restrictions in json.loads((folder / "restrictions.json").read_text()).items():
        found = run_isolated(masks, model_type, restrictions)
        (folder / f"{model_type}.peer.pickle").write_bytes(pickle.dumps(found))
        print(f"peer: {model_type}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
