"""What each head looks at: the attention measures that the demo's sampling results are held against.

Both follow Olsson et al. 2022, "In-context learning and induction heads".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Circuit", "find_circuit", "head_names", "prefix_matching_score", "previous_token_score"]

Scores = NDArray[np.float64]


def previous_token_score(attention: NDArray[np.floating], start: int = 1) -> Scores:
    """Attention that each head gives to the token just before.

    ``attention`` is (layer, head, batch, query, key): attention patterns; every row sums to 1. Returns (layer, head):
    the mean share of attention (unit 1, between 0 and 1) that a query at position i gives to key i - 1.
    """
    queries = np.arange(start, attention.shape[-2])
    return np.asarray(attention[..., queries, queries - 1].mean(axis=(-2, -1), dtype=np.float64))


def prefix_matching_score(attention: NDArray[np.floating], period: int, start: int) -> Scores:
    """Attention that each head gives to the token that followed the query's token the last time.

    ``attention`` is (layer, head, batch, query, key): attention patterns on sequences that repeat themselves; every
    row sums to 1. Returns (layer, head): the mean share of attention (unit 1, between 0 and 1) that a query at
    position i of the second showing gives to key i - period + 1.
    """
    queries = np.arange(start, attention.shape[-2])
    return np.asarray(attention[..., queries, queries - period + 1].mean(axis=(-2, -1), dtype=np.float64))


def head_names(layers: int, heads: int) -> tuple[str, ...]:
    """Names of all heads as weight restrictions know them: ``l0h0``, ``l0h1``, ...

    Returns ``layers * heads`` names, layer by layer.
    """
    return tuple(f"l{layer}h{head}" for layer in range(layers) for head in range(heads))


@dataclass(frozen=True)
class Circuit:
    """The induction circuit as attention alone shows it.

    Parameters
    ----------
    names : tuple of str
        Every head.
    previous, prefix : ndarray of float64, (head,)
        `previous_token_score` and `prefix_matching_score` of each (unit 1).
    members : tuple of str
        The induction heads and the previous-token heads below them.
    """

    names: tuple[str, ...]
    previous: Scores
    prefix: Scores
    members: tuple[str, ...]

    @property
    def attention(self) -> Scores:
        """Each head's score for its part in a circuit, (head,): previous token in layer 0, prefix matching above."""
        below = np.array([name.startswith("l0") for name in self.names])
        return np.where(below, self.previous, self.prefix)

    @property
    def induction(self) -> str:
        """The head that matches prefixes best."""
        return self.names[int(self.prefix.argmax())]

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Which heads are members, (head,)."""
        return np.isin(self.names, self.members)


def find_circuit(attention: NDArray[np.floating], period: int, start: int, threshold: float = 0.1) -> Circuit:
    """Name the heads that make up the induction circuit.

    An induction head of a later layer can only match prefixes if a head below it has written, at each position, what
    stood before: the circuit is every head that matches prefixes, and the heads of earlier layers that look at
    the previous token.

    ``attention`` is (layer, head, batch, query, key): attention patterns on sequences that repeat themselves. Returns
    scores of all heads, and the members; no members when no head matches prefixes.
    """
    previous, prefix = previous_token_score(attention, start), prefix_matching_score(attention, period, start)
    matches = prefix > threshold
    # Nearby attention gives the previous token by chance too: half of the best head's score is asked for.
    below = np.arange(len(prefix))[:, None] < (np.nonzero(matches)[0].max() if matches.any() else 0)
    writes = below & (previous >= previous[:-1].max() / 2) if matches.any() else np.zeros_like(matches)
    names = head_names(*prefix.shape)
    inside = (matches | writes).ravel()
    return Circuit(
        names, previous.ravel(), prefix.ravel(), tuple(n for n, yes in zip(names, inside, strict=True) if yes)
    )
