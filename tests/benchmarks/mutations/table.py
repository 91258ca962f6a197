"""Print the catalogue of mutations: what is wrong, the code it must be found under, and what the validator found.

    python tests/benchmarks/mutations/table.py [CODE ...]

Exits with 1 where a mutation is not found under its code at its level, or is found below it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from devinterp.schema import RuleCode, validate
from devinterp.testing import MUTATIONS, Mutation

LEVELS = ("structure", "completeness", "values")


def found_at(mutation: Mutation, folder: Path) -> tuple[str | None, str]:
    """Write the mutation; return the lowest level at which its code is found, and the severity."""
    target = mutation.write(folder / mutation.name)
    for level in LEVELS:
        report = validate(target, **{**mutation.options, "level": level})
        for finding in report.findings:
            if finding.code == mutation.code:
                return level, finding.severity
    return None, "-"


def main(codes: list[str]) -> int:
    """Print the table; return the exit status."""
    wrong = 0
    chosen = [m for m in MUTATIONS if not codes or m.code in codes]
    print("| code | rule | mutation | expected at | found at | severity | what is wrong |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for m in chosen:
            level, severity = found_at(m, Path(folder))
            mark = "" if level == m.level else " **wrong**"
            wrong += level != m.level
            print(
                f"| {m.code} | {m.rule.slug} | {m.name} | {m.level} | {level}{mark} | {severity} | {m.doc} |",
                flush=True,
            )
    rules = {m.code for m in chosen}
    print(f"\n{len(chosen)} mutations of {len(rules)} of {len(RuleCode)} codes, {wrong} not found as they should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
