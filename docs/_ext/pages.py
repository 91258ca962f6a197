"""Pages that are written from the code at every build: one per schema, one per finding code, the estimands, the commands.

Nothing about a variable or a code stands in the documentation's own sources; see `schema_page` and `code_page`.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import rooms
import yaml
from tables import cell, code, table, with_code

import devinterp
from devinterp._renamed import OLD_NAMES
from devinterp.schema import RuleCode, Schema, VariableSpec, available, load
from devinterp.schema.definition.load import schemas_folder
from devinterp.schema.rules.registry import find_predicate
from devinterp.slt.estimands import ESTIMANDS, Estimand
from devinterp.utils import starting_points

FAMILIES = {
    "DI0": "the store as such",
    "DI1": "structure",
    "DI2": "storage and safety",
    "DI3": "values of one variable",
    "DI4": "relations",
    "DI5": "chunks",
    "DI9": "the validator's own limits",
}


def our_schemas() -> dict[str, Schema]:
    """Every schema that comes with the package, by kind, the kinds that people meet first in front."""
    results = [kind for each in ESTIMANDS.values() for kind in (each.kind, *each.variants)]
    order = ["samples", "study", *results, "series", "sweep"]
    folder = schemas_folder()
    found = {path.stem: load(path) for path in available().values() if path.parent == folder}
    return {k: found[k] for k in sorted(found, key=lambda k: (order.index(k) if k in order else len(order), k))}


# One schema


def schema_page(schema: Schema, file: Path) -> str:
    """The page of a schema: every node with its dimensions, variables, attributes and rules, then storage and profiles."""
    parts = [f"# {schema.kind}", schema.doc, f"Schema {code(schema.id)}, from {code('schemas/' + file.name)}."]
    parts += [*_families(schema), *_parameters(schema)]
    for node in schema.nodes:
        parts += _node(schema, node)
    parts += [*_storage(schema), *_profiles(schema)]
    parts += ["## The document", f"```{{literalinclude}} /../schemas/{file.name}\n:language: yaml\n```"]
    return "\n\n".join(parts) + "\n"


def _families(schema: Schema) -> Iterator[str]:
    for family in schema.families.values():
        where = f" Listed in the attribute {code(family.path)}." if family.path else ""
        key = f" Each member is named by its {code(family.key)}." if family.key else ""
        yield f"{code('{' + family.name + '}')} stands for {family.doc}.{where}{key}"


def _parameters(schema: Schema) -> Iterator[str]:
    if schema.parameters:
        yield "## Settings that sizes follow from"
        folders = {p.path.rpartition(".")[0] for p in schema.parameters.values()}
        same = len(folders) == 1 and all(p.path.endswith(f".{p.name}") for p in schema.parameters.values())
        if same:
            yield f"They stand in the root attribute {code(folders.pop())}, under these names."
        where = (lambda p: ()) if same else (lambda p: (code(p.path),))
        rows = [(code(p.name), p.type, *where(p), p.doc) for p in schema.parameters.values()]
        yield table(("name", "type", *(() if same else ("root attribute",)), "meaning"), rows)


def _node(schema: Schema, node: Any) -> Iterator[str]:
    yield f"## Group {code(node.path)}"
    yield node.doc
    if node.include is not None:
        kind = node.include.split("@")[0].rsplit("/", 1)[-1]
        yield f"A whole tree of the schema [{node.include}]({kind}.md)."
        return
    if node.dimensions:
        yield "### Dimensions" if node.path == "/" else f"### Dimensions of {code(node.path)}"
        rows = [
            (code(d.name), code(str(d.size)) if d.size is not None else f"any, at least {d.minimum}", d.doc)
            for d in node.dimensions.values()
        ]
        yield table(("name", "size", "meaning"), rows)
    for role, title in (("data", "Variables"), ("coordinate", "Coordinates")):
        specs = [v for v in node.variables.values() if v.role == role]
        if specs:
            yield f"### {title}" if node.path == "/" else f"### {title} of {code(node.path)}"
            yield table(("name", "dims", "type", "unit", "there", "meaning"), [_variable(v) for v in specs])
    attributes = list(_attributes(node.attributes))
    if attributes:
        yield "### Attributes" if node.path == "/" else f"### Attributes of {code(node.path)}"
        yield "Other attributes are allowed."
        yield table(("attribute", "value", "there"), attributes)
    checks = [(v.name, c) for v in node.variables.values() for c in v.checks]
    if checks or node.rules:
        yield "### Rules" if node.path == "/" else f"### Rules of {code(node.path)}"
        yield table(("code", "what it finds", "what must hold", "on"), _rules(checks, node.rules))


def _variable(spec: VariableSpec) -> tuple[str, ...]:
    dims = " or ".join(f"({', '.join(map(code, d))})" if d else "scalar" for d in (spec.dims, *spec.alternatives))
    if spec.leading:
        dims += f"; before them {', '.join(map(code, spec.leading))}, {'each ' * (len(spec.leading) > 1)}where the result has it"
    meaning = " ".join([spec.doc, *(f"Without {code(p)}: {doc}" for p, doc in spec.doc_unless.items())])
    return code(spec.name), dims, spec.dtype, spec.unit, presence(spec), meaning


def presence(spec: VariableSpec) -> str:
    """When a variable is there, in words."""
    kind, argument = spec.presence.kind, spec.presence.argument
    if kind == "when":
        return f"with {' and '.join(map(code, spec.presence.parameters))}"
    if kind == "with_dimension":
        return f"with the dimension {code(str(argument))}"
    return {"required": "always", "optional": "on request", "forbidden": "never"}[kind]


def _attributes(schema: Mapping[str, Any], path: str = "", there: str = "always") -> Iterator[tuple[str, str, str]]:
    """Flatten a JSON Schema of attributes into rows; what an optional mapping requires is there where the mapping is."""
    for part in schema.get("allOf", []):
        yield from _attributes(part, path, there)
    if path and "properties" not in schema:
        yield code(path), _constraint(schema), there
    below = there if there != "optional" else f"where {code(path)} is"
    for name, inner in schema.get("properties", {}).items():
        needed = below if name in schema.get("required", []) else "optional"
        yield from _attributes(inner, f"{path}.{name}" if path else name, needed)
    items = schema.get("items", {})
    if "properties" in items:
        yield from _attributes(items, f"{path}[]", below)


def _constraint(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(code(str(value)) for value in schema["enum"])
    words = [_types(schema.get("type", "anything"))]
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "minLength": "length ≥", "minItems": "length ≥"}
    words += [f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema]
    words += [f"like {code(schema['pattern'])}"] if "pattern" in schema else []
    items = schema.get("items", {})
    words += [f"of {_types(items['type'])}"] if "type" in items and "properties" not in items else []
    words += ["all different"] if schema.get("uniqueItems") else []
    contains = schema.get("contains", {})
    words += [f"with {code(str(contains['const']))} among them"] if "const" in contains else []
    return ", ".join(words)


def _types(types: str | list[str]) -> str:
    return types if isinstance(types, str) else " or ".join(types)


def _rules(checks: list[tuple[str, Any]], rules: Any) -> list[tuple[str, str, str, str]]:
    grouped: dict[tuple[str, str], list[str]] = {}
    for name, check in checks:
        grouped.setdefault((check.code, _must_hold(check)), []).append(name)
    rows = [(c, holds, ", ".join(map(code, names))) for (c, holds), names in sorted(grouped.items())]
    rows += [(rule.code, _must_hold(rule), "the group") for rule in rules]
    titles = {c.value: c.title for c in RuleCode}
    return [(_code_link(c), titles.get(c, ""), holds, where) for c, holds, where in rows]


def _must_hold(rule: Any) -> str:
    """What a rule holds of a variable or a group: its predicate's words, and the arguments that these do not name."""
    used = find_predicate(rule.predicate)
    if used.expected and set(used.parameters) <= set(rule.arguments):
        return used.describe(**rule.arguments)
    first = (inspect.getdoc(used.function) or rule.predicate).partition("\n\n")[0]
    sentence = " ".join(first.replace("``", "`").split()).rstrip(".")
    arguments = "; ".join(f"{code(name)}: {cell(value)}" for name, value in rule.arguments.items())
    return sentence + (f" ({arguments})" if arguments else "")


def _code_link(text: str) -> str:
    return f"[{text}](/codes/{text}.md)"


def _storage(schema: Schema) -> Iterator[str]:
    specs = [v for node in schema.nodes for v in node.variables.values()]
    if not specs:
        return
    yield "## Storage"
    storage = schema.storage
    yield (
        f"Codecs, in this order: {', '.join(map(code, storage.codecs))}; a checksum is {storage.checksums}. "
        + ("Chunks are as declared here." if storage.chunks == "declared" else "Any chunks will do.")
    )
    if any(spec.prefix for spec in specs):
        yield "Along a dimension that a chain writes from the front, what a failed chain no longer wrote is fill."
    rows = []
    for spec in {v.name: v for v in specs}.values():
        chunks = ", ".join(f"{n} along {code(d)}" for d, n in spec.chunks.items())
        dim, mask = (code(name) if name else "" for name in (spec.prefix, spec.mask))
        rows.append((code(spec.name), code(str(spec.fill)), f"at most {chunks}" if chunks else "one", dim, mask))
    head = ("variable", "fill value", "chunks", "written from the front", "NaN where 0")
    used = [n for n in range(len(head)) if n < 3 or any(row[n] for row in rows)]
    yield table([head[n] for n in used], [[row[n] for n in used] for row in rows])


def _profiles(schema: Schema) -> Iterator[str]:
    yield "## Profiles"
    document = schema.document.get("profiles", {})
    rows = []
    for name, profile in schema.profiles.items():
        given = document.get(name, {})
        changes = [f"{code(v)}: {_override(o)}" for v, o in given.get("variables", {}).items()]
        changes += [f"without {', '.join(map(_code_link, given['without_rules']))}"] if "without_rules" in given else []
        changes += [f"{k} {cell(v)}" for k, v in given.get("storage", {}).items()]
        rows.append((code(name), profile.doc, "; ".join(changes) or "none"))
    yield table(("profile", "meaning", "changes to what stands above"), rows)


def _override(override: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {cell(value)}" for key, value in override.items())


# One code


def code_page(rule: RuleCode, uses: list[str], example: str = "") -> str:
    """The page of a finding code: what it says, why it matters, how to mend it, an example, what declares it."""
    parts = [
        f"# {rule.value}: {rule.title}",
        table(
            ("severity", "level", "name in filters"),
            [(str(rule.severity), str(rule.level), code(rule.slug))],
        ),
        with_code(rule.meaning),
        "## How to mend it",
        with_code(rule.remedy),
    ]
    if example:
        parts += ["## Example", example]
    if uses:
        parts += ["## Where it is declared", "\n".join(f"* {use}" for use in uses)]
    return "\n\n".join(parts) + "\n"


def uses_of_codes(schemas: Mapping[str, Schema]) -> dict[str, list[str]]:
    """Which schemas declare a rule of each code, as links."""
    out: dict[str, dict[str, list[str]]] = {}
    for kind, schema in schemas.items():
        for node in schema.nodes:
            for spec in node.variables.values():
                mask = node.variables.get(spec.mask or "")  # one with other dimensions does not say it of each value
                masked = mask is not None and set(mask.dims) <= set(spec.dims)
                implied = {RuleCode.NOT_FILL: spec.prefix, RuleCode.MASKED_VALUE: masked}
                for found in [*(c.code for c in spec.checks), *(str(c) for c, named in implied.items() if named)]:
                    out.setdefault(found, {}).setdefault(kind, []).append(code(spec.name))
            for rule in node.rules:
                out.setdefault(rule.code, {}).setdefault(kind, []).append(f"group {code(node.path)}")
    return {
        rule: [f"[{kind}](/formats/{kind}.md): {', '.join(dict.fromkeys(where))}" for kind, where in kinds.items()]
        for rule, kinds in out.items()
    }


def code_index() -> str:
    """The table of all codes."""
    parts = [
        "# Finding codes",
        "What `devinterp validate`, {py:func}`devinterp.validate` and {py:func}`devinterp.open_store` can find. "
        "A code never changes its meaning and is never given to another one.",
        "A store with a finding of severity error is not valid; one with warnings and notes alone is. The level says what must "
        "be read for it: `structure` only the metadata, `completeness` also which chunks there are, `values` (the default) "
        "every value as well. Where a schema weighs a rule differently from what stands here, the finding says so.",
    ]
    for prefix, title in FAMILIES.items():
        members = [c for c in RuleCode if c.value.startswith(prefix)]
        if members:
            rows = [(_code_link(c.value), c.title, str(c.severity), str(c.level)) for c in members]
            parts += [f"## {prefix}xx: {title}", table(("code", "meaning", "severity", "level"), rows)]
    toctree = "\n".join(["```{toctree}", ":hidden:", *(c.value for c in RuleCode), "```"])
    return "\n\n".join([*parts, toctree]) + "\n"


def examples(cache: Path) -> dict[str, str]:
    """For each code a store that is wrong in that way, and what `validate` says of it.

    Parameters
    ----------
    cache : Path
        Where the answers are kept, for as long as the code they come from does not change.
    """
    package = Path(devinterp.__file__).parent
    digest = digest_of(package / "schema", package / "testing", schemas_folder())
    if cache.is_file():
        kept = json.loads(cache.read_text(encoding="utf-8"))
        if kept["made_from"] == digest:
            found: dict[str, str] = kept["examples"]
            return found
    found = {rule.value: text for rule in RuleCode if (text := _example(rule.value))}
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text(json.dumps({"made_from": digest, "examples": found}), encoding="utf-8")
    return found


def digest_of(*folders: Path) -> str:
    """A hash of every program and document below the folders."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.suffix in {".py", ".yaml", ".json"}):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _example(value: str) -> str:
    from devinterp.testing import mutations_of

    mutations = mutations_of(value)
    if not mutations:
        return ""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # so that messages name the store alone
        try:
            report = devinterp.validate(mutations[0].write("run.zarr"), **mutations[0].options)
        finally:
            os.chdir(before)
    findings = [str(f).replace(folder, "") for f in report.findings if f.code == value]
    return f"{mutations[0].doc}\n\n```text\n{findings[0]}\n```" if findings else ""


# The command line


def cli_page() -> str:
    """What ``--help`` says, of every command."""
    import click
    import typer.main

    from devinterp.cli.app import build

    parts = [
        "# Command line",
        "What `devinterp COMMAND --help` prints. In a pipe, output is plain; `NO_COLOR` is honoured. Exit codes: 0 done, 1 findings "
        "of severity error, 2 a mistake in the call or a store that cannot be read, 70 a fault of ours, 130 interrupted. "
        "`devinterp --install-completion` lets the shell complete commands, options and their values.",
    ]

    def describe(command: Any, words: tuple[str, ...]) -> None:
        context = click.Context(command, info_name=" ".join(words), terminal_width=86, max_content_width=86)
        if len(words) > 1:
            parts.append(f"{'#' * len(words)} {' '.join(words)}")
        parts.append(f"```none\n{command.get_help(context).rstrip()}\n```")
        for name, inner in getattr(command, "commands", {}).items():
            describe(inner, (*words, name))

    describe(typer.main.get_command(build()), ("devinterp",))
    return "\n\n".join(parts) + "\n"


# Estimands


def estimands_page() -> str:
    """What can be estimated, and for each estimand its functions."""
    rows = []
    for e in ESTIMANDS.values():
        module, _, name = e.compute.partition(":")
        rows.append(
            (
                f"[{e.title}](#{e.kind})",
                f"{{py:func}}`~{module}.{name}`",
                f"{{py:meth}}`tree.devinterp.{e.kind}() <devinterp.accessor.DevinterpAccessor.{e.kind}>`",
                code(f"devinterp {e.kind}"),
                ", ".join(e.takes),
                f"[{e.kind}](/formats/{e.kind}.md)",
            )
        )
    parts = [
        "# Estimands",
        "None of this needs torch, except where a function samples first: `compute_*` takes what `sample()` returned, the other "
        "samples and computes in one call. Of what each number means, see [mathematics](/mathematics/index.md).",
        table(("estimand", "function", "accessor", "command", "of", "format"), rows),
    ]
    return "\n\n".join([*parts, *map(_estimand, ESTIMANDS.values())]) + "\n"


def _estimand(estimand: Estimand) -> str:
    module = importlib.import_module(estimand.compute.partition(":")[0])
    lines = [f".. automodule:: {module.__name__}", "   :no-members:", ""]
    for dotted in (estimand.compute, estimand.sampling, *estimand.documented):
        if dotted:
            where, _, name = dotted.partition(":")
            lines += [f".. currentmodule:: {where}", f".. autofunction:: {name}", ""]
    body = "\n".join(lines)
    title = estimand.title[0].upper() + estimand.title[1:]
    return f"({estimand.kind})=\n## {title}\n\n```{{eval-rst}}\n{body}```"


# Old names


# A call, an argument, a dotted name, a name with an underscore, a string.
_CODE = re.compile(
    r"dict\[[^]]*\]|[\w.]*\w\((?:[^()]|\([^()]*\))*\)|\w+=(?:'\w+'|\d[\d.]*\d|)|[a-z]+(?:\.\w+)+|\w+_(?:\{\w+\}|\*|\w+)|'\w+'"
)


def _said(sentence: str) -> str:
    """A sentence as text, the names and calls in it as code."""
    return _CODE.sub(lambda found: code(found[0]), sentence)


def old_names() -> str:
    """The names of `OLD_NAMES`: those with a successor, then the others by what is to be done instead."""
    successors, others = [], {}
    for module, names in OLD_NAMES.items():
        for name, told in sorted(names.items()):
            if told.startswith(">"):
                successors.append((code(f"{module}.{name}"), code(told[1:].replace(":", "."))))
            else:
                others.setdefault(told, []).append(code(f"{module}.{name}"))
    return "\n\n".join([
        "### With a successor", table(("name", "now"), sorted(successors)),
        "### With another way", table(("instead", "names"), [(_said(told), ", ".join(them)) for told, them in others.items()]),
    ]) + "\n"  # fmt: skip


# Starting points


def starting_points_table() -> str:
    """What was published, of each work with its source."""

    def values(each: tuple[float, ...], form: str = "g") -> str:
        return " to ".join(f"{value:{form}}" for value in each)

    rows = []
    for point in starting_points():
        sizes = sorted({_size(value) for value in point.parameters}, key=lambda text: (len(text), text))
        others = ", ".join(code(f"{name}={value}") for name, value in point.others.items())
        rows.append((
            point.work, "any" if point.parameters[0] == 0 else " to ".join(sizes), values(point.lr),
            values(point.n_beta), values(point.localization), others, point.source,
        ))  # fmt: skip
    return table(("work", "parameters", "lr", "n_beta", "localization", "others", "source"), rows) + "\n"


def _size(parameters: float) -> str:
    return f"{parameters / 1e9:g} G" if parameters >= 1e9 else f"{parameters / 1e6:g} M"


def rules_page() -> str:
    """What the formats say, sentence by sentence, with the rules that check it."""
    parts = [
        "# Which rule checks what",
        "What these pages say, sentence by sentence, and the [findings](../codes/index.md) of a store that breaks it. "
        "Every code of a finding stands here; {py:data}`devinterp.testing.MUTATIONS` has stores that break each of them.",
    ]
    text = (schemas_folder() / "findings" / "sentences.yaml").read_text(encoding="utf-8")
    for section, sentences in yaml.safe_load(text).items():
        rows = [
            (
                s["says"],
                ", ".join(_code_link(c) for c in s["codes"]) if "codes" in s else "no store can show it",
                ", ".join(dict.fromkeys(str(RuleCode(c).level) for c in s["codes"])) if "codes" in s else s["tested"],
            )
            for s in sentences
        ]
        parts += [f"## {section}", table(("what is said", "findings", "level, or where it is tested"), rows)]
    return "\n\n".join(parts) + "\n"


# All of them


SINGLE = {
    "api/cli.md": cli_page,
    "api/estimands.md": estimands_page,
    "formats/rules.md": rules_page,
    "old-names.md": old_names,
    "starting-points.md": starting_points_table,
    "rooms.svg": rooms.picture,
    "rooms.md": lambda: rooms.room_table() + "\n",
}
"""Generated pages that stand among those that people write, and what writes them."""


def write_all(docs: Path) -> list[Path]:
    """Write every generated page below ``docs``, and remove those of schemas and codes that are gone."""
    schemas = our_schemas()
    pages = {docs / "formats" / f"{k}.md": schema_page(s, schemas_folder() / f"{k}.yaml") for k, s in schemas.items()}
    uses, shown = uses_of_codes(schemas), examples(docs / "_build" / "examples.json")
    pages |= {
        docs / "codes" / f"{c.value}.md": code_page(c, uses.get(c.value, []), shown.get(c.value, "")) for c in RuleCode
    }
    pages[docs / "codes" / "index.md"] = code_index()
    pages |= {docs / name: written() for name, written in SINGLE.items()}
    for folder, keep in ((docs / "formats", "index.md"), (docs / "codes", "")):
        folder.mkdir(exist_ok=True)
        for old in folder.glob("*.md"):
            if old not in pages and old.name != keep:
                old.unlink()
    for path, text in pages.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:  # an untouched page is not built again
            path.write_text(text, encoding="utf-8")
    return list(pages)


def copy_grammar(docs: Path, out: Path) -> None:
    """Put the schemas and their grammar beside the pages, for tools that read them by URL."""
    target = out / "schemas"
    shutil.copytree(schemas_folder(), target, dirs_exist_ok=True)
