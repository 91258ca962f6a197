"""The commands, and what becomes of their errors: a user's mistake is one message, never a traceback."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from devinterp.errors import DevinterpError, DevinterpWarning, ValidationError
from devinterp.slt.estimands import ESTIMANDS

__all__ = ["build", "run"]

FAULT = 70  # as sysexits.h has it: 1 means findings, 2 a mistake


def build(wanted: Collection[str] = tuple(ESTIMANDS)) -> typer.Typer:
    """Return the application.

    Parameters
    ----------
    wanted : collection of str
        The estimands whose commands are more than their names: what they take is read from their functions, which
        need packages that nobody who asks for the list of commands should wait for.
    """
    from devinterp.cli import analyse, demo, info, repair, report, schema, validate

    app = typer.Typer(
        name="devinterp",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        # Boxes and colours are for people at a terminal; whoever reads a pipe gets text.
        rich_markup_mode="rich" if sys.stdout.isatty() else None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def root(
        version: Annotated[
            bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
        ] = False,
    ) -> None:
        """Validate, inspect and analyse stores of SGLD runs."""

    # Short enough for one line each at 80 columns.
    app.command(short_help="Check stores, and report every finding.")(validate.validate)
    app.command(short_help="Show what a store is, or follow a run.")(info.info)
    for estimand in ESTIMANDS.values():
        made = analyse.command(estimand) if estimand.kind in wanted else analyse.placeholder(estimand)
        app.command(estimand.kind, short_help=f"Compute {estimand.named}.")(made)
    app.command(short_help="Write all of it into one HTML page.")(report.report)
    app.command(short_help="Mark what a store lost, or take it back.")(repair.repair)
    app.add_typer(schema.build(), name="schema", short_help="Show, export and check schemas.")
    app.command(short_help="Train, sample and look, in a few minutes.")(demo.demo)
    return app


def _version(asked: bool) -> None:
    if asked:
        from devinterp import __version__

        typer.echo(f"devinterp {__version__}")
        raise typer.Exit


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names of stores and groups may have characters that a terminal or a pipe of another encoding has not.
            stream.reconfigure(errors="backslashreplace")
    try:
        with _plain_warnings():
            # Completion has its words from the environment.
            asked = tuple(ESTIMANDS) if "_DEVINTERP_COMPLETE" in os.environ else arguments
            build(asked)(args=list(arguments), prog_name="devinterp", standalone_mode=True)
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0 if done.code is None else 2
    except ValidationError as error:
        return _refuse(str(error.report) if error.report is not None else str(error))
    except DevinterpError as error:
        return _refuse(_message(error))
    except BrokenPipeError:
        # Whoever read us has enough (`devinterp ... | head`); nothing may be flushed into the closed pipe any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _refuse(f"{where}{error.strerror or error}")
    except KeyboardInterrupt:
        return 130
    except Exception:
        import traceback

        traceback.print_exc()
        print("This is a fault of devinterp, not of your call: please report it with the lines above.", file=sys.stderr)
        return FAULT
    return 0


def _refuse(message: str) -> int:
    from devinterp.cli.console import err

    err().print(f"error: {message}", soft_wrap=True, markup=False)
    return 2


def _message(error: DevinterpError) -> str:
    lines = [error.problem if hasattr(error, "problem") else str(error)]
    for label in ("expected", "found"):
        value = getattr(error, label, None)
        if value is not None:
            lines.append(f"  {label + ':':<10}{value}")
    if getattr(error, "remedy", None):
        lines.append(f"  {'remedy:':<10}{error.remedy}")
    return "\n".join(lines)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show our own warnings as one line on standard error, without the line of code that raised them."""
    usual = warnings.showwarning

    def show(
        message: Any, category: type[Warning], filename: str, lineno: int, file: Any = None, line: str | None = None
    ) -> None:
        if issubclass(category, DevinterpWarning):
            from devinterp.cli.console import err

            err().print(f"warning: {message}", soft_wrap=True, markup=False)
        else:
            usual(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        warnings.showwarning = show
        # A message is what they are here, also where the caller's settings make errors of warnings.
        warnings.simplefilter("always", DevinterpWarning)
        yield
