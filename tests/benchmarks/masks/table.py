"""Masks of every causal language model architecture of the installed transformers, against the reference package's.

    python tests/benchmarks/masks/table.py [--peer-python PATH] [--only TYPE ...] [--json FILE]

Each architecture is built from a tiny configuration with random weights, in a process of its own. Printed per
architecture: whether the masks of every restriction ("full", "embed", "unembed", and "lN", "lN attn", "lN mlp" and
every head and group of each layer) are the reference's, or what differs and why; and whether its head masks are proved
by moving weights (``tests/helpers/head_proof.py``). Counts at the end. About 15 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "helpers"))

import torch
import transformers
from head_proof import find_site, language_input, prove
from isolated import Crashed, run_isolated
from reasons import explain
from tiny_models import CannotBuild, causal_lm_types, preload, tiny_model

from devinterp.errors import RestrictionError
from devinterp.slt.weight_restrictions import attention, create_param_masks, stack
from devinterp.slt.weight_restrictions.masks import Architecture

BATCH = 16

# Heads whose weights divide but whose outputs do not, and why; found by the proof, then read in the model's source.
COUPLED = {
    "doge": "its dynamic mask is computed from the values of all heads",
}


def restrictions_of(model: Any) -> tuple[list[str], dict[int, tuple[int, int]]]:
    """All restrictions that this model might take, and (heads, groups) of each layer that has them."""
    found, heads = ["full", "embed", "unembed"], {}
    try:
        layers = stack.find_layers(model)
    except RestrictionError:
        return [*found, "l0", "l0 attn", "l0 mlp", "l0h0"], {}
    architecture = Architecture(model)
    for layer in layers:
        found += [f"l{layer.index}", f"l{layer.index} attn", f"l{layer.index} mlp"]
        try:
            (unit,) = attention.find_units(layer.parts, architecture.canonical)
            of_layer = architecture.heads(unit)
        except (ValueError, RestrictionError):
            found += [f"l{layer.index}h0"]
            continue
        heads[layer.index] = (of_layer.num_heads, of_layer.num_kv_heads)
        found += [f"l{layer.index}h{head}" for head in range(of_layer.num_heads)]
        found += [f"l{layer.index}g{group}" for group in range(of_layer.num_kv_heads)]
    return found, heads


def ours(model_type: str) -> dict[str, Any]:
    """Our masks of one architecture, and the proof of its heads."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model = tiny_model(model_type)
    restrictions, heads = restrictions_of(model)
    masks: dict[str, Any] = {}
    for restriction in restrictions:
        try:
            selected = create_param_masks(model, restriction)
            masks[restriction] = {
                name: None if mask is None else mask.numpy().copy() for name, mask in selected.items()
            }
        except RestrictionError as error:
            masks[restriction] = error.problem
    canonical = {id(param): name for name, param in model.named_parameters()}
    every = [canonical[id(param)] for _, param in model.named_parameters(remove_duplicate=False)]
    tied = sorted(name for name, count in Counter(every).items() if count > 1)
    return {"class": type(model).__name__, "masks": masks, "tied": tied, "proof": proofs(model, heads, masks)}


def proofs(model: Any, heads: dict[int, tuple[int, int]], masks: dict[str, Any]) -> dict[int, str]:
    """Per layer: "proved", "proved, norms held", or what is wrong."""
    found: dict[int, str] = {}
    weights: dict[int, int] = {}
    for layer, (num_heads, num_groups) in heads.items():
        site = find_site(model, layer, num_heads, num_groups)
        if site is None:
            found[layer] = "no module call to watch"
            continue
        first = weights.setdefault(id(site.output.weight), layer)
        if first != layer:
            found[layer] = f"shares the weights of layer {first}"
            continue

        def of(head: int, layer: int = layer) -> dict[str, Any]:
            return {n: torch.as_tensor(m) for n, m in masks[f"l{layer}h{head}"].items()}

        try:
            wrong = prove(model, language_input(model), site, of)
            if wrong and site.norms:
                wrong = prove(model, language_input(model), site, of, hold_norms=True)
                found[layer] = "proved, norms over all heads held" if not wrong else wrong[0]
            else:
                found[layer] = wrong[0] if wrong else "proved"
        except Exception as error:
            found[layer] = f"not run: {type(error).__name__}: {' '.join(str(error).split())[:100]}"
    return found


def peer_proof(model_type: str, masks: dict[str, Any]) -> str:
    """What the same proof says of the reference's head masks."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model = tiny_model(model_type)
    _, heads = restrictions_of(model)
    usable = {
        layer: n for layer, n in heads.items() if all(isinstance(masks.get(f"l{layer}h{h}"), dict) for h in range(n[0]))
    }
    verdicts = proofs(model, usable, masks)
    return next((verdict for verdict in verdicts.values() if not verdict.startswith("proved")), "proved")


def summary(proof: dict[int, str], model_type: str) -> str:
    """One phrase for the proofs of all layers."""
    kinds = Counter(text if text.startswith(("proved", "shares")) else "other" for text in proof.values())
    if not proof:
        return "no heads"
    if not kinds["other"]:
        held = any("held" in text for text in proof.values())
        return f"heads proved in {len(proof)} layers" + (", norms over all heads held" if held else "")
    reason = COUPLED.get(model_type) or next(t for t in proof.values() if not t.startswith(("proved", "shares")))
    return f"heads not proved: {reason}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer-python", help="the Python of the reference package's virtual environment")
    parser.add_argument("--only", nargs="+", metavar="TYPE", help="model types; all by default")
    parser.add_argument("--json", type=Path, help="write everything there too; what is there already is kept")
    args = parser.parse_args()
    types = args.only or causal_lm_types()
    rows: dict[str, dict[str, Any]] = {}
    if args.json and args.json.exists():
        rows = json.loads(args.json.read_text())
    preload()
    left = [model_type for model_type in types if model_type not in rows]
    for start in range(0, len(left), BATCH):
        rows |= compared(left[start : start + BATCH], args.peer_python)
        if args.json:
            args.json.write_text(json.dumps(rows, indent=1))
    report({name: rows[name] for name in types}, bool(args.peer_python))


def compared(types: list[str], peer_python: str | None) -> dict[str, dict[str, Any]]:
    """The rows of some architectures."""
    built: dict[str, dict[str, Any]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for model_type in types:
        try:
            built[model_type] = run_isolated(ours, model_type)
        except (CannotBuild, Crashed) as error:
            rows[model_type] = {"status": "not buildable", "why": [str(error)]}
        print(f"ours: {model_type}", file=sys.stderr, flush=True)
    theirs = peer_masks(peer_python, built) if peer_python else {}
    for model_type, result in built.items():
        rows[model_type] = {"proof": summary(result["proof"], model_type)} | explain(result, theirs.get(model_type))
        if rows[model_type].pop("slices", False):
            verdict = run_isolated(peer_proof, model_type, theirs[model_type])
            rows[model_type]["why"].append(f"the same proof of the reference's head masks: {verdict}")
    return rows


def peer_masks(python: str, built: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The reference's masks for the same models and restrictions."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wanted = {model_type: list(result["masks"]) for model_type, result in built.items()}
        (folder / "restrictions.json").write_text(json.dumps(wanted))
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        subprocess.run([python, str(Path(__file__).with_name("peer.py")), name], check=True, env=environment)
        return {t: pickle.loads((folder / f"{t}.peer.pickle").read_bytes()) for t in wanted}


def report(rows: dict[str, dict[str, Any]], compared: bool) -> None:
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    for model_type, row in rows.items():
        print(f"{model_type:<26} {row['status']:<31} {row.get('proof', '')}")
        for why in row["why"]:
            print(f"{'':<27}- {why}")
    print(f"\n{len(rows)} architectures")
    for status, count in Counter(row["status"] for row in rows.values()).most_common():
        print(f"  {count:4} {status}")
    if compared:
        print("reasons of the differences (an architecture may have several)")
        reasons = Counter(reason for row in rows.values() for reason in set(row.get("reasons", ())))
        for reason, count in reasons.most_common():
            print(f"  {count:4} {reason}")
    print("head masks, proved by moving weights")
    phrases = Counter(_phrase(row["proof"]) for row in rows.values() if "proof" in row)
    for phrase, count in phrases.most_common():
        print(f"  {count:4} {phrase}")


def _phrase(proof: str) -> str:
    return "heads proved" + proof.partition("layers")[2] if proof.startswith("heads proved") else proof


if __name__ == "__main__":
    main()
