"""Examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path
from typing import Any

import pytest

import devinterp
from devinterp.testing import mutations


def examples() -> list[doctest.DocTest]:
    """Every docstring of the package with an example."""
    finder, found = doctest.DocTestFinder(exclude_empty=True), {}
    for info in pkgutil.walk_packages(devinterp.__path__, "devinterp."):
        if info.name.endswith("__main__"):
            continue
        for test in finder.find(importlib.import_module(info.name), info.name):
            if test.examples:
                found[test.name] = test
    return list(found.values())


@pytest.mark.parametrize("test", examples(), ids=lambda t: t.name)
def test_docstring_examples(
    test: doctest.DocTest, stage: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The catalogue as a whole has tests of its own.
    monkeypatch.setattr(mutations, "MUTATIONS", mutations.MUTATIONS[::40])
    skipped = [e.source for e in test.examples if e.options.get(doctest.SKIP)]
    assert skipped == [], "an example that is skipped may be wrong"
    test.globs |= {
        **stage,
        "devinterp": devinterp,
        "sample": devinterp.sample,
        "folder": tmp_path,
        "observables": {"train": stage["dataset"]},
    }
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(test)
    assert result.failed == 0
