"""From token ids to text: what a tokenizer says, made visible and safe to draw."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np

from devinterp.errors import SettingError

__all__ = [
    "byte_tokenizer",
    "drawable",
    "drawable_name",
    "gap_between",
    "legend_name",
    "need_texts",
    "token_kind",
    "token_strings",
    "visible",
]

_SPECIAL = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"}
LABELS = "DejaVu Sans"
MONO = ("DejaVu Sans Mono", LABELS)  # letters of one width, and what they lack
_PART = "##"  # WordPiece's mark of a part of a word
_SHARE_OF_PARTS = 0.02
_ANCHORS = 5000  # ids that are tried; BERT's letters begin at 1000
KINDS = ("word start", "word part", "number", "punctuation", "whitespace", "other")


def byte_tokenizer(token: int) -> str:
    """Read a token as one byte, as the demo's model does; ids past 255 are special tokens."""
    if token > 255:
        return f"<{token}>"
    return chr(token) if token < 128 else f"\\x{token:02x}"


def token_strings(ids: Any, tokenizer: Any = None) -> list[str]:
    """Return the text of every token.

    Parameters
    ----------
    ids : array of int, shape (token,)
        Token ids.
    tokenizer : optional
        Something with ``decode`` (HuggingFace, tiktoken, tokenizers), a function from an id to text, a mapping of ids
        to texts or of texts to ids, a sequence of texts, or ``"bytes"``; without one the ids themselves are shown.

    Returns
    -------
    list of str
        As they stand in a text, nothing made visible or escaped: the piece ``"▁the"``, which decodes to ``"the"`` where
        it is alone, is ``" the"``, and so is the word ``"the"`` of a vocabulary whose parts of words begin with ``##``.

    Raises
    ------
    SettingError
        ``tokenizer`` is none of these.
    """
    flat = [int(i) for i in np.asarray(ids).ravel()]
    read = _reader(tokenizer)
    known: dict[int, str] = {}
    for token in flat:
        if token not in known:
            known[token] = read(token)
    return [known[token] for token in flat]


def need_texts(tokenizer: Any, what: str) -> None:
    """Raise `SettingError` where tokens would be sorted by their spelling and have none: ids would all be numbers."""
    if tokenizer is None:
        raise SettingError(
            f"{what} are read from the texts of the tokens, and there are ids alone.",
            expected="tokenizer=",
            remedy="Pass the tokenizer that the rows were made with, its vocabulary, or 'bytes'.",
        )


def _reader(tokenizer: Any) -> Callable[[int], str]:
    if tokenizer is None:
        return str
    if isinstance(tokenizer, str):
        if tokenizer == "bytes":
            return byte_tokenizer
        raise SettingError(
            f"There is no built-in tokenizer {tokenizer!r}.",
            expected="'bytes', or a tokenizer object",
            remedy="Load it first: transformers.AutoTokenizer.from_pretrained(...).",
        )
    if hasattr(tokenizer, "decode"):
        beside = _anchor(tokenizer)
        return lambda token: _decoded(tokenizer, token, beside)
    if isinstance(tokenizer, Mapping):
        texts = _by_id(tokenizer)
        return _in_text(texts.values(), lambda token: texts.get(token, f"<{token}>"))
    if callable(tokenizer):
        return lambda token: str(tokenizer(token))
    if isinstance(tokenizer, Sequence):
        return _in_text(tokenizer, lambda token: str(tokenizer[token]) if 0 <= token < len(tokenizer) else f"<{token}>")
    raise SettingError(
        "This is not a tokenizer.",
        expected="an object with decode(ids), a function of an id, a mapping or a sequence of texts",
        found=type(tokenizer).__name__,
    )


def _by_id(texts: Mapping[Any, Any]) -> Mapping[int, str]:
    """Read a vocabulary, of texts by their ids or of ids by their texts; JSON has ids as text."""
    by_text = all(isinstance(key, str) and isinstance(value, int) for key, value in texts.items())
    pairs = ((token, text) for text, token in texts.items()) if by_text else texts.items()
    try:
        return {int(token): str(text) for token, text in pairs}
    except (TypeError, ValueError):
        odd = next(iter(texts.items()))
        raise SettingError(
            "This is not a vocabulary.",
            expected="texts by their ids, or ids by their texts",
            found=f"{odd[0]!r}: {odd[1]!r}",
        ) from None


def _in_text(vocabulary: Iterable[Any], spelled: Callable[[int], str]) -> Callable[[int], str]:
    """Read spellings of WordPiece as text, where the vocabulary is one of it: a good part are parts of words."""
    parts = [str(text)[:2] == _PART and str(text)[2:3].isalnum() for text in vocabulary]
    if not parts or sum(parts) < _SHARE_OF_PARTS * len(parts):
        return spelled
    return lambda token: _whole_word(spelled(token))


def _whole_word(text: str) -> str:
    if text.startswith(_PART):
        return text.removeprefix(_PART)
    return f" {text}" if text[:1].isalnum() else text


def _special(text: str) -> bool:
    return len(text) > 2 and text[0] + text[-1] in ("<>", "[]")


def _decode(tokenizer: Any, tokens: list[int]) -> str | None:
    try:
        return str(tokenizer.decode(tokens))
    except (IndexError, KeyError, OverflowError, ValueError, TypeError):  # an id outside its vocabulary
        return None


def _anchor(tokenizer: Any) -> tuple[int, str] | None:
    with suppress(TypeError):  # of what has no hash nothing is kept
        return _kept_anchor(tokenizer)
    return _find_anchor(tokenizer)


def _find_anchor(tokenizer: Any) -> tuple[int, str] | None:
    """Return a token of letters, and its text, that another one can be decoded behind."""
    for token in range(_ANCHORS):
        text = _decode(tokenizer, [token])
        if text is None:
            return None
        if text.isascii() and text.isalpha() and (_decode(tokenizer, [token, token]) or "").startswith(text):
            return token, text
    return None


_kept_anchor = lru_cache(maxsize=4)(_find_anchor)


def _decoded(tokenizer: Any, token: int, beside: tuple[int, str] | None) -> str:
    text = _decode(tokenizer, [token])
    if text is None:
        return f"<{token}>"
    if beside is not None and not _special(text):
        # Alone, a piece loses the space that it begins with, and a part of a word keeps its mark.
        after = (_decode(tokenizer, [beside[0], token]) or "").removeprefix(beside[1])
        if after and after.lstrip() in (text.lstrip(), text.removeprefix(_PART)):
            text = after
    # Part of a character decodes to nothing readable; the vocabulary's own spelling at least tells tokens apart.
    if "\ufffd" in text or not text:
        spelled = None
        if hasattr(tokenizer, "convert_ids_to_tokens"):
            spelled = tokenizer.convert_ids_to_tokens([token])[0]
        elif hasattr(tokenizer, "id_to_token"):
            spelled = tokenizer.id_to_token(token)
        return str(spelled) if spelled else f"<{token}>"
    return text


def visible(text: str) -> str:
    """Make white space and control characters visible: ``" the"`` becomes ``"·the"``."""
    return "".join(_SPECIAL.get(c, c if c.isprintable() else c.encode("unicode_escape").decode("ascii")) for c in text)


@lru_cache(maxsize=2)
def _drawable_characters(families: tuple[str, ...]) -> frozenset[int]:
    """Return what some family has a letter for, in both of its weights."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    def known(weight: str) -> set[int]:
        faces = (get_font(findfont(FontProperties(family=family, weight=weight))) for family in families)
        return {character for face in faces for character in face.get_charmap()}

    return frozenset(known("normal") & known("bold")) if len(families) > 1 else frozenset(known("normal"))


def drawable(texts: Iterable[str], *, longest: int = 14, names: bool = False, mono: bool = False) -> list[str]:
    """Return texts as labels of a picture: of bounded length, of characters that the font has.

    White space is made visible, except in ``names`` (of restrictions, observables, classes), which are cut in the
    middle: their ends often tell them apart. ``mono`` is for texts that are drawn in `MONO`, of any weight.
    """
    known = _drawable_characters(MONO if mono else (LABELS,))
    out = []
    for text in texts:
        marked = " ".join(map(visible, text.split(" "))) if names else visible(text)
        if unicodedata.category(marked[:1] or " ").startswith("M"):
            marked = f"◌{marked}"  # an accent without its letter would fall on what stands before it
        shown = "".join(c if ord(c) in known else c.encode("unicode_escape").decode("ascii") for c in marked)
        head = longest // 2 if names else longest - 1
        tail = longest - 1 - head
        out.append(shown if len(shown) <= longest else f"{shown[:head]}…{shown[len(shown) - tail :]}")
    return out


def gap_between(texts: Iterable[str]) -> str:
    """Return what stands between tokens that are written one after the other: a blank between bare ids."""
    return " " if all(text.isdigit() for text in texts) else ""


def drawable_name(name: str, *, longest: int) -> str:
    """Return one name as `drawable` writes names."""
    return drawable([name], longest=longest, names=True)[0]


def legend_name(name: str, *, longest: int = 20) -> str:
    """Return a name as the label of what is drawn: matplotlib leaves those out that begin with an underscore."""
    shown = drawable_name(name, longest=longest)
    return f" {shown}" if shown.startswith("_") else shown


def token_kind(text: str) -> str:
    """Sort a token by its spelling into one of `KINDS`.

    A word starts where white space, or a tokenizer's mark for it, stands before the letters.
    """
    marked = text[:1] in (" ", "\n", "\t", "Ġ", "▁")
    body = text.lstrip(" \n\t\r").removeprefix("Ġ").removeprefix("▁")
    if not body:
        return "whitespace"
    if body[0].isdigit():
        return "number"
    if body[0].isalpha():
        return "word start" if marked else "word part"
    if all(not c.isalnum() and c.isprintable() for c in body) and not body.startswith(("<", "\\x")):
        return "punctuation"
    return "punctuation" if len(body) == 1 else "other"
