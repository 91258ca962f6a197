"""The commands of the estimands: a store, analysed, to Zarr, CSV, JSON, or a table.

A command's options are those of the estimand's function, and so is what its help says of them.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

from devinterp.cli.console import FOLLOW_LINKS
from devinterp.cli.output import Format, emit, open_input, target_kind
from devinterp.errors import SettingError
from devinterp.slt.estimands import Estimand, Option, resolve
from devinterp.wording import one_of

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["command", "placeholder"]

Read = Callable[[Any], Any]

LONGEST_COMMAND = 72  # columns, so that with its indentation it fits into 80
STORE = Annotated[str, typer.Argument(metavar="STORE", help="A store that sample() wrote: folder, ZIP or URL.")]
COMMON: dict[str, tuple[Any, Any]] = {
    "checkpoint": (
        Annotated[
            int | None, typer.Option("--checkpoint", metavar="STEP", help="Of a series: only this training step.")
        ],
        None,
    ),
    "output": (
        Annotated[
            str | None,
            typer.Option("-o", "--output", metavar="FILE", help="Write to a new .zarr, .csv or .json, not the screen."),
        ],
        None,
    ),
    "format": (Annotated[Format, typer.Option("--format", help="Of standard output, without -o.")], Format.table),
    "profile": (
        Annotated[str, typer.Option("--profile", metavar="NAME", help="auto, strict, open or devinterp-2.0.")],
        "auto",
    ),
    "follow_links": (FOLLOW_LINKS, False),
}
RESTRICTION = Annotated[
    str | None, typer.Option("--restriction", metavar="NAME", help="Of a study: which run; else full.")
]


def command(estimand: Estimand) -> Callable[..., None]:
    """Return the command of an estimand, as typer reads it."""
    options = [o for o in estimand.options() if o.name not in estimand.hidden]
    names = {o.name: estimand.renamed.get(o.name, o.name) for o in options}
    read: dict[str, Read] = {}
    given: dict[str, tuple[Any, Any]] = {}
    for option in options:
        annotation, read[option.name] = _annotation(option, names[option.name])
        default = option.default
        if isinstance(default, str) and isinstance(get_args(annotation)[0], type(StrEnum)):
            default = get_args(annotation)[0](default)
        given[names[option.name]] = (annotation, default)
    if "study" not in estimand.takes:
        given["restriction"] = (RESTRICTION, None)
    given |= COMMON

    def run(store: str, **values: Any) -> None:
        target = target_kind(values["output"])
        opened = open_input(
            store, values["profile"], allow_partial=values["allow_partial"], follow_links=values["follow_links"]
        )
        tree = _at(opened, values["checkpoint"])
        if "restriction" in values:
            tree = _one_run(tree, values["restriction"])
        arguments = {name: read[name](values[called]) for name, called in names.items()}
        if estimand.adapt:
            resolve(estimand.adapt)(arguments, target or values["format"], values["output"])
        result = estimand.function()(tree, **arguments)
        if "output_path" in arguments:  # the function has written it, piece by piece
            from devinterp.cli.console import err

            err().print(f"written: {values['output']}", soft_wrap=True)
            return
        header, rows = resolve(estimand.records)(result)
        show = resolve(estimand.screen)
        emit(
            result,
            values["output"],
            values["format"],
            header=header,
            rows=rows,
            show=lambda: show(result, store, estimand),
        )

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("store", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=STORE)]
    parameters += [inspect.Parameter(n, keyword, annotation=a, default=d) for n, (a, d) in given.items()]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    summary = (inspect.getdoc(estimand.function()) or "").partition("\n\n")[0]
    run.__doc__ = _help([summary], estimand)
    return run


def placeholder(estimand: Estimand) -> Callable[[], None]:
    """Return what stands for a command in the list of commands, where nothing of it but its name is wanted."""

    def nothing() -> None:
        raise NotImplementedError

    nothing.__doc__ = _help([], estimand)
    return nothing


def _help(paragraphs: list[str], estimand: Estimand) -> str:
    examples = "\n".join(_fitted(f"devinterp {estimand.kind} {example}") for example in estimand.examples)
    return "\n\n".join([*map(_plain, paragraphs), "Examples:", f"\b\n{examples}"]) + "\n"


def _fitted(command: str) -> str:
    """Return a command that goes on in the next line where a terminal of 80 columns has no room for it."""
    lines = [""]
    for part in re.split(r" (?=-)", command):
        if lines[-1] and len(lines[-1]) + len(part) > LONGEST_COMMAND:
            lines.append("   ")
        lines[-1] += f" {part}" if lines[-1] else part
    return "  " + " \\\n  ".join(lines)


def _plain(text: str) -> str:
    """Return the text of a docstring without its markup."""
    return " ".join(text.replace("``", "").replace("`", "").split())


def _annotation(option: Option, called: str) -> tuple[Any, Read]:
    """Return how typer is to take an option, and how what it took becomes the function's argument."""
    flag, text = f"--{called.replace('_', '-')}", _plain(option.doc)
    parts = [option.type]
    if get_origin(option.type) in (Union, types.UnionType):
        parts = [p for p in get_args(option.type) if p is not type(None)]
    may_be_none = option.default is None
    if parts == [bool]:
        return Annotated[bool, typer.Option(flag, help=text)], bool
    if len(parts) == 1 and get_origin(parts[0]) is Literal:
        choices = StrEnum(called.capitalize(), {str(v): str(v) for v in get_args(parts[0])})  # type: ignore[misc]
        kind: Any = choices | None if may_be_none else choices
        return Annotated[kind, typer.Option(flag, help=text)], lambda value: None if value is None else value.value
    if len(parts) == 1 and parts[0] in (int, float, str):
        kind = parts[0] | None if may_be_none else parts[0]
        metavar = {int: "NUMBER", float: "LEVEL", str: "NAME"}[parts[0]]
        return Annotated[kind, typer.Option(flag, metavar=metavar, help=text)], lambda value: value
    kind = str | None if may_be_none else str
    if Sequence[int] in parts:
        return Annotated[kind, typer.Option(flag, metavar="0,5,10-20", help=text)], _indices
    if Sequence[str] in parts:
        return Annotated[kind, typer.Option(flag, metavar="A,B", help=text)], _names
    raise TypeError(f"the command line has no way to take {called} of type {option.type}: hide it, or teach it here")


def _names(text: str | None) -> Any:
    return text if text in (None, "all") else text.split(",")


def _indices(text: str) -> Any:
    """Read ``all``, an observable's name, or ``0,5,10-20``."""
    parts = text.split(",")
    if not all(p.replace("-", "", 1).isdigit() for p in parts):
        return text
    found: list[int] = []
    for part in parts:
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _at(tree: xr.DataTree, checkpoint: int | None) -> xr.DataTree:
    """Return the study of one checkpoint of a series; all of the store where none is named."""
    from devinterp.slt.runs.run import series_members

    if checkpoint is None:
        return tree
    steps = series_members(tree)
    if steps is None:
        raise SettingError("--checkpoint is for series; this store has no checkpoints.")
    if checkpoint not in steps:
        raise SettingError(f"The series has no checkpoint {checkpoint}.", expected=one_of(steps))
    return steps[checkpoint]


def _one_run(tree: xr.DataTree, restriction: str | None) -> Any:
    from devinterp.slt.runs.run import series_members, study_members

    steps = series_members(tree)
    if steps is not None:
        raise SettingError(
            "This is of one run, and the store is a series.",
            found=f"{len(steps)} checkpoints",
            remedy=f"Choose one with --checkpoint, for instance {max(steps)}.",
        )
    members = study_members(tree)
    if members is None:
        if restriction is not None:
            raise SettingError("--restriction is for studies; this store is a single run.")
        return tree
    name = restriction or ("full" if "full" in members else next(iter(members)))
    if name not in members:
        raise SettingError(f"The study has no restriction {name!r}.", expected=one_of(members))
    return members[name]
