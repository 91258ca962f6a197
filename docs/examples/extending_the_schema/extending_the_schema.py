"""Add a variable to the samples schema, write a store with it, validate it, and analyse it as any other.

Run it with ``python extending_the_schema.py``; it needs devinterp[testing] and takes a few seconds.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import xarray as xr
import zarr

from devinterp.schema import load, validate
from devinterp.slt.llc import compute_llc
from devinterp.testing import make_store

DOCUMENT = Path(__file__).with_name("gradients.yaml")


def main() -> None:
    """Make, check, spoil and analyse a store of the extended schema."""
    schema = load(DOCUMENT)
    print(f"{schema.id} extends {schema.extends[0]}; it is of the kind {schema.kind!r}")

    path = Path(tempfile.mkdtemp()) / "run.zarr"
    make_store(path, schema, optional=frozenset({"gradient_norm"}), attributes={"lab": "ours"}, consolidated=False)

    print(validate(path, schema=schema))
    print(validate(path, schema="samples").filter(severity="error").codes or "clean under our schema too")

    array = zarr.open_array(str(path / "gradient_norm"), mode="r+")
    array[...] = -np.ones(array.shape, "f4")
    print(validate(path, schema=schema))

    tree = xr.open_datatree(path, engine="zarr", consolidated=False)
    print(float(compute_llc(tree)["llc_mean"]))


if __name__ == "__main__":
    main()
