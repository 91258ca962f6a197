"""Run a function in a forked process, so that one model's memory, crash or endless loop stays its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

TIME_LIMIT = 180.0  # seconds


class Crashed(RuntimeError):
    """The process ended without an answer."""


def run_isolated(function: Callable[..., Any], *args: Any, time_limit: float = TIME_LIMIT) -> Any:
    """Return ``function(*args)``, computed in a fork of this process; exceptions are raised here."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, args))
    process.start()
    sender.close()
    try:
        if not receiver.poll(time_limit):
            raise Crashed(f"no answer in {time_limit:.0f} s")
        succeeded, answer = receiver.recv()
    except EOFError:
        raise Crashed("the process died") from None
    finally:
        process.kill()
        process.join()
        receiver.close()
    if not succeeded:
        raise answer
    return answer


def _answer(sender: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        sender.send((True, function(*args)))
    except BaseException as error:
        try:
            sender.send((False, error))
        except Exception:
            sender.send((False, RuntimeError(f"{type(error).__name__}: {error}")))
