"""``python -m devinterp``: the command line."""

from devinterp.cli import main

main()
