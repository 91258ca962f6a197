"""``devinterp schema show | export | check``."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["build"]

Name = Annotated[str, typer.Argument(metavar="SCHEMA", help="A kind (samples), an id, or a YAML file.")]


class As(StrEnum):
    """What to export."""

    jsonschema = "jsonschema"
    document = "document"


def build() -> typer.Typer:
    """Return the group of commands."""
    app = typer.Typer(no_args_is_help=True, help="Show, export and check the schemas that stores are held against.")
    app.command(short_help="List the schemas, or show one.")(show)
    app.command(short_help="Export a schema as JSON Schema.")(export)
    app.command(short_help="Check a schema document.")(check)
    return app


def show(
    schema: Annotated[
        str | None, typer.Argument(metavar="[SCHEMA]", help="A kind (samples), an id, or a file.")
    ] = None,
    profile: Annotated[str, typer.Option(metavar="NAME", help="strict, open or devinterp-2.0.")] = "strict",
) -> None:
    """List the schemas, or show the variables, dimensions and rules of one.

    Examples:

    \b
      devinterp schema show
      devinterp schema show samples
      devinterp schema show my_extension.yaml
    """
    from devinterp.cli.console import put, table
    from devinterp.schema import load
    from devinterp.schema.definition.load import usable

    if schema is None:
        rows = [[name, each.doc] for name, each in usable().items()]
        put(table(["schema", "what it describes"], rows))
        return
    loaded = load(schema, profile=profile)
    put(f"{loaded.id}: {loaded.doc}")
    if loaded.extends:
        put(f"extends {', '.join(loaded.extends)}")
    for node in loaded.nodes:
        put(f"\nGroup {node.path}: {node.doc}")
        if node.include:
            put(f"  a tree of {node.include}")
        if node.dimensions:
            rows = [[d.name, "any" if d.size is None else str(d.size), d.doc] for d in node.dimensions.values()]
            put(table(["dimension", "size", "meaning"], rows))
        if node.variables:
            rows = [
                [v.name, f"({', '.join(v.dims)})", v.dtype, v.unit, _presence(v.presence), v.doc]
                for v in node.variables.values()
            ]
            put(table(["variable", "dims", "dtype", "unit", "presence", "meaning"], rows))
        if node.rules:
            rows = [[str(r.code), r.predicate, r.level, r.severity] for r in node.rules]
            put(table(["rule", "predicate", "level", "severity"], rows))


def _presence(presence: Any) -> str:
    return str(presence.kind) if presence.argument is None else f"{presence.kind} {presence.argument}"


def export(
    schema: Name,
    what: Annotated[
        As, typer.Option("--as", help="jsonschema: of a store's zarr.json; document: the schema itself, as JSON.")
    ] = As.jsonschema,
    profile: Annotated[str, typer.Option(metavar="NAME", help="strict, open or devinterp-2.0.")] = "strict",
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="By default standard output.")
    ] = None,
) -> None:
    """Export a schema as JSON Schema (draft 2020-12), for tools in other languages.

    It holds for the zarr.json of a store's root with consolidated metadata.

    Examples:

    \b
      devinterp schema export samples -o samples.schema.json
      devinterp schema export samples --as document
    """
    from devinterp.schema import load
    from devinterp.schema.definition.to_json_schema import json_document, json_schema

    loaded = load(schema, profile=profile)
    document = json_schema(loaded) if what is As.jsonschema else json_document(loaded)
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    if output is None:
        typer.echo(text)
    else:
        Path(output).write_text(text + "\n", encoding="utf-8")


def check(
    schemas: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="YAML files of schemas or extensions.", show_default=False)
    ],
) -> None:
    """Check schema documents: their grammar, and that each only adds to or tightens what it extends.

    Exit code 0: all are in order. 1: one is not. 2: one could not be read.

    Examples:

    \b
      devinterp schema check my_extension.yaml
      devinterp schema check schemas/*.yaml
    """
    for schema in schemas:
        if not Path(schema).is_file():
            raise typer.BadParameter(f"there is no file {schema!r}", param_hint="FILE")
    if sum(not _in_order(schema) for schema in schemas):  # a sum: every file is looked at
        raise typer.Exit(1)


def _in_order(schema: str) -> bool:
    """Say what is wrong with a document, or what it is."""
    from devinterp.cli.console import err, put
    from devinterp.errors import SchemaError
    from devinterp.schema import load

    try:
        loaded = load(Path(schema))
    except SchemaError as error:
        err().print(f"{schema}: not in order: {error}")
        return False
    put(f"{schema}: in order: {loaded.id} (profiles: {', '.join(loaded.profiles)})")
    if loaded.extends:
        base = load(loaded.extends[0])
        new = sorted({v for n in loaded.nodes for v in n.variables} - {v for n in base.nodes for v in n.variables})
        put(f"extends {loaded.extends[0]}; new variables: {', '.join(new) or 'none'}")
    return True
