"""Stages that sample: which settings, which heads copy, which sequences go together."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from common import SETTLED, Real, frame, records
from model import PERIOD

from devinterp import sample, sample_restrictions, sweep
from devinterp.slt.sampling.engine.losses import next_token_loss
from devinterp.slt.weight_restrictions import create_param_masks


def calibration(real: Real) -> dict[str, Any]:
    """Sweep step sizes for the strongest induction head."""
    head = next(iter(real.induction()))
    rows, scale = real.mixture(), real.scale
    trials = sweep(
        real.model, rows, {"train": (rows, scale.batches)}, grid=scale.grid,
        param_masks=create_param_masks(real.model, head),
        num_draws=scale.draws, pilot_draws=scale.pilot_draws, extend=scale.extend,
        output_path=real.out / "calibration.zarr", tokenizer=real.tokenizer, **real.options,
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
    """Sample the strongest induction heads, as many others, and the groups and feed-forward parts beside the strongest."""
    scores, scale = real.induction(), real.scale
    strong = list(scores)[: 1 if real.quick else scale.heads]
    places = {name: tuple(map(int, name[1:].split("h"))) for name in scores}
    # The others from the same depth on, and by no means induction heads.
    first = min(places[name][0] for name in strong)
    pool = [name for name in scores if scores[name] < 0.05 and places[name][0] >= first]
    others = sorted(np.random.default_rng(0).choice(pool, scale.heads, replace=False).tolist())
    shared = real.model.config.num_attention_heads // real.model.config.num_key_value_heads
    beside = [places[name] for name in strong[: scale.parts]]
    parts = {f"l{layer}g{number // shared}": f"l{layer}g{number // shared}" for layer, number in beside}
    if scale.parts > 1:
        parts |= {f"l{layer}mlp": f"l{layer} mlp" for layer, _ in beside}
    if real.quick:
        others, parts = [], {}
    rows = real.mixture()
    tree = sample_restrictions(
        real.model, rows, {"train": (rows, scale.batches)},
        {"full": None} | {name: name for name in (*strong, *others)} | parts, sampling_task="train",
        num_draws=3 if real.quick else scale.draws,
        overrides={"full": {"num_draws": 2, "num_burnin_steps": 0, "num_chains": 1, "num_steps_bw_draws": 1, "lr": 1e-5}},
        output_path=real.out / "study.zarr", tokenizer=real.tokenizer, **SETTLED, **real.options,
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
    """Which sequences go together while the last layer moves: code, prose, and near-duplicates of some of them."""
    scale, twice = real.scale, real.scale.corpus // 3
    code, prose = (real.texts.rows(kind, scale.corpus, seed) for kind, seed in (("code", 11), ("prose", 12)))
    twins = real.texts.near_duplicates(np.concatenate([code[:twice], prose[:twice]]), seed=13)
    corpus = np.concatenate([code, prose, twins])
    last = real.model.config.num_hidden_layers - 1
    half = scale.rows // 4
    rows = np.concatenate([real.texts.rows("code", half, seed=14), real.texts.rows("prose", half, seed=15)])
    tree = sample(
        real.model, rows, {"corpus": (corpus, len(corpus) // scale.batch_size)},
        param_masks=create_param_masks(real.model, f"l{last}"), num_draws=scale.draws,
        output_path=real.out / "influence.zarr", tokenizer=real.tokenizer,
        **{**SETTLED, **real.options, "lr": 1.9e-4, "localization": 1000.0},  # more weights: a tenth of the way
    )  # fmt: skip
    between = tree.devinterp.bif(method="sequence", se=True)
    place = tree["row_corpus"].values  # the rows come in an order of their own
    values = between["influences"].values
    kind = np.repeat(["code", "prose", "code", "prose"], [scale.corpus, scale.corpus, twice, twice])[place]
    first = np.arange(twice)
    original = np.concatenate([np.arange(2 * scale.corpus), first, scale.corpus + first])[place]
    upper = np.triu(np.ones_like(values, dtype=bool), 1)
    doubles = (original[:, None] == original[None, :]) & upper
    same = (kind[:, None] == kind[None, :]) & upper & ~doubles
    other = (kind[:, None] != kind[None, :]) & upper
    rng = np.random.default_rng(0)
    kinds = auc(values[same], values[other])
    null = []
    for _ in range(500):  # kinds dealt out anew, twins left aside
        dealt = rng.permutation(kind)
        equal = dealt[:, None] == dealt[None, :]
        null.append(auc(values[equal & upper & ~doubles], values[~equal & upper & ~doubles]))
    between.devinterp.plot.influence().figure.savefig(real.out / "influence.png", dpi=120)
    return {
        "sentences": [
            f"Pairs of one kind {values[same].mean():+.3f}, of two kinds {values[other].mean():+.3f}, near-duplicates "
            f"{values[doubles].mean():+.3f}; standard error of a pair {between['influences_se'].values[upper].mean():.3f}.",
            f"AUC of one kind against two: {kinds:.3f}; with kinds dealt out at random {np.mean(null):.3f}, of which "
            f"95 % are below {np.quantile(null, 0.95):.3f}.",
            f"AUC of near-duplicates against all other pairs: {auc(values[doubles], values[upper & ~doubles]):.3f}.",
            f"Verdict on the chains: {tree.devinterp.diagnose().verdict.title}.",
        ],
        "figures": ["influence.png"],
    }


def auc(high: np.ndarray, low: np.ndarray) -> float:
    """Share of pairs in which the one of `high` is larger; ties count half."""
    order = high[:, None] - low[None, :]
    return float(((order > 0) + 0.5 * (order == 0)).mean())
