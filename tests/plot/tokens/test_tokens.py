from __future__ import annotations

import io

import lifelike
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from masked import masked_run, masked_study
from rich.console import Console

from devinterp._html import Markup, join, tag
from devinterp.errors import DataError, SettingError
from devinterp.plot.tokens import tokens
from devinterp.plot.tokens.coloured import TokenText
from devinterp.plot.tokens.decode import token_kind, token_strings, visible
from devinterp.plot.tokens.patterns import PATTERNS, token_patterns
from devinterp.slt.bif import compute_bif
from devinterp.slt.susceptibilities import compute_susceptibilities


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = lifelike.make_samples(tmp_path_factory.mktemp("tokens") / "r.zarr", draws=30, rows=4, save_metrics=False)
    return xr.open_datatree(path, engine="zarr", consolidated=False)


@given(st.text())
def test_no_text_becomes_markup(text):
    element = str(tag("span", text, title=text))
    assert element.count("<") == 2
    assert element.count(">") == 2
    assert element.count('"') == 2
    assert all(c.isprintable() or c in "\n\t" for c in element)


def test_markup_is_not_escaped_twice():
    assert tag("b", join("a<", Markup("<i>"))) == "<b>a&lt;<i></b>"


def test_losses_colour_the_tokens_that_they_predict(run):
    found = tokens(run, "bytes", observable="prose", rows=[2])
    (row,) = found.rows
    assert np.isnan(row.values[0])  # nothing predicts the first token
    expected = run["loss_prose"].isel(batch_prose=2).mean(["chain", "draw"]).values
    np.testing.assert_allclose(row.values[1:], expected, rtol=1e-5)
    assert "".join(row.texts) == "".join(chr(i) for i in run["input_ids_prose"].values[2])
    assert found.unit == "nat"


def test_the_change_is_taken_against_the_same_rows_at_the_start(run):
    (row,) = tokens(run, by="change", rows=1).rows
    expected = run["loss_code"].isel(batch_code=1).mean(["chain", "draw"]) - run["init_loss_code"].isel(batch_code=1)
    np.testing.assert_allclose(row.values[1:], expected.values, atol=1e-5)


def test_the_fill_of_a_failed_chain_is_left_out(tmp_path):
    path = lifelike.make_samples(tmp_path / "f.zarr", failing={0: 5}, draws=20, rows=2, save_metrics=False)
    tree = xr.open_datatree(path, engine="zarr", consolidated=False)
    assert np.isfinite(tokens(tree).rows[0].values[1:]).all()


def test_an_influence_frames_its_query_and_brings_the_strongest_rows(run):
    found = tokens(run, "bytes", by="influence", query=(1, 4), most=3)
    full = compute_bif(run)["influences"].sel(batch_1=1, target_position=4)
    assert len(found.rows) == 3
    marked = [r for r in found.rows if r.marked is not None]
    assert [r.marked for r in marked] in ([], [4])
    row = found.rows[0]
    name, index = row.name.split(", row ")
    sequence = int(index) + (4 if name == "prose" else 0)
    np.testing.assert_allclose(row.values[1:], full.sel(batch_2=sequence), atol=1e-6)
    with pytest.raises(SettingError, match="Whose"):
        tokens(run, by="influence")


def test_the_strongest_partners_are_shown_with_their_texts(run):
    top = compute_bif(run, top_k=2)
    found = tokens(top, "bytes", query=(1, 4))
    assert found.rows[0].marked == 4
    assert len(found.rows) == 5
    strengths = [float(np.nanmax(np.abs(r.values))) for r in found.rows[1:]]
    assert strengths == sorted(strengths, reverse=True)


def test_what_nothing_would_heed_is_refused(run):
    """A misspelt argument is taken for an option of the analysis, and there may be none to make."""
    for call in (
        lambda: tokens(run, observabel="code"),
        lambda: tokens(compute_bif(run), query=(1, 4), top_k=2),
        lambda: run.devinterp.llc(ci=0.9).devinterp.plot.llc(over="steps"),
    ):
        with pytest.raises(SettingError, match=r"nothing would heed: (observabel|top_k|over)"):
            call()


def test_rows_of_influences_come_as_asked_or_not_at_all(run):
    result = compute_bif(run)
    names = [row.name for row in tokens(result, query=(1, 4), rows=[5, 0]).rows]
    every = [row.name for row in tokens(result, query=(1, 4), rows=range(result.sizes["batch"])).rows]
    assert names == [every[5], every[0]]
    with pytest.raises(SettingError, match=r"no such row.*Found: 99"):
        tokens(result, query=(1, 4), rows=[0, 99])


@pytest.mark.parametrize("lost", ["target_position_T", "target_position", "batch_2"])
def test_values_keep_their_places_where_a_result_has_lost_a_coordinate(run, lost):
    result = compute_bif(run)
    kept, dropped = (tokens(r, query=(1, 4)).rows for r in (result, result.drop_vars(lost)))
    for whole, less in zip(kept, dropped, strict=True):
        np.testing.assert_array_equal(less.values, whole.values)
        assert (less.name, less.marked) == (whole.name, whole.marked)


def test_where_positions_were_cut_and_nothing_tells_which_no_place_is_guessed(run):
    part = compute_bif(run).isel(target_position_T=slice(2, None))
    assert np.isnan(tokens(part, query=(1, 4)).rows[0].values[:3]).all()
    with pytest.raises(DataError, match=r"not known which positions.*target_position_T"):
        tokens(part.drop_vars("target_position_T"), query=(1, 4))


def test_marks_of_positions_stay_in_their_places_where_some_were_cut():
    result = compute_bif(masked_run())
    whole, part = (tokens(r, query=(1, 4), rows=[0, 1]).rows for r in (result, result.isel(target_position=[3, 4])))
    for one, other in zip(whole, part, strict=True):
        np.testing.assert_array_equal(other.counts[[4, 5]], one.counts[[4, 5]])


def test_the_strongest_partners_are_found_from_a_run_as_well(run):
    found = tokens(run, "bytes", by="influence", query=(1, 4), top_k=2)
    assert found.rows[0].marked == 4
    assert len(found.rows) == 5
    with pytest.raises(SettingError, match="texts are those of the partners"):
        tokens(run, "bytes", by="influence", query=(1, 4), top_k=2, rows=[0])


def test_susceptibilities_are_placed_at_the_tokens_they_speak_of(tmp_path):
    path = lifelike.make_study(tmp_path / "s.zarr", chains=2, draws=30, rows=3, save_metrics=False)
    tree = xr.open_datatree(path, engine="zarr", consolidated=False)
    sus = compute_susceptibilities(tree)
    (row,) = tokens(sus, "bytes", wr="l0h1", rows=2).rows
    flat = sus["susceptibilities"].to_dataset()
    column = flat["sus"].sel(wr="l0h1").values.astype(float)
    standard = (column - column.mean()) / column.std()
    here = flat["batch"].values == 2
    np.testing.assert_allclose(row.values[flat["target_position"].values[here]], standard[here], rtol=1e-5)
    with pytest.raises(SettingError, match="no 'l9h9'"):
        tokens(sus, wr="l9h9")


def test_html_terminal_and_plain_text_say_the_same(run):
    found = tokens(run, lambda token: "<b>" if token % 5 == 0 else chr(token), rows=[0])
    html = found._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert "position 1," in html
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=100)
    console.print(found)
    assert "\x1b[" in console.file.getvalue()
    plain = str(found)
    assert "\x1b" not in plain
    assert "code, row 0" in plain


def test_ids_stand_apart_where_there_is_no_tokenizer(run):
    html = str(tokens(run, rows=[0]).to_html())
    assert "</span> <span" in html


def test_unknown_choices_are_refused(run):
    for wrong in ({"by": "beauty"}, {"rows": [99]}, {"wr": "l0h0"}):
        with pytest.raises(SettingError):
            tokens(run, **wrong)


class Words:
    def decode(self, ids):
        return {0: " the", 1: "\ufffd", 2: ""}[ids[0]]

    def convert_ids_to_tokens(self, ids):
        return [f"tok{i}" for i in ids]


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [
        (None, ["0", "1", "7"]),
        ("bytes", ["\x00", "\x01", "\x07"]),
        ({0: "a", 1: "b"}, ["a", "b", "<7>"]),
        (["a", "b"], ["a", "b", "<7>"]),
        (lambda token: f"t{token}", ["t0", "t1", "t7"]),
        (Words(), [" the", "tok1", "<7>"]),
    ],
)
def test_tokenizers_of_every_sort(tokenizer, expected):
    assert token_strings([0, 1, 7], tokenizer) == expected


def test_no_tokenizer_is_no_tokenizer():
    for wrong in ("gpt17", 3.5):
        with pytest.raises(SettingError):
            token_strings([0], wrong)


def test_visible_and_kinds():
    assert visible(" a\n\x1b\u202e") == "·a⏎\\x1b\\u202e"
    cases = {" the": "word start", "ing": "word part", "Ġof": "word start", " 12": "number", "::": "punctuation"}
    cases |= {"\n": "whitespace", "<|end|>": "other", "▁a": "word start"}
    assert {text: token_kind(text) for text in cases} == cases


def test_what_does_not_count_is_greyed() -> None:
    tree, study = masked_run(0), masked_study(0)
    influences = compute_bif(tree, loss_keys=["math"])
    susceptibilities = compute_susceptibilities(study, "code", baseline="observable")
    query = (2, int(np.argmax(tree["mask_math"].values[2])) + 1)
    for obj, mask, options in (
        (tree, tree["mask_math"], {"observable": "math"}),
        (tree, tree["mask_math"], {"observable": "math", "by": "change"}),
        (influences, tree["mask_math"], {"query": query, "rows": [0, 1, 2]}),
        (susceptibilities, study["full/mask_math"], {"observable": "math"}),
    ):
        found = tokens(obj, **options)
        for row in found.rows:
            counts = mask.values[int(row.name.split()[-1])] == 1
            np.testing.assert_array_equal(row.counts[1:], counts)
            np.testing.assert_array_equal(np.isfinite(row.values[1:]), counts)
            element = str(TokenText((row,), "", "", 1.0, diverging=True).row_html(0))
            assert element.count("does not count") == element.count("opacity:.4;") + element.count('opacity:.4"')
            assert element.count("does not count") == (~counts).sum()
        out = io.StringIO()
        Console(file=out, force_terminal=True).print(found)
        assert "\x1b[2" in out.getvalue()


def small_tokenizer(kind):
    """A tokenizer of the few tokens of "The cats (12)", as its family spells them, and its vocabulary."""
    from tokenizers import Tokenizer, decoders, models

    if kind == "byte-level":
        pieces = ["[PAD]", "The", "Ġcat", "s", "Ġ(", "1", "2", ")"]
        decoder = decoders.ByteLevel()
    elif kind == "sentence pieces":
        pieces = ["<s>", "▁The", "▁cat", "s", "▁(", "1", "2", ")", "▁"]
        strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        decoder = decoders.Sequence(strip)
    else:
        pieces = ["[CLS]", "The", "cat", "##s", "(", "1", "##2", ")"]
        decoder = decoders.WordPiece()
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    model = models.WordPiece(vocabulary) if kind == "word pieces" else models.BPE(vocabulary, [])
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoder
    return tokenizer, vocabulary


@pytest.mark.needs("transformers")
@pytest.mark.parametrize("kind", ["byte-level", "sentence pieces", "word pieces"])
def test_a_token_is_read_as_it_stands_in_a_text_whatever_the_tokenizer(kind):
    """Alone, a piece of a sentence loses its space, and a part of a word keeps its mark: all words looked alike."""
    tokenizer, vocabulary = small_tokenizer(kind)
    texts = token_strings(range(len(vocabulary)), tokenizer)
    assert [text.strip() for text in texts[1:8]] == ["The", "cat", "s", "(", "1", "2", ")"]
    assert texts[2:4] == [" cat", "s"]
    assert token_kind(texts[2]) == "word start"
    found = token_patterns(texts[:8])
    assert [found["word start"][i] for i in (1, 2, 3)] == [True, True, False]
    assert [found["word part"][i] for i in (1, 2, 3)] == [False, False, True]
    assert not any(found[name][0] for name in PATTERNS)
    if kind == "sentence pieces":
        assert texts[8] == " "


def test_a_vocabulary_is_read_whichever_way_round_it_is():
    pieces = ["[CLS]", "the", "##s", "cat", "(", "##2"]
    by_text = {piece: i for i, piece in enumerate(pieces)}
    by_id = dict(enumerate(pieces))
    expected = ["[CLS]", " the", "s", " cat", "(", "2", "<9>"]
    for vocabulary in (pieces, by_text, by_id, {str(i): piece for i, piece in by_id.items()}):
        assert token_strings([0, 1, 2, 3, 4, 5, 9], vocabulary) == expected
    assert token_strings([0, 1], ["##", "Ġthe"]) == ["##", "Ġthe"]  # no parts of words
    with pytest.raises(SettingError, match="not a vocabulary"):
        token_strings([0], {"a": "b"})
