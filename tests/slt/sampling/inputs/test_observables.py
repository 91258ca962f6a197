"""Which rows an observable has, and what is refused."""

from __future__ import annotations

import random

import pytest
import torch
from engine import observed, settings
from tiny_lm import build_tokens

from devinterp.errors import DataError, SettingError

TOKENS = build_tokens("code", 12)


def test_observables_have_the_rows_of_the_contract():
    chosen = settings(obs_seed=5)
    (one,) = observed(chosen, {"a b": (build_tokens("math"), 3)})
    expected = random.Random(5).sample(range(64), 12)
    assert one.rows.tolist() == expected
    assert torch.equal(one.batch().ids, torch.from_numpy(build_tokens("math")[expected]))
    assert (one.obs_id, one.name, one.batches_per_draw) == ("a_b", "a b", 3)
    (default,) = observed(chosen, {"x": build_tokens("math")})
    assert default.batches_per_draw == 3


@pytest.mark.parametrize(
    ("observables", "error"),
    [
        ({"a": (TOKENS[:0], 1)}, DataError),
        ({"a": (build_tokens("code", 7), 2)}, DataError),
        ({"a": (build_tokens("code")[:, :9], 1)}, DataError),
        ({"a": (build_tokens("code"), 0)}, SettingError),
        ({"a": (build_tokens("code"), 1.5)}, SettingError),
        ({"a b": build_tokens("code"), "a_b": build_tokens("code")}, SettingError),
        ({"a": build_tokens("code"), "A": build_tokens("code")}, SettingError),
        ({"sampling": build_tokens("code")}, SettingError),
        ({3: build_tokens("code")}, SettingError),
        ([build_tokens("code")], DataError),
        (None, DataError),
    ],
)
def test_bad_observables_are_one_clear_error(observables, error):
    with pytest.raises(error):
        observed(settings(), observables)
