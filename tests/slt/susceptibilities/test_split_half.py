from __future__ import annotations

import numpy as np
import pytest
from made_runs import make_run, make_study

from devinterp.errors import SettingError
from devinterp.slt.susceptibilities.split_half import split_half


def test_split_half_tells_signal_from_noise():
    """One restriction's losses share a factor with the sampling task, per token; the other's are noise.

    The loss at the start is that of the draws, so that phi is near 0 and its product with the shift of the means, which
    both halves share, is too.
    """
    study = make_study(("full", "real", "noise"), chains=4, draws=200)
    study["full"]["init_loss"].values[...] = study["noise"]["loss_train"].values.mean()
    run = study["real"]
    shared = np.random.default_rng(1).normal(size=(4, 200))
    run["loss_train"].values[...] += shared[:, :, None, None]
    weights = np.random.default_rng(2).normal(size=(3, 6))
    run["loss_code"].values[...] += shared[:, :, None, None] * weights
    found = split_half(study)
    assert found["reproducibility"].sel(wr="real") > 0.9
    assert abs(found["reproducibility"].sel(wr="noise")) < 0.8
    assert set(found.data_vars) == {"reproducibility", "reproducibility_standardized"}


def test_a_run_of_one_chain_has_no_halves():
    with pytest.raises(SettingError, match="two chains"):
        split_half(make_study(chains=1))
    with pytest.raises(SettingError, match="two chains"):
        split_half(make_run())
