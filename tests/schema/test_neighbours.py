"""An installed extension that is broken harms only itself: a warning names it, and every other store is validated."""

from __future__ import annotations

import json
import sys
import warnings
from contextlib import nullcontext
from importlib.metadata import EntryPoint

import pytest
import xarray as xr

import devinterp
from devinterp.errors import DevinterpWarning, SchemaError
from devinterp.schema import available, load
from devinterp.schema.definition import load as loading
from devinterp.schema.rules import registry
from devinterp.testing import make_store, make_tree

SOUND = {"schema": "lab/sound", "version": 1, "doc": "D.", "extends": "devinterp/llc@1", "nodes": {}}
OTHER = {**SOUND, "schema": "lab/other", "extends": "lab/bad@1"}
UNKNOWN = [{"code": "LAB301", "predicate": "theirs"}]
VOTES = {"dims": ["chain"], "dtype": "int64", "unit": "1", "doc": "V."}


def variables(**own):
    return {"/": {"doc": "D.", "variables": own}}


BROKEN = {
    "cyclic": {**SOUND, "extends": "lab/bad@1"},
    "cyclic over another": {**SOUND, "extends": "lab/other@1"},
    "its base is gone": {**SOUND, "extends": "lab/gone@7"},
    "it loosens its base": {
        **SOUND,
        "nodes": variables(llc_mean={**VOTES, "dtype": "int8"}),
    },
    "an unknown dimension": {**SOUND, "nodes": variables(votes={**VOTES, "dims": ["voter"]})},
    "of another grammar": {**SOUND, "nodes": variables(votes={**VOTES, "colour": "red"})},
    "an unknown predicate": {
        **SOUND,
        "nodes": variables(votes={**VOTES, "checks": UNKNOWN}),
    },
    "attributes of no type": {**SOUND, "nodes": {"/": {"doc": "D.", "attributes": {"type": "objekt"}}}},
    "attributes with half a pattern": {
        **SOUND,
        "nodes": {"/": {"doc": "D.", "attributes": {"properties": {"by": {"pattern": "("}}}}},
    },
    "attributes described elsewhere": {
        **SOUND,
        "nodes": {"/": {"doc": "D.", "attributes": {"allOf": [{"$ref": "http://127.0.0.1:9/attributes.json"}]}}},
    },
    "no YAML": "a: [",
    "no text": b"\xff\xfe\x00",
    "not a mapping": [1, 2],
    "empty": "",
}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Register documents, by name, as another package would."""

    def call(**documents):
        folder = tmp_path / "their_package"
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        for name, document in documents.items():
            if not isinstance(document, bytes):
                text = document if isinstance(document, str) else json.dumps(document)
                document = text.encode()
            (folder / f"{name}.yaml").write_bytes(document)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "their_package", raising=False)
        entries = [EntryPoint(n, f"their_package:{n}", loading.ENTRY_POINT_GROUP) for n in documents]
        monkeypatch.setattr(loading, "entry_points", lambda group: entries)
        for cached in (loading._installed, loading._leave_out):
            cached.cache_clear()

    yield call
    monkeypatch.undo()
    for cached in (loading._installed, loading._leave_out):
        cached.cache_clear()


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_document_harms_only_itself(install, tmp_path, kind):
    bad = BROKEN[kind]
    bad = {**bad, "schema": "lab/bad"} if isinstance(bad, dict) else bad
    install(bad=bad, sound=SOUND, **({"other": OTHER} if kind == "cyclic over another" else {}))
    path = make_store(tmp_path / "s.zarr", "bif")
    nameless = xr.DataTree(make_tree("llc").to_dataset().drop_attrs(deep=False))
    loads = kind == "an unknown predicate"  # which is looked for where a store is held against it
    with nullcontext() if loads else pytest.warns(DevinterpWarning, match="bad|other"):
        assert devinterp.validate(nameless).kind == "llc"
    warnings.simplefilter("error")  # and never again
    assert devinterp.validate(path).ok
    assert devinterp.open_store(path).devinterp.kind == "bif"
    assert {"lab/sound@1", "devinterp/bif@1"} <= set(available())
    assert load("lab/sound").extends == ("devinterp/llc@1",)
    if not loads:
        with pytest.raises(SchemaError):
            load("lab/bad")
    report = devinterp.validate(make_tree("llc").to_dataset().assign_attrs(devinterp_schema="lab/bad@1"))
    assert "DI005" in report.codes
    assert devinterp.validate(make_tree("llc").to_dataset().assign_attrs(devinterp_schema="lab/sound@1")).ok


RAISING = ["raise RuntimeError('no')", "import not_there_at_all", "1/0", "def (", "raise SystemExit(3)"]


@pytest.mark.parametrize("text", RAISING)
def test_broken_predicates_harm_only_those_who_need_them(tmp_path, monkeypatch, text):
    devinterp.validate(make_tree("llc"))  # whose own imports look for entry points too
    (tmp_path / "bad_rules.py").write_text(text)
    (tmp_path / "good_rules.py").write_text(
        "from devinterp.schema import predicate\n@predicate('neighbourly')\ndef f(values):\n    return values < 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("bad_rules", "good_rules"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    entries = [EntryPoint(n, n, registry.ENTRY_POINT_GROUP) for n in ("bad_rules", "good_rules")]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: entries)
    registry._load_installed.cache_clear()
    try:
        with pytest.warns(DevinterpWarning, match="'bad_rules'"):
            assert registry.find_predicate("neighbourly").name == "neighbourly"
        with pytest.raises(SchemaError, match="no predicate 'theirs'"):
            registry.find_predicate("theirs")
        assert devinterp.validate(make_tree("llc")).ok
    finally:
        registry._REGISTRY.pop("neighbourly", None)
        registry._load_installed.cache_clear()
