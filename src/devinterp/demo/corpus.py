"""The demo's text: bytes that every Python installation already has, in four kinds.

Nothing is downloaded. The language reference is prose, the standard library is code, the character
tables of ``encodings`` are as regular as text can be, and short snippets of code repeated until the window is
full can only be predicted by copying, which is what an induction circuit does.
"""

from __future__ import annotations

import importlib
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from devinterp.errors import DataError

__all__ = ["BOS", "CONTEXT", "HALF", "KINDS", "VOCAB", "Corpus", "load_corpus"]

Ids = NDArray[np.int64]
Bytes = NDArray[np.uint8]

KINDS = ("prose", "code", "tables", "snippets")
CONTEXT = 64  # bytes that follow the BOS token, hence predicted positions
HALF = CONTEXT // 2  # length of the stretch that `Corpus.repeated` shows twice
BOS = 256  # one past the last byte
VOCAB = 257
SNIPPET_LENGTHS = (8, 31)
BYTES_PER_KIND = 1_000_000
HELD_OUT = 0.1  # the last tenth of each text is never trained on


@dataclass(frozen=True)
class Corpus:
    """Windows of bytes, in four kinds, split into a training and a held-out part.

    Parameters
    ----------
    texts : mapping of str to ndarray of uint8
        The bytes of ``"prose"``, ``"code"`` and ``"tables"``. Snippets are cut from ``"code"``.
    """

    texts: Mapping[str, Bytes]

    def windows(self, kind: str, count: int, rng: np.random.Generator, *, held_out: bool = False) -> Ids:
        """Cut random windows of one kind.

        Returns (count, CONTEXT + 1): token ids; column 0 is `BOS`.
        """
        text = self._part("code" if kind == "snippets" else kind, held_out)
        if kind == "snippets":
            return _with_bos(_tiled(text, count, rng))
        starts = rng.integers(0, len(text) - CONTEXT, count)
        return _with_bos(text[starts[:, None] + np.arange(CONTEXT)])

    def mixture(self, count: int, rng: np.random.Generator, *, held_out: bool = False) -> Ids:
        """Windows in quarters: the same number of each kind, in the order of `KINDS`.

        Returns (count, CONTEXT + 1): token ids; the first quarter is prose, then code, tables, snippets.
        """
        if count % len(KINDS):
            raise DataError("The mixture is made of quarters.", expected="a multiple of 4", found=count)
        return np.concatenate([self.windows(k, count // len(KINDS), rng, held_out=held_out) for k in KINDS])

    def repeated(self, count: int, rng: np.random.Generator) -> Ids:
        """Held-out code whose bytes are shuffled, then shown twice.

        Shuffling leaves nothing to predict but the frequencies of the bytes, until the second half, which
        copying alone makes predictable. What a head adds there, it adds by copying.

        Returns (count, CONTEXT + 1): token ids; columns 1..HALF equal columns HALF+1..CONTEXT.
        """
        text = self._part("code", held_out=True)
        starts = rng.integers(0, len(text) - HALF, count)
        half = rng.permuted(text[starts[:, None] + np.arange(HALF)], axis=1)
        return _with_bos(np.tile(half, 2))

    def _part(self, name: str, held_out: bool) -> Bytes:
        text = self.texts[name]
        edge = int(len(text) * (1 - HELD_OUT))
        return text[edge:] if held_out else text[:edge]


def load_corpus(bytes_per_kind: int = BYTES_PER_KIND) -> Corpus:
    """Read the demo's text from this Python's own standard library.

    The text is the same for the same Python version. Raises `DataError` where this Python was installed without its
    source files or without ``pydoc_data``.
    """
    stdlib = Path(sysconfig.get_path("stdlib"))
    files = {"code": sorted(stdlib.glob("*.py")), "tables": sorted((stdlib / "encodings").glob("cp*.py"))}
    texts = {"prose": _topics()} | {name: b"".join(_read(path) for path in paths) for name, paths in files.items()}
    short = {name: len(text) for name, text in texts.items() if len(text) < 100 * CONTEXT}
    if short:
        raise DataError(
            "The demo learns from the files of Python's standard library, and some are missing here.",
            expected=f"readable sources in {stdlib} and the package pydoc_data",
            found=", ".join(f"{size} bytes of {name}" for name, size in short.items()),
            remedy="Run the demo with a Python that was installed whole (for instance from python.org, uv or conda).",
        )
    return Corpus({name: np.frombuffer(text[:bytes_per_kind], np.uint8) for name, text in texts.items()})


def _topics() -> bytes:
    """The language reference, as ``help()`` prints it."""
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        return b""
    return "\n".join(topics[name] for name in sorted(topics)).encode()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _tiled(text: Bytes, count: int, rng: np.random.Generator) -> Bytes:
    low, high = SNIPPET_LENGTHS
    lengths = rng.integers(low, high + 1, count)
    starts = rng.integers(0, len(text) - high, count)
    return text[starts[:, None] + np.arange(CONTEXT) % lengths[:, None]]


def _with_bos(windows: Bytes) -> Ids:
    return np.pad(windows.astype(np.int64), ((0, 0), (1, 0)), constant_values=BOS)
