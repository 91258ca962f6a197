from __future__ import annotations

import pytest
from made_runs import fail_chain, make_run, make_study

from devinterp.slt.bif import compute_bif
from devinterp.slt.llc import compute_llc
from devinterp.slt.runs import chains
from devinterp.slt.runs.run import Samples
from devinterp.slt.susceptibilities import compute_susceptibilities


def states_of(tree, *, forget=()):
    dataset = tree.to_dataset()
    if "run" in forget:
        dataset.attrs["metadata"].pop("run")
    if "draws_written" in forget:
        dataset = dataset.drop_vars("draws_written")
    states = chains.chain_states(Samples.of(dataset, allow_partial=True), tree.sizes["chain"])
    return states.written, states.failures


@pytest.mark.parametrize("draws", [0, 12])
def test_what_is_written_tells_where_nothing_is_recorded(draws):
    tree = fail_chain(make_run(draws=20), 1, draws)
    written, failures = states_of(tree, forget=["run"])
    assert written.tolist() == [20, draws, 20]
    assert failures == [None, f"{draws} of 20 draws written", None]


def test_what_is_recorded_says_more_than_what_is_written():
    tree = fail_chain(make_run(draws=20), 1, 12)
    assert states_of(tree)[1] == [None, "failed at step 17: loss is NaN", None]
    assert states_of(tree, forget=["draws_written"]) == (None, [None, "failed at step 17: loss is NaN", None])


def test_a_record_that_contradicts_what_is_written_does_not_count():
    tree = fail_chain(make_run(draws=20), 1, 12)
    tree.attrs["metadata"]["run"]["chains"][1] = {"status": "complete"}
    assert states_of(tree)[1] == [None, "12 of 20 draws written", None]


def test_a_record_without_a_status_is_that_of_a_complete_chain():
    tree = make_run(draws=20)
    tree.attrs["metadata"]["run"]["chains"] = [{}, "what?", {"status": "complete"}]
    assert states_of(tree)[1] == [None, None, None]


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("analysis", [compute_bif, compute_llc, compute_susceptibilities])
def test_an_analysis_asks_once_what_a_store_says_of_a_run(analysis, partial, monkeypatch):
    asked = []
    ask = chains._written
    monkeypatch.setattr(chains, "_written", lambda run, size: asked.append(run.label) or ask(run, size))
    study = make_study()
    analysis(study if analysis is compute_susceptibilities else study["full"], allow_partial=partial)
    assert asked
    assert len(asked) == len(set(asked))
