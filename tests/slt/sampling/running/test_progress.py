"""Progress on one screen, or handed to the caller."""

from __future__ import annotations

import sys

import pytest
import torch
from engine import CPU

from devinterp.errors import SettingError
from devinterp.slt.sampling.running.progress import ProgressEvent, make_progress


class Bar:
    made: list[Bar]

    def __init__(self, total, initial, desc, unit):
        self.total, self.count, self.desc, self.closed, self.postfix = total, initial, desc, False, ""
        Bar.made.append(self)

    def update(self, by):
        self.count += by

    def set_postfix_str(self, text, refresh):
        self.postfix = text

    def close(self):
        self.closed = True


@pytest.fixture
def bars(monkeypatch):
    Bar.made = []
    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("devinterp.slt.sampling.running.progress._MIN_SECONDS", 0.0)
    return Bar.made


def events(count, step=0, restriction=None):
    return [ProgressEvent(restriction, chain, step, 10) for chain in range(count)]


def test_a_few_chains_have_a_bar_each(bars):
    with make_progress(True, events(3, step=4), CPU) as progress:
        progress.show(ProgressEvent(None, 1, 7, 10, loss=1.5))
        progress.show(ProgressEvent(None, 1, 10, 10))
    assert [(bar.desc, bar.total, bar.count) for bar in bars] == [
        ("chain 0", 10, 4),
        ("chain 1", 10, 10),
        ("chain 2", 10, 4),
    ]
    assert bars[1].postfix == "loss 1.5"
    assert all(bar.closed for bar in bars)


def test_many_chains_share_one_bar(bars):
    with make_progress(True, events(9) + events(9, restriction="l0h0"), CPU) as progress:
        progress.show(ProgressEvent("l0h0", 3, 6, 10))
        progress.show(ProgressEvent(None, 3, 2, 10))
        progress.show(ProgressEvent("l0h0", 3, 10, 10))
    assert [(bar.total, bar.count, bar.closed) for bar in bars] == [(180, 12, True)]


def test_restrictions_are_named(bars):
    make_progress(True, events(1, restriction="l0h0"), CPU).close()
    assert bars[0].desc == "l0h0 chain 0"


def test_a_burst_of_steps_is_shown_once_and_the_last_always(bars, monkeypatch):
    monkeypatch.setattr("devinterp.slt.sampling.running.progress._MIN_SECONDS", 3600.0)
    updates = []
    monkeypatch.setattr(Bar, "update", lambda self, by: updates.append(by))
    progress = make_progress(True, events(1), CPU)
    for step in range(1, 11):
        progress.show(ProgressEvent(None, 0, step, 10))
    assert updates == [1, 9]


def test_in_a_log_there_is_a_line_now_and_then_without_control_characters(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with make_progress(True, events(2, step=2), CPU) as progress:
        for step in range(3, 11):
            for chain in (0, 1):
                clock[0] += 3.0
                progress.show(ProgressEvent(None, chain, step, 10, loss=None if step < 8 else 2.5))
        progress.show(ProgressEvent(None, 1, 10, 10))
    assert capsys.readouterr().err.splitlines() == [
        "sampling: 14 of 20 steps (70 %), 18 s left",
        "sampling: 20 of 20 steps (100 %), loss 2.5",
    ]


def test_what_comes_before_the_first_step_is_no_part_of_the_time_that_is_left(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with make_progress(True, events(1), CPU) as progress:
        for step, seconds in ((1, 600.0), (2, 30.0), (3, 30.0)):  # ten minutes of passes that are made once
            clock[0] += seconds
            progress.show(ProgressEvent(None, 0, step, 10))
    assert capsys.readouterr().err.splitlines() == [
        "sampling: 1 of 10 steps (10 %)",
        "sampling: 2 of 10 steps (20 %), 4 min left",
        "sampling: 3 of 10 steps (30 %), 4 min left",
    ]


def test_in_a_log_tqdm_disable_silences_it(monkeypatch, capsys):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    with make_progress(True, events(1), CPU) as progress:
        progress.show(ProgressEvent(None, 0, 10, 10))
    assert capsys.readouterr().err == ""


def test_false_shows_nothing_and_a_callable_gets_every_event(bars, capsys):
    make_progress(False, events(2), CPU).show(events(1)[0])
    told = []
    with make_progress(told.append, events(2), CPU) as progress:
        progress.show(events(1)[0])
    assert told == events(1)
    assert bars == []
    assert capsys.readouterr().err == ""


def test_a_callable_that_draws_random_numbers_changes_none_of_the_chains():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    make_progress(lambda event: torch.manual_seed(0), events(1), CPU).show(events(1)[0])
    assert torch.equal(torch.rand(3), expected)


def test_without_tqdm_there_is_no_progress_and_no_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    make_progress(True, events(2), CPU).show(events(1)[0])


def test_anything_else_is_refused():
    with pytest.raises(SettingError, match="progress"):
        make_progress("yes", events(1), CPU)
