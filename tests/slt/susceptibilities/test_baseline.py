from __future__ import annotations

import numpy as np
import pytest
from made_runs import make_run

from devinterp.errors import MissingVariableError
from devinterp.slt.runs.run import Samples
from devinterp.slt.susceptibilities.baseline import init_loss_variance


def of(**settings):
    tree = make_run(batch=4, **settings)
    tree.attrs["metadata"]["provenance"] = {"dataset": {"rows": "x", "length": 40}}
    return Samples.of(tree)


def test_init_loss_variance_is_that_of_its_rows():
    tree = make_run()
    run = Samples.of(tree)
    rows = tree["init_loss_train"].values.astype(np.float64).mean(axis=1)
    variance, dof = init_loss_variance(run, "train")
    assert variance == pytest.approx(rows.var(ddof=1) / 32)
    assert dof == 4
    # Eight minibatches of four of a dataset of 40: four fifths of the rows were seen.
    assert init_loss_variance(of(), "train")[0] == pytest.approx(rows.var(ddof=1) / 32 / 5)
    assert init_loss_variance(of(num_init_loss_batches=12), "train")[0] == 0.0


def test_without_the_rows_at_the_start_the_first_draw_tells_their_spread():
    tree = make_run(gradient_accumulation_steps=2)
    bare = tree.to_dataset().drop_vars("init_loss_train")
    rows = tree["loss_train"].values[0, 0].astype(np.float64).mean(axis=1)
    assert init_loss_variance(Samples.of(bare), "train") == (pytest.approx(rows.var(ddof=1) / 64), 4)
    single = bare.isel(batch_train=[0])
    assert init_loss_variance(Samples.of(single), "train") == (0.0, 1.0)
    two = bare.isel(batch_train=[0, 1])
    assert init_loss_variance(Samples.of(two), "train")[1] == 1


def test_rows_that_no_full_minibatch_holds_are_not_seen():
    """Of 43 rows in minibatches of four the loader drops three: ten minibatches are all there is."""
    tree = make_run(batch=4, num_init_loss_batches=5)
    tree.attrs["metadata"]["provenance"] = {"dataset": {"rows": "x", "length": 43}}
    rows = tree["init_loss_train"].values.astype(np.float64).mean(axis=1)
    assert init_loss_variance(Samples.of(tree), "train")[0] == pytest.approx(rows.var(ddof=1) / 20 / 2)
    for name in ("num_init_loss_batches", "batch_size"):
        lacking = make_run()
        del lacking.attrs["metadata"]["config"]["sampler"][name]
        with pytest.raises(MissingVariableError, match="baseline='observable'"):
            init_loss_variance(Samples.of(lacking), "train")
