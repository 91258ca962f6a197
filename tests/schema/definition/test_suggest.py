"""What a misspelt name may have meant, at no great cost."""

from __future__ import annotations

import pytest

from devinterp.schema.definition.suggest import closest, suggestion

KNOWN = ["sampling_loss", "init_loss", "Step_Loss"]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("samplng_loss", "sampling_loss"),
        ("SAMPLING_LOSS", "sampling_loss"),
        ("step_loss", "Step_Loss"),
        ("init_los", "init_loss"),
        ("temperature", None),
        ("loss", None),
        ("", None),
    ],
)
def test_the_nearest_name_is_meant_or_none(name: str, near: str | None) -> None:
    assert closest(name, KNOWN) == near
    assert suggestion(name, KNOWN) == (None if near is None else f"Did you mean {near!r}? Rename it.")
    assert closest(name, iter(KNOWN)) == near
    assert closest(name, []) is None


def test_a_very_long_name_is_no_misspelling() -> None:
    assert closest("a" * 200, ["a" * 199]) == "a" * 199
    assert closest("a" * 201, ["a" * 200]) is None
