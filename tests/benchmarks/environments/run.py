"""The tests of what people see, under an environment as no developer has it: all of it at once.

    python tests/benchmarks/environments/run.py [TEST_PATH ...]

No progress bars, no colours, 40 columns, the C locale, another time zone, one thread, a backend that draws nothing on
screens, no network for the hub, and a home folder that cannot be written to, not even by root.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {
    "TQDM_DISABLE": "1",
    "NO_COLOR": "1",
    "COLUMNS": "40",
    "LANG": "C",
    "LC_ALL": "C",
    "TZ": "Asia/Kolkata",
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "svg",
    "HF_HUB_OFFLINE": "1",
    "HOME": "/dev/null/home",
}
TESTS = (
    "tests/cli",
    "tests/report",
    "tests/plot",
    "tests/slt/sampling/running/test_progress.py",
    "tests/slt/sampling/running/test_callers.py",
    "tests/slt/sampling/running/test_environment.py",
    "tests/store/test_location.py",
    "tests/test_accessor.py",
)


def main() -> int:
    """Run them; the exit status is pytest's."""
    chosen = sys.argv[1:] or TESTS
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *chosen]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "MPLCONFIG"))}
    return subprocess.run(command, cwd=ROOT, env={**inherited, **ENVIRONMENT}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
