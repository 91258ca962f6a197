"""The exported JSON Schema and the validator judge the same documents alike, but for what JSON Schema cannot say."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from devinterp.schema import RuleCode, load, validate
from devinterp.testing import make_store

KINDS = (
    "samples", "study", "series", "llc", "bif", "bif_topk", "susceptibilities", "sweep", "sweep_summary", "waic",
    "wbic", "reweighting",
)  # fmt: skip
PROFILES = [(kind, profile) for kind in KINDS for profile in load(kind).profiles]

# What JSON Schema cannot say: it computes nothing, and sees no setting where it looks at an array.
BEYOND = {
    RuleCode.SIZE, RuleCode.SIZE_CONFLICT, RuleCode.CHUNK_GRID, RuleCode.ROLE,
    RuleCode.ABSURD_SHAPE,  # sizes beyond a limit, or as many as there are dimensions
    RuleCode.MISSING_VARIABLE, RuleCode.FORBIDDEN_VARIABLE,  # where a setting asks for it or forbids it
    RuleCode.MISSING_GROUP,
    RuleCode.UNKNOWN_KIND, RuleCode.UNKNOWN_SCHEMA, RuleCode.OTHER_SCHEMA, RuleCode.INCOMPLETE,
}  # fmt: skip
RULES = {code for code in RuleCode if code.value.startswith("DI4")}  # relations between attributes and groups


@cache
def documents(kind: str, profile: str, folder: str) -> str:
    """The root's document of a valid store, as text."""
    store = Path(make_store(Path(folder) / f"{kind} {profile}.zarr", kind, profile=profile))
    return (store / "zarr.json").read_text()


@cache
def exported(kind: str, profile: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(load(kind, profile=profile).to_json_schema())


def findings(kind: str, profile: str, root: dict[str, Any]) -> list[Any]:
    """What the validator says of a store whose every document is that of the root's consolidated metadata."""
    make = default_buffer_prototype().buffer.from_bytes
    texts = {"zarr.json": root, **{f"{k}/zarr.json": d for k, d in root["consolidated_metadata"]["metadata"].items()}}
    store = MemoryStore({key: make(json.dumps(text).encode()) for key, text in texts.items()})
    return list(validate(store, schema=kind, profile=profile, level="structure").errors)


def dims(document: dict[str, Any]) -> list[str]:
    return document.get("dimension_names") or []


def of_no_observable(finding: Any) -> bool:
    """Whether a variable is not declared only because settings list no such observable."""
    name = finding.path.rpartition("/")[2]
    return finding.code == RuleCode.UNDECLARED_VARIABLE and load("samples").node("/").find(name) is not None


def of_a_loss(finding: Any, kind: str, root: dict[str, Any]) -> bool:
    """Whether a unit is wrong that a setting decides, and is text."""
    if finding.code != RuleCode.UNIT or kind == "sweep_summary":
        return False
    attributes = root["consolidated_metadata"]["metadata"][finding.path.strip("/")]["attributes"]
    decided = "nat" in str(finding.expected) or "loss_unit" in json.dumps(root["attributes"])
    return decided and isinstance(attributes["units"], str)


def short(document: dict[str, Any], number: int) -> None:
    codec = document["codecs"][number % len(document["codecs"])]
    document["codecs"] = [c["name"] if c is codec else c for c in document["codecs"]]


def hexadecimal(document: dict[str, Any], number: int) -> None:
    if document["fill_value"] == "NaN" and isinstance(document["data_type"], str):
        wide = {"float32": ["0x7fc00000", "0xFFC00001"], "float64": ["0x7ff8000000000000", "0xFFF8000000000001"]}
        document["fill_value"] = wide[document["data_type"]][number % 2]


RESPELLINGS = {
    "a codec in its short form": short,
    "NaN in bytes": hexadecimal,
    "a type as an object": lambda d, n: (
        d.update(data_type={"name": d["data_type"]}) if isinstance(d["data_type"], str) else None
    ),
    "keys in their short form": lambda d, n: d.update(
        chunk_key_encoding=["default", {"name": "default"}, {"name": "default", "configuration": {}}][n % 3]
    ),
    "no names of no dimensions": lambda d, n: d.update(dimension_names=None) if not d["shape"] else None,
    "no transformers": lambda d, n: d.update(storage_transformers=[None, []][n % 2]),
    "what need not be understood": lambda d, n: d.update({f"x{n}": {"name": "of a writer", "must_understand": False}}),
    "no unit": lambda d, n: d.get("attributes", {}).pop("units", None),
    "a marker of NaN": lambda d, n: (
        d["attributes"].update(_FillValue=["AAAAAAAA+H8=", "AAAAAAAA+P8=", "AQAAAAAA8H8=", "//////////8="][n % 4])
        if str(d["data_type"]).startswith("float")
        else None
    ),
    "another attribute": lambda d, n: d.setdefault("attributes", {}).update({"note": [n, "x", None][n % 3]}),
}
JUNK = [None, 3, "x", [], {}, [1], {"name": "x"}, True, -1, [None]]
MEMBERS = (
    "shape", "data_type", "chunk_grid", "chunk_key_encoding", "codecs", "dimension_names", "attributes", "node_type",
    "zarr_format", "fill_value", "storage_transformers",
)  # fmt: skip
BREAKAGES = {
    "a member is gone": lambda d, n: d.pop(sorted(d)[n % len(d)]),
    "a member is something else": lambda d, n: d.update({MEMBERS[n % len(MEMBERS)]: JUNK[n // 11 % len(JUNK)]}),
    "an unknown member": lambda d, n: d.update({"x": [1, {}, {"must_understand": True}][n % 3]}),
    "another type": lambda d, n: d.update(data_type=["int8", "float16", "uint64", "object", {"name": "int16"}][n % 5]),
    "other dimensions": lambda d, n: d.update(
        dimension_names=[[*dims(d), "x"], dims(d)[::-1], ["x", *dims(d)[1:]]][n % 3]
    ),
    "another unit": lambda d, n: d["attributes"].update(units=["nats", "", 3, ["nat"]][n % 4]),
    "another codec": lambda d, n: d.update(
        codecs=[
            list(reversed(d["codecs"])),
            d["codecs"][1:],
            [*d["codecs"], {"name": "gzip"}],
            [{"name": "blosc"}],
            ["pickle"],
        ][n % 5]
    ),
    "other keys": lambda d, n: d.update(
        chunk_key_encoding=[
            "v2",
            {"name": "v2"},
            {"name": "default", "configuration": {"separator": "."}},
            {"name": "odd"},
        ][n % 4]
    ),
    "another fill": lambda d, n: d.update(fill_value=[0, 1.5, "Infinity", "0x3f800000", "nan", None][n % 6]),
    "another grid": lambda d, n: d.update(
        chunk_grid=["regular", {"name": "regular"}, {"name": "rectangular", "configuration": {}}][n % 3]
    ),
    "decoding": lambda d, n: d["attributes"].update(
        {["scale_factor", "add_offset", "missing_value", "_Unsigned"][n % 4]: 2}
    ),
    "_FillValue": lambda d, n: d["attributes"].update(
        _FillValue=[0, -1, 7, None, "NaN", "AAAAAAAA8H8=", "AADAfw==", "AAAAAAAA+H9=", "AAAAAAAAAAA=", [1]][n % 10]
    ),
}


def change(root: dict[str, Any], draw: Any) -> str:
    """Respell some arrays of a document, break at most one thing; return what was broken, or nothing."""
    nodes = root["consolidated_metadata"]["metadata"]
    arrays = sorted(k for k, d in nodes.items() if d["node_type"] == "array")
    numbers = st.integers(0, 1000)
    for path in draw(st.lists(st.sampled_from(arrays), max_size=3, unique=True)):
        for name in draw(st.lists(st.sampled_from(sorted(RESPELLINGS)), max_size=3, unique=True)):
            RESPELLINGS[name](nodes[path], draw(numbers))
    broken = draw(st.sampled_from(["", *sorted(BREAKAGES), "renamed", "removed", "undeclared", "attribute"]))
    path = draw(st.sampled_from(arrays))
    if broken in BREAKAGES:
        BREAKAGES[broken](nodes[path], draw(numbers))
    elif broken == "renamed":
        nodes[f"{path}_x"] = nodes.pop(path)
    elif broken == "removed":
        nodes.pop(path)
    elif broken == "undeclared":
        nodes["a group of mine"] = {"node_type": "group", "zarr_format": 3, "attributes": {}}
    elif broken == "attribute":
        attributes = root["attributes"]
        name = draw(st.sampled_from(sorted(attributes)))
        attributes[name] = draw(st.sampled_from(JUNK))
    return f"{broken}: {path}" if broken else ""


@pytest.mark.parametrize(("kind", "profile"), PROFILES)
@settings(max_examples=8, deadline=None, phases=[Phase.generate])  # of each of 22 kinds and profiles
@given(data=st.data())
def test_both_accept_or_both_refuse(kind: str, profile: str, tmp_path_factory: Any, data: Any) -> None:
    root = json.loads(documents(kind, profile, str(tmp_path_factory.getbasetemp())))
    what = change(root, data.draw)
    found = findings(kind, profile, root)
    problems = list(exported(kind, profile).iter_errors(root))
    said = [f"{e.json_path}: {e.message[:200]}" for e in problems]
    if not found:
        assert not problems, (what, said)
    elif not all(f.code in BEYOND | RULES or of_no_observable(f) or of_a_loss(f, kind, root) for f in found):
        assert problems, (what, [f"{f.code} {f.path} {f.message} {f.found}" for f in found])
    if not what:
        assert not found, [f"{f.code} {f.path} {f.message} {f.found}" for f in found]


@pytest.mark.parametrize(("kind", "profile"), PROFILES)
def test_a_shape_of_another_number_of_dimensions_is_refused_by_both(
    kind: str, profile: str, tmp_path_factory: Any
) -> None:
    text = documents(kind, profile, str(tmp_path_factory.getbasetemp()))
    nodes = json.loads(text)["consolidated_metadata"]["metadata"]
    arrays = [path for path, node in nodes.items() if node["node_type"] == "array"][:6]
    for path in arrays:
        root = json.loads(text)
        document = root["consolidated_metadata"]["metadata"][path]
        document["shape"] = document["shape"][1:] if document["shape"] else [1]
        assert not exported(kind, profile).is_valid(root), path
        assert path != arrays[0] or findings(kind, profile, root)


READERS = Path(__file__).resolve().parents[2] / "benchmarks" / "readers"


@pytest.mark.skipif(shutil.which("node") is None, reason="node is missing")
@pytest.mark.skipif(
    not (READERS / "node_modules/ajv").exists(), reason="ajv is missing: npm ci in tests/benchmarks/readers"
)
def test_ajv_compiles_every_schema_in_strict_mode_and_judges_alike(tmp_path: Path) -> None:
    schemas, judged = {}, {}
    for kind, profile in PROFILES:
        root = json.loads(documents(kind, profile, str(tmp_path)))
        broken = []
        for number, name in enumerate(sorted(RESPELLINGS) + sorted(BREAKAGES)):
            document = json.loads(json.dumps(root))
            nodes = document["consolidated_metadata"]["metadata"]
            arrays = sorted(k for k, d in nodes.items() if d["node_type"] == "array")
            {**RESPELLINGS, **BREAKAGES}[name](nodes[arrays[number % len(arrays)]], number)
            broken.append(document)
        schemas[f"{kind} {profile}"] = load(kind, profile=profile).to_json_schema()
        judged[f"{kind} {profile}"] = [root, *broken]
    asked = json.dumps({"schemas": schemas, "documents": judged}, allow_nan=False)
    run = subprocess.run(
        ["node", READERS / "compile_schemas.mjs"], input=asked, capture_output=True, text=True, check=True
    )
    answers = json.loads(run.stdout)
    assert {name: answer["error"] for name, answer in answers.items() if answer["error"]} == {}
    for kind, profile in PROFILES:
        name, judge = f"{kind} {profile}", exported(kind, profile)
        assert answers[name]["verdicts"] == [judge.is_valid(d) for d in judged[name]], name
        assert answers[name]["verdicts"][0]
        assert not all(answers[name]["verdicts"])
