"""A language model that somebody else trained, start to finish: calibrate, study heads, influence, parity, robustness.

    make real [ARGS="--quick" | ARGS="--only study"]

Every stage leaves its stores and ``results/STAGE.json`` in the folder, and is left out where that file is there. A stage
that is stopped (Ctrl-C, SIGTERM, SIGKILL) goes on where it was when it is called again: that is what ``output_path`` does
for each of the calls below.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from model import LENGTH, PERIOD, Texts, convert, load
from page import write_page

from devinterp import sample, sample_restrictions, sweep, validate
from devinterp.demo.circuit import head_names, prefix_matching_score
from devinterp.report import build_report
from devinterp.slt.sampling.engine.losses import next_token_loss
from devinterp.slt.weight_restrictions import create_param_masks

HERE = Path(__file__).parent
BATCH = 4
# Where models of this size began in published work: lr 1e-4 (160 M to 410 M weights), n_beta 30, localization 300.
START = {"n_beta": 30.0, "localization": 300.0}
COMMON = {"num_init_loss_batches": 8, "mode": "eval", "device": "cpu"}
# A run needs some ten independent draws a chain. With lr * localization near 0.19, the most at which the step inflates an LLC by
# less than a twentieth, a chain forgets its start in ten steps: draws nine apart (which see all of the 64 rows in turn) are
# worth nearly half as many. Steps of one row are the cheapest; their noise stays far below the sampler's own at n_beta 10,
# as the metrics tell.
GRID = {"lr": [1.2e-3, 1.9e-3], "n_beta": [10.0, 30.0], "localization": [100.0]}
SETTLED = {"lr": 1.2e-3, "n_beta": 10.0, "localization": 100.0}  # what the calibration led to
APART = {"batch_size": 1, "num_chains": 2, "num_burnin_steps": 20, "num_steps_bw_draws": 9, "save_metrics": True}
HEADS, OTHERS = 2, 2


class Real:
    """What the stages share: the folder, the model, its texts."""

    def __init__(self, out: Path, peer: Path, quick: bool) -> None:
        self.out, self.peer, self.quick = out / "quick" if quick else out, peer, quick
        self.folder = out / "model"
        (self.out / "results").mkdir(parents=True, exist_ok=True)
        if not (self.folder / "model.safetensors").exists():
            convert(self.folder)
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.texts = Texts(self.tokenizer)
        self.model = load(self.folder)

    def mixture(self) -> np.ndarray:
        """Rows to sample on: repeats at even places, prose and code by turns at odd ones."""
        rows = np.empty((64, LENGTH), dtype=np.int64)
        rows[0::2] = self.texts.repeats(32, seed=0)
        rows[1::4], rows[3::4] = self.texts.rows("prose", 16, seed=1), self.texts.rows("code", 16, seed=2)
        return rows

    def induction(self) -> dict[str, float]:
        """Each head's attention, on repeats, to the token that followed the last time; the strongest first."""
        eager = load(self.folder, attn_implementation="eager")  # the one that returns its attention
        with torch.no_grad():
            layers = eager(torch.from_numpy(self.texts.repeats(8, seed=7)), output_attentions=True).attentions
        scores = prefix_matching_score(torch.stack(layers).transpose(1, 2).numpy(), PERIOD, PERIOD + 1)
        named = zip(head_names(*scores.shape), scores.ravel().tolist(), strict=True)
        return dict(sorted(named, key=lambda each: -each[1]))


def calibration(real: Real) -> dict[str, Any]:
    """Sweep step sizes for the strongest induction head."""
    head = next(iter(real.induction()))
    rows = real.mixture()
    trials = sweep(
        real.model, rows, {"train": (rows, 8)}, grid=GRID,
        param_masks=create_param_masks(real.model, head), num_draws=32, pilot_draws=8, extend=1,
        output_path=real.out / "calibration.zarr", tokenizer=real.tokenizer, **COMMON, **APART,
    )  # fmt: skip
    found = trials.devinterp.recommend()
    summary = trials.devinterp.sweep()
    table = (
        summary[["num_draws", "llc_mean", "ess_bulk", "rhat", "share_of_control", "verdict"]]
        .to_dataframe()
        .reset_index()
    )
    trials.devinterp.plot.sweep().figure.savefig(real.out / "calibration.png", dpi=120)
    return {
        "sentences": [f"Sampled: {head}.", *str(found).splitlines()],
        "tables": [frame("Cells of the sweep", table)],
        "figures": ["calibration.png"],
    }


def study(real: Real) -> dict[str, Any]:
    """Sample the strongest induction heads, as many others, and the group of the strongest."""
    scores = real.induction()
    names = list(scores)
    strong = names[:HEADS]
    layers = sorted({int(name[1 : name.index("h")]) for name in strong})
    # The others from the same depth on, and by no means induction heads.
    pool = [n for n in names if scores[n] < 0.05 and int(n[1 : n.index("h")]) >= layers[0]]
    others = sorted(np.random.default_rng(0).choice(pool, OTHERS, replace=False).tolist())
    head = strong[0]
    layer, number = head[1 : head.index("h")], int(head[head.index("h") + 1 :])
    shared = real.model.config.num_attention_heads // real.model.config.num_key_value_heads
    parts = [f"l{layer}g{number // shared}"]
    if real.quick:
        strong, others, parts = strong[:1], [], []
    rows = real.mixture()
    tree = sample_restrictions(
        real.model, rows, {"train": (rows, 8)},
        {"full": None} | {name: name for name in (*strong, *others, *parts)}, sampling_task="train",
        num_draws=3 if real.quick else 32,
        overrides={"full": {"num_draws": 2, "num_burnin_steps": 0, "num_chains": 1, "num_steps_bw_draws": 1, "lr": 1e-5}},
        output_path=real.out / "study.zarr", tokenizer=real.tokenizer, **COMMON, **SETTLED, **APART,
    )  # fmt: skip
    place = tree["full"]["row_train"].values
    kinds = {"copied": (place % 2 == 0, slice(PERIOD, None)), "other text": (place % 2 == 1, slice(None))}
    table = []
    for name in (*strong, *others, *parts):
        row: dict[str, Any] = {"restriction": name, "attention": scores.get(name, np.nan)}
        for kind, (which, positions) in kinds.items():
            some = tree[name].isel(batch_train=np.nonzero(which)[0], token_pos=positions)
            result = some.devinterp.llc(over="observable", ci=0.9)
            row[kind] = result["llc_mean"].item() / SETTLED["n_beta"]
            row[f"{kind} 90 %"] = [float(v) / SETTLED["n_beta"] for v in result["llc_ci"].values]
        row["difference"] = row["copied"] - row["other text"]
        row["removed"] = removal(real, name, rows[place], kinds) if name in (*strong, *others) else np.nan
        row["verdict"] = str(tree[name].devinterp.diagnose().verdict.title)
        table.append(row)
    said = [f"Settings: {', '.join(f'{k} = {v:g}' for k, v in SETTLED.items())}."]
    heads = [row for row in table if row["restriction"] in (*strong, *others)]
    if len(heads) > 2:
        said += agreement(heads, strong)
    return {"sentences": said, "tables": [records("Rise of the loss (nat) while one part moves", table)], "rows": table}


def removal(real: Real, head: str, rows: np.ndarray, kinds: dict[str, Any]) -> float:
    """Cut a head out, which uses nothing of sampling: rise on copied tokens beyond that on other text (nat)."""
    layer, number = map(int, head[1:].split("h"))
    weight = real.model.model.layers[layer].self_attn.o_proj.weight
    size, ids = real.model.config.head_dim, torch.from_numpy(rows)
    columns = slice(size * number, size * (number + 1))
    with torch.no_grad():
        before = next_token_loss(real.model(ids).logits, ids).numpy()
        kept = weight[:, columns].clone()
        weight[:, columns] = 0
        rise = next_token_loss(real.model(ids).logits, ids).numpy() - before
        weight[:, columns] = kept
    copied, other = (rise[which][:, positions].mean() for which, positions in kinds.values())
    return float(copied - other)


def agreement(heads: list[dict[str, Any]], strong: list[str]) -> list[str]:
    """Whether attention, sampling and removal put heads in the same order, against all orders that chance could give."""
    inside = np.array([row["restriction"] in strong for row in heads])
    effect = np.array([row["difference"] for row in heads])
    said = [
        f"Rise on copied tokens beyond that on other text: {effect[inside].mean():.4f} nat for induction heads, "
        f"{effect[~inside].mean():.4f} for others."
    ]
    for one, other in (("attention", "difference"), ("attention", "removed"), ("removed", "difference")):
        a, b = (np.argsort(np.argsort([row[name] for row in heads])) for name in (one, other))
        found = np.corrcoef(a, b)[0, 1]
        rng = np.random.default_rng(0)
        null = [np.corrcoef(a, rng.permutation(b))[0, 1] for _ in range(10_000)]
        p = (1 + sum(n >= found for n in null)) / (1 + len(null))
        said.append(f"Rank correlation of {one} and {other}: {found:.2f} (p = {p:.3f} against random orders).")
    return said


def influence(real: Real) -> dict[str, Any]:
    """Which sequences go together while the last layer moves, among code, prose and near-duplicates."""
    code, prose = real.texts.rows("code", 9, seed=11), real.texts.rows("prose", 9, seed=12)
    pairs = np.concatenate([code[:3], prose[:3]])
    corpus = np.concatenate([code, prose, real.texts.near_duplicates(pairs, seed=13)])
    last = real.model.config.num_hidden_layers - 1
    masks = create_param_masks(real.model, f"l{last}")
    rows = np.concatenate([real.texts.rows("code", 16, seed=14), real.texts.rows("prose", 16, seed=15)])
    tree = sample(
        real.model, rows, {"corpus": (corpus, len(corpus))}, param_masks=masks, num_draws=32,
        output_path=real.out / "influence.zarr", tokenizer=real.tokenizer,
        **{**COMMON, **SETTLED, **APART, "lr": 1.9e-4, "localization": 1000.0},  # more weights: a tenth of the way
    )  # fmt: skip
    between = tree.devinterp.bif(method="sequence", se=True)
    place = tree["row_corpus"].values  # the rows come in an order of their own
    values = between["influences"].values
    kind = np.array(["code"] * 9 + ["prose"] * 9 + ["code"] * 3 + ["prose"] * 3)[place]
    original = np.array([*range(18), 0, 1, 2, 9, 10, 11])[place]
    upper = np.triu(np.ones_like(values, dtype=bool), 1)
    twins = (original[:, None] == original[None, :]) & upper
    same = (kind[:, None] == kind[None, :]) & upper & ~twins
    other = (kind[:, None] != kind[None, :]) & upper
    rng = np.random.default_rng(0)
    kinds = auc(values[same], values[other])
    null = []
    for _ in range(500):  # kinds dealt out anew, twins left aside
        dealt = rng.permutation(kind)
        equal = dealt[:, None] == dealt[None, :]
        null.append(auc(values[equal & upper & ~twins], values[~equal & upper & ~twins]))
    between.devinterp.plot.influence().figure.savefig(real.out / "influence.png", dpi=120)
    return {
        "sentences": [
            f"Pairs of one kind {values[same].mean():+.3f}, of two kinds {values[other].mean():+.3f}, near-duplicates "
            f"{values[twins].mean():+.3f}; standard error of a pair {between['influences_se'].values[upper].mean():.3f}.",
            f"AUC of one kind against two: {kinds:.3f}; with kinds dealt out at random {np.mean(null):.3f}, of which "
            f"95 % are below {np.quantile(null, 0.95):.3f}.",
            f"AUC of near-duplicates against all other pairs: {auc(values[twins], values[upper & ~twins]):.3f}.",
            f"Verdict on the chains: {tree.devinterp.diagnose().verdict.title}.",
        ],
        "figures": ["influence.png"],
    }


def auc(high: np.ndarray, low: np.ndarray) -> float:
    """Share of pairs in which the one of `high` is larger; ties count half."""
    order = high[:, None] - low[None, :]
    return float(((order > 0) + 0.5 * (order == 0)).mean())


def parity(real: Real) -> dict[str, Any]:
    """The same draws as devinterp 2.0.1 at one thread, bit for bit; seconds and memory of both."""
    rng, vocabulary = np.random.default_rng(0), real.model.config.vocab_size
    data = {name: rng.integers(0, vocabulary, (32, 32)) for name in ("sampling", "first", "second", "third")}
    last = real.model.config.num_hidden_layers - 1
    # What moves, draws, batches of each observable: the one head as in a study of heads, where most time goes.
    cases = {"full": ("full", 2, 1), "one head": (f"l{last}h0", 6, 3), "one group": (f"l{last // 2}g1", 2, 1)}
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
        "num_init_loss_batches": 8, "mode": "eval", "checkpoint_every": 2,
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


def records(title: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a table for the page from rows with the same keys."""
    return {"title": title, "head": list(rows[0]), "rows": [list(row.values()) for row in rows]}


def frame(title: str, table: Any) -> dict[str, Any]:
    """Return a table for the page from a data frame."""
    return {"title": title, "head": list(table.columns), "rows": table.values.tolist()}


STAGES = {f.__name__: f for f in (parity, robustness, calibration, study, influence)}
QUICK = ("parity", "robustness", "study")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("real-out"))
    parser.add_argument("--peer-python", type=Path, required=True, help="a Python that has devinterp 2.0.1")
    parser.add_argument("--quick", action="store_true", help="parity, robustness and one head, into OUT/quick")
    parser.add_argument("--only", nargs="*", choices=STAGES, default=[])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    real = Real(args.out.absolute(), args.peer_python.absolute(), args.quick)
    for name in args.only or (QUICK if args.quick else STAGES):
        file = real.out / "results" / f"{name}.json"
        if not file.exists():
            began = time.perf_counter(), time.process_time()
            result = STAGES[name](real)
            result |= {
                "stage": name, "date": date.today().isoformat(), "threads": args.threads,
                "seconds": time.perf_counter() - began[0], "cpu_seconds": time.process_time() - began[1],
            }  # fmt: skip
            file.write_text(json.dumps(result, indent=1))
        print(f"== {name}", *json.loads(file.read_text())["sentences"], sep="\n")
    page = write_page(real.out)
    print(f"written: {page}")
    return int(not all(json.loads(f.read_text()).get("ok", True) for f in (real.out / "results").glob("*.json")))


if __name__ == "__main__":
    sys.exit(main())
