"""Any order of pushes, checkpoints, interruptions, kills, reopenings and failures ends in the bytes of a plain run."""

from __future__ import annotations

import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from stores import Numbers, request, write_fixed

from devinterp.errors import StoreLockedError
from devinterp.schema import validate
from devinterp.store import ChainWriter, Run, lock, open_run

DRAWS, BURNIN, BETWEEN, CHAINS = 53, 1, 1, 2  # 53: one chunk of 50 and a bit
CHAIN = st.integers(0, CHAINS - 1)


@pytest.fixture(autouse=True)
def nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without workers, who cannot have the lock need not wait for one that asks who holds it."""
    monkeypatch.setattr(lock, "_ASKING_SECONDS", 0.0)


def wanted() -> Any:
    return request(
        num_draws=DRAWS, num_burnin_steps=BURNIN, num_steps_bw_draws=BETWEEN, num_chains=CHAINS, batch_size=1,
        save_metrics=False,
    )  # fmt: skip


def chunks(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def push(writer: ChainWriter, numbers: Numbers, count: int) -> None:
    """Hand over the next draws and their steps, as the engine does."""
    for draw in range(writer.progress.draws, min(writer.progress.draws + count, DRAWS)):
        first, stop = writer.progress.steps, BURNIN + draw * BETWEEN + 1
        writer.draw(draw, numbers.draw(writer.chain, draw))
        writer.steps(first, numbers.steps(writer.chain, first, stop))
        if writer.checkpoint_due(draw + 1):
            writer.checkpoint(draw + 1, stop, state(writer.chain, draw + 1))


def state(chain: int, draws: int) -> bytes:
    return b"chain %d after %d draws" % (chain, draws)


@lru_cache
def plain(failed: tuple[int | None, ...]) -> dict[str, bytes]:
    """What an undisturbed run with these failures writes."""
    folder = Path(tempfile.mkdtemp(prefix="plain-"))
    try:
        with open_run(folder / "x.zarr", {"/": wanted()}, checkpoint_every=8) as run:
            write_fixed(run)
            numbers = Numbers(run)
            for chain, end in enumerate(failed):
                writer, _ = run.writer("/", chain)
                push(writer, numbers, DRAWS if end is None else end)
                finish(run, writer, "complete" if end is None else "failed")
            run.complete()
        return chunks(folder / "x.zarr")
    finally:
        shutil.rmtree(folder)


def finish(run: Run, writer: ChainWriter, status: str, step: int | None = None) -> None:
    reason = None if status == "complete" else "why"
    run.record("/", writer.chain, writer.finish(status, reason, writer.progress.steps if step is None else step))


class WriterMachine(RuleBasedStateMachine):
    """One store; a run that is open or not; a model of what must survive."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="stateful-"))
        self.path = self.folder / "x.zarr"
        self.run: Run | None = None
        self.writers: dict[int, ChainWriter] = {}
        self.saved = [0] * CHAINS  # draws of the last checkpoint
        self.ended: list[str | None] = [None] * CHAINS
        self.failed: list[int | None] = [None] * CHAINS
        self.done = False
        self.reopen()
        assert self.run is not None
        write_fixed(self.run)

    def writer(self, chain: int) -> ChainWriter:
        """The chain's writer, opened where its last checkpoint stands."""
        assert self.run is not None
        if chain not in self.writers:
            writer, found = self.run.writer("/", chain)
            assert writer.progress.draws == self.saved[chain]
            assert found == (state(chain, self.saved[chain]) if self.saved[chain] else None)
            self.writers[chain] = writer
        return self.writers[chain]

    @precondition(lambda self: self.run is None and not self.done)
    @rule()
    def reopen(self) -> None:
        self.run = open_run(self.path, {"/": wanted()}, checkpoint_every=8)
        self.numbers = Numbers(self.run)
        remaining = [c for _, c in self.run.remaining()]
        assert remaining == [c for c in range(CHAINS) if self.ended[c] is None]

    @precondition(lambda self: self.run is not None)
    @rule()
    def another_writer_is_refused(self) -> None:
        with pytest.raises(StoreLockedError):
            open_run(self.path, {"/": wanted()})

    @precondition(lambda self: self.run is not None)
    @rule(chain=CHAIN, count=st.sampled_from([1, 3, 8, 20, 50]))
    def push_draws(self, chain: int, count: int) -> None:
        if self.ended[chain] is None:
            writer = self.writer(chain)
            before = writer.progress.draws
            push(writer, self.numbers, count)
            due = [d for d in range(before + 1, writer.progress.draws + 1) if d % 8 == 0]
            self.saved[chain] = due[-1] if due else self.saved[chain]

    @precondition(lambda self: self.run is not None)
    @rule(chain=CHAIN)
    def checkpoint(self, chain: int) -> None:
        if self.ended[chain] is None and self.writer(chain).progress.draws:
            writer = self.writers[chain]
            writer.checkpoint(writer.progress.draws, writer.progress.steps, state(chain, writer.progress.draws))
            self.saved[chain] = writer.progress.draws

    @precondition(lambda self: self.run is not None)
    @rule(chain=CHAIN, surplus=st.booleans())
    def fail(self, chain: int, surplus: bool) -> None:
        """The chain ends; perhaps a step of the draw that was dropped has been handed over already."""
        if self.ended[chain] is None and None in [e for c, e in enumerate(self.failed) if c != chain]:
            writer = self.writer(chain)
            self.failed[chain], self.ended[chain] = writer.progress.draws, "failed"
            step = writer.progress.steps
            if surplus and 0 < step < BURNIN + DRAWS * BETWEEN:  # the very first step is burn-in, and would be kept
                writer.steps(step, self.numbers.steps(chain, step, step + 1))
            finish(self.run, self.writers.pop(chain), "failed", step)  # type: ignore[arg-type]

    @precondition(lambda self: self.run is not None)
    @rule(chain=CHAIN)
    def complete_a_chain(self, chain: int) -> None:
        if self.ended[chain] is None:
            push(self.writer(chain), self.numbers, DRAWS)
            self.ended[chain] = "complete"
            finish(self.run, self.writers.pop(chain), "complete")  # type: ignore[arg-type]

    @precondition(lambda self: self.run is not None)
    @rule()
    def interrupt(self) -> None:
        """Every chain stops in good order; the store says so and is otherwise whole."""
        assert self.run is not None
        for chain in range(CHAINS):
            if self.ended[chain] is None:
                writer = self.writer(chain)
                if writer.progress.draws:
                    self.checkpoint(chain)
                finish(self.run, self.writers.pop(chain), "interrupted")
        self.run.publish()
        self.run.close()
        self.run = None
        report = validate(self.path, level="structure")
        assert {f.code for f in report.findings} <= {"DI006", "DI007"}, str(report)

    @precondition(lambda self: self.run is not None)
    @rule(leftover=st.booleans(), lost=st.booleans())
    def kill(self, leftover: bool, lost: bool) -> None:
        """The process dies: nothing is said, rows behind the checkpoints are there or lost, a file is half written."""
        assert self.run is not None
        for writer in self.writers.values():
            writer.abort()
        self.writers.clear()
        self.run.close()
        self.run = None
        if leftover:
            (self.path / "sampling_loss" / "c" / "0").mkdir(parents=True, exist_ok=True)
            (self.path / "sampling_loss" / "c" / "0" / "0.abc.partial").write_bytes(b"half")
        if lost:
            for chain in range(CHAINS):
                if self.ended[chain] is None and self.saved[chain] == 0:
                    for name in self.numbers.arrays:  # a chain's own rows; init_loss is the coordinator's
                        shutil.rmtree(self.path / name / "c" / str(chain), ignore_errors=True)

    @precondition(lambda self: self.run is not None and None not in self.ended)
    @rule()
    def complete(self) -> None:
        assert self.run is not None
        self.run.complete()
        self.run.close()
        self.run, self.done = None, True
        assert chunks(self.path) == plain(tuple(self.failed))
        report = validate(self.path, level="completeness")
        assert {f.code for f in report.findings} <= {"DI007"}, str(report)

    @precondition(lambda self: self.done)
    @rule()
    def the_same_computation_returns_the_finished_store(self) -> None:
        before = chunks(self.path)
        with open_run(self.path, {"/": wanted()}) as run:
            assert run.finished
        assert chunks(self.path) == before

    @precondition(lambda self: self.run is None and not self.done)
    @invariant()
    def what_was_saved_is_on_disk(self) -> None:
        import zarr

        array = zarr.open_array(self.path / "sampling_loss", mode="r")
        for chain in range(CHAINS):
            end = {"complete": DRAWS, "failed": self.failed[chain], None: self.saved[chain]}[self.ended[chain]]
            kept = self.numbers.arrays["sampling_loss"][chain, :end]
            np.testing.assert_array_equal(np.asarray(array[chain, :end]), kept)

    def teardown(self) -> None:
        if getattr(self, "folder", None) is None:
            return
        for writer in self.writers.values():
            writer.abort()
        if self.run is not None:
            self.run.close()
        shutil.rmtree(self.folder)


TestWriter = WriterMachine.TestCase
TestWriter.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
