"""What the documentation's examples may take for granted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docs_pages  # noqa: F401  (puts toy.py on the path)
import pytest


@pytest.fixture(scope="session")
def training() -> Any:
    """A trained toy transformer, and its weights by training step."""
    import toy

    return toy.train(steps=150, keep=(20, 60, 100, 150))


@pytest.fixture
def stage(training: Any, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The names that the how-to pages and the README say they use."""
    import dask
    import distributed  # noqa: F401  (before what is set of it: see tests/test_habits.py)
    import toy
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    monkeypatch.chdir(tmp_path)
    model, states = training
    letters = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = {
        "model": model,
        "states": states,
        "dataset": toy.both(1024, seed=1),
        "code": toy.echo(256, seed=2),
        "prose": toy.chatter(256, seed=3),
        "tokenizer": PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="Ġ", eos_token="Ġ"),
        "old_store": reference / "full.zarr",
        "old_restrictions": {"full": reference / "full.zarr", "l0h0": reference / "l0h0.zarr"},
    }
    # Workers of a cluster are forked from the server of our own, which has torch imported.
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield names
