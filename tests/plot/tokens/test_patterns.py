from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devinterp.plot.tokens.patterns import PATTERNS, token_patterns

TEXT = "The cats (12) sat\nthe cats sat"
SPLITS = {
    "letters": list(TEXT),
    "spaces in front": ["The", " cat", "s", " (", "12", ")", " sat", "\n", "the", " cat", "s", " sat"],
    "byte-level marks": ["The", "Ġcat", "s", "Ġ(", "12", ")", "Ġsat", "Ċ", "the", "Ġcat", "s", "Ġsat"],
    "sentence pieces": ["▁The", "▁cat", "s", "▁(", "12", ")", "▁sat", "\n", "▁the", "▁cat", "s", "▁sat"],
    "spaces apart": ["The", " ", "cat", "s", " ", "(", "12", ")", " ", "sat", "\n", "the", " ", "cat", "s", " ", "sat"],
}


def parts(texts, pattern):
    return "".join(t for t, found in zip(texts, token_patterns(texts)[pattern], strict=True) if found)


def letters(text):
    return "".join(c for c in text if c.isascii() and (c.isalnum() or c in "()"))


@pytest.mark.parametrize("name", SPLITS)
def test_one_text_has_the_same_patterns_however_it_is_cut(name):
    texts = SPLITS[name]
    assert letters(parts(texts, "brackets")) == "()"
    assert letters(parts(texts, "digits")) == "12"
    inside = {"letters": "heatsatheatsat"}.get(name, "ss")
    assert letters(parts(texts, "word part")) == inside
    assert letters(parts(texts, "word start")) == {"letters": "Tcstcs"}.get(name, "Thecatsatthecatsat")
    assert parts(texts, "spacing").replace("Ċ", "\n").strip(" ") == "\n" or "\n" in parts(texts, "spacing")


def test_induction_is_what_followed_the_same_token_before():
    texts = list("xabcabdab")
    found = token_patterns(texts)["induction"]
    assert [i for i, each in enumerate(found) if each] == [5, 8]  # ab a second and a third time; bd is new


def test_special_tokens_end_a_word_and_are_none():
    texts = ["<bos>", "cat", "<|end|>", "s", "<", "b", ">"]
    found = token_patterns(texts)
    assert found["word start"].tolist() == [False, True, False, True, False, True, False]
    assert found["brackets"].tolist() == [False, False, False, False, True, False, True]
    assert not any(found[name][0] or found[name][2] for name in PATTERNS)


def test_letters_and_brackets_of_every_script():
    """Accents and vowel signs are characters of their own there: the letter after one began a word."""
    hindi, accented = list("हिन्दी"), list("na\u0131\u0308ve")
    for word in (hindi, accented):
        found = token_patterns(word)
        assert found["word start"].tolist() == [True] + (len(word) - 1) * [False]
        assert found["word part"].tolist() == [False] + (len(word) - 1) * [True]
    brackets = list("（）「」【】⟨⟩")
    assert token_patterns(brackets)["brackets"].all()
    assert not token_patterns(list("„“«»'.,/"))["brackets"].any()


@given(st.lists(st.text(max_size=4), max_size=30))
def test_any_row_is_sorted_and_kinds_that_exclude_each_other_do(texts):
    found = token_patterns(texts)
    assert tuple(found) == PATTERNS
    assert all(each.shape == (len(texts),) and each.dtype == np.bool_ for each in found.values())
    spelling = sum(found[name].astype(int) for name in PATTERNS if name != "induction")
    assert (spelling <= 1).all()
    seen = set()
    for i in range(1, len(texts)):
        assert found["induction"][i] == ((texts[i - 1], texts[i]) in seen)
        seen.add((texts[i - 1], texts[i]))
