"""Which batches draws fall on, against counting them one by one; and the warnings where some are never seen."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devinterp.errors import DevinterpWarning
from devinterp.slt.batches_seen import batches_seen

small = st.integers(1, 12)


def settings(size, burnin, every, draws, parts):
    return {"batch_size": size, "num_burnin_steps": burnin, "num_steps_bw_draws": every, "num_draws": draws,
            "gradient_accumulation_steps": parts}  # fmt: skip


@given(small, st.integers(0, 9), small, st.integers(1, 60), st.integers(1, 4), st.integers(0, 60))
def test_batches_are_counted_right(size, burnin, every, draws, parts, more):
    rows = size + more
    found = batches_seen(settings(size, burnin, every, draws, parts), rows)
    per_pass = rows // size
    of_draw = [{((burnin + k * every) * parts + j) % per_pass for j in range(parts)} for k in range(draws + 200)]
    visited, ever = set().union(*of_draw[:draws]), set().union(*of_draw)
    assert (found.seen, found.per_pass) == (len(visited), per_pass)
    # Blind: some batches are never seen, however many draws there are, and these went twice round those that are.
    once = next(k for k in range(1, draws + 200) if set().union(*of_draw[:k]) == ever)
    assert found.blind == (len(ever) < per_pass and draws >= max(4, 2 * once))


def test_the_advice_sees_every_batch():
    found = batches_seen(settings(4, 0, 8, 200, 1), 32)
    assert found.blind
    assert "see 1 of the 8 batches of a pass over the data (12 %)" in str(found)
    assert not batches_seen(settings(4, 0, 9, 200, 1), 32).blind
    assert "num_steps_bw_draws=9" in str(found)


@pytest.mark.parametrize("missing", ["batch_size", "num_draws"])
def test_what_is_not_known_tells_nothing(missing):
    known = settings(4, 0, 8, 200, 1)
    assert batches_seen({**known, missing: None}, 32) is None
    assert batches_seen(known, None) is None


def run(every, **changes):
    pytest.importorskip("torch")
    from tiny_lm import build_model, build_tokens

    from devinterp.slt.sampling import sample

    rows = build_tokens("train")[:16]
    return sample(build_model(), rows, {"train": rows}, lr=1e-4, n_beta=5.0, num_chains=2, num_draws=4, batch_size=4,
                  batches_per_draw=1, num_init_loss_batches=1, num_steps_bw_draws=every, device="cpu", progress=False,
                  **changes)  # fmt: skip


def test_a_run_that_sees_few_batches_is_told_so_and_so_is_its_llc():
    from devinterp.slt.llc import compute_llc
    from devinterp.slt.llc.of_run import best_average

    with pytest.warns(DevinterpWarning, match="see 1 of the 4 batches"):
        tree = run(4)
    with pytest.warns(DevinterpWarning, match="see 1 of the 4 batches"):
        compute_llc(tree)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compute_llc(tree, over="steps")
        compute_llc(tree, over="observable")
        compute_llc(run(5))
    assert best_average(tree) == "observable"
    assert best_average(tree.drop_nodes([]).map_over_datasets(lambda d: d.drop_vars("init_loss_train"))) == "steps"
