"""What the migration page says, and programs as they were written for devinterp 2.0.1, with what that release gave."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.needs("torch"), pytest.mark.usefixtures("one_thread")]

HERE = Path(__file__).parent
RECORDED = json.loads((HERE / "data" / "devinterp-2.0.1" / "programs.json").read_text())["programs"]
# Another machine rounds matrix products otherwise, and eight steps carry it on.
TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}


def load_programs():
    spec = importlib.util.spec_from_file_location("programs", HERE / "benchmarks" / "parity" / "programs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def programs():
    return load_programs()


@pytest.fixture(scope="module")
def ways(programs):
    """The changes that the migration page asks for, and no other."""
    import tiny_lm

    class Ours(programs.Ways):
        def rows(self, name):
            return tiny_lm.build_tokens(name)

        def masks(self, model):
            from devinterp.slt.weight_restrictions import create_param_masks

            return create_param_masks(model, "l0h1")

        def draw(self, lines, level):
            import matplotlib as mpl

            mpl.use("agg")
            import matplotlib.pyplot as plt

            _, ax = plt.subplots()
            drawn = ax.plot(lines)
            ax.axhline(level)
            heights = [np.asarray(line.get_ydata()) for line in drawn]
            plt.close("all")
            return heights

    return Ours({"save_step_losses": True, "progress": False}, {"over": "steps", "burnin": True})


@pytest.mark.parametrize("name", [name for name in RECORDED if name != "half_precision"])
def test_programs_of_the_last_release_give_what_they_gave(name, programs, ways):
    found = programs.PROGRAMS[name](ways)
    assert found.keys() == RECORDED[name].keys()
    for key, values in RECORDED[name].items():
        factor = programs.SETTINGS["n_beta"] if key.startswith(("llc", "lr", "full", "l0h1")) else 1.0
        np.testing.assert_allclose(
            np.array(found[key]) / factor, np.array(values) / factor, **TOLERANCE, err_msg=f"{name}: {key}"
        )


def test_every_program_was_recorded(programs):
    assert set(programs.PROGRAMS) == set(RECORDED)
    assert len(RECORDED) == 8
    page = (HERE.parent / "docs" / "howto" / "migrate.md").read_text(encoding="utf-8")
    (said,) = re.findall(r"## Programs that were run\n\nEight kinds(.*?)\n\n", page, re.S)
    plain = said.replace("TransformerLens", "transformer lens")
    assert [name for name in RECORDED if name.replace("_", " ") not in plain] == []


def test_half_precision_spreads_as_the_posterior_does_and_did_not(programs, ways):
    """1 / sqrt(localization) = 0.0289: float32 agrees with the last release, and bfloat16 with float32."""
    right = 1200.0**-0.5
    theirs, ours = RECORDED["half_precision"], programs.half_precision(ways)
    (single,), (half,) = ours["torch.float32"], ours["torch.bfloat16"]
    assert single == pytest.approx(theirs["torch.float32"][0], rel=1e-5)
    assert half == pytest.approx(single, rel=1e-6) == pytest.approx(right, rel=0.02)
    assert theirs["torch.bfloat16"][0] > 2 * right
