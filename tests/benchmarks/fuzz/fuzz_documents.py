"""Fuzz the validator with broken metadata documents, guided by coverage: no exception may leave it but ours.

    python -m venv /tmp/fuzz && /tmp/fuzz/bin/pip install atheris -e '.[testing]'
    /tmp/fuzz/bin/python tests/benchmarks/fuzz/fuzz_documents.py FOLDER -max_total_time=600

Atheris is not our dependency. FOLDER keeps the corpus, which begins with the documents of valid stores of every kind
(`devinterp.testing`); what follows are libFuzzer's own arguments. An input is a store, one of its documents, and what
stands in that document instead. It fails where `validate` raises, where a rule of ours fails (DI901), where the report
cannot be rendered, or where it takes longer than libFuzzer's ``-timeout``. A failing input is kept as ``crash-...`` in
the working directory; give that file instead of FOLDER to see it again, with the traceback.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["devinterp.schema"]):
    from devinterp.schema import Limits, validate

from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from devinterp.testing import StoreRecipe, make_store

# Absurd sizes are to be refused by the limits, so those may be small: an input should take milliseconds.
LIMITS = Limits(memory=2**26, chunks=2_000, size=2**20, elements=2**24)
SMALL = {"num_chains": 2, "num_draws": 2, "num_steps_bw_draws": 1, "batch_size": 2, "save_metrics": True}
RECIPES: tuple[tuple[StoreRecipe, bool], ...] = (
    (StoreRecipe("samples", parameters={**SMALL, "save_step_losses": True}), False),
    (StoreRecipe("samples", parameters=SMALL, failed={1: 1}), True),
    (StoreRecipe("samples", "devinterp-2.0", parameters=SMALL), False),
    (StoreRecipe("study", parameters={**SMALL, "save_metrics": False}), False),
    (StoreRecipe("study", parameters={**SMALL, "save_metrics": False}), True),
    (StoreRecipe("llc", optional=frozenset({"llc_ci"})), False),
    (StoreRecipe("llc", leading=frozenset({"wr"})), False),
    (StoreRecipe("bif"), False),
    (StoreRecipe("bif", alternative=1), True),
    (StoreRecipe("bif_topk"), False),
    (StoreRecipe("susceptibilities"), False),
)
# What stands where something else should: types, bounds, and what Python, JSON and UTF-8 disagree about.
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 50, 2**31, 2**63, 2**64, 10**25, -(10**400), 0.5, -0.0, 1e308, "", "NaN", "nan",
    "-Infinity", "0x7fc00000", "0xzz", "/", "..", "a/b", "\ud800", "\x00", "\x1b[2J", "\u202e", "é" * 40, "x" * 5000,
    [], {}, [[]], [None], [{}], {"": {}}, {"name": []}, {"configuration": 1}, [1, "a", None, {}], {"a": {"b": [1]}},
    "devinterp/llc@1", "devinterp/samples@1", "devinterp/study@1", "bytes", "zstd", "gzip", "blosc", "transpose",
    "sharding_indexed",
)  # fmt: skip

Contents = dict[str, bytes]


def valid_stores() -> list[tuple[Contents, dict[str, Any]]]:
    """The stores that inputs start from: their objects by key, and the arguments of `validate`."""
    out = []
    for recipe, consolidated in RECIPES:
        store = MemoryStore()
        make_store(store, recipe, consolidated=consolidated)
        contents = {key: buffer.to_bytes() for key, buffer in store._store_dict.items()}
        out.append((contents, {"profile": recipe.profile}))
    return out


STORES = valid_stores()
KEYS = [sorted(k for k in contents if k.endswith("zarr.json")) for contents, _ in STORES]
PARTS: list[Any] = list(ODD)


def check(data: bytes) -> None:
    """Validate the store that an input describes; raise on whatever is not a report."""
    if len(data) < 2:
        return
    number = data[0] % len(STORES)
    contents, options = STORES[number]
    key = KEYS[number][data[1] % len(KEYS[number])]
    make = default_buffer_prototype().buffer.from_bytes
    store = MemoryStore({k: make(v) for k, v in {**contents, key: data[2:]}.items()})
    report = validate(store, limits=LIMITS, **options)
    failed = report.filter(code="DI901")
    if failed.findings:
        raise AssertionError(str(failed))
    json.loads(report.to_json().encode())
    json.loads(report.to_sarif().encode())
    str(report).encode()
    report._repr_html_().encode()


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Change a document as a document where it is one, else its bytes."""
    rng = random.Random(seed)
    try:
        document = json.loads(data[2:])
    except (ValueError, RecursionError):
        document = None
    if document is None or rng.random() < 0.1:
        return bytes(atheris.Mutate(data, max_size))
    head = bytes(rng.randrange(256) for _ in range(2)) if rng.random() < 0.05 else data[:2]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        document = change(document, rng)
    return (head + json.dumps(document).encode())[:max_size]


def change(document: Any, rng: random.Random) -> Any:
    """Change one place of a document."""
    if not isinstance(document, dict | list) or not document:
        return rng.choice(PARTS)
    holder, place = rng.choice(list(places(document)))
    kind = rng.randrange(6)
    if kind == 0:
        del holder[place]
    elif kind == 1 and isinstance(holder, dict):
        holder[str(rng.choice(ODD))] = holder[place]
    elif kind == 1:
        holder.insert(place, holder[place])
    elif kind == 2 and isinstance(holder[place], int | float) and not isinstance(holder[place], bool):
        holder[place] = holder[place] + rng.choice((-1, 1, 7)) if abs(holder[place]) < 2**70 else -1
    else:
        holder[place] = json.loads(json.dumps(rng.choice(PARTS)))
    return document


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every (holder, key or index) of a document."""
    pending = [document]
    while pending:
        holder = pending.pop()
        for place, value in list(holder.items()) if isinstance(holder, dict) else list(enumerate(holder)):
            yield holder, place
            if isinstance(value, dict | list):
                pending.append(value)


def write_seeds(corpus: Path) -> None:
    """Write every different document of the valid stores, and remember its parts for others to be replaced by."""
    corpus.mkdir(parents=True, exist_ok=True)
    for number, (contents, _) in enumerate(STORES):
        for index, key in enumerate(KEYS[number]):
            document = json.loads(contents[key])
            PARTS.extend(holder[place] for holder, place in places(document))
            (corpus / f"seed-{number}-{index}").write_bytes(bytes([number, index]) + contents[key])


def main(arguments: list[str], run: Callable[[bytes], None] = check) -> None:
    """Fuzz until libFuzzer's limits, or run one file."""
    if not arguments:
        sys.exit(str(__doc__))
    if not Path(arguments[0]).is_file():
        write_seeds(Path(arguments[0]))
    defaults = ["-max_len=200000", "-len_control=0", "-timeout=20", "-rss_limit_mb=2048"]
    atheris.Setup([sys.argv[0], *defaults, *arguments], run, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
