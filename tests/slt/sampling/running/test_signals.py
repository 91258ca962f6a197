from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from coordinated import HELPERS, SETTINGS, assert_same_store, chains_of, run

from devinterp.schema import validate


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
@pytest.mark.parametrize("step", [1, 4, 9])
def test_a_signal_finishes_the_draw_writes_and_says_how_to_go_on(number, error, step, tmp_path, capsys):
    path = tmp_path / "a.zarr"
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    settings = {"num_burnin_steps": 2, "num_steps_bw_draws": 2, "output_path": path}
    told = []

    def strike(event):
        told.append(event)
        if len(told) == step:
            os.kill(os.getpid(), number)

    with pytest.raises(error) as caught:
        run(progress=strike, **settings)
    if error is SystemExit:
        assert caught.value.code == 128 + signal.SIGTERM
    assert "to resume, call again" in capsys.readouterr().err
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    states = chains_of(path)
    assert "interrupted" in {state["status"] for state in states}
    steps = [state["step"] for state in states]
    assert sum(steps) == len(told)
    assert_same_store(run(**settings), run(**{**settings, "output_path": None}))
    assert validate(path, level="values").ok


def test_a_second_signal_acts_at_once(tmp_path):
    told = []

    def strike(event):
        told.append(event)
        os.kill(os.getpid(), signal.SIGINT)

    # the second step of the burn-in is not reached by the first signal, which ends the chain after the first
    with pytest.raises(KeyboardInterrupt):
        run(progress=strike, num_steps_bw_draws=5, output_path=tmp_path / "a.zarr")
    assert len(told) == 1
    with pytest.raises(KeyboardInterrupt):
        run(progress=strike, num_steps_bw_draws=5, output_path=tmp_path / "a.zarr")
    assert_same_store(run(num_steps_bw_draws=5, output_path=tmp_path / "a.zarr"), run(num_steps_bw_draws=5))


_SCRIPT = """
import sys; sys.path.insert(0, {helpers!r})
from tiny_lm import build_model, build_tokens
from devinterp.slt.sampling import sample
if __name__ == "__main__":
    train = build_tokens("train")
    def show(event):
        print(event.chain, event.step, flush=True)
    sample(build_model(), train, {{"train": (train, 1), "code": (build_tokens("code"), 1)}}, output_path={path!r},
           progress=show, **{settings!r})
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_a_parallel_run_stops_every_worker_and_the_run_resumes(number, tmp_path):
    path = tmp_path / "a.zarr"
    settings = {**SETTINGS, "num_draws": 4000, "chain_method": "parallel", "num_workers": 2, "save_metrics": False}
    del settings["progress"]
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT.format(helpers=str(HELPERS), path=str(path), settings=settings))
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while process.stdout.readline().split()[-1:] in ([], ["0"]) and time.monotonic() < deadline:
        pass
    os.killpg(process.pid, number) if number == signal.SIGINT else os.kill(process.pid, number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == (-signal.SIGINT if number == signal.SIGINT else 128 + signal.SIGTERM), errors
    assert "to resume, call again" in errors
    states = chains_of(path)
    assert {state["status"] for state in states} == {"interrupted"}
    assert any(0 < state["step"] < 4000 for state in states)
