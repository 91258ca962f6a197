"""``devinterp report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from devinterp.cli.console import FOLLOW_LINKS
from devinterp.errors import MissingDependencyError, SettingError, StoreError
from devinterp.schema.definition.suggest import closest

__all__ = ["load_tokenizer", "report"]


def report(
    store: Annotated[str, typer.Argument(metavar="STORE", help="A run or a study: folder, ZIP or URL.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The page.")] = Path("report.html"),
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="WHICH", help="'bytes', a tokenizer.json, or the name or folder of a HuggingFace tokenizer."
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="Of the page; by default the store's name.")] = None,
    profile: Annotated[str, typer.Option(metavar="NAME", help="auto, strict, open or devinterp-2.0.")] = "auto",
    level: Annotated[
        str, typer.Option(metavar="LEVEL", help="How far to validate: structure, completeness or values.")
    ] = "completeness",
    follow_links: FOLLOW_LINKS = False,
) -> None:
    """Write a report on a store: one HTML file with everything in it, that asks the network for nothing.

    Examples:

    \b
      devinterp report run.zarr -o report.html
      devinterp report study.zarr --tokenizer gpt2 -o study.html
    """
    from devinterp.cli.console import err
    from devinterp.cli.output import choose_profile, need_folder
    from devinterp.report import write_report

    if output.is_dir():
        raise StoreError(f"{output} is a folder.", expected="the name of a file, as in -o report.html")
    need_folder(output)
    console = err()
    with console.status("loading the tokenizer"):
        read = load_tokenizer(tokenizer)
    with console.status("building the report"):
        size = write_report(
            store,
            output,
            tokenizer=read,
            title=title,
            profile=choose_profile(store, profile),
            level=level,
            follow_links=follow_links,
        )
    console.print(f"written: {output} ({size / 1000:.0f} kB)", soft_wrap=True)


def load_tokenizer(which: str | None) -> Any:
    """Return the tokenizer that the option names.

    Raises
    ------
    MissingDependencyError
        The package that reads it is not installed.
    SettingError
        It cannot be loaded.
    """
    if which is None or which == "bytes":
        return which
    if closest(which, ["bytes"]) is not None and not Path(which).exists():
        raise SettingError(f"There is no tokenizer {which!r}.", remedy="Did you mean 'bytes'?")
    try:
        if which.endswith(".json"):
            from tokenizers import Tokenizer

            return Tokenizer.from_file(which)
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(which)
    except ImportError as error:
        raise MissingDependencyError(
            f"The tokenizer needs a package that is not installed: {error.name}.",
            remedy="pip install transformers, or leave --tokenizer out.",
        ) from error
    except Exception as error:  # whatever the other library raises, it could not be loaded
        raise SettingError(
            f"The tokenizer {which!r} could not be loaded: {str(error).splitlines()[0] if str(error) else error!r}."
        ) from error
