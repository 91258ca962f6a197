from __future__ import annotations

import sysconfig

import numpy as np
import pytest

from devinterp.demo.corpus import BOS, CONTEXT, HALF, KINDS, SNIPPET_LENGTHS, Corpus, load_corpus
from devinterp.errors import DataError


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_two_readings_give_the_same_bytes(corpus: Corpus) -> None:
    again = load_corpus()
    assert all((corpus.texts[name] == again.texts[name]).all() for name in corpus.texts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("held_out", [False, True])
def test_windows_are_bos_then_bytes_and_depend_on_the_seed_alone(corpus: Corpus, kind: str, held_out: bool) -> None:
    ids = corpus.windows(kind, 6, rng(), held_out=held_out)
    assert ids.shape == (6, CONTEXT + 1)
    assert ids.dtype == np.int64
    assert (ids[:, 0] == BOS).all()
    assert ((ids[:, 1:] >= 0) & (ids[:, 1:] < BOS)).all()
    assert (ids == corpus.windows(kind, 6, rng(), held_out=held_out)).all()
    assert (ids != corpus.windows(kind, 6, rng(1), held_out=held_out)).any()


@pytest.mark.parametrize("kind", ["prose", "code", "tables"])
def test_held_out_windows_come_from_the_last_tenth(corpus: Corpus, kind: str) -> None:
    text = corpus.texts[kind].tobytes()
    edge = int(len(text) * 0.9)
    for row in corpus.windows(kind, 4, rng(), held_out=True)[:, 1:]:
        assert row.astype(np.uint8).tobytes() in text[edge:]
    for row in corpus.windows(kind, 4, rng())[:, 1:]:
        assert row.astype(np.uint8).tobytes() in text[:edge]


def test_snippets_repeat_a_stretch_of_code_until_the_window_is_full(corpus: Corpus) -> None:
    code = corpus.texts["code"].tobytes()
    low, high = SNIPPET_LENGTHS
    for row in corpus.windows("snippets", 8, rng())[:, 1:]:
        periods = [p for p in range(low, high + 1) if (row[p:] == row[:-p]).all()]
        assert any(row[:p].astype(np.uint8).tobytes() in code for p in periods)


def test_a_mixture_is_made_of_quarters_in_order(corpus: Corpus) -> None:
    ids, generator = corpus.mixture(8, rng()), rng()
    assert (ids == np.concatenate([corpus.windows(kind, 2, generator) for kind in KINDS])).all()


def test_a_mixture_without_whole_quarters_is_refused(corpus: Corpus) -> None:
    with pytest.raises(DataError, match="quarters"):
        corpus.mixture(6, rng())


def test_repeated_shows_shuffled_code_twice(corpus: Corpus) -> None:
    ids = corpus.repeated(8, rng())[:, 1:]
    assert (ids[:, :HALF] == ids[:, HALF:]).all()
    # Shuffled: the bytes of a stretch of code, but hardly ever in its order.
    code = corpus.texts["code"]
    rows = [row[:HALF].astype(np.uint8) for row in ids]
    assert not any(row.tobytes() in code.tobytes() for row in rows)
    counts = np.stack([np.bincount(row, minlength=256) for row in rows])
    edge = int(len(code) * 0.9)
    windows = np.lib.stride_tricks.sliding_window_view(code[edge:], HALF)
    ordered = {bytes(w) for w in np.sort(windows, axis=1)}
    assert all(bytes(np.repeat(np.arange(256, dtype=np.uint8), c)) in ordered for c in counts)


def test_a_python_without_sources_is_told_apart(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(tmp_path))
    with pytest.raises(DataError, match="0 bytes of code, 0 bytes of tables"):
        load_corpus()
