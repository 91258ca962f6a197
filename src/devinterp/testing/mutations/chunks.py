"""Mutations of the chunks, and of what a validation can work with: DI5xx, DI9xx."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from devinterp.schema import Limits
from devinterp.testing.mutations.bases import BASES, EXTENDED
from devinterp.testing.mutations.catalogue import mutation
from devinterp.testing.mutations.editor import StoreEditor

__all__: list[str] = []


@mutation("DI501")
def _a_chunk_of_losses_is_missing(store: StoreEditor) -> None:
    """A lost chunk reads as NaN."""
    store.delete("sampling_loss/c/1/0/0/0")


@mutation("DI501")
def _a_chunk_of_token_ids_is_missing(store: StoreEditor) -> None:
    """A lost chunk reads as an id that is none."""
    store.delete("input_ids_code/c/0/0")


@mutation("DI501")
def _the_chunk_of_a_scalar_is_missing(store: StoreEditor) -> None:
    """A scalar's only chunk is lost."""
    store.delete("n_beta/c")


@mutation("DI501", "failed chain", also=("DI007",))
def _a_chunk_of_fill_is_missing(store: StoreEditor) -> None:
    """Our writer writes chunks of fill too, so that a lost one is known."""
    store.delete("sampling_loss/c/1/0/0/0")


@mutation("DI501", "long samples")
def _a_second_chunk_is_missing(store: StoreEditor) -> None:
    """The second chunk of a chain is lost."""
    store.delete("loss_My_data_1/c/1/1/0/0")


@mutation("DI502")
def _a_chunk_beyond_the_array(store: StoreEditor) -> None:
    """There is a chunk of a draw that the array does not have."""
    store.put("sampling_loss/c/0/1/0/0", store.get("sampling_loss/c/0/0/0/0"))


@mutation("DI502")
def _a_chunk_under_another_key(store: StoreEditor) -> None:
    """There is a chunk of another array's rank."""
    store.put("init_loss/c/7/0/0", store.get("init_loss/c/0/0"))


@mutation("DI502")
def _notes_among_the_chunks(store: StoreEditor) -> None:
    """There is a file that is not a chunk."""
    store.put("loss_code/c/notes.txt", b"remember the milk")


@mutation("DI503")
def _a_leftover_among_the_chunks(store: StoreEditor) -> None:
    """A killed writer left a temporary file."""
    store.put("sampling_loss/c/0/0/0/0.0123456789abcdef.partial", b"half a chunk")


@mutation("DI503")
def _a_leftover_of_a_document(store: StoreEditor) -> None:
    """A killed writer left a temporary document."""
    store.put("sampling_loss/zarr.json.0123456789abcdef.partial", b"{")


@mutation("DI503", "study")
def _a_leftover_in_a_group(store: StoreEditor) -> None:
    """A killed writer left a temporary document of a group."""
    store.put("l0h0/zarr.json.0123456789abcdef.partial", b"{")


@mutation("DI504")
def _the_state_of_a_chain_is_left(store: StoreEditor) -> None:
    """A completed store still holds a checkpoint."""
    store.put(".devinterp/chain-0000.state", b"{}\n")


@mutation("DI504")
def _a_lock_is_left(store: StoreEditor) -> None:
    """A completed store still holds a lock."""
    store.put(".devinterp/lock", b"{}")


@mutation("DI504", "study")
def _the_progress_of_a_run_is_left(store: StoreEditor) -> None:
    """A completed study still holds the progress of a run."""
    store.put(".devinterp/l0h0/chain-0001.progress", b"{}")


@mutation("DI505", "peer samples")
def _ids_of_zeros_are_absent(store: StoreEditor) -> None:
    """devinterp 2.0 omits chunks of zeros: token 0 everywhere, or lost."""
    store.delete("input_ids_code/c/0/0")


@mutation("DI505", "peer samples")
def _sampled_ids_of_zeros_are_absent(store: StoreEditor) -> None:
    """devinterp 2.0 omits chunks of zeros: token 0 everywhere, or lost."""
    store.delete("sampling_input_ids_micro/c/1/0/0/0")


@mutation("DI505", "llc")
def _the_only_chunk_of_a_trace_is_absent(store: StoreEditor) -> None:
    """A trace of NaN would not have been written."""
    store.delete("loss_trace/c/0/0")


@mutation("DI506")
def _a_bit_of_a_loss_flipped(store: StoreEditor) -> None:
    """One bit of a chunk is wrong."""
    store.flip("sampling_loss/c/2/0/0/0", 5)


@mutation("DI506")
def _a_chunk_cut_short(store: StoreEditor) -> None:
    """The copy of a chunk broke off."""
    key = "loss_code/c/0/0/0/0"
    store.put(key, store.get(key)[:-7])


@mutation("DI506", "study")
def _an_empty_chunk(store: StoreEditor) -> None:
    """A chunk has no bytes."""
    store.put("l0h0/input_ids_code/c/0/0", b"")


@mutation("DI506", "peer samples")
def _a_chunk_without_checksum_is_no_zstd(store: StoreEditor) -> None:
    """A chunk of a store without checksums is random bytes."""
    store.put("sampling_loss/c/0/0/0/0", bytes(np.random.default_rng(0).integers(0, 256, 40, dtype=np.uint8)))


def _with_rule(predicate: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The extension, with one more rule."""
    node = EXTENDED["nodes"]["/"]
    rule = {"code": "LAB101", "predicate": predicate, "level": "structure", "arguments": arguments}
    return {**EXTENDED, "nodes": {"/": {**node, "rules": [rule]}}}


def _relation(name: str) -> dict[str, Any]:
    from devinterp.schema import predicate

    @predicate(f"lab_{name}", kind="relation")
    def broken(context: Any) -> Any:
        """A rule with a bug."""
        return _BUGS[name](context)

    broken.__qualname__ = f"broken_{name}"
    return _with_rule(f"lab_{name}", {})


_BUGS: dict[str, Any] = {
    "divides": lambda context: 1 // 0,
    "looks_up": lambda context: [context.attrs["nowhere"]],
    "adds": lambda context: [context.attrs + 1],
}


def _no_change(doc: str) -> Any:
    def nothing(store: StoreEditor) -> None:
        pass

    nothing.__doc__ = doc
    return nothing


for _name in _BUGS:
    _document = _relation(_name)
    _change = _no_change("Nothing is changed: the consumer's own rule has a bug.")
    _change.__name__ = f"a_rule_that_{_name}"
    mutation("DI901", replace(BASES["extended"], schema=_document))(_change)


@mutation("DI902", "wide samples", limits=Limits(memory=16 * 2**20))
def _a_chunk_larger_than_memory(store: StoreEditor) -> None:
    """Nothing is changed: a chunk is larger than the caller's memory."""


@mutation("DI902", "wide samples", limits=Limits(memory=8 * 2**20))
def _most_chunks_larger_than_memory(store: StoreEditor) -> None:
    """Nothing is changed: hardly any chunk fits into the caller's memory."""


@mutation("DI902", "wide samples", limits=Limits(memory=16 * 2**20), also=("DI202",))
def _a_chunk_larger_than_memory_among_small_ones(store: StoreEditor) -> None:
    """One array was written in small chunks, another was not."""
    grid = {"name": "regular", "configuration": {"chunk_shape": [1, 1, 2, 50_000]}}
    store.rewrite("loss_code", chunk_grid=grid)
