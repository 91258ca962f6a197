"""Readers of other makes see in our stores what zarr-python sees: tensorstore, and zarrita.js over HTTP."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from web import served

from devinterp.schema import available, load
from devinterp.testing import make_store

KINDS = sorted(load(identity).kind for identity in available())
READERS = Path(__file__).resolve().parents[1] / "benchmarks" / "readers"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    for kind in KINDS:
        make_store(folder / f"{kind}.zarr", kind)
    return Path(folder)


def arrays(store: Path) -> dict[str, np.ndarray]:
    group = zarr.open_group(store, mode="r")
    return {path: node[...] for path, node in group.members(max_depth=None) if isinstance(node, zarr.Array)}


@pytest.mark.needs("tensorstore")
@pytest.mark.parametrize("kind", KINDS)
def test_tensorstore_reads_every_array_of_numbers(stores: Path, kind: str) -> None:
    tensorstore = pytest.importorskip("tensorstore", reason="tensorstore is missing")
    read, text = 0, []
    for path, expected in arrays(stores / f"{kind}.zarr").items():
        if expected.dtype.kind not in "iufb":
            text.append(path)
            with pytest.raises(ValueError, match="data_type"):  # the day it reads text, this test reads it too
                open_with(tensorstore, stores / f"{kind}.zarr" / path)
            continue
        found = np.asarray(open_with(tensorstore, stores / f"{kind}.zarr" / path).read().result())
        np.testing.assert_array_equal(found, expected, err_msg=path)
        assert found.dtype == expected.dtype
        read += 1
    assert read > 2
    assert {path.rpartition("/")[2] for path in text} <= {"wr", "verdict"}


def open_with(tensorstore: Any, path: Path) -> Any:
    return tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}}, read=True).result()


@pytest.mark.skipif(shutil.which("node") is None, reason="node is missing")
@pytest.mark.skipif(
    not (READERS / "node_modules/zarrita").exists(), reason="zarrita is missing: npm ci in tests/benchmarks/readers"
)
@pytest.mark.parametrize("kind", KINDS)
def test_zarrita_reads_every_array_strings_included(stores: Path, kind: str) -> None:
    known = arrays(stores / f"{kind}.zarr")
    with served(stores) as host:
        command = ["node", READERS / "read_store.mjs", f"{host}/{kind}.zarr", *known]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    for path, expected in known.items():
        assert "error" not in found[path], (path, found[path])
        assert tuple(found[path]["shape"]) == expected.shape, path
        if expected.dtype.kind in "iufb":
            data = np.array([float(x) for x in found[path]["data"]]).astype(expected.dtype)
            np.testing.assert_array_equal(data.reshape(expected.shape), expected, err_msg=path)
        else:
            assert found[path]["data"] == expected.ravel().tolist(), path
