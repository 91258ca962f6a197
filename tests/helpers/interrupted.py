"""The same run in another process, and after an interruption."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import xarray as xr


class Stop(Exception):
    """Stands for whatever stops a program."""


def assert_same_in_other_ways(run: Callable[..., xr.DataTree], folder: Path) -> Path:
    """Hold two chains in a worker process, and two of which the second was stopped, to those of a plain run.

    ``run`` samples with the options that it is called with; returned is where the last store lies.
    """
    plain = run(output_path=folder / "plain.zarr").to_dataset().load()
    options = {"chain_method": "parallel", "num_workers": 1, "threads_per_chain": torch.get_num_threads()}
    parallel = run(output_path=folder / "parallel.zarr", **options)

    def stop(event):
        if event.chain == 1 and event.step == 2:
            raise Stop

    with pytest.raises(Stop):
        run(output_path=folder / "resumed.zarr", progress=stop)
    for tree in (parallel, run(output_path=folder / "resumed.zarr")):
        xr.testing.assert_equal(tree.to_dataset().load(), plain)
    return folder / "resumed.zarr"
