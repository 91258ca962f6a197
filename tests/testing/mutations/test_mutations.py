"""Every named mutation is found under its code, at its level and not below, with nothing else but what it says."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from devinterp.schema import RuleCode, validate
from devinterp.testing import MUTATIONS, Mutation, make_store, mutations_of
from devinterp.testing.mutations.store_editor import StoreEditor

LEVELS = ("structure", "completeness", "values")
# Lists, dicts, tuples and scalars as Python prints them; a regular expression may well have brackets.
PYTHON = re.compile(
    r"""\[['"\d\[({]|\{['"]|^\(['"]|,\)|\b(?:None|Ellipsis)\b|\b(?:dtype|array|frozenset|int64|float32)\(|\bnull\b|\[\]|\{\}"""
)
PATTERN = "text that matches "


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Mutation, Path], None]:
    """Copies the valid store that a mutation starts from; each base is built once."""
    folder = tmp_path_factory.mktemp("bases")
    built: dict[tuple[int, bool], Path] = {}

    def copy(mutation: Mutation, target: Path) -> None:
        if mutation.base is None:
            target.mkdir()
            return
        key = (id(mutation.base), mutation.consolidated)
        if key not in built:
            built[key] = folder / f"{len(built)}.zarr"
            make_store(built[key], mutation.base, consolidated=mutation.consolidated)
        shutil.copytree(built[key], target)

    return copy


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.code}-{m.name}")
def test_is_found_under_its_code_at_its_level_and_not_below(
    mutation: Mutation, base: Callable[[Mutation, Path], None], tmp_path: Path
) -> None:
    target = tmp_path / "store.zarr"
    base(mutation, target)
    mutation.apply(StoreEditor(target))
    at = validate(target, **{**mutation.options, "level": mutation.level})
    codes = {str(f.code) for f in at.findings}
    assert mutation.code in codes, f"{mutation.doc}\n{at}"
    assert codes <= {mutation.code, *mutation.also}, str(at)
    for finding in at.findings:
        for text in (finding.message, finding.expected or "", finding.found or ""):
            assert text.startswith(PATTERN) or not PYTHON.search(text), text
    if mutation.level != "structure":
        below = validate(target, **{**mutation.options, "level": LEVELS[LEVELS.index(mutation.level) - 1]})
        assert mutation.code not in {str(f.code) for f in below.findings}


def test_every_code_has_at_least_three_mutations() -> None:
    counted = Counter(m.code for m in MUTATIONS)
    assert {str(code): counted[str(code)] for code in RuleCode if counted[str(code)] < 3} == {}
    assert set(counted) == {str(code) for code in RuleCode}


def test_mutations_are_named_once_and_say_what_is_wrong() -> None:
    assert len({m.name for m in MUTATIONS}) == len(MUTATIONS)
    assert all(m.doc.endswith(".") and "\n" not in m.doc for m in MUTATIONS)
    assert mutations_of("DI101") == tuple(m for m in MUTATIONS if m.code == "DI101")


def test_writes_the_base_and_breaks_it(tmp_path: Path) -> None:
    (mutation,) = (m for m in MUTATIONS if m.name == "sampling-loss-is-missing")
    assert mutation.write(tmp_path / "x.zarr") == tmp_path / "x.zarr"
    assert not (tmp_path / "x.zarr" / "sampling_loss").exists()
    assert (tmp_path / "x.zarr" / "init_loss").is_dir()
