from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from devinterp.demo.corpus import load_corpus  # noqa: E402
from devinterp.demo.model import build_model  # noqa: E402
from devinterp.demo.train import Training, train  # noqa: E402


def short() -> tuple[Training, list[tuple[int, float]]]:
    seen: list[tuple[int, float]] = []
    course = train(
        build_model(0),
        load_corpus(),
        steps=12,
        checkpoints=(0, 5, 12),
        look_every=6,
        report=lambda step, loss: seen.append((step, loss)),
    )
    return course, seen


def test_training_repeats_itself_lowers_the_loss_and_keeps_what_was_asked_for() -> None:
    (course, seen), (again, _) = short(), short()
    assert [checkpoint.step for checkpoint in course.checkpoints] == [0, 5, 12]
    for one, other in zip(course.checkpoints, again.checkpoints, strict=True):
        assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)
    start = build_model(0).state_dict()
    assert all(torch.equal(start[name], weights) for name, weights in course.checkpoints[0].state.items())
    assert any(not torch.equal(start[name], weights) for name, weights in course.checkpoints[1].state.items())
    assert course.steps == [0, 6, 12]
    assert course.first_half[-1] < course.first_half[0]
    assert [step for step, _ in seen] == list(range(1, 13))
    assert seen[-1][1] < seen[0][1]
