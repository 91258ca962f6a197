"""A catalogue of named ways in which a store can be wrong, each with the code it must be found under.

>>> from devinterp.testing import MUTATIONS
>>> for mutation in MUTATIONS:
...     report = devinterp.validate(mutation.write(folder / mutation.name), **mutation.options)
...     assert mutation.code in {finding.code for finding in report.findings}
"""

from __future__ import annotations

from devinterp.testing.mutations.catalogue import MUTATIONS, Mutation, mutations_of

__all__ = ["MUTATIONS", "Mutation", "mutations_of"]
