"""Stages that compare: with devinterp 2.0.1, and a run with itself when it is killed, halved or spread over processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from common import START, Real, records

from devinterp import validate
from devinterp.report import build_report
from devinterp.slt.weight_restrictions import create_param_masks

HERE = Path(__file__).parent
BATCH = 4


def parity(real: Real) -> dict[str, Any]:
    """The same draws as devinterp 2.0.1 at one thread, bit for bit; seconds and memory of both."""
    rng, vocabulary = np.random.default_rng(0), real.model.config.vocab_size
    data = {name: rng.integers(0, vocabulary, (32, 32)) for name in ("sampling", "first", "second", "third")}
    last = real.model.config.num_hidden_layers - 1
    # What moves, draws, batches of each observable: the one head as in a study of heads, where most time goes.
    cases = {"full": ("full", 2, 1), "one head": (f"l{last}h0", 6, 3), "one group": (f"l{last // 2}g1", 2, 1)}
    if not real.quick:  # what is left out tells the more, the more draws there are
        cases["one head, more draws"] = (f"l{last}h0", 25, 3)
    table, same = [], True
    for name, (restriction, draws, batches) in cases.items():
        masks = create_param_masks(real.model, restriction)
        if real.quick:
            batches = 1
        row: dict[str, Any] = {"restriction": restriction, "draws": draws, "batches": f"3 x {batches}"}
        arrays = {}
        for who in ("peer", "ours"):
            settings = {
                "lr": 1e-5, **START, "num_chains": 1, "num_draws": draws, "batch_size": BATCH,
                "num_init_loss_batches": 1, "batches_per_draw": batches, "peer": who == "peer",
                "device": real.device,
            }  # fmt: skip
            store = real.out / "parity" / f"{name} {who}.zarr"
            cost = side(real, store, data, masks, settings)
            row |= {f"{who} s": cost["seconds"], f"{who} CPU s": cost["cpu_seconds"], f"{who} MiB": cost["above_mib"]}
            with xr.open_datatree(store, engine="zarr", consolidated=False) as tree:
                arrays[who] = {v: tree[v].values for v in tree.data_vars}
        compared = [v for v in arrays["peer"] if v in arrays["ours"]]
        equal = [
            v
            for v in compared
            if arrays["ours"][v].astype(arrays["peer"][v].dtype).tobytes() == arrays["peer"][v].tobytes()
        ]
        same = same and equal == compared
        row |= {
            "equal arrays": f"{len(equal)} of {len(compared)}",
            "ratio of CPU": row["peer CPU s"] / row["ours CPU s"],
        }
        table.append(row)
    return {
        "sentences": [
            f"{BATCH} x 32 tokens, three observables, one chain, one thread, float32; MiB are the peak above the model. "
            f"Every array that both have is {'the same, bit for bit' if same else 'NOT the same'}."
        ],
        "tables": [records("devinterp 2.0.1 and ours", table)],
        "ok": same,
    }


def side(
    real: Real, store: Path, data: dict[str, np.ndarray], masks: Any, settings: dict[str, Any]
) -> dict[str, float]:
    """Sample in another process, once; return its seconds and peak memory."""
    known = store.with_suffix(".json")
    if not known.exists():
        if settings.get("peer"):
            shutil.rmtree(store, ignore_errors=True)  # devinterp 2.0.1 does not go on with what was stopped
        command = prepare(store, data, masks, settings, real)
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment(settings))
        known.write_text(done.stdout.splitlines()[-1])
    return dict(json.loads(known.read_text()))


def environment(settings: dict[str, Any]) -> dict[str, str]:
    """Without the path to us for the peer, whose name is ours."""
    return {key: value for key, value in os.environ.items() if not (settings.get("peer") and key == "PYTHONPATH")}


def prepare(store: Path, data: dict[str, np.ndarray], masks: Any, settings: dict[str, Any], real: Real) -> list[str]:
    """Write what the other process reads; return its command."""
    store.parent.mkdir(parents=True, exist_ok=True)
    files = [store.with_suffix(suffix) for suffix in (".npz", ".pt", ".settings")]
    np.savez(files[0], **data)
    torch.save({name: None if mask is None else mask.clone() for name, mask in masks.items()}, files[1])
    files[2].write_text(json.dumps(settings))
    python = real.peer if settings.get("peer") else Path(sys.executable)
    return [
        str(python),
        str(HERE / "side.py"),
        str(real.folder),
        str(files[0]),
        str(files[1]),
        str(store),
        str(files[2]),
    ]


def robustness(real: Real) -> dict[str, Any]:
    """Killed and resumed, half precision, parallel, validated, read as text."""
    folder = real.out / "robustness"
    folder.mkdir(exist_ok=True)
    data = {"sampling": real.mixture(), "train": real.mixture()}
    last = real.model.config.num_hidden_layers - 1
    masks = create_param_masks(real.model, f"l{last}h0")
    settings = {
        **START, "lr": 1e-3, "batch_size": BATCH, "num_chains": 2, "num_draws": 8, "batches_per_draw": 1,
        "num_init_loss_batches": 8, "mode": "eval", "checkpoint_every": 2, "device": real.device,
    }  # fmt: skip
    said = []
    side(real, folder / "whole.zarr", data, masks, settings)
    killed = folder / "killed.zarr"
    if not killed.with_suffix(".json").exists():
        command = prepare(killed, data, masks, settings, real)
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while child.poll() is None and not any(killed.glob("sampling_loss/c/1/**/*")):
            time.sleep(0.02)  # until the second chain has a draw
        if child.poll() is not None:
            raise SystemExit("the run to be killed was over before it could be")
        child.send_signal(signal.SIGKILL)
        child.wait()
        with xr.open_datatree(killed, engine="zarr", consolidated=False) as tree:
            drawn = np.isfinite(tree["sampling_loss"].values).all((2, 3)).sum(1).tolist()
        said.append(
            f"SIGKILL when the chains had {' and '.join(map(str, drawn))} draws of 8 (exit {child.returncode})."
        )
    side(real, killed, data, masks, settings)
    resumed = chunks(folder / "whole.zarr") == chunks(killed)
    said.append(f"Resumed after SIGKILL: {len(chunks(killed))} chunk files, {'equal' if resumed else 'NOT equal'}.")
    side(real, folder / "parallel.zarr", data, masks, {**settings, "chain_method": "parallel"})
    parallel = chunks(folder / "whole.zarr") == chunks(folder / "parallel.zarr")
    said.append(f"Two chains in processes of their own: {'the same bytes' if parallel else 'OTHER bytes'}.")
    half = {**settings, "num_chains": 1, "num_draws": 4, "dtype": "bfloat16"}
    cost = side(real, folder / "half.zarr", data, masks, half)
    trees = {n: xr.open_datatree(folder / f"{n}.zarr", engine="zarr", consolidated=False) for n in ("whole", "half")}
    means = {n: float(t["loss_train"].isel(chain=0).mean()) for n, t in trees.items()}
    said.append(
        f"bfloat16: losses are {trees['half']['loss_train'].dtype}, mean {means['half']:.3f} nat against "
        f"{means['whole']:.3f} in float32; peak {cost['above_mib']:.0f} MiB above the model."
    )
    reports = {n: validate(folder / f"{n}.zarr", level="values") for n in ("whole", "killed", "parallel", "half")}
    valid = all(report.ok for report in reports.values())
    said += [f"Validated at values: {'all four stores are valid' if valid else 'NOT VALID'}."]
    text = build_report(folder / "whole.zarr", tokenizer=real.tokenizer)
    (folder / "report.html").write_text(text, encoding="utf-8")
    ids = trees["whole"]["input_ids_train"].values[:, 1:]
    pieces = {piece for i in np.unique(ids).tolist() if (piece := real.tokenizer.decode([i]).strip()).isalpha()}
    shown = sum(piece in text for piece in pieces)
    said.append(f"Report: {len(text) // 1000} kB; {shown} of {len(pieces)} different tokens are in it as text.")
    return {"sentences": said, "ok": resumed and parallel and valid}


def chunks(store: Path) -> dict[str, bytes]:
    """Every chunk of a store by its key."""
    return {
        str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file() and "/c/" in str(p)
    }
