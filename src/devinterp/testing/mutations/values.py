"""Mutations of the values of one variable: DI3xx."""

from __future__ import annotations

import numpy as np

from devinterp.testing.mutations.catalogue import mutation
from devinterp.testing.mutations.editor import StoreEditor

__all__: list[str] = []


@mutation("DI301")
def _a_loss_is_nan(store: StoreEditor) -> None:
    """One of the written losses is NaN."""
    store.set_value("sampling_loss", (1, 1, 0, 0), np.nan)


@mutation("DI301", "long samples")
def _a_late_loss_is_infinite(store: StoreEditor) -> None:
    """One loss of the second chunk is infinite."""
    store.set_value("loss_code", (1, 55, 0, 0), np.inf)


@mutation("DI301", "susceptibilities")
def _a_susceptibility_is_nan(store: StoreEditor) -> None:
    """One susceptibility is NaN."""
    store.set_value("susceptibilities/sus", (0, 1), np.nan)


@mutation("DI301", "failed chain", also=("DI007",))
def _a_loss_before_the_failure_is_nan(store: StoreEditor) -> None:
    """A draw that is said to be written is fill."""
    store.set_value("sampling_loss", (1, 0, 0, 0), np.nan)


@mutation("DI302")
def _a_token_id_is_fill(store: StoreEditor) -> None:
    """One token id was never written."""
    store.set_value("input_ids_code", (0, 0), -1)


@mutation("DI302", also=("DI402", "DI406"))
def _a_norm_is_negative(store: StoreEditor) -> None:
    """A norm is below 0."""
    store.set_value("metrics_noise", (0, 2), -1.0)


@mutation("DI302", "susceptibilities", also=("DI441",))
def _positions_count_from_0(store: StoreEditor) -> None:
    """Target positions count from 1."""
    store.change("susceptibilities/target_position", lambda p: p - 1)


@mutation("DI302", "extended")
def _a_rule_of_an_extension_is_broken(store: StoreEditor) -> None:
    """A consumer's own bound is broken."""
    store.set_value("temperature", 0, -1.0)


@mutation("DI303")
def _a_token_id_outside_the_vocabulary(store: StoreEditor) -> None:
    """The tokenizer has 50 tokens."""
    store.set_value("input_ids_code", (1, 2), 50)


@mutation("DI303")
def _a_sampled_token_outside_the_vocabulary(store: StoreEditor) -> None:
    """The tokenizer has 50 tokens."""
    store.set_value("sampling_input_ids_micro", (2, 3, 1, 0), 10**6)


@mutation("DI303", "study")
def _a_token_of_a_run_outside_the_vocabulary(store: StoreEditor) -> None:
    """The tokenizer has 50 tokens."""
    store.set_value("l0h0/input_ids_My_data_1", (0, 0), 50)


@mutation("DI304")
def _a_row_twice(store: StoreEditor) -> None:
    """An observable has one row twice."""
    store.change("row_code", lambda rows: np.full_like(rows, rows[0]))


@mutation("DI304", "susceptibilities")
def _a_restriction_twice(store: StoreEditor) -> None:
    """Two restrictions have one name."""
    store.change("susceptibilities/wr", lambda names: np.array([names[0]] * len(names), dtype=object))


@mutation("DI304", "bif")
def _a_sequence_twice(store: StoreEditor) -> None:
    """batch_1 names one sequence twice."""
    store.change("batch_1", lambda index: np.full_like(index, index[0]))


@mutation("DI305", "llc")
def _an_interval_upside_down(store: StoreEditor) -> None:
    """The upper end comes first."""
    store.change("llc_ci", lambda ends: ends[::-1])


@mutation("DI305", "llc of a study")
def _one_interval_upside_down(store: StoreEditor) -> None:
    """The upper end of one restriction comes first."""

    def swap(ends: np.ndarray) -> None:
        ends[1, 2] = ends[1, 2, ::-1].copy()

    store.change("llc_ci", swap)


@mutation("DI305", "llc of a study")
def _the_lower_ends_are_too_high(store: StoreEditor) -> None:
    """Every lower end lies above the upper one."""

    def raise_them(ends: np.ndarray) -> None:
        ends[..., 0] += 100.0

    store.change("llc_ci", raise_them)


@mutation("DI306", "bif")
def _positions_of_a_bif_count_from_0(store: StoreEditor) -> None:
    """Target positions count from 1."""
    store.change("target_position", lambda p: p - 1)


@mutation("DI306", "bif")
def _positions_of_a_bif_have_a_gap(store: StoreEditor) -> None:
    """A position is left out."""
    store.change("target_position_T", lambda p: np.where(p == 2, 1, p))


@mutation("DI306", "bif")
def _positions_of_a_bif_run_backwards(store: StoreEditor) -> None:
    """Positions count upwards."""
    store.change("target_position", lambda p: p[::-1])


@mutation("DI307", "failed chain", also=("DI007",))
def _a_loss_behind_the_failure(store: StoreEditor) -> None:
    """A chain with one draw has a loss in its third row."""
    store.set_value("sampling_loss", (1, 2, 0, 0), 1.0)


@mutation("DI307", "two failed chains", also=("DI007",))
def _a_draw_of_a_chain_without_draws(store: StoreEditor) -> None:
    """A chain without a draw has losses of an observable."""

    def fill(losses: np.ndarray) -> None:
        losses[0, 0] = 1.0

    store.change("loss_code", fill)


@mutation("DI307", "two failed chains", also=("DI007",))
def _a_step_behind_the_failure(store: StoreEditor) -> None:
    """A chain that failed early has the loss of its last step."""
    store.set_value("step_loss", (0, 6), 1.0)


@mutation("DI308", "extended")
def _a_value_of_an_extension_is_too_large(store: StoreEditor) -> None:
    """A consumer's own bound is broken."""
    store.set_value("temperature", 1, 11.0)


@mutation("DI308", "extended")
def _every_value_of_an_extension_is_too_large(store: StoreEditor) -> None:
    """A consumer's own bound is broken everywhere."""
    store.change("temperature", lambda t: t + 100.0)


@mutation("DI308", "extended")
def _a_value_just_above_its_bound(store: StoreEditor) -> None:
    """A consumer's own bound is broken by the smallest possible amount."""
    store.set_value("temperature", 2, np.nextafter(10.0, 11.0))
