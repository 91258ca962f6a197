"""Stores on disk: created from a schema, written in an order that survives a crash, opened lazily."""

from __future__ import annotations

from devinterp.store.begin import open_run
from devinterp.store.location import Location, StoreLike, locate
from devinterp.store.open import open_store
from devinterp.store.request import Container, SamplesRequest, WriterAddress
from devinterp.store.run import Run
from devinterp.store.writer import ChainWriter, StepLayout

__all__ = [
    "ChainWriter",
    "Container",
    "Location",
    "Run",
    "SamplesRequest",
    "StepLayout",
    "StoreLike",
    "WriterAddress",
    "locate",
    "open_run",
    "open_store",
]
