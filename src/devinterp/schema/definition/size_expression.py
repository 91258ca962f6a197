"""Sizes as sums of products over named integers, and nothing more: ``num_burnin_steps + num_draws * 2``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from devinterp.errors import SchemaError

__all__ = ["Expression", "parse_expression"]

_TOKEN = re.compile(r"\s*(?:(?P<name>[A-Za-z_]\w*)|(?P<number>\d+)|(?P<operator>[+*-]))")


@dataclass(frozen=True)
class Expression:
    """A polynomial in canonical text form.

    Attributes
    ----------
    text : str
        As written in the schema document.
    terms : tuple of (sign, factors)
        The value is the sum over terms of sign times the product of the factors (names or integers).
    """

    text: str
    terms: tuple[tuple[int, tuple[str | int, ...]], ...]

    @property
    def names(self) -> frozenset[str]:
        """Every name the expression depends on."""
        return frozenset(f for _, factors in self.terms for f in factors if isinstance(f, str))

    def evaluate(self, values: Mapping[str, int]) -> int | None:
        """Return the value, or None where a name has none."""
        total = 0
        for sign, factors in self.terms:
            product = sign
            for factor in factors:
                value = values.get(factor) if isinstance(factor, str) else factor
                if value is None:
                    return None
                product *= value
            total += product
        return total

    def __str__(self) -> str:
        return self.text


def parse_expression(text: str | int) -> Expression:
    """Parse ``a + b * c - 1``; raise `SchemaError` on anything outside that grammar."""
    source = str(text)
    terms: list[tuple[int, tuple[str | int, ...]]] = []
    factors: list[str | int] = []
    sign, expect_factor, position = 1, True, 0
    stripped = source.rstrip()
    while position < len(stripped):
        match = _TOKEN.match(stripped, position)
        if match is None:
            raise _bad(source)
        position = match.end()
        operator = match["operator"]
        if operator is None:
            if not expect_factor:
                raise _bad(source)
            factors.append(match["name"] if match["name"] is not None else int(match["number"]))
            expect_factor = False
            continue
        if expect_factor:
            raise _bad(source)
        if operator != "*":
            terms.append((sign, tuple(factors)))
            factors, sign = [], (1 if operator == "+" else -1)
        expect_factor = True
    if expect_factor:
        raise _bad(source)
    terms.append((sign, tuple(factors)))
    return Expression(source, tuple(terms))


def _bad(source: str) -> SchemaError:
    return SchemaError(
        f"The size expression {source!r} cannot be read.",
        expected="sums and products of names and integers, such as 'num_draws * batch_size + 1'",
    )
