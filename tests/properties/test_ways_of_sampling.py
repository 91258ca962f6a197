"""How a run goes must not show in its numbers: in which threads, in how many attempts, under which names."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st

from devinterp.schema import validate
from devinterp.testing import sample_settings
from devinterp.testing.strategies import member_names

torch = pytest.importorskip("torch")

from devinterp.slt.sampling import sample, sample_restrictions  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

VOCABULARY, LENGTH = 7, 4
ROWS = np.random.default_rng(5).integers(0, VOCABULARY, (12, LENGTH))


def build_model() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Embedding(VOCABULARY, 3), torch.nn.Linear(3, VOCABULARY))


def run(store: Any, observables: Any = None, **arguments: Any) -> Any:
    observables = {"train": ROWS, "code": ROWS[::-1].copy()} if observables is None else observables
    return sample(build_model(), ROWS, observables, device="cpu", progress=False, output_path=store, **arguments)


def chunks(store: zarr.storage.MemoryStore) -> dict[str, bytes]:
    """Every chunk of the arrays; the run's own state and the attributes tell how it went, and may differ."""
    return {
        key: buffer.to_bytes()
        for key, buffer in store._store_dict.items()
        if not key.endswith("zarr.json") and not any(part.startswith(".") for part in key.split("/"))
    }


@settings(max_examples=5)
@given(sample_settings(max_steps=6))
def test_chains_in_threads_give_the_bytes_of_one_after_the_other(arguments: dict[str, Any]) -> None:
    one = run(None, **arguments)
    with ThreadPoolExecutor(2) as pool:
        other = run(None, chain_method="parallel", executor=pool, **arguments)
    assert set(one.data_vars) == set(other.data_vars)
    for name in one.data_vars:
        assert one[name].values.tobytes() == other[name].values.tobytes(), name


class Cut(Exception):
    """Ends a run at a chosen call of the loss."""


# Cut in the last chain, draws behind a checkpoint: what is drawn need not be of that kind.
LATE = {
    "lr": 1e-2,
    "n_beta": 10.0,
    "localization": 5.0,
    "num_chains": 2,
    "num_draws": 5,
    "batch_size": 2,
    "num_init_loss_batches": 1,
}


@settings(max_examples=9)
@example(arguments=LATE, tenths=9, every=1)
@given(sample_settings(max_steps=6), st.integers(0, 9), st.sampled_from([1, 2, None]))
def test_a_run_that_is_cut_and_resumed_has_the_bytes_of_one_that_is_not(
    arguments: dict[str, Any], tenths: int, every: int | None
) -> None:
    calls, cut = 0, 0

    def loss_fn(model: Any, input_ids: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == cut:
            raise Cut
        return -torch.log_softmax(model(input_ids), -1)[:, :-1].gather(-1, input_ids[:, 1:, None])[..., 0]

    arguments = {**arguments, "loss_fn": loss_fn, "checkpoint_every": every}
    resumed, whole = zarr.storage.MemoryStore(), zarr.storage.MemoryStore()
    run(whole, **arguments)
    calls, cut = 0, 1 + calls * tenths // 10
    with pytest.raises(Cut):
        run(resumed, **arguments)
    run(resumed, **arguments)
    assert chunks(resumed) == chunks(whole)


@settings(max_examples=8)
@given(member_names("obs", max_size=2), member_names("restriction", max_size=2))
def test_unusual_names_are_kept_and_change_no_number(
    observables: dict[str, dict[str, Any]], restrictions: dict[str, Any]
) -> None:
    written = [entry["name"] for entry in observables.values()]
    masks: dict[str, Any] = {name: None if name == "full" else {"1.weight": None} for name in restrictions}
    store = zarr.storage.MemoryStore()
    options: dict[str, Any] = {"lr": 1e-3, "n_beta": 10.0, "num_chains": 1, "num_draws": 2, "batch_size": 2,
                               "batches_per_draw": 1, "num_init_loss_batches": 1}  # fmt: skip
    study = sample_restrictions(
        build_model(), ROWS, {name: ROWS[i:].copy() for i, name in enumerate(written)}, masks, device="cpu",
        progress=False, output_path=store, sampling_task=written[0], **options,
    )  # fmt: skip
    assert [str(f) for f in validate(store, profile="strict").findings if f.severity != "note"] == []
    assert set(study.children) == set(masks)
    assert study.attrs["metadata"]["config"]["restrictions"] == list(masks)
    plain = run(zarr.storage.MemoryStore(), {f"o{i}": ROWS[i:].copy() for i in range(len(written))}, **options)
    recorded = study["full"].attrs["metadata"]["config"]["observables"]
    assert {entry["obs_id"]: entry["name"] for entry in recorded} == dict(zip(observables, written, strict=True))
    for i, obs_id in enumerate(observables):
        np.testing.assert_array_equal(study["full"][f"loss_{obs_id}"], plain[f"loss_o{i}"])
