"""Real sampling processes, killed at random moments and resumed until done."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

# One process serves many attempts: it has torch imported, and forks a child for each, so that a kill comes every second
# or so and not every ten. The server itself never runs a torch kernel, starts no thread, and so forks safely.
_SERVER = """
import json, os, signal, sys, warnings
sys.path.insert(0, {helpers!r})
import torch, devinterp.slt.sampling, devinterp.schema, devinterp.slt.sampling.running.coordinator, xarray, zarr
from tiny_lm import build_model, build_tokens
for line in sys.stdin:
    task = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            warnings.simplefilter("ignore")
            if task["parallel"]:
                task["settings"] |= {{"chain_method": "parallel", "num_workers": 2, "threads_per_chain": 1}}
            from devinterp import sample
            observables = {{"train": (build_tokens("train"), 2), "code": (build_tokens("code"), 1)}}
            seen = os.open(task["path"] + ".seen", os.O_RDWR | os.O_CREAT)
            def note(event):  # survives the kill, so that the work lost to it can be counted
                os.pwrite(seen, b"%8d" % event.step, 8 * event.chain)
            sample(build_model(), build_tokens("train"), observables, output_path=task["path"], device="cpu",
                   progress=note, **task["settings"])
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    print(json.dumps(child), flush=True)
    _, status = os.waitpid(child, 0)
    print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)
"""


class Server:
    """Starts sampling children and tells how they ended."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER.format(helpers=str(HERE))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def start(self, path: Path, settings: dict[str, Any], *, parallel: bool) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"path": str(path), "settings": settings, "parallel": parallel}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the server died"
        return int(json.loads(line))

    def wait(self) -> int:
        """Return the child's exit code (negative: the signal that killed it)."""
        return self._read()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass
class Outcome:
    """What one campaign of kills and resumes came to."""

    name: str
    kills: int = 0
    attempts: int = 0
    repeated_draws: list[int] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)


def saved_draws(path: Path) -> dict[int, int]:
    """Draws of each chain in its last checkpoint, from which a resumed run goes on."""
    found = {}
    for file in (path / ".devinterp").glob("chain-*.state"):
        found[int(file.stem.removeprefix("chain-"))] = int(json.loads(file.read_bytes().split(b"\n", 1)[0])["draws"])
    return found


def seen_draws(path: Path, settings: dict[str, Any]) -> dict[int, int]:
    """Draws that each chain had computed when it was killed, finished chains included."""
    raw = Path(f"{path}.seen").read_bytes()
    steps = {c: int(raw[8 * c : 8 * c + 8].strip(b"\0 ") or 0) for c in range(len(raw) // 8)}
    burnin, between = settings["num_burnin_steps"], settings["num_steps_bw_draws"]
    return {c: min(max(0, -(-(step - burnin) // between)), settings["num_draws"]) for c, step in steps.items()}


def finished_chains(path: Path) -> set[int]:
    """Chains whose end is on record: nothing of them is computed again."""
    files = (path / ".devinterp").glob("chain-*.progress")
    return {int(f.stem.removeprefix("chain-")) for f in files if json.loads(f.read_bytes())["status"] == "complete"}


def completed(path: Path) -> bool:
    """Whether the run had completed its store before it was killed."""
    root = path / "zarr.json"
    return root.exists() and json.loads(root.read_bytes())["attributes"].get("completed") == 1


def campaign(
    server: Server,
    folder: Path,
    name: str,
    settings: dict[str, Any],
    *,
    kills: int,
    seed: int,
    parallel: bool | None = False,
) -> Outcome:
    """Kill ``kills`` times over as many runs as it takes; compare each finished store with an uninterrupted one.

    ``parallel=None`` resumes here sequentially and there in parallel, as it comes.
    """
    rng = random.Random(seed)
    whole = folder / f"{name}-whole.zarr"
    began = time.monotonic()
    server.start(whole, settings, parallel=bool(parallel))
    assert server.wait() == 0, "the uninterrupted run failed"
    duration = time.monotonic() - began
    outcome = Outcome(name)
    run = 0
    while outcome.kills < kills:
        path = folder / f"{name}-{run}.zarr"
        while True:
            outcome.attempts += 1
            here = rng.random() < 0.5 if parallel is None else parallel
            child = server.start(path, settings, parallel=here)
            patience = rng.uniform(0, duration) if outcome.kills < kills else None
            if patience is not None:
                time.sleep(patience)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            code = server.wait()
            if code == 0:
                break
            assert code == -signal.SIGKILL, f"a resumed run failed with {code}"
            outcome.kills += 1
            if completed(path):  # killed on its way out: nothing is computed again, and no state is left to say so
                continue
            saved, done = saved_draws(path), finished_chains(path)
            for chain, draws in seen_draws(path, settings).items() if Path(f"{path}.seen").exists() else ():
                outcome.repeated_draws += [max(0, draws - saved.get(chain, 0))] if chain not in done else []
        outcome.differing += differing_chunks(whole, path)
        run += 1
    return outcome


def differing_chunks(one: Path, other: Path) -> list[str]:
    """Names of the chunk files that are not the same bytes in both stores, or are in one only."""
    files = [
        {name for p in root.rglob("*") if p.is_file() and "c" in (name := p.relative_to(root).as_posix()).split("/")}
        for root in (one, other)
    ]
    return sorted(
        name
        for name in files[0] | files[1]
        if name not in files[0] or name not in files[1] or (one / name).read_bytes() != (other / name).read_bytes()
    )
