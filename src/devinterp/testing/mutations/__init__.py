"""A catalogue of named ways in which a store can be wrong, each with the code it must be found under.

>>> from devinterp.testing import MUTATIONS
>>> for mutation in MUTATIONS:
...     report = devinterp.validate(mutation.write(folder / mutation.name), **mutation.options)
...     assert mutation.code in {finding.code for finding in report.findings}
"""

from __future__ import annotations

from devinterp.testing.mutations.catalogue import CATALOGUE, Mutation

__all__ = ["MUTATIONS", "Mutation", "mutations_of"]

MUTATIONS: tuple[Mutation, ...] = CATALOGUE
"""Every mutation, by code."""


def mutations_of(code: str) -> tuple[Mutation, ...]:
    """Return the mutations that must be found under a code.

    Parameters
    ----------
    code : str
        Such as ``"DI101"``.
    """
    return tuple(m for m in MUTATIONS if m.code == code)
