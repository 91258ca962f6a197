"""Print what is found in stores that devinterp 2.0 wrote: nothing under its profile, and why what is found under ours.

    python tests/benchmarks/validation/peer_stores.py tests/data/devinterp-2.0.1

Every ``*.zarr`` of the folder is validated at the level ``values`` under ``devinterp-2.0`` and under ``strict``. Exits
with 1 where there is a finding under the former, or one without an explanation under the latter.
"""

from __future__ import annotations

import sys
from pathlib import Path

from devinterp.schema import Finding, validate

# What devinterp 2.0 does otherwise, by the code under which `strict` says so.
WHY = {
    "DI008": "the offer of the profile that fits",
    "DI101": "it writes no n_beta, draws_written, step_loss, init_loss_{obs} and row_{obs}",
    "DI104": "its LLC is float32 where ours is float64, and names of restrictions are text of fixed length",
    "DI110": "it names no schema, keeps no original names of observables, and records no run",
    "DI112": "it always writes the losses and ids of every micro-batch, which are optional with us",
    "DI201": "it leaves the fill value of integers at 0, so that a lost chunk of ids reads as token 0",
    "DI202": "it writes init_loss one chain a chunk, where small arrays are one chunk with us",
    "DI204": "it leaves the codecs to Zarr",
    "DI205": "it writes no checksums",
    "DI405": "it records no state of chains",
}


def main(folder: Path) -> int:
    """Print the table; return the exit status."""
    stores = sorted(folder.glob("*.zarr"))
    if not stores:
        sys.exit(f"There is no store in {folder}.")
    wrong = 0
    print("| store | kind | under devinterp-2.0 | under strict | where | why |\n|---|---|---|---|---|---|")
    for store in stores:
        ours, theirs = validate(store), validate(store, profile="devinterp-2.0")
        clean = "clean" if not theirs.findings else f"**{', '.join(sorted(theirs.codes))}**"
        wrong += len(theirs.findings) + sum(str(f.code) not in WHY for f in ours.findings)
        for number, code in enumerate(sorted(ours.codes)):
            findings = ours.filter(code=code).findings
            first = f"{store.name} | {theirs.kind} | {clean}" if number == 0 else " | | "
            print(
                f"| {first} | {code} {findings[0].severity} | {_where(findings)} | {WHY.get(code, '**unexplained**')} |"
            )
    print(f"\n{len(stores)} stores, {wrong} finding(s) that should not be there or are not explained")
    return 1 if wrong else 0


def _where(findings: tuple[Finding, ...]) -> str:
    paths = sorted({path for f in findings for path in f.paths})
    return ", ".join(paths[:6]) + (f" and {len(paths) - 6} more" if len(paths) > 6 else "")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(str(__doc__))
    sys.exit(main(Path(sys.argv[1])))
