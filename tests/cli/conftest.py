"""Stores, and the command line as a function."""

from __future__ import annotations

import lifelike
import pytest
from command_line import SMALL

from devinterp.cli import main


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return lifelike.make_samples(tmp_path_factory.mktemp("cli") / "run.zarr", **SMALL)


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    return lifelike.make_study(tmp_path_factory.mktemp("cli") / "study.zarr", ["full", "l0 attn", "l0h1"], **SMALL)


@pytest.fixture(scope="session")
def series(tmp_path_factory):
    return lifelike.make_series(tmp_path_factory.mktemp("cli") / "series.zarr", **SMALL)


@pytest.fixture
def run(capsys):
    """Call the command line in this process: (exit code, standard output, standard error)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as done:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err, err
        return done.value.code, out, err

    return call
