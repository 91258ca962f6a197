"""Sweeps and series that contradict themselves: cells, checkpoints, and what their roots say of them."""

from __future__ import annotations

import numpy as np

from devinterp.testing.mutations.catalogue import mutation
from devinterp.testing.mutations.editor import StoreEditor

__all__: list[str] = []

_SAMPLER = "metadata.config.sampler"


@mutation("DI451", "sweep")
def _a_cell_that_is_not_listed(store: StoreEditor) -> None:
    """There is a run of a cell that the list does not name."""
    store.copy("warm", "warmer")


@mutation("DI451", "sweep")
def _a_listed_cell_is_missing(store: StoreEditor) -> None:
    """The list names a cell that is not there."""
    store.remove("cold")


@mutation("DI451", "sweep")
def _settings_of_a_cell_are_missing(store: StoreEditor) -> None:
    """The root has settings of fewer cells than there are."""
    for name in ("cell", "lr", "n_beta", "localization"):
        store.rewrite(name, store.read(name)[:2])


@mutation("DI452", "sweep")
def _settings_of_cells_in_another_order(store: StoreEditor) -> None:
    """The root tells the step sizes of the cells in the wrong order."""
    store.change("lr", lambda values: values[::-1].copy())


@mutation("DI452", "sweep")
def _a_cell_was_sampled_at_another_temperature(store: StoreEditor) -> None:
    """The root tells another inverse temperature than a cell was sampled at."""
    store.set_value("n_beta", 1, 77.0)


@mutation("DI452", "sweep")
def _two_cells_with_the_same_settings(store: StoreEditor) -> None:
    """Two cells were sampled with the same settings."""
    for name in ("lr", "n_beta", "localization"):
        value = float(store.read(name)[0])
        store.set_value(name, 2, value)
        store.set_attribute("fast", f"{_SAMPLER}.{name}", value)
    store.change("fast/n_beta", lambda values: np.full_like(values, store.read("warm/n_beta")))


@mutation("DI461", "series")
def _a_checkpoint_that_is_not_listed(store: StoreEditor) -> None:
    """There is a study of a checkpoint that the list does not name."""
    store.copy("64", "128")


@mutation("DI461", "series")
def _a_listed_checkpoint_is_missing(store: StoreEditor) -> None:
    """The list names a checkpoint that is not there."""
    store.remove("512")


@mutation("DI461", "series")
def _a_training_step_is_missing(store: StoreEditor) -> None:
    """The root has training steps of fewer checkpoints than there are."""
    store.rewrite("checkpoint", store.read("checkpoint")[:2])


@mutation("DI461", "series")
def _a_study_of_other_restrictions(store: StoreEditor) -> None:
    """The root names a restriction that no study has."""
    store.set_attribute("", "metadata.config.restrictions", ["full", "l0h0", "l7h7"])


@mutation("DI462", "series")
def _training_steps_in_another_order(store: StoreEditor) -> None:
    """The root tells the training steps in the wrong order."""
    store.change("checkpoint", lambda values: values[::-1].copy())


@mutation("DI462", "series")
def _a_training_step_is_off(store: StoreEditor) -> None:
    """The root tells another training step than that of the group."""
    store.set_value("checkpoint", 1, 65)


@mutation("DI462", "series")
def _training_steps_of_another_run(store: StoreEditor) -> None:
    """The root tells the training steps of another run."""
    store.change("checkpoint", lambda values: values + 1000)


@mutation("DI006", "series")
def _a_series_that_is_not_complete(store: StoreEditor) -> None:
    """The run of a series has not ended."""
    store.set_attribute("", "completed", 0)
