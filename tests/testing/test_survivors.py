"""The mutants that are known to survive are mutants of today's source, each under its own module and function."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MUTANTS = ROOT / "tests" / "benchmarks" / "mutants"


def test_every_reason_is_of_a_mutant_that_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(MUTANTS), *sys.path])
    from operators import mutants_of

    reasons = yaml.safe_load((MUTANTS / "survivors.yaml").read_text(encoding="utf-8"))
    lost = {}
    for module, texts in reasons.items():
        source = ROOT / "src" / "devinterp" / module
        made = (
            {str(m) for m in mutants_of(source.read_text(encoding="utf-8"), only=texts)} if source.exists() else set()
        )
        lost |= {f"{module}: {text}": source.exists() for text in texts if text not in made}
    assert lost == {}
