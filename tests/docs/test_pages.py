"""Pages agree with the code: generated pages, internal links, names, signatures and defaults."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import links
import pages as generated
import pytest
import yaml
from docs_pages import DOCS, ROOT, blocks_of, pages

from devinterp.schema import RuleCode, load
from devinterp.schema.definition.load import schemas_folder
from devinterp.slt.estimands import ESTIMANDS, parameter_docs

PUBLIC = {
    "devinterp": ("open_store", "sample", "sample_restrictions", "sweep", "validate"),
    "devinterp.slt.sampling": None,
    **dict.fromkeys(each.compute.partition(":")[0] for each in ESTIMANDS.values()),
    "devinterp.slt.susceptibilities.by_observable": None,
    "devinterp.slt.susceptibilities.matrix": ("matrix", "pca"),
    "devinterp.slt.susceptibilities.split_half": None,
    "devinterp.slt.diagnostics": None,
    "devinterp.slt.uncertainty.arviz": None,
    "devinterp.slt.sweep": ["compute_sweep"],
    "devinterp.slt.sweep.recommend": ["Criterion", "Neighbour", "Recommendation", "recommend"],
    "devinterp.slt.weight_restrictions": None,
    "devinterp.accessor": None,
    "devinterp.schema": None,
    "devinterp.plot": None,
    "devinterp.testing": None,
    "devinterp.utils": None,
}

# The signature that the contract fixes, reference's defaults included.
SAMPLE = (
    "model dataset observables lr n_beta param_masks=None num_chains=4 num_draws=200 batch_size=32 num_burnin_steps=0 "
    "num_steps_bw_draws=1 num_init_loss_batches=32 init_seed=100 batches_per_draw=3 obs_seed=1337 "
    "gradient_accumulation_steps=1 localization=0.0 noise_level=1.0 llc_weight_decay=0.0 bounding_box_size=None "
    "sampling_method='sgmcmc_sgld' sampling_method_kwargs=None rmsprop_eps=None rmsprop_alpha=None shuffle=True "
    "match_sampling_input_ids_across_chains=True init_noise=None device=None save_metrics=False output_path=None "
    "loss_fn=None"
)


def public_objects() -> list[tuple[str, Any]]:
    found = []
    for module, names in PUBLIC.items():
        loaded = importlib.import_module(module)
        for name in names or loaded.__all__:
            found.append((f"{module}.{name}", getattr(loaded, name)))
    return found


def resolve(dotted: str) -> Any:
    """The object of a dotted name, or a LookupError."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                raise LookupError(dotted)
            found = getattr(found, part)
        return found
    raise LookupError(dotted)


def test_every_public_name_stands_in_the_api_pages() -> None:
    written = [p.read_text(encoding="utf-8") for p in (DOCS / "api").glob("*.md") if p.name != "estimands.md"]
    api = "\n".join([*written, generated.estimands_page()])
    directives = set(re.findall(r"\.\. (?:auto|py:)\w+:: ([\w.]+)", api))
    last = {name.rsplit(".", 1)[-1] for name in directives}
    assert [name for name, _ in public_objects() if name.rsplit(".", 1)[-1] not in last] == []


def test_every_name_in_the_api_pages_exists() -> None:
    for page in (DOCS / "api").glob("*.md"):
        module = ""
        for kind, name in re.findall(
            r"\.\. (auto\w+|py:\w+|currentmodule):: ([\w.]+)", page.read_text(encoding="utf-8")
        ):
            if kind == "currentmodule":
                module = name
            else:
                found = resolve(name if name.startswith("devinterp") else f"{module}.{name}")
                assert kind != "autodata" or not isinstance(found, (tuple, dict, str)), f"{name}: told as its type is"


@pytest.mark.parametrize(("name", "function"), [(n, o) for n, o in public_objects() if inspect.isfunction(o)])
def test_docstrings_describe_the_parameters_that_there_are(name: str, function: Any) -> None:
    parameters = [
        {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "") + p.name
        for p in inspect.signature(function).parameters.values()
    ]
    assert sorted(parameter_docs(function)) == sorted(parameters), name


def test_sample_has_the_signature_of_the_contract() -> None:
    from devinterp import sample

    given = [
        p.name if p.default is p.empty else f"{p.name}={p.default!r}"
        for p in inspect.signature(sample).parameters.values()
    ]
    assert " ".join(given[: len(SAMPLE.split())]) == SAMPLE


def test_names_of_ours_in_the_pages_exist() -> None:
    wrong = []
    for page in pages():
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
        for dotted in set(re.findall(r"`~?(devinterp(?:\.\w+)+)(?:\(\))?`", text)):
            try:
                resolve(dotted)
            except LookupError:
                if dotted not in {
                    "devinterp.optim",
                    "devinterp.schemas",
                    "devinterp.predicates",
                }:  # devinterp 2; entry points
                    wrong.append(f"{page.relative_to(ROOT)}: {dotted}")
    assert wrong == []


def test_links_between_sources_lead_somewhere(tmp_path: Path) -> None:
    written = {p.name for p in (DOCS / "formats").glob("*.md")} | {f"{c.value}.md" for c in RuleCode}
    written |= {Path(name).name for name in generated.SINGLE}
    written |= {f"{kind}.md" for kind in generated.our_schemas()}
    wrong = []
    for page in pages():
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            parts = urlsplit(target)
            if parts.scheme or not parts.path or parts.path in ("index.md",):
                continue
            path = (DOCS / parts.path[1:]) if parts.path.startswith("/") else page.parent / unquote(parts.path)
            if not path.exists() and path.name not in written:
                wrong.append(f"{page.relative_to(ROOT)}: {target}")
    assert wrong == []


def test_schema_pages_follow_the_schema(tmp_path: Path) -> None:
    for kind, schema in generated.our_schemas().items():
        text = generated.schema_page(schema, tmp_path / f"{kind}.yaml")
        assert schema.id in text
        for node in schema.nodes:
            for spec in node.variables.values():
                row = next(line for line in text.splitlines() if line.startswith(f"| `{spec.name}` | "))
                assert row
                assert f"| {spec.dtype} | {spec.unit} | {generated.presence(spec)} |" in text
            for code in [c.code for v in node.variables.values() for c in v.checks] + [r.code for r in node.rules]:
                assert f"[{code}](/codes/{code}.md)" in text


def test_a_change_of_the_schema_changes_the_page(tmp_path: Path) -> None:
    document = dict(load("samples").document)
    before = generated.schema_page(load(document), tmp_path / "samples.yaml")
    nodes = {k: dict(v) for k, v in document["nodes"].items()}
    variables = dict(nodes["/"]["variables"])
    variables["step_loss"] = {**variables["step_loss"], "dtype": "float64", "unit": "bit"}
    nodes["/"]["variables"] = variables
    after = generated.schema_page(load({**document, "nodes": nodes}), tmp_path / "samples.yaml")
    changed = [(a, b) for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert len(changed) == 1
    assert "| float64 | bit |" in changed[0][1]


def test_code_pages_say_what_the_codes_say() -> None:
    uses = generated.uses_of_codes(generated.our_schemas())
    index = generated.code_index()
    for rule in RuleCode:
        text = generated.code_page(rule, uses.get(rule.value, []))
        assert rule.title in text
        for said in (rule.meaning, rule.remedy):
            assert said.replace("`", "") in text.replace("`", "")
        prose = re.sub(r"`[^`]*`", "", text)
        assert not re.search(r"--[a-z]|\w=|\w\[|\w\((?!s\))", prose), f"code that is not marked: {prose}"
        assert rule.slug in text
        assert index.count(f"](/codes/{rule.value}.md)") == 1


def test_examples_of_codes_are_findings_of_that_code() -> None:
    text = generated._example("DI501")
    assert "error DI501 " in text
    assert "/tmp" not in text


@pytest.mark.parametrize(
    "tex", [r"\bar\ell_{tp}", r"\bar{\ell}_p", r"\hat x_1", r"\tilde\pi_i(w)", r"\bar\ell_p^0", r"\bar\ell^0_p"]
)
def test_the_index_of_an_accented_letter_stands_beside_it(tex: str) -> None:
    """A converter that sets it below draws another formula."""
    pytest.importorskip("sphinx", reason="what builds the pages is not installed: make docs brings it")
    import mathml

    drawn = mathml.to_mathml(tex, block=True)
    assert "munder" not in drawn
    assert "<msub" in drawn


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("metadata.config.sampler.num_chains", ["metadata.", "config.", "sampler.", "num_", "chains"]),
        ("/susceptibilities/l0_h1", ["/susceptibilities/", "l0_", "h1"]),
        ("dict(method=&quot;token&quot;)", ["dict(", "method=&quot;", "token&quot;)"]),
        ("loss_{obs}", ["loss_", "{obs}"]),
        ("0.001", ["0.001"]),
        ("_private", ["_private"]),
    ],
)
def test_names_break_behind_their_joints_alone(name: str, parts: list[str]) -> None:
    pytest.importorskip("sphinx", reason="what builds the pages is not installed: make docs brings it")
    import narrow

    page = f'<a href="metadata.html#a_b"><code><span class="pre">{name}</span></code></a> a_b'
    page += f"<dt><strong>{name}</strong></dt><dd><strong>a_b</strong></dd>"
    assert narrow.with_breaks(page) == page.replace(name, "<wbr>".join(parts))


def test_tables_that_a_phone_cannot_hold_become_cards() -> None:
    """Of 3 columns of short words; of one with a long name beside sentences; of a name that may break."""
    pytest.importorskip("sphinx", reason="what builds the pages is not installed: make docs brings it")
    import narrow

    assert not narrow.too_wide([("name", "size", "there"), ("chain", "2", "always")])
    assert narrow.too_wide(
        [("name", "dims", "type", "unit", "there", "meaning"), ("a", "b", "c", "d", "e", 8 * "word ")]
    )
    assert narrow.too_wide([("name", "meaning"), ("unbreakable" * 4, "words of a sentence")])
    assert not narrow.too_wide([("name", "meaning"), ("metadata.config.sampler.num_chains", "words of a sentence")])


def test_lists_and_empty_texts_of_a_schema_are_words() -> None:
    page = generated.schema_page(load("llc"), schemas_folder() / "llc.yaml")
    assert "`unless_without`: (`completed`)" in page
    assert "``" not in page.replace("```", "")
    assert "['" not in generated.schema_page(load("samples"), schemas_folder() / "samples.yaml")


def test_what_an_optional_attribute_requires_is_not_always_there() -> None:
    page = generated.schema_page(load("study"), schemas_folder() / "study.yaml")
    (row,) = (line for line in page.splitlines() if line.startswith("| `metadata.selection.left_out` |"))
    assert row.endswith("| where `metadata.selection` is |")


def test_every_rule_of_a_group_says_what_it_holds(tmp_path: Path) -> None:
    """Two rules of one code were the same row twice, with its arguments as the only hint."""
    for schema in generated.our_schemas().values():
        rows = [line for line in generated.schema_page(schema, tmp_path / "a.yaml").splitlines() if "](/codes/" in line]
        for node in schema.nodes:
            said = [generated._must_hold(rule) for rule in node.rules]
            assert len(set(said)) == len(said)
            assert all(any(f"| {each} | the group |" in row for row in rows) for each in said)


def test_rules_that_a_variable_implies_stand_on_the_pages_of_their_codes() -> None:
    uses = generated.uses_of_codes(generated.our_schemas())
    assert any("`sampling_loss`" in use for use in uses["DI307"])
    (samples,) = (use for use in uses["DI309"] if use.startswith("[samples]"))
    assert "`loss_{obs}`" in samples
    assert "`init_loss`" not in samples  # a mean over rows, of which no mask speaks


def test_examples_are_found_anew_where_anything_they_come_from_changes(tmp_path: Path) -> None:
    """What lay in folders below, and the words of the codes, could change unnoticed."""
    inner = tmp_path / "inner"
    inner.mkdir()
    seen = {generated.digest_of(tmp_path)}
    for name in ("rules.py", "words.yaml"):
        (inner / name).write_text(name)
        seen.add(generated.digest_of(tmp_path))
    assert len(seen) == 3


def test_the_page_that_an_old_name_is_sent_to_is_there() -> None:
    with pytest.raises(ImportError) as told:
        exec("from devinterp.optim import SGLD", {})
    page, section = re.findall(r"'([^']+)'", str(told.value))[-2:]
    (text,) = (p.read_text() for p in (DOCS / "howto").glob("*.md") if p.read_text().startswith(f"# {page}\n"))
    assert f"\n## {section}\n" in text


def test_the_command_line_page_has_every_command() -> None:
    text = generated.cli_page()
    for command in ("validate", "info", "schema", *ESTIMANDS, "demo", "report"):
        assert f"## devinterp {command}\n" in text


def test_the_check_of_built_pages_finds_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<h1 id="top"></h1><a href="b.html#x"></a><a href="#top"></a><img src="p.png">')
    (tmp_path / "b.html").write_text('<script src="https://cdn.example/x.js"></script><a href="c.html"></a>')
    (tmp_path / "s.css").write_text("@import 'https://fonts.example/f.css';")
    assert sorted(links.problems_in(tmp_path)) == [
        "a.html: the link b.html#x names an anchor that is not there",
        "a.html: there is no p.png",
        "b.html: asks another host for https://cdn.example/x.js",
        "b.html: the link c.html leads nowhere",
        "s.css: asks another host for something",
    ]


def test_python_blocks_of_pages_are_run_or_shown_elsewhere() -> None:
    # Tutorials and the start page run at build time, how-to pages and the README in test_snippets.
    for page in pages():
        relative = page.relative_to(ROOT).as_posix()
        executed = relative.startswith(("docs/tutorials/", "docs/howto/")) or relative in ("docs/start.md", "README.md")
        plain = [b for b in blocks_of(page) if b.language == "python"]
        if not executed and relative != "docs/index.md":
            assert plain == [], relative
    front, readme = (blocks_of(path)[0].body for path in (DOCS / "index.md", ROOT / "README.md"))
    assert ast.dump(ast.parse(front)) == ast.dump(ast.parse(readme))


def test_every_sentence_of_the_formats_has_a_rule_and_every_rule_a_sentence() -> None:
    document = yaml.safe_load((schemas_folder() / "findings" / "sentences.yaml").read_text(encoding="utf-8"))
    sentences = [s for section in document.values() for s in section]
    assert len({s["says"] for s in sentences}) == len(sentences)
    assert {c for s in sentences for c in s.get("codes", [])} == {c.value for c in RuleCode}
    for sentence in sentences:
        assert ("codes" in sentence) is not ("tested" in sentence), sentence
        assert (ROOT / sentence.get("tested", ".")).exists(), sentence


def test_tests_that_the_page_of_other_tools_names_are_there() -> None:
    named = re.findall(r"`([a-z_/]+\.py) (test_\w+)`", (DOCS / "contributing/other-tools.md").read_text())
    assert len(named) > 25
    missing = [n for n in named if f"def {n[1]}(" not in (ROOT / "tests" / n[0]).read_text()]
    assert not missing


def test_tests_that_the_page_of_a_real_model_names_are_there() -> None:
    named = re.findall(r"`(test_\w+)`", (DOCS / "real-model.md").read_text(encoding="utf-8"))
    assert len(named) > 5
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in named if f"def {name}(" not in sources] == []
