"""Run cases with the reference implementation; called by parity.py with that implementation's own Python.

python peer_side.py OUT.npz THREADS DEVICE CASE [CASE ...]
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported, which the imports below do
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from cases import APART, CASES, OBSERVABLES, tokens  # noqa: E402
from datasets import Dataset  # noqa: E402

from devinterp.slt.sampling import sample  # noqa: E402


def dataset(name: str) -> Dataset:
    data = Dataset.from_dict({"input_ids": tokens(name).tolist()})
    data.set_format("torch")
    return data


def main() -> None:
    out, threads, device, *names = sys.argv[1:]
    torch.set_num_threads(int(threads))
    arrays = {}
    observables = {name: (dataset(name.split()[0]), batches) for name, batches in OBSERVABLES.items()}
    for name in names:
        case = {**CASES, **APART}[name]
        model = case["model"]()
        masks = case["masks"](model) if case["masks"] else None
        with tempfile.TemporaryDirectory() as folder:
            tree = sample(
                model, dataset("train"), observables, param_masks=masks, loss_fn=case["loss_fn"],
                output_path=Path(folder) / "samples.zarr", **case["settings"] | {"device": device},
            )  # fmt: skip
            arrays.update({f"{name}/{variable}": tree[variable].values for variable in tree.data_vars})
    np.savez(out, **arrays)


if __name__ == "__main__":
    main()
