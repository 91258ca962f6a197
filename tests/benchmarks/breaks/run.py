"""Break each property on purpose, in a scratch copy, and see the test that holds it turn red.

    python tests/benchmarks/breaks/run.py [TEXT]

Every break of breaks.yaml is one textual change of a file. TEXT chooses those whose property, test or fault contains
it; without it, the outcome is written to docs/contributing/properties.md. Exits with 1 where a break goes unnoticed, or
no longer applies.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from breaks import PAGE, ROOT, Break, page, read_breaks


def check(fault: Break) -> str:
    """Apply the fault in a scratch copy and run its test; return what came of it."""
    with tempfile.TemporaryDirectory(prefix="break-") as scratch:
        folder = Path(scratch)
        for name in ("src", "schemas", "tests", "pyproject.toml"):
            source = ROOT / name
            ignore = shutil.ignore_patterns("__pycache__", ".hypothesis")
            shutil.copytree(source, folder / name, ignore=ignore) if source.is_dir() else shutil.copy(source, folder)
        path = folder / fault.file
        text = path.read_text(encoding="utf-8")
        if text.count(fault.old) != 1:
            return "no longer applies"
        path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(folder / "src"), "HYPOTHESIS_NO_SHRINK": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", fault.test]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        return {0: "NOT NOTICED", 1: "red"}.get(done.returncode, f"pytest ended with {done.returncode}")


def main(only: str) -> int:
    """Try every break; return the exit status."""
    outcomes = {}
    begun = time.perf_counter()
    print("| property | test | break | outcome |\n|---|---|---|---|")
    for fault in read_breaks():
        if any(only in text for text in (fault.property, fault.test, fault.what)):
            outcomes[fault] = check(fault)
            print(f"| {fault.property} | {fault.test} | {fault.what} | {outcomes[fault]} |", flush=True)
    red = sum(outcome == "red" for outcome in outcomes.values())
    print(f"\n{red} of {len(outcomes)} red, {time.perf_counter() - begun:.0f} s")
    if not only:
        PAGE.write_text(page(outcomes), encoding="utf-8")
    return 0 if red == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
