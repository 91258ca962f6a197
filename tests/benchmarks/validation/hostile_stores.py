"""Print what every hostile store tried, the answer it got, how long that took, and the memory it cost.

    python tests/benchmarks/validation/hostile_stores.py [WORD ...]

The stores are those of `tests/helpers/hostile.py` (with WORDs, those that have one in their name). Each is validated at
the level ``values`` in a process of its own, forked when everything is imported. What it took at its peak is the
resident memory above that, which Linux alone can tell. Exits with 1 where a store was not answered as it should be,
took more than the limit, or ended in anything but a report.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "helpers"))

from hostile import HOSTILE, HUGE

from devinterp.schema import Limits, RuleCode, validate
from devinterp.testing import make_store

SMALL: dict[str, Any] = {"num_chains": 2, "num_draws": 3, "num_steps_bw_draws": 2, "save_metrics": True}
# Nothing may take this long, in seconds.
PATIENCE = 120


def main(words: list[str]) -> int:
    """Print the table; return the exit status."""
    chosen = {n: s for n, s in {**HOSTILE, **HUGE}.items() if not words or any(w in n for w in words)}
    limit, wrong, most = Limits().memory, 0, 0
    print("| what it tried | code | answer | MiB | s |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        validate(make_store(Path(folder) / "first.zarr", "study"))  # imports are not what is measured
        for number, (name, (code, kind, spoil)) in enumerate(chosen.items()):
            store = Path(make_store(Path(folder) / f"{number}.zarr", kind, consolidated=False, **_changes(kind)))
            spoil(store)
            answer, peak, seconds = _measured(store, code)
            most = max(most, peak)
            right = answer.startswith("/") and peak <= limit
            wrong += not right
            print(f"| {name} | {code} | {answer}{'' if right else ' **wrong**'} | {peak / 2**20:.0f} | {seconds:.1f} |")
            sys.stdout.flush()
    print(
        f"\n{len(chosen)} stores, {wrong} not as they should be; at most {most / 2**20:.0f} MiB of {limit / 2**20:.0f}"
    )
    return 1 if wrong else 0


def _changes(kind: str) -> dict[str, Any]:
    return {"parameters": SMALL} if kind == "samples" else {}


def _measured(store: Path, code: str) -> tuple[str, int, float]:
    """Validate in a child; return the answer in one line, the peak above where it began in bytes, and seconds."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        signal.alarm(PATIENCE)  # unhandled, so that a validation that hangs ends
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(_validated(store, code), pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        raw = pipe.read()
    os.waitpid(child, 0)
    return pickle.loads(raw) if raw else (f"no report within {PATIENCE} s", 0, float(PATIENCE))


def _validated(store: Path, code: str) -> tuple[str, int, float]:
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, start = _memory("VmRSS"), time.perf_counter()
    try:
        report = validate(store)
        len(str(report)), len(report.to_json())
    except BaseException as error:  # whatever it is, it is what the table is for
        return f"raised {type(error).__name__}: {str(error)[:100]}", _memory("VmHWM") - before, 0.0
    seconds, peak = time.perf_counter() - start, _memory("VmHWM") - before
    found = report.filter(code=code).findings
    if not found:
        return f"only {sorted(report.codes)}", peak, seconds
    first = found[0]
    place = first.path if len(first.path) < 40 else f"{first.path[:37]}..."
    place += f" and {first.count - 1} more" if first.count > 1 else ""
    words = f"{first.message} Found: {first.found}" if first.found is not None else first.message
    assert RuleCode(code)
    return f"{place}: {words[:140]}".replace("|", "\\|"), peak, seconds


def _memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status does not say {name}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
