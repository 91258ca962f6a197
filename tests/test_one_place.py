"""Concepts that stand in one module: a second copy fails here."""

from __future__ import annotations

import ast
import re
import textwrap
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "devinterp"
MODULES = sorted(p.relative_to(SOURCE).as_posix() for p in SOURCE.rglob("*.py"))


@cache
def parsed(module: str) -> ast.AST:
    return ast.parse((SOURCE / module).read_text())


def texts(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Every string of code: constants and the fixed parts of f-strings, docstrings left out."""
    prose = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    inside = {id(part): node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield inside.get(id(node), node), node.value


def copies_of_keys(tree: ast.AST) -> list[str]:
    """Strings that build or take apart keys of Zarr by hand."""
    out = []
    for node, text in texts(tree):
        if " " in text.strip():  # a message
            continue
        built = isinstance(node, ast.JoinedStr)
        if (
            re.search(r"(^|[/.])c[/.](\d|$)", text)
            or text == "/c"
            or text.endswith("/zarr.json")
            or (built and "zarr.json" in text)
            or text in ("zarr.json", "separator", "chunk_key_encoding")
        ):
            out.append(f"{node.lineno}: {text!r}")  # type: ignore[attr-defined]
    return out


MAY_NAME_KEYS = {
    "schema/reading/keys.py": "the one place",
    "schema/reading/array_metadata.py": "names of a document's members",
    "schema/definition/to_json_schema.py": "says which encodings are legal",
    "store/zarr_metadata.py": "the encoding that we write",
    "store/reading/fast_open.py": "hands a document's encoding to the one place",
    "store/reading/unreadable.py": "names the spelling that zarr-python does not read",
    "store/repair/stored_array.py": "hands a document's encoding to the one place",
    "store/reading/status.py": "hands a document's encoding to the one place",
    "names.py": "refuses the name for a restriction",
    "testing/strategies.py": "a name that restrictions may not have",
}


@pytest.mark.parametrize("module", [m for m in MODULES if m not in MAY_NAME_KEYS])
def test_keys_of_zarr_are_built_and_parsed_in_one_place(module: str) -> None:
    found = copies_of_keys(parsed(module))
    if module.startswith("testing/mutations/"):  # they name chunks of stores that they have just made
        found = [f for f in found if "f'" in f]
    assert not found, f"{module} knows how keys of Zarr look (schema/reading/keys.py does): {found}"


@pytest.mark.parametrize("module", [m for m in MODULES if m in MAY_NAME_KEYS and "keys.py" not in m])
def test_the_exceptions_build_no_keys(module: str) -> None:
    assert not [f for f in copies_of_keys(parsed(module)) if "/c" in f or "c/" in f or "/zarr.json" in f]


def walks_dotted_paths(function: ast.FunctionDef) -> bool:
    """Whether a function goes down through mappings, a part of a dotted path at a time, and returns what is there."""
    for loop in ast.walk(function):
        if isinstance(loop, ast.For) and ".split('.')" in ast.unparse(loop.iter):
            text = ast.unparse(function)
            return "Mapping" in text and "flatten" not in text
        if isinstance(loop, ast.For) and isinstance(loop.iter, ast.Name) and loop.iter.id in ("keys", "parts"):
            return any(
                isinstance(n, ast.Call) and ast.unparse(n.func) == "isinstance" and "Mapping" in ast.unparse(n)
                for n in ast.walk(loop)
            )
    return False


def makes_plain(function: ast.FunctionDef) -> bool:
    """Whether a function calls itself for the members of mappings and of sequences, to rebuild both."""

    def again(node: ast.AST) -> bool:
        return any(isinstance(n, ast.Call) and ast.unparse(n.func) == function.name for n in ast.walk(node))

    # What leaves members out does something else.
    dicts = any(isinstance(n, ast.DictComp) and again(n.value) and not n.generators[0].ifs for n in ast.walk(function))
    lists = any(isinstance(n, ast.ListComp) and again(n.elt) for n in ast.walk(function))
    return dicts and lists


@pytest.mark.parametrize(("sign", "what"), [(walks_dotted_paths, "dig"), (makes_plain, "plain_json")])
def test_json_documents_are_looked_into_and_made_plain_in_one_place(sign, what):
    found = [
        f"{module}: {node.name}"
        for module in MODULES
        for node in ast.walk(parsed(module))
        if isinstance(node, ast.FunctionDef) and sign(node)
    ]
    assert [f for f in found if not f.startswith("plain_json.py")] == [], f"plain_json.{what} does that"
    assert found, "the sign does not find the one place itself"


@pytest.mark.parametrize(
    ("sign", "source"),
    [
        (
            walks_dotted_paths,
            """
def look(m, path):
    for key in path.split("."):
        if not isinstance(m, Mapping) or key not in m:
            return None
        m = m[key]
    return m
""",
        ),
        (
            walks_dotted_paths,
            """
def look(m, *keys):
    for key in keys:
        if not isinstance(m, Mapping):
            return None
        m = m.get(key)
    return m
""",
        ),
        (
            makes_plain,
            """
def plain(v):
    if isinstance(v, Mapping):
        return {k: plain(w) for k, w in v.items()}
    return [plain(w) for w in v] if isinstance(v, list) else v
""",
        ),
    ],
)
def test_copies_are_noticed(sign, source):
    (function,) = ast.parse(source).body
    assert sign(function)


@pytest.mark.parametrize(
    "line",
    [
        'f"{path}/c/0"', 'f"{group}/zarr.json"', 'f"{name}/c/{chain}"', 'key.partition("/c/")',
        'key.endswith("/zarr.json")',
        '"/".join([path, "c/0", rest])', 'f"{path}/c"',
    ],
)  # fmt: skip
def test_keys_made_by_hand_are_noticed(line):
    assert copies_of_keys(ast.parse(line))


def mentions(node: ast.AST) -> set[str]:
    """Which of the settings burn-in, steps between draws, and draws an expression names, in whatever way."""
    kinds = {"between": r"between|bw_draws", "burnin": r"burn_?in", "draws": r"draws$"}
    found = set()
    for n in ast.walk(node):
        word = getattr(n, "id", None) or getattr(n, "attr", None) or getattr(n, "value", None)
        if isinstance(word, str) and " " not in word:
            found |= set([kind for kind, pattern in kinds.items() if re.search(pattern, word)][:1])
    return found


def counts_steps(tree: ast.AST) -> list[str]:
    """Expressions that count draws in steps or steps in draws, and functions that gather the settings to do so."""
    out = []
    for node in ast.walk(tree):
        divides = isinstance(node, ast.Call) and ast.unparse(node.func) == "divmod"
        if isinstance(node, ast.BinOp) or divides:
            named = mentions(node)
            whole = divides or isinstance(node.op, ast.Mult | ast.FloorDiv)  # type: ignore[attr-defined]
            if ("burnin" in named and len(named) > 1) or (named == {"between", "draws"} and whole):
                out.append(f"{node.lineno}: {ast.unparse(node)}")  # type: ignore[attr-defined]
        elif isinstance(node, ast.FunctionDef):
            strings = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
            if strings >= {"num_burnin_steps", "num_steps_bw_draws"}:
                out.append(f"{node.lineno}: reads the settings")
    return out


MAY_READ_THE_SETTINGS = {
    "demo/settings.py": "hands them on",
    "report/build.py": "shows them",
    "testing/strategies.py": "makes them up",
    "store/writing/request.py": "takes them as checked parameters of a schema",
    "testing/valid/rules.py": "takes them as checked parameters of a schema",
}


@pytest.mark.parametrize("module", [m for m in MODULES if m != "steps.py"])
def test_draws_are_counted_in_steps_in_one_place(module):
    found = counts_steps(parsed(module))
    if module in MAY_READ_THE_SETTINGS:
        found = [f for f in found if "reads the settings" not in f]
    assert not found, f"{module} counts draws in steps (steps.StepLayout does): {found}"


def test_the_place_that_counts_draws_in_steps_is_recognised():
    assert len(counts_steps(parsed("steps.py"))) >= 5


@pytest.mark.parametrize(
    "line",
    [
        "burnin + draws * between", "self.num_burnin_steps + self.num_draws * self.num_steps_bw_draws",
        "max(0, (step - burnin) // between)", "divmod(step - s.num_burnin_steps, s.num_steps_bw_draws)",
        "int(p['num_burnin_steps']) + n * int(p['num_steps_bw_draws'])", "num_draws * int(s['num_steps_bw_draws'])",
        "burnin + between * np.arange(draws)", "settings.num_burnin_steps + settings.num_draws",
        "def f(run):\n    return [run.setting(s) for s in ('num_burnin_steps', 'num_draws', 'num_steps_bw_draws')]",
    ],
)  # fmt: skip
def test_draws_counted_in_steps_by_hand_are_noticed(line):
    assert counts_steps(ast.parse(line))


def code(tree: ast.Module) -> str:
    """The code without docstrings and comments, spelt alike however it was laid out."""
    prose = [n for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
    kept = [(node, node.value) for node in prose]
    for node in prose:
        node.value = ast.Constant(...)
    text = ast.unparse(tree)
    for node, value in kept:
        node.value = value
    return text


@cache
def every_code() -> dict[str, str]:
    return {module: code(parsed(module)) for module in MODULES}


# Of what the concept cannot be had without: the sign, the modules that bear it, and copies that must be noticed.
SIGNS: dict[str, tuple[str, dict[str, str], tuple[str, ...]]] = {
    "whether a writer lives": (
        r"\bfcntl\b|\bos\.kill\(|boot_id|/proc/self/ns|pid_exists",
        {"store/lock.py": "takes locks", "store/lock_holder.py": "asks who holds them"},
        ("os.kill(pid, 0)", "import fcntl", "from fcntl import flock", "psutil.pid_exists(who['pid'])"),
    ),
    "what a target is": (
        r"isinstance\([^)]*\b(zarr\.Group|Group|StorePath|FSMap)\b|is_zipfile|'\.(zip|ozx)'|startswith\('file:",
        {"schema/reading/target.py": "resolve_target"},
        (
            "if isinstance(target, zarr.Group):\n    pass", "isinstance(x, Group | StorePath)", "zipfile.is_zipfile(p)",
            "path.suffix == '.ozx'", "str(path).endswith(('.zip',))", "url.startswith('file://')",
        ),
    ),
    "what kind a tree is": (
        r"def kind_of\(|split\('@'|partition\('@'",
        {
            "slt/runs/kind.py": "kind_of",
            "schema/definition/spec.py": "kind_named",
            "schema/definition/load.py": "finds a schema by half its id",
        },
        ("def kind_of(obj):\n    return obj.attrs['kind']", "schema.partition('@')[0]", "named.rsplit('@', 1)"),
    ),
    "results side by side": (
        r"xr\.(concat|combine\w*|merge)\b|\b\w+\.pad\(\s*\{|constant_values=np\.nan|np\.full\(\(\*",
        {
            "slt/runs/side_by_side.py": "lay_out",
            "schema/checks/names_and_types.py": "a remedy says how xarray does it",
            "slt/susceptibilities/by_observable.py": "flatten orders entries of one result, without those masked",
            "demo/analysis.py": "a program of its own",
            "demo/baselines.py": "a program of its own",
        },
        (
            "xr.concat(results, dim='wr')", "xr.combine_nested(r, 'wr')", "values.pad({'chain': (0, 1)})",
            "np.pad(x, w, constant_values=np.nan)", "np.full((*shape, 3), np.nan)",
        ),
    ),
    "look-up in metadata": (
        r"\.get\('(attributes|metadata|config|run|provenance|sampler)', \{\}\)\.get\('",
        {},
        ("document.get('attributes', {}).get('metadata')", "attrs.get('metadata', {}).get('run', {})['chains']"),
    ),
    "which arrays the coordinator still owes": (
        r"prefix is None and .*!= 'draws_written'",
        {"store/writing/run.py": "unwritten"},
        ("[n for n, a in arrays.items() if a.spec.prefix is None and n != 'draws_written']",),
    ),
    "how a list stands in a message": (
        r"\{(sorted|list|tuple|set|frozenset)\([^{}]*\)(\[[^\]]*\])?\}|\{[\w.]+\.(shape|tolist\(\)|dims)(\[\d*:\d*\])?\}"
        r"|\brepr\((list|sorted|tuple)\(|\breprlib\b",
        {
            "slt/sampling/inputs/callables.py": "hashes a shape",
            "slt/sampling/inputs/nested.py": "tells kinds of values apart",
            "slt/sampling/inputs/parameter_masks.py": "hashes a shape",
        },
        (
            "raise ValueError(f'one of {sorted(known)}')", "f'one of {list(names)[:8]}'", "f'shape {x.shape[1:]}'",
            "f'the rows {rows.tolist()[:20]}'", "import reprlib", "problem(found=repr(sorted(names)))",
        ),
    ),
    "how what may be chosen stands in a message": (
        r"\bone of( \w+)* \{",
        {"wording.py": "one_of", "slt/sampling/inputs/parameter_masks.py": "says how many there are"},
        ("raise ValueError(f'one of {shown(sorted(known))}')", "f'one of {QUANTITIES}'", "'one of {}'.format(known)"),
    ),
    "how many cores there are": (
        r"sched_getaffinity|\bcpu_count\(",
        {"cores.py": "available_cores"},
        ("len(os.sched_getaffinity(0))", "os.cpu_count() or 1", "multiprocessing.cpu_count()"),
    ),
    "recorded order": (
        r"if (\w+) not in (order|listed|recorded|first)\)",
        {},
        ("[*listed, *(n for n in members if n not in listed)]", "(*order, *(o for o in found if o not in order))"),
    ),
    "the seed of a chain": (
        r"(init_seed|seed\)?) \+ (chain|c|index)\b",
        {"slt/sampling/settings.py": "chain_seed"},
        ("seed_generators(settings.init_seed + chain, device)", "self.init_seed + c", "int(seed) + chain"),
    ),
    "which positions the losses are of": (
        r"np\.arange\(1, (size|tokens|.*\.sizes\[.(token_pos|target_position).*|.*shape\[-1\]) \+ 1\)"
        r"|if '(token_pos|token|target_position\w*)' (not )?in \w+(\.coords)? else",
        {
            "slt/runs/positions.py": "target_positions",
            "slt/bif/strongest.py": "asks whether they are all",
        },
        (
            "np.arange(1, run.sizes['token_pos'] + 1)", "np.arange(1, loss.shape[-1] + 1)",
            "at = x['target_position'] if 'target_position' in x.coords else 0",
        ),
    ),
    "the mask of an observable": (
        r"\w+\[f'mask_\{|\.variable\(f'mask_\{|= f'mask_\{",
        {
            "slt/runs/masked_means.py": "row_mask",
            "schema/rules/members.py": "compares those of runs",
            "slt/sampling/running/initial_arrays.py": "writes them",
        },
        ("mask = run[f'mask_{name}'].values", "name = f'mask_{obs}'", "run.variable(f'mask_{obs}', dims)"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("concept", SIGNS)
def test_a_concept_stands_in_its_place_alone(concept: str) -> None:
    sign, places, _ = SIGNS[concept]
    found = {module for module, text in every_code().items() if re.search(sign, text)}
    assert found == set(places), f"{concept}: {places}"


@pytest.mark.parametrize(("concept", "copy"), [(c, copy) for c, (_, _, copies) in SIGNS.items() for copy in copies])
def test_a_copy_of_a_concept_is_noticed(concept: str, copy: str) -> None:
    tree = ast.parse(f"def again(target):\n{textwrap.indent(copy, '    ')}")
    assert re.search(SIGNS[concept][0], code(tree))


def meanings(module: ast.Module) -> Iterator[str]:
    """What docstrings say of parameters, the shortest left out."""
    for node in ast.walk(module):
        text = ast.get_docstring(node) if isinstance(node, ast.FunctionDef | ast.ClassDef) else None
        section = (text or "").partition("Parameters\n----------\n")[2].partition("\n\n")[0]
        for lines in re.findall(r"^\S.*\n((?: {4}.*\n?)+)", section, re.MULTILINE):
            if len(said := " ".join(lines.split())) > 90:
                yield said


def test_what_an_option_means_is_said_once() -> None:
    said = Counter(text for module in MODULES for text in meanings(parsed(module)))
    assert len(said) > 100
    assert [text for text, times in said.items() if times > 1] == [], "say 'As in `FUNCTION`.'"
