"""The command line: ``devinterp --help``."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.

    Raises
    ------
    SystemExit
        Always: 0 done, 1 a validation found errors, 2 a mistake in the call or a store that cannot be read, 70 a
        fault of this package, 130 interrupted.
    """
    import sys

    from devinterp.cli.app import run

    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))
