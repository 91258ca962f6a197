"""From token ids to text: what a tokenizer says, made visible and safe to draw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from devinterp.errors import SettingError

__all__ = ["byte_tokenizer", "drawable", "token_kind", "token_strings", "visible"]

_SPECIAL = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"}
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
        Something with ``decode`` (HuggingFace, tiktoken, tokenizers), a function from an id to text, a mapping or a
        sequence of texts, or ``"bytes"``; without one the ids themselves are shown.

    Returns
    -------
    list of str
        As the tokenizer gives them, nothing made visible or escaped.

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
        return lambda token: _decoded(tokenizer, token)
    if isinstance(tokenizer, Mapping):
        return lambda token: str(tokenizer.get(token, f"<{token}>"))
    if callable(tokenizer):
        return lambda token: str(tokenizer(token))
    if isinstance(tokenizer, Sequence):
        return lambda token: str(tokenizer[token]) if 0 <= token < len(tokenizer) else f"<{token}>"
    raise SettingError(
        "This is not a tokenizer.",
        expected="an object with decode(ids), a function of an id, a mapping or a sequence of texts",
        found=type(tokenizer).__name__,
    )


def _decoded(tokenizer: Any, token: int) -> str:
    try:
        text = str(tokenizer.decode([token]))
    except (IndexError, KeyError, OverflowError, ValueError, TypeError):  # an id outside its vocabulary
        return f"<{token}>"
    # Part of a character decodes to nothing readable; the vocabulary's own spelling at least tells tokens apart.
    if "\ufffd" in text or not text:
        convert = getattr(tokenizer, "convert_ids_to_tokens", None)
        spelled = convert([token])[0] if convert is not None else None
        return str(spelled) if spelled else f"<{token}>"
    return text


def visible(text: str) -> str:
    """Make white space and control characters visible: ``" the"`` becomes ``"·the"``."""
    return "".join(_SPECIAL.get(c, c if c.isprintable() else c.encode("unicode_escape").decode("ascii")) for c in text)


@lru_cache(maxsize=1)
def _drawable_characters() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def drawable(texts: Iterable[str], *, longest: int = 14, names: bool = False) -> list[str]:
    """Return texts as labels of a picture: of bounded length, of characters that the font has.

    White space is made visible, except in ``names`` (of restrictions, observables, classes), which are cut in the
    middle: their ends often tell them apart.
    """
    known = _drawable_characters()
    out = []
    for text in texts:
        marked = " ".join(map(visible, text.split(" "))) if names else visible(text)
        shown = "".join(c if ord(c) in known else c.encode("unicode_escape").decode("ascii") for c in marked)
        head = longest // 2 if names else longest - 1
        tail = longest - 1 - head
        out.append(shown if len(shown) <= longest else f"{shown[:head]}…{shown[len(shown) - tail :]}")
    return out


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
