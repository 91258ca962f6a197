"""Stores on disk: created from a schema, written in an order that survives a crash, opened lazily."""

from __future__ import annotations

from devinterp.steps import StepLayout
from devinterp.store.location import Location, StoreLike, locate
from devinterp.store.reading.open import open_store
from devinterp.store.writing.chain_writer import ChainWriter
from devinterp.store.writing.open_run import open_run
from devinterp.store.writing.request import Container, SamplesRequest, WriterAddress
from devinterp.store.writing.run import Run
from devinterp.store.writing.variable import write_variable, write_variables

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
    "write_variable",
    "write_variables",
]
