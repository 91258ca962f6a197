"""Flip single bits at random positions of a real store's chunk files: each must be found, none may be read as data.

python tests/benchmarks/flips/run.py [--flips 1000] [--seed 0]
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import zarr

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "helpers"))

from tiny_lm import build_model, build_tokens

import devinterp
from devinterp import sample


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.zarr"
        observables = {"train": (build_tokens("train"), 1)}
        settings = {"lr": 1e-3, "n_beta": 30.0, "localization": 10.0, "num_chains": 2, "num_draws": 3, "batch_size": 4}
        sample(
            build_model(),
            build_tokens("train"),
            observables,
            output_path=path,
            device="cpu",
            progress=False,
            **settings,
        )
        assert devinterp.validate(path).ok
        chunks = [p for p in path.rglob("*") if p.is_file() and "c" in p.relative_to(path).parts]
        sizes = [p.stat().st_size for p in chunks]
        for _ in range(arguments.flips):
            chunk = rng.choices(chunks, sizes)[0]
            intact = chunk.read_bytes()
            bit = rng.randrange(8 * len(intact))
            damaged = bytearray(intact)
            damaged[bit // 8] ^= 1 << bit % 8
            chunk.write_bytes(damaged)
            name = chunk.relative_to(path).parts[0]
            report = devinterp.validate(path, level="values")
            located = any(name in f.path for f in report.errors)
            try:
                zarr.open_array(path / name)[...]
                read = "read as data"
            except Exception:  # whatever the codec raises: the point is that no number comes out
                read = "refused on reading"
            outcomes[f"{'found, located' if located else 'MISSED'}, {read}"] += 1
            chunk.write_bytes(intact)
        assert devinterp.validate(path).ok
    for outcome, count in outcomes.most_common():
        print(f"{count:6}  {outcome}")
    return int(set(outcomes) != {"found, located, refused on reading"})


if __name__ == "__main__":
    raise SystemExit(main())
