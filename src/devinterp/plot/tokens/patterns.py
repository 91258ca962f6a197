"""Which patterns a token is part of: by the characters around it, whatever the tokenizer."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["PATTERNS", "token_patterns"]

PATTERNS = ("word start", "word part", "induction", "brackets", "digits", "spacing")

_MARKS = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": "\n", "ĉ": "\t", "č": "\r", "·": " "})


def _letter(character: str) -> bool:
    """Whether it is a letter, or a sign on one: accents and vowels of many scripts are characters of their own."""
    return character.isalpha() or unicodedata.category(character).startswith("M")


def _bracket(character: str) -> bool:
    return character in "<>" or (
        unicodedata.category(character) in ("Ps", "Pe") and bool(unicodedata.mirrored(character))
    )


def token_patterns(texts: Sequence[str]) -> dict[str, npt.NDArray[np.bool_]]:
    """Sort the tokens of one row into `PATTERNS`, by what characters they have and what stands before them.

    A token may be part of several, or of none. White space that a tokenizer writes as a mark (``Ġ``, ``▁``) is white
    space.

    ===============  =================================================================================================
    pattern          a token is part of it if
    ===============  =================================================================================================
    ``word start``   it begins with a letter, after white space of its own or after a token that does not end in one:
                     tokens of one letter or byte, and tokenizers that keep the space apart, are read alike
    ``word part``    it begins with a letter, and the token before ends in one
    ``induction``    the same token followed the same token before, earlier in the row: it can be copied
    ``brackets``     it has nothing but punctuation, a bracket among it
    ``digits``       it has nothing but digits, white space around them aside
    ``spacing``      it has nothing but white space
    ===============  =================================================================================================

    Special tokens, ``<...>`` with letters inside, end a word and are part of nothing but induction.

    Parameters
    ----------
    texts : sequence of str
        Tokens of one row, in order, as `devinterp.plot.tokens.decode.token_strings` gives them.

    Returns
    -------
    dict of str to array of bool, shape (token,)

    Examples
    --------
    >>> from devinterp.plot.tokens.patterns import token_patterns
    >>> texts = ["The", " cat", "s", " (", "12", ")", "\\n", "The", " cat"]
    >>> for pattern, found in token_patterns(texts).items():
    ...     print(pattern, [text for text, part in zip(texts, found) if part])
    word start ['The', ' cat', 'The', ' cat']
    word part ['s']
    induction [' cat']
    brackets [' (', ')']
    digits ['12']
    spacing ['\\n']
    """
    found = {name: np.zeros(len(texts), dtype=np.bool_) for name in PATTERNS}
    seen: set[tuple[str, str]] = set()
    before = ""  # the characters that stand before the token
    for i, raw in enumerate(texts):
        text = raw.translate(_MARKS)
        if i:
            pair = (texts[i - 1], raw)
            found["induction"][i] = pair in seen
            seen.add(pair)
        body = text.strip()
        special = len(body) > 2 and body[0] == "<" and body[-1] == ">" and any(c.isalnum() for c in body)
        if not special:
            word = bool(body) and _letter(body[0])
            inside = word and text[0] == body[0] and bool(before) and _letter(before[-1])
            found["word part"][i] = inside
            found["word start"][i] = word and not inside
            found["brackets"][i] = any(map(_bracket, body)) and not any(c.isalnum() for c in body)
            found["digits"][i] = body.isdigit()
            found["spacing"][i] = bool(text) and not body
        before = " " if special else text or before
    return found
