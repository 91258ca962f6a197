"""Attention made by hand, whose scores are known."""

from __future__ import annotations

import numpy as np
import pytest

from devinterp.demo.circuit import find_circuit, head_names, prefix_matching_score, previous_token_score

PERIOD, START = 4, 5  # BOS, four tokens, the same four tokens
LENGTH = 1 + 2 * PERIOD


def uniform() -> np.ndarray:
    lower = np.tril(np.ones((LENGTH, LENGTH)))
    return lower / lower.sum(1, keepdims=True)


def shifted(offset: int, share: float = 1.0) -> np.ndarray:
    """Every query gives ``share`` to the key ``offset`` before it where there is one, and the rest to the first key."""
    pattern = np.zeros((LENGTH, LENGTH))
    for query in range(LENGTH):
        if query >= offset:
            pattern[query, query - offset] += share
            pattern[query, 0] += 1 - share
        else:
            pattern[query, 0] = 1
    return pattern


def heads(*layers: list[np.ndarray]) -> np.ndarray:
    """(layer, head, batch, query, key), three equal rows."""
    return np.stack([np.stack([np.stack([head] * 3) for head in layer]) for layer in layers])


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_previous_token_score_is_the_share_given_to_the_key_before(share: float) -> None:
    assert previous_token_score(heads([shifted(1, share)]), start=2) == pytest.approx(share)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_prefix_matching_score_is_the_share_given_to_the_key_after_the_last_occurrence(share: float) -> None:
    attention = heads([shifted(PERIOD - 1, share)])
    assert prefix_matching_score(attention, PERIOD, START) == pytest.approx(share)


def test_uniform_attention_scores_what_chance_gives() -> None:
    attention = heads([uniform()])
    assert previous_token_score(attention)[0, 0] == pytest.approx(np.mean([1 / (q + 1) for q in range(1, LENGTH)]))
    expected = np.mean([1 / (q + 1) for q in range(START, LENGTH)])
    assert prefix_matching_score(attention, PERIOD, START)[0, 0] == pytest.approx(expected)


def test_attention_to_the_same_token_is_no_prefix_match() -> None:
    assert prefix_matching_score(heads([shifted(PERIOD)]), PERIOD, START)[0, 0] == 0


def test_the_circuit_is_the_induction_head_and_the_previous_token_head_below_it() -> None:
    attention = heads([shifted(2), shifted(1)], [shifted(PERIOD - 1), shifted(1)])
    circuit = find_circuit(attention, PERIOD, START)
    assert circuit.names == ("l0h0", "l0h1", "l1h0", "l1h1")
    assert circuit.members == ("l0h1", "l1h0")
    assert circuit.inside.tolist() == [False, True, True, False]


def test_previous_token_heads_alone_are_no_circuit() -> None:
    circuit = find_circuit(heads([shifted(1), shifted(2)], [shifted(1), shifted(2)]), PERIOD, START)
    assert circuit.members == ()


def test_head_names_go_layer_by_layer() -> None:
    assert head_names(2, 2) == ("l0h0", "l0h1", "l1h0", "l1h1")
