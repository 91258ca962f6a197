"""SIGKILL real sampling processes at random moments, resume each until done, compare every chunk with an unkilled run.

python tests/benchmarks/kills/run.py [--kills 100] [--seed 0] [--only "sgld, sequential"]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "helpers"))

from kills import Server, campaign

BASE = {
    "lr": 1e-3,
    "n_beta": 30.0,
    "num_chains": 2,
    "num_draws": 40,
    "batch_size": 4,
    "num_burnin_steps": 5,
    "num_steps_bw_draws": 2,
    "num_init_loss_batches": 4,
    "localization": 10.0,
    "save_metrics": True,
    "checkpoint_every": 3,
}
CAMPAIGNS: dict[str, tuple[dict[str, object], bool | None]] = {
    "sgld, sequential": ({}, False),
    "rmsprop, sequential": ({"sampling_method": "rmsprop_sgld"}, False),
    "sgld, step losses, accumulation": ({"save_step_losses": True, "gradient_accumulation_steps": 2}, False),
    "sgld, parallel": ({}, True),
    "rmsprop, parallel": ({"sampling_method": "rmsprop_sgld"}, True),
    "sgld, either by turns": ({}, None),
}
# Workers of a parallel run import torch anew at every attempt, so most kills go to the sequential ones.
SHARES = {"sgld, sequential": 0.25, "rmsprop, sequential": 0.25, "sgld, step losses, accumulation": 0.2}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=CAMPAIGNS, help="one campaign, which then gets all kills")
    arguments = parser.parse_args()
    total, bad = 0, 0
    print(f"{'campaign':34}{'kills':>7}{'attempts':>10}{'draws computed twice, at most':>31}{'differing chunks':>18}")
    with tempfile.TemporaryDirectory() as folder, Server() as server:
        for name, (changes, parallel) in CAMPAIGNS.items():
            if arguments.only not in (None, name):
                continue
            kills = arguments.kills if arguments.only else max(1, round(arguments.kills * SHARES.get(name, 0.1)))
            outcome = campaign(
                server,
                Path(folder),
                name.replace(", ", "-").replace(" ", "-"),
                {**BASE, **changes},
                kills=kills,
                seed=arguments.seed,
                parallel=parallel,
            )
            most = max(outcome.repeated_draws, default=0)
            print(f"{name:34}{outcome.kills:7}{outcome.attempts:10}{most:31}{len(outcome.differing):18}", flush=True)
            total += outcome.kills
            bad += len(outcome.differing)
    print(f"{total} kills, {bad} differing chunk files; checkpoints every {BASE['checkpoint_every']} draws")
    return int(bad > 0)


if __name__ == "__main__":
    raise SystemExit(main())
