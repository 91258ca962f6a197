"""From the patterns of a document to concrete arrays, and from names back to patterns."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devinterp.errors import SchemaError
from devinterp.schema import load
from devinterp.schema.definition.layout import bindings, chunk_shape
from devinterp.schema.definition.spec import VariableSpec, legal_dims, match_pattern, stored_types


def document(**node: Any) -> dict[str, Any]:
    variable = {"dtype": "float32", "unit": "nat", "doc": "loss of {obs}"}
    return {
        "schema": "lab/deep/x",
        "version": 3,
        "doc": "x",
        "parameters": {
            "n": {"path": "n", "type": "integer", "doc": "x", "default": 4},
            "keep": {"path": "keep", "type": "boolean", "doc": "x"},
            "flat": {"path": "flat", "type": "boolean", "doc": "x", "default": True},
        },
        "families": {
            "obs": {"doc": "x", "path": "obs", "key": "id", "parameters": {"k": {"type": "integer", "doc": "x"}}}
        },
        "nodes": {
            "/": {
                "doc": "x",
                "dimensions": {
                    "pair": {"doc": "x", "size": "draw * 2"},  # refers to what comes later
                    "draw": {"doc": "x", "size": "n + 1"},
                    "row_{obs}": {"doc": "x", "size": "k * n"},
                    "free": {"doc": "x"},
                },
                "variables": {
                    "loss_{obs}": {**variable, "dims": ["draw", "row_{obs}"], "chunks": {"draw": 2}},
                    "twice": {**variable, "dims": ["pair"]},
                    "kept": {
                        **variable,
                        "dims": ["draw"],
                        "presence": {"when": "keep"},
                        "doc_unless": {"flat": "loss of rows"},
                    },
                    "wish": {**variable, "dims": ["free"], "presence": "optional"},
                    "never": {**variable, "dims": ["draw"], "presence": "forbidden"},
                },
                **node,
            }
        },
    }


SCHEMA = load(document())
MEMBERS = {"obs": {"a": {"k": 1}, "b": {"k": 3}}}


def test_sizes_follow_from_parameters_members_and_each_other() -> None:
    layout = SCHEMA.resolve({}, members=MEMBERS)
    assert layout.path == "/"
    assert {n: a.shape for n, a in layout.arrays.items()} == {"loss_a": (5, 4), "loss_b": (5, 12), "twice": (10,)}
    assert layout.sizes == {"draw": 5, "row_a": 4, "row_b": 12, "pair": 10}
    assert SCHEMA.resolve({"n": 1}, members=MEMBERS).arrays["loss_b"].shape == (2, 3)
    assert SCHEMA.resolve({}, members=MEMBERS, sizes={"draw": 7}).sizes == {
        "draw": 7,
        "row_a": 4,
        "row_b": 12,
        "pair": 14,
    }
    assert set(SCHEMA.resolve({}).arrays) == {"twice"}


def test_an_array_says_all_that_its_variable_declares() -> None:
    array = SCHEMA.resolve({}, members=MEMBERS).arrays["loss_b"]
    assert (array.name, array.dims, array.dtype, array.chunks) == ("loss_b", ("draw", "row_b"), "float32", (2, 12))
    assert array.fill != array.fill
    assert array.attrs == {"long_name": "loss of b", "units": "nat"}
    assert array.spec is SCHEMA.node().variables["loss_{obs}"]
    assert array.nbytes == 5 * 12 * 4


def test_a_variable_says_what_it_means_in_the_case_at_hand() -> None:
    for flat, meaning in ((True, "loss of {obs}"), (False, "loss of rows")):
        assert SCHEMA.resolve({"keep": True, "flat": flat}).arrays["kept"].attrs["long_name"] == meaning
    assert SCHEMA.resolve({"keep": True}).arrays["kept"].attrs["long_name"] == "loss of {obs}"


def test_variables_are_there_by_their_presence() -> None:
    def there(parameters: Any = (), optional: Any = (), **sizes: int) -> set[str]:
        return set(SCHEMA.resolve(dict(parameters), optional=set(optional), sizes=sizes).arrays)

    assert there() == {"twice"}
    assert there({"keep": False}) == {"twice"}
    assert there({"keep": True}) == {"twice", "kept"}
    assert there(optional=["wish"], free=3) == {"twice", "wish"}
    assert there(optional=["kept"]) == {"twice"}


def test_a_size_that_nothing_gives_is_named() -> None:
    with pytest.raises(SchemaError, match="'free' of 'wish' is not known"):
        SCHEMA.resolve({}, optional={"wish"})


def test_strings_count_as_pointers() -> None:
    schema = load(
        document(
            dimensions={"free": {"doc": "x"}},
            variables={
                n: {"dims": ["free"], "dtype": n, "unit": "1", "doc": "x"}
                for n in ("string", "text", "int16", "float64")
            },
        )
    )
    arrays = schema.resolve({}, sizes={"free": 3}).arrays
    assert {n: a.nbytes for n, a in arrays.items()} == {"string": 24, "text": 24, "int16": 6, "float64": 24}


@pytest.mark.parametrize(
    ("chunks", "shape", "cut"),
    [({}, (3, 4), (3, 4)), ({"a": 2}, (3, 4), (2, 4)), ({"a": 9, "b": 1}, (3, 4), (3, 1)), ({"a": 2}, (0, 0), (1, 1))],
)
def test_chunks_are_as_declared_and_never_larger_than_the_array_nor_empty(chunks: Any, shape: Any, cut: Any) -> None:
    spec = VariableSpec("x", ("a", "b"), "float32", "1", "x", chunks=chunks)
    assert chunk_shape(spec, ("a", "b"), shape) == cut


def test_bindings_are_the_members_of_the_family_in_the_name() -> None:
    members = {"obs": {"a": {}, "b": {}}, "restriction": {"full": {}}}
    assert list(bindings("loss_{obs}", members)) == [{"obs": "a"}, {"obs": "b"}]
    assert list(bindings("/{restriction}", members)) == [{"restriction": "full"}]
    assert list(bindings("loss", members)) == [{}]
    assert list(bindings("loss_{cell}", members)) == []


@pytest.mark.parametrize(
    ("pattern", "name", "separator", "found"),
    [
        ("loss_{obs}", "loss_code", None, {"obs": "code"}),
        ("loss_{obs}", "loss_", None, None),
        ("loss_{obs}", "loss_a/b", None, None),
        ("loss_{obs}", "xloss_a", None, None),
        ("a.b", "a.b", None, {}),
        ("a.b", "axb", None, None),
        ("/{wr}", "/l0h0 mlp", "/", {"wr": "l0h0 mlp"}),
        ("/{wr}", "/a/b", "/", None),
        ("/{wr}/x", "/a/x", "/", {"wr": "a"}),
        ("{wr}", "l0h0 mlp", None, None),
    ],
)
def test_patterns_match_whole_names_within_one_part_of_a_path(
    pattern: str, name: str, separator: str | None, found: Any
) -> None:
    assert match_pattern(pattern, name, separator) == found


@given(st.from_regex(r"\w{1,8}", fullmatch=True), st.from_regex(r"\w{0,8}", fullmatch=True))
def test_what_is_filled_in_is_found_again(member: str, prefix: str) -> None:
    assert match_pattern(prefix + "{obs}", prefix + member) == {"obs": member}


def test_the_longest_literal_part_wins_and_an_exact_name_before_it() -> None:
    node = load("samples").node()
    for name, spec, placeholders in (
        ("loss_init", "loss_{obs}", {"obs": "init"}),
        ("init_loss_x", "init_loss_{obs}", {"obs": "x"}),
        ("init_loss", "init_loss", {}),
    ):
        found = node.find(name)
        assert found is not None
        assert (found[0].name, found[1]) == (spec, placeholders)
    assert node.find("temperature") is None


def test_a_literal_path_comes_before_a_pattern() -> None:
    node = {"doc": "x"}
    schema = load(
        {**document(), "nodes": {"/": node, "/{obs}": node, "/full": node, "/{obs}/deep": node}},
    )
    for path, found in (("/full", "/full"), ("/x y", "/{obs}"), ("/x/deep", "/{obs}/deep"), ("/", "/")):
        match = schema.match_node(path)
        assert match is not None
        assert match[0].path == found
    assert schema.match_node("/x/y") is None
    assert schema.node("/{obs}").placeholders == ("obs",)
    assert schema.node().path == "/"
    with pytest.raises(KeyError):
        schema.node("/nothing")


def test_a_schema_has_an_id_and_the_kind_that_it_goes_back_to() -> None:
    assert (SCHEMA.id, SCHEMA.kind) == ("lab/deep/x@3", "x")
    extension = load({"schema": "lab/y", "version": 2, "extends": "devinterp/samples@1", "doc": "x"})
    assert (extension.id, extension.kind) == ("lab/y@2", "samples")


def test_leading_dimensions_stand_before_every_legal_tuple_in_their_order() -> None:
    spec = VariableSpec("x", ("a",), "string", "1", "x", alternatives=(("b",),), leading=("wr", "checkpoint"))
    assert spec.legal_dims() == (
        ("a",), ("b",), ("checkpoint", "a"), ("checkpoint", "b"), ("wr", "a"), ("wr", "b"),
        ("wr", "checkpoint", "a"), ("wr", "checkpoint", "b"),
    )  # fmt: skip
    named = VariableSpec("loss_{obs}", ("row_{obs}",), "float32", "1", "x")
    assert legal_dims(named, {"obs": "a"}) == [("row_a",)]
    assert named.placeholders == ("obs",)


@pytest.mark.parametrize(("dtype", "count"), [("string", 2), ("text", 2), ("float32", 1)])
def test_names_may_be_stored_as_either_sort_of_string(dtype: str, count: int) -> None:
    stored = stored_types(VariableSpec("x", (), dtype, "1", "x"))
    assert stored == (("string", "fixed_length_utf32") if count == 2 else (dtype,))
