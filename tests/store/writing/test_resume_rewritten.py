"""Runs that another tool wrote anew, and that sampling is to resume or grow: whole in the end, or refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from rewritten import objects, rewrite, rewrites, values
from stores import Numbers, request, run_chain, write_fixed

from devinterp.errors import StoreConflictError
from devinterp.store import open_run

pytestmark = pytest.mark.filterwarnings("ignore:Object at .devinterp", "ignore:Consolidated metadata is currently not")
LONGER = {"resumed": {}, "more draws": {"num_draws": 12}, "more chains": {"num_chains": 3}}


def go_on(path: Path, *, stop: int | None = None, **longer: Any) -> None:
    """Sample the numbers of a long run into a store, its second chain up to `stop` draws."""
    with open_run(None, {"/": request(num_draws=12, num_chains=4)}) as reference:
        numbers = Numbers(reference)
    with open_run(path, {"/": request(**longer)}, keep_state=True, checkpoint_every=2) as run:
        if not run.finished:
            write_fixed(run)
        for group, chain in run.remaining():
            ends = stop if chain == 1 else None
            status = "complete" if ends is None else "interrupted"
            run_chain(run, run.writer(group, chain)[0], numbers, stop_at=ends, status=status)
        if run.finished or stop is not None:
            run.publish()
        else:
            run.complete()


@pytest.fixture(scope="module")
def stores(tmp_path_factory: Any) -> tuple[Path, dict[str, Path], dict[str, dict[str, np.ndarray]]]:
    """A folder, the stores to go on in, and what they hold in the end."""
    folder, begun, ends = tmp_path_factory.mktemp("begun"), {}, {}
    for case, longer in LONGER.items():
        begun[case] = folder / f"{case}.zarr"
        go_on(begun[case], stop=5 if case == "resumed" else None)
        go_on(Path(shutil.copytree(begun[case], folder / f"{case} whole.zarr")), **longer)
        ends[case] = values(folder / f"{case} whole.zarr")
    return folder, begun, ends


def but_locks(store: Path) -> dict[str, bytes]:
    return {key: raw for key, raw in objects(store).items() if "lock" not in key}


def check(store: Path, case: str, ends: dict[str, np.ndarray]) -> bool:
    """Whether the store went on; the values are those of a run that nobody touched, or it is as it was."""
    before = but_locks(store)
    refused = None
    try:
        go_on(store, **LONGER[case])
    except StoreConflictError as error:
        refused = error
    if refused is not None:
        assert "written anew by another tool" in str(refused) or "cannot grow" in str(refused)
        assert refused.found, refused
        assert refused.remedy
        assert but_locks(store) == before
        return False
    for name, found in values(store).items():
        np.testing.assert_array_equal(found, ends[name], err_msg=name)
    return True


@pytest.mark.parametrize("case", LONGER)
@settings(max_examples=6, deadline=None, phases=[Phase.generate])
@given(data=st.data())
def test_no_value_is_lost(stores: Any, tmp_path_factory: Any, case: str, data: Any) -> None:
    _, begun, ends = stores
    store = Path(shutil.copytree(begun[case], tmp_path_factory.mktemp("store") / "copy.zarr"))
    arrays = dict(zarr.open_group(store, mode="r", use_consolidated=False).arrays())
    for name in data.draw(st.lists(st.sampled_from(sorted(arrays)), min_size=1, max_size=2, unique=True)):
        rewrite(store, name, completed=case != "resumed", **data.draw(rewrites(arrays[name])))
    check(store, case, ends[case])


NAMED: dict[str, tuple[dict[str, Any], bool]] = {
    "as we write": ({}, True),
    "keys with dots": ({"chunk_key_encoding": {"name": "default", "separator": "."}}, False),
    "keys of v2": ({"chunk_key_encoding": {"name": "v2", "separator": "/"}}, False),
    "zarr's own fill": ({"fill_value": 0}, False),
    "no checksum": ({"compressors": [zarr.codecs.ZstdCodec(level=0)]}, False),
    "no compression": ({"compressors": None}, False),
    "big endian": ({"serializer": zarr.codecs.BytesCodec(endian="big")}, False),
    "two chains in a chunk": ({"chunks": (2, 7, 4, 5)}, False),
    "a chunk for each row": ({"chunks": (1, 7, 1, 5)}, False),
    "a chunk for each draw": ({"chunks": (1, 1, 4, 5)}, True),
    "shards": ({"chunks": (1, 1, 4, 5), "shards": (1, 7, 4, 5)}, False),
}


@pytest.mark.parametrize("how", NAMED)
@pytest.mark.parametrize("case", LONGER)
def test_named_ways_to_write_an_array_anew(stores: Any, tmp_path: Path, case: str, how: str) -> None:
    _, begun, ends = stores
    store = Path(shutil.copytree(begun[case], tmp_path / "copy.zarr"))
    options, goes_on = NAMED[how]
    ours = {
        "chunks": (1, 7, 4, 5),
        "fill_value": np.nan,
        "compressors": [zarr.codecs.ZstdCodec(level=0), zarr.codecs.Crc32cCodec()],
        "config": {"write_empty_chunks": True},
    }
    rewrite(store, "loss_code", completed=case != "resumed", **{**ours, **options})
    assert check(store, case, ends[case]) is goes_on


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"node_type": "group", "zarr_format": 3}'])
def test_a_document_that_is_not_an_arrays_is_named(stores: Any, tmp_path: Path, text: str) -> None:
    _, begun, ends = stores
    store = Path(shutil.copytree(begun["resumed"], tmp_path / "copy.zarr"))
    (store / "loss_code" / "zarr.json").write_text(text)
    assert check(store, "resumed", ends["resumed"]) is False


def test_an_array_of_other_dimensions_or_of_another_length_is_named(stores: Any, tmp_path: Path) -> None:
    _, begun, ends = stores
    for number, change in enumerate(
        ({"dimension_names": ["chain", "draw", "token_pos", "batch_code"]}, {"shape": [2, 9, 4, 5]})
    ):
        store = Path(shutil.copytree(begun["resumed"], tmp_path / f"{number}.zarr"))
        document = json.loads((store / "loss_code" / "zarr.json").read_text())
        (store / "loss_code" / "zarr.json").write_text(json.dumps({**document, **change}))
        assert check(store, "resumed", ends["resumed"]) is False
