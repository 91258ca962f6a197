"""Who made a run: hashes of everything that its numbers depend on, as plain JSON values."""

from __future__ import annotations

import functools
import hashlib
import inspect
import platform
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import metadata
from typing import Any

from torch import nn

from devinterp.errors import SettingError
from devinterp.slt.sampling.inputs.callables import hash_tensors

__all__ = ["describe_loss", "describe_tokenizer", "describe_versions", "hash_weights", "hashing_weights", "unwrapped"]

_PACKAGES = ("devinterp", "torch", "numpy", "xarray", "zarr", "transformers", "transformer_lens")


def hash_weights(model: nn.Module) -> str:
    """Return the sha256 of all parameters and buffers: names, dtypes, shapes and bytes.

    A model that was compiled or put into ``DataParallel`` is the one inside.
    """
    with hashing_weights(model) as digest:
        return digest()


@contextmanager
def hashing_weights(model: nn.Module) -> Iterator[Callable[[], str]]:
    """Do what `hash_weights` does beside what is done inside, which may evaluate the model but moves no weight.

    Of half a gigabyte it takes as long as a pass or two, for which no lock of Python's is held. Buffers, which a pass
    may change, are read when all is over.

    Yields
    ------
    callable
        Waits for the hash, and returns it; to be called when the model is as it was.
    """
    inner = unwrapped(model)
    parameters = [(name, parameter.detach()) for name, parameter in inner.named_parameters()]
    with ThreadPoolExecutor(1, thread_name_prefix="devinterp-hash") as thread:
        digest = thread.submit(hash_tensors, parameters)
        yield lambda: hash_tensors(inner.named_buffers(), digest.result()).hexdigest()


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside ``torch.compile`` and ``DataParallel``."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while hasattr(model, "_orig_mod") or isinstance(model, parallel):
        model = model.module if isinstance(model, parallel) else model._orig_mod  # type: ignore[assignment]
    return model


def describe_loss(loss_fn: Any) -> dict[str, str | None]:
    """Return the qualified name of a loss and the sha256 of its source, None where it has none."""
    if loss_fn is None:
        return {"name": "devinterp.next_token_loss", "source": None}
    fn = getattr(loss_fn, "func", loss_fn)  # functools.partial
    named = fn if hasattr(fn, "__qualname__") else type(fn)
    try:
        source = hashlib.sha256(inspect.getsource(named).encode()).hexdigest()
    except (OSError, TypeError):
        source = None  # typed into a console, or compiled
    return {"name": f"{named.__module__}.{named.__qualname__}", "source": source}


def describe_tokenizer(tokenizer: Any) -> dict[str, Any] | str | None:
    """Return what identifies a tokenizer; a string stands for itself.

    Raises
    ------
    SettingError
        It is neither a string nor something with a vocabulary.
    """
    if tokenizer is None or isinstance(tokenizer, str):
        return tokenizer
    if not hasattr(tokenizer, "get_vocab"):
        raise SettingError(
            "tokenizer has no vocabulary to identify it by.",
            expected="a HuggingFace tokenizer, or a string that names one",
            found=type(tokenizer).__name__,
        )
    vocabulary = tokenizer.get_vocab()
    listed = "\n".join(f"{index}\t{token}" for token, index in sorted(vocabulary.items(), key=lambda item: item[1]))
    return {
        "name": str(getattr(tokenizer, "name_or_path", type(tokenizer).__name__)),
        "size": len(vocabulary),
        "vocabulary": hashlib.sha256(listed.encode()).hexdigest(),
    }


def describe_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that the numbers pass through."""
    return {"python": platform.python_version(), **_installed()}


@functools.cache  # reading a package's metadata takes milliseconds, and they do not change under a running process
def _installed() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
