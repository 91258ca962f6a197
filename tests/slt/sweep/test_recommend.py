"""The right answer is known: SGLD on 50 directions of curvature 1, where a = n_beta + localization decides everything.

lr = 0.002 crawls (it forgets in 2 / (lr a) draws), 0.02 is right, 0.1 is biased by a third, 1 diverges; localization
= 100 leaves the loss nothing to say; n_beta = 1 forgets too slowly.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from made_sweeps import make_sweep

from devinterp.errors import SettingError
from devinterp.slt.sweep.recommend import _reason, promising, recommend

LR, N_BETA, LOCALIZATION = (0.002, 0.02, 0.1, 1.0), (0.0, 1.0, 10.0), (1.0, 100.0)


@pytest.fixture(scope="module")
def summary():
    return make_sweep(LR, N_BETA, LOCALIZATION).devinterp.sweep()


def test_the_right_cell_is_recommended_with_its_evidence(summary):
    found = recommend(summary)
    assert found.settings == {"lr": 0.02, "n_beta": 10.0, "localization": 1.0}
    assert found.cell == "lr=0.02,n_beta=10,localization=1"
    assert found.good
    assert found.llc_ci[0] < found.llc < found.llc_ci[1]
    assert {c.name: c.met for c in found.criteria} == {
        "the trace levels off, chains agree": True,
        "the loss rises above its start": True,
        "no spikes": True,
        "signal above local variation": True,
        "the loss shows against the control": True,
        "a smaller step gives the same": None,  # the smaller one crawls
    }
    assert "recommended: lr = 0.02, n_beta = 10, localization = 1" in str(found)


def test_every_neighbour_says_why_it_was_not_chosen(summary):
    reasons = {(n.differs, n.settings[n.differs]): n.reason for n in recommend(summary).neighbours}
    assert set(reasons) == {("lr", 0.002), ("lr", 0.1), ("n_beta", 1.0), ("localization", 100.0)}
    assert "chains disagree" in reasons["lr", 0.002]
    assert "a smaller step gives the same" in reasons["lr", 0.1]
    assert "levels off" in reasons["n_beta", 1.0]
    assert "a smaller step gives the same" in reasons["localization", 100.0]


def test_a_setting_that_the_question_gives_is_selected_first(summary):
    tight = recommend(summary.sel(localization=100.0))
    assert tight.settings == {"lr": 0.002, "n_beta": 10.0, "localization": 100.0}, "0.02 is too long a step here"
    assert any("Localization decides most" in note for note in tight.notes)
    assert recommend(summary.sel(lr=[0.1, 1.0])).settings["lr"] == 0.1


def test_the_tree_the_summary_and_the_accessor_say_the_same(summary):
    tree = make_sweep((0.02, 0.1), N_BETA, (1.0,))
    assert tree.devinterp.recommend() == recommend(tree) == recommend(tree.devinterp.sweep())
    assert json.loads(json.dumps(recommend(summary).to_dict()))["settings"]["lr"] == 0.02
    assert recommend(summary)._repr_html_().startswith("<pre>")


def test_where_nothing_is_good_it_says_so_and_what_to_try(summary):
    found = recommend(summary.sel(lr=[1.0], n_beta=[10.0]))
    assert not found.good
    assert found.verdict == "diverged"
    assert "no cell is good" in str(found)
    assert any("a smaller lr" in note for note in found.notes)


def test_an_end_of_the_grid_is_noted(summary):
    notes = recommend(summary).notes
    assert any("n_beta = 10 is the largest" in note for note in notes)
    assert any("localization = 1 is the smallest" in note for note in notes)
    assert not any(note.startswith("lr") for note in notes)


def test_an_extended_cell_comes_before_a_pilot_as_good_as_it():
    two = ((0.02, 10.0, 1.0), (0.02, 11.0, 1.0))
    for short, long in (two, two[::-1]):
        tree = make_sweep((0.02,), (0.0, 10.0, 11.0), (1.0,), pilots=(short,), pilot_draws=150)
        found = tree.devinterp.recommend()
        assert found.settings["n_beta"] == long[1]
        assert found.num_draws == 200


def test_promising_cells_are_those_that_more_draws_may_help(summary):
    names = promising(summary)
    assert names[0] == "lr=0.02,n_beta=10,localization=1"
    assert "lr=0.002,n_beta=10,localization=1" in names, "it only crawls"
    assert not any(name.startswith("lr=1,n_beta=10") for name in names)
    assert not any("n_beta=0," in name for name in names)


def test_controls_alone_recommend_nothing(summary):
    with pytest.raises(SettingError, match="nothing to recommend"):
        recommend(summary.sel(n_beta=[0.0]))


def test_without_a_control_that_criterion_is_left_open():
    found = make_sweep((0.02,), (10.0,), (1.0,)).devinterp.recommend()
    held = next(c for c in found.criteria if "control" in c.name)
    assert held.met is None
    assert found.good


def test_spikes_are_found():
    tree = make_sweep((0.02,), (0.0, 10.0), (1.0,))
    spiky = tree.copy(deep=True)
    spiky["lr=0.02,n_beta=10,localization=1/loss_task"].values[:, ::20] += 50.0
    found = spiky.devinterp.recommend()
    assert next(c for c in found.criteria if c.name == "no spikes").met is False
    assert not found.good
    assert np.isfinite(found.llc)


def test_no_share_is_told_in_powers_of_ten(summary):
    uncertain = summary.copy()
    uncertain["share_se"] = summary["share_se"] * 0 + 6.1
    uncertain["share_of_control"] = summary["share_of_control"] * 0 - 0.32
    told = {c.name: c.evidence for c in recommend(uncertain).criteria}["the loss shows against the control"]
    assert told.split("±")[1].startswith(" 610 %")


@pytest.mark.parametrize(("information", "words"), [(0.0, "tell nothing of the loss"), (0.5, "4 times less")])
def test_why_a_neighbour_was_not_taken_is_a_finite_sentence(monkeypatch, information, words):
    monkeypatch.setattr("devinterp.slt.sweep.recommend.rank", lambda cell: (0, 0))
    best, other = (
        SimpleNamespace(is_control=False, draws=9, information=i, verdict="good") for i in (2.0, information)
    )
    assert words in _reason(best, other)
