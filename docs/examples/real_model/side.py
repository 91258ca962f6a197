"""One run in a process of its own, by whichever devinterp this Python has: for parity, and to be killed.

python side.py MODEL ROWS.npz RESTRICTION.pt STORE SETTINGS.json

The restriction's masks are a file, since devinterp 2.0.1 finds no heads in this model. Prints seconds and peak memory.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"
warnings.filterwarnings("ignore")

import numpy as np
import torch
from model import load

from devinterp.slt.sampling import sample


def main() -> None:
    folder, rows, masks, store, settings = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    options = json.loads(settings.read_text())
    device = torch.device(options["device"])
    model = load(folder, getattr(torch, options.pop("dtype", "float32"))).to(device)
    with np.load(rows) as arrays:
        data = {name: torch.from_numpy(arrays[name]) for name in arrays}
    if options.pop("peer", False):
        from datasets import Dataset

        data = {n: Dataset.from_dict({"input_ids": ids.tolist()}).with_format("torch") for n, ids in data.items()}
    else:
        options |= {"progress": False, "save_step_losses": True}
    observables = {name: data[name] for name in data if name != "sampling"}
    sum(parameter.sum() for parameter in model.parameters())  # read once, or the file's pages would count as ours
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, seconds, cpu = held(device), time.perf_counter(), time.process_time()
    sample(model, data["sampling"], observables, param_masks=torch.load(masks), output_path=store, **options)
    cost = {"seconds": time.perf_counter() - seconds, "cpu_seconds": time.process_time() - cpu}
    print(json.dumps(cost | {"above_mib": held(device, peak=True) - before}))


def held(device: torch.device, peak: bool = False) -> float:
    """What is held now, or was at most, in MiB: of the accelerator's memory, or by this process."""
    if device.type == "cuda":
        return (torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()) / 2**20
    field = "VmHWM" if peak else "VmRSS"
    (line,) = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(f"{field}:")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
