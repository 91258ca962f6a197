"""What the pictures are drawn of."""

from __future__ import annotations

import lifelike
import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure
from pictures import opened

from devinterp.slt.susceptibilities import compute_susceptibilities


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return opened(lifelike.make_samples(tmp_path_factory.mktemp("plot") / "run.zarr", draws=40, rows=4))


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    names = ["full", "l0h0", "l0 attn", "$a$"]
    return opened(lifelike.make_study(tmp_path_factory.mktemp("plot") / "s.zarr", names, chains=2, draws=40, rows=4))


@pytest.fixture(scope="session")
def sus(study):
    return compute_susceptibilities(study, include_sampling_task=True)


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture
def ax():
    return Figure(figsize=(4, 3)).add_subplot()
