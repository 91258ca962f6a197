"""The same rows before and after: the LLC of pairs, whatever the rows, and where it is known."""

from __future__ import annotations

import numpy as np
import pytest
from made_runs import fail_chain, make_run

from devinterp.errors import ChainFailedWarning, MissingVariableError
from devinterp.schema import validate
from devinterp.slt.llc import compute_llc, llc
from devinterp.slt.llc.of_run import best_average


def paired_run(**settings):
    """A run whose minibatches have a loss at the start, drawn apart from their losses."""
    tree = make_run(**settings)
    loss = tree["sampling_loss"]
    rng = np.random.default_rng(3)
    tree["init_loss_sampling"] = (loss - rng.normal(0.1, 0.02, loss.shape)).astype(np.float32)
    tree.attrs["metadata"]["config"]["sampler"]["save_paired_losses"] = True
    return tree


def test_over_paired_compares_every_row_with_itself():
    tree = paired_run()
    result = compute_llc(tree, over="paired", ci=0.9)
    loss, start = (tree[name].values.astype(np.float64) for name in ("sampling_loss", "init_loss_sampling"))
    expected = float(tree["n_beta"]) * (loss - start).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(result["llc_per_chain"], expected, rtol=1e-9)
    np.testing.assert_allclose(result["init_loss"], start.mean(), rtol=1e-9)
    np.testing.assert_allclose(result["loss_trace"], start.mean() + (loss - start).mean(axis=(2, 3)), rtol=1e-6)
    assert result.attrs["over"] == "paired"
    assert validate(result).ok, validate(result)
    part = {"draw": slice(3, None), "chain": [0, 2], "token_pos": [1, 2]}
    selected = compute_llc(tree.isel(part), over="paired")
    chosen = (loss - start)[[0, 2], 3:, :, 1:3].mean(axis=(1, 2, 3)) * float(tree["n_beta"])
    np.testing.assert_allclose(selected["llc_per_chain"], chosen, rtol=1e-9)


def test_the_best_average_is_of_pairs_where_no_fixed_rows_are_those_of_the_task():
    pairs = {"full": paired_run(), "a": paired_run(seed=1)}
    assert best_average(pairs["full"]) == best_average(pairs) == "paired"
    assert best_average({**pairs, "b": make_run()}) == "draws"


def test_over_paired_is_not_shown_the_noise_of_the_rows():
    tree = paired_run()
    noisy = tree["sampling_loss"].copy(data=np.random.default_rng(5).normal(0, 3, tree["sampling_loss"].shape))
    for name in ("sampling_loss", "init_loss_sampling"):
        tree[name] = (tree[name] + noisy.values).astype(np.float32)
    narrow, wide = (
        np.ptp(compute_llc(tree, over=over, ci=0.9)["llc_ci"].values).item() for over in ("paired", "draws")
    )
    assert narrow < 0.1 * wide
    np.testing.assert_allclose(
        compute_llc(tree, over="paired")["llc_mean"], compute_llc(paired_run(), over="paired")["llc_mean"], rtol=1e-4
    )


def test_over_paired_leaves_failed_chains_out_and_says_what_is_missing():
    tree = fail_chain(paired_run(), 1, 4)
    with pytest.warns(ChainFailedWarning):
        result = compute_llc(tree, over="paired")
    assert np.isnan(result["llc_per_chain"].values).tolist() == [c == 1 for c in range(tree.sizes["chain"])]
    with pytest.raises(MissingVariableError, match="save_paired_losses=True"):
        compute_llc(make_run(), over="paired")


@pytest.mark.needs("torch")
def test_one_call_over_paired_samples_what_it_needs():
    result = llc_of_a_quadratic(over="paired", save=None)
    assert result.attrs["over"] == "paired"


def llc_of_a_quadratic(over, save=True, **options):
    """½ h w² + c of a row, c by far the larger: nβ E[½ h w²] is known at any step size."""
    import torch

    rows = torch.arange(64.0)[:, None]
    offset = torch.from_numpy(np.random.default_rng(0).normal(0, 20, 64)).float()

    def loss(model, batch):
        return 0.5 * (torch.from_numpy(H) * model.weight[0] ** 2).sum() + offset[batch[:, 0].long()]

    model = torch.nn.Linear(len(H), 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    given = {} if save is None else {"save_paired_losses": save}
    settings = {
        "lr": 0.002, "n_beta": 50.0, "localization": 10.0, "num_chains": 4, "num_draws": 150, "num_burnin_steps": 40,
        "batch_size": 8, "num_init_loss_batches": 8, "device": "cpu", "progress": False,
    }  # fmt: skip
    return llc(model, rows, {}, loss_fn=loss, over=over, ci=0.99, **{**settings, **given, **options})


H = np.array([1.0, 2.0, 0.5, 4.0] * 5, dtype=np.float32)


@pytest.mark.needs("torch")
def test_over_paired_gives_the_known_coefficient_of_a_quadratic():
    from targets import quadratic_llc

    known = quadratic_llc(H, 50.0, 10.0, 0.002)
    result = llc_of_a_quadratic("paired")
    low, high = result["llc_ci"].values
    assert low < known < high
    assert high - low < 0.4 * known
    wide = llc_of_a_quadratic("draws")["llc_ci"].values
    assert wide[1] - wide[0] > 4 * (high - low)


@pytest.mark.needs("torch")
def test_over_whole_passes_paired_is_the_documented_definition():
    """Where init_loss is of every minibatch, and draws see each equally often, both means are of the same rows."""
    whole = {"num_burnin_steps": 0, "num_draws": 16}
    paired, plain = (llc_of_a_quadratic(over, **whole)["llc_per_chain"].values for over in ("paired", "draws"))
    np.testing.assert_allclose(paired, plain, rtol=1e-3)
