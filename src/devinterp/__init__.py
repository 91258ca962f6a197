"""An xarray accessor and Zarr-schema validation package for developmental interpretability.

Importing this package registers the ``devinterp`` accessor and imports neither torch nor pandera; every public
name below is resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from devinterp import _renamed
from devinterp import accessor as _accessor  # noqa: F401  (registers .devinterp on DataTree and Dataset)

if TYPE_CHECKING:
    from devinterp.schema import validate as validate
    from devinterp.slt.sampling import sample as sample
    from devinterp.slt.susceptibilities import sample_restrictions as sample_restrictions
    from devinterp.slt.sweep.sample_sweep import sweep as sweep
    from devinterp.store import open_store as open_store

__version__ = "3.0.0"

_PUBLIC = {
    "sample": "devinterp.slt.sampling",
    "sample_restrictions": "devinterp.slt.susceptibilities",
    "sweep": "devinterp.slt.sweep.sample_sweep",
    "validate": "devinterp.schema",
    "open_store": "devinterp.store",
}

__all__ = ["__version__", "open_store", "sample", "sample_restrictions", "sweep", "validate"]


if not TYPE_CHECKING:  # a checker shall know the names that there are

    def __getattr__(name: str) -> Any:
        if name in _PUBLIC:
            return getattr(import_module(_PUBLIC[name]), name)
        return _renamed.successor(__name__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


_renamed.install()
