"""Mutations of what variables, attributes and groups say about each other: DI4xx."""

from __future__ import annotations

import numpy as np

from devinterp.testing.mutations.catalogue import mutation
from devinterp.testing.mutations.editor import StoreEditor

__all__: list[str] = []

_SAMPLER = "metadata.config.sampler"


@mutation("DI401", also=("DI307",))
def _a_complete_chain_lacks_a_draw(store: StoreEditor) -> None:
    """A chain is said to be complete and to have fewer draws than asked for."""
    store.set_value("draws_written", 1, 2)


@mutation("DI401")
def _more_draws_than_there_are(store: StoreEditor) -> None:
    """A chain is said to have more draws than the arrays."""
    store.set_value("draws_written", 0, 4)


@mutation("DI401", "study", also=("DI307",))
def _a_complete_chain_of_a_run_without_draws(store: StoreEditor) -> None:
    """A complete chain of a restriction is said to have no draw."""
    store.set_value("l0h0/draws_written", 1, 0)


@mutation("DI402")
def _metrics_are_mixed_up(store: StoreEditor) -> None:
    """Norm and dot product were exchanged."""
    store.change("metrics_dot_grad_noise", lambda dots: np.abs(dots) + store.read("metrics_noise") + 1.0)


@mutation("DI402")
def _a_dot_product_is_too_large(store: StoreEditor) -> None:
    """A dot product breaks the Cauchy-Schwarz inequality."""
    store.set_value("metrics_dot_grad_prior", (1, 3), -1.0)


@mutation("DI402")
def _the_distance_does_not_start_at_0(store: StoreEditor) -> None:
    """A chain is far from its start before its first step."""
    store.set_value("metrics_distance", (0, 0), 5.0)


@mutation("DI402", also=("DI406",))
def _the_noise_is_rescaled(store: StoreEditor) -> None:
    """The norms of the noise are in another unit than its dot products."""
    store.change("metrics_noise", lambda norms: norms * 1e-3)


@mutation("DI403")
def _an_id_is_not_the_name_made_safe(store: StoreEditor) -> None:
    """obs_id does not follow from the name."""
    store.set_attribute("", "metadata.config.observables.0.name", "prose")


@mutation("DI403", also=("DI101", "DI102"))
def _two_observables_alike_up_to_case(store: StoreEditor) -> None:
    """Two observables differ in case alone."""
    store.set_attribute("", "metadata.config.observables.1.obs_id", "Code")
    store.set_attribute("", "metadata.config.observables.1.name", "Code")


@mutation("DI403", also=("DI101", "DI102"))
def _an_observable_called_sampling(store: StoreEditor) -> None:
    """The losses of an observable would be called like the sampling losses."""
    store.set_attribute("", "metadata.config.observables.0.obs_id", "sampling")
    store.set_attribute("", "metadata.config.observables.0.name", "sampling")


@mutation("DI404")
def _n_beta_is_another(store: StoreEditor) -> None:
    """The inverse temperature is not the setting."""
    store.change("n_beta", lambda value: value * 2 + 1)


@mutation("DI404")
def _the_setting_of_n_beta_is_another(store: StoreEditor) -> None:
    """The setting is not the inverse temperature."""
    store.set_attribute("", f"{_SAMPLER}.n_beta", 1e6)


@mutation("DI404")
def _n_beta_is_slightly_off(store: StoreEditor) -> None:
    """The inverse temperature was rounded to single precision."""
    store.change("n_beta", lambda value: value * (1 + 1e-7))


@mutation("DI405")
def _a_chain_without_a_state(store: StoreEditor) -> None:
    """There is one state less than there are chains."""
    store.set_attribute("", "metadata.run.chains", store.document()["attributes"]["metadata"]["run"]["chains"][:2])


@mutation("DI405")
def _an_interrupted_chain_of_a_completed_run(store: StoreEditor) -> None:
    """A run is completed and one of its chains is not."""
    store.set_attribute("", "metadata.run.chains.1.status", "interrupted")


@mutation("DI405", "study")
def _states_of_chains_that_are_not_there(store: StoreEditor) -> None:
    """There are more states than chains."""
    chains = store.document("l0h0")["attributes"]["metadata"]["run"]["chains"]
    store.set_attribute("l0h0", "metadata.run.chains", [*chains, chains[0]])


@mutation("DI406")
def _the_distance_jumps(store: StoreEditor) -> None:
    """From one step to the next the distance grows by more than the update."""
    store.set_value("metrics_distance", (1, 6), 100.0)


@mutation("DI406")
def _the_distance_jumps_at_once(store: StoreEditor) -> None:
    """The first update moves the weights farther than its terms."""
    store.set_value("metrics_distance", (0, 1), 100.0)


@mutation("DI406", "long samples")
def _the_distance_jumps_between_chunks(store: StoreEditor) -> None:
    """The jump lies on the border of two chunks."""

    def jump(distance: np.ndarray) -> None:
        distance[0, 50:] += 1000.0

    store.change("metrics_distance", jump)


@mutation("DI411", "study", also=("DI412",))
def _full_is_missing(store: StoreEditor) -> None:
    """The run without a restriction is not there."""
    store.remove("full")


@mutation("DI411", "study", also=("DI110",))
def _full_is_renamed(store: StoreEditor) -> None:
    """The run without a restriction has another name, in the list too."""
    store.rename("full", "everything")
    store.set_attribute("", "metadata.config.restrictions", ["everything", "l0h0", "l1 mlp"])


@mutation("DI411", "study", also=("DI412",))
def _full_in_capitals(store: StoreEditor) -> None:
    """Names are taken verbatim."""
    store.rename("full", "FULL")


@mutation("DI412", "study")
def _a_run_that_is_not_listed(store: StoreEditor) -> None:
    """There is a run of a restriction that the list does not name."""
    store.copy("l0h0", "l0h7")


@mutation("DI412", "study")
def _a_listed_run_is_missing(store: StoreEditor) -> None:
    """The list names a restriction that is not there."""
    store.remove("l1 mlp")


@mutation("DI412", "study")
def _a_run_is_renamed(store: StoreEditor) -> None:
    """A run has another name than in the list."""
    store.rename("l0h0", "l0 h0")


@mutation("DI413", "study")
def _a_run_at_another_temperature(store: StoreEditor) -> None:
    """One restriction was sampled at another inverse temperature."""
    store.set_attribute("l0h0", f"{_SAMPLER}.n_beta", 77.0)
    store.change("l0h0/n_beta", lambda value: np.full_like(value, 77.0))


@mutation("DI413", "study")
def _a_run_with_another_localization(store: StoreEditor) -> None:
    """One restriction was sampled with another localization."""
    store.set_attribute("l1 mlp", f"{_SAMPLER}.localization", 12345.0)


@mutation("DI413", "study")
def _a_run_from_other_weights(store: StoreEditor) -> None:
    """One restriction was sampled from another model."""
    store.set_attribute("l0h0", "metadata.provenance.weights", {"sha256": "11"})


@mutation("DI414", "study")
def _a_sampling_task_that_nobody_observed(store: StoreEditor) -> None:
    """The sampling task is none of the observables."""
    store.set_attribute("", "metadata.config.sampling_task", "prose")


@mutation("DI414", "study")
def _a_sampling_task_in_capitals(store: StoreEditor) -> None:
    """Names are taken verbatim."""
    store.set_attribute("", "metadata.config.sampling_task", "CODE")


@mutation("DI414", "study", also=("DI103", "DI413"))
def _a_run_that_did_not_observe_the_task(store: StoreEditor) -> None:
    """One restriction has the sampling task under another name."""
    store.set_attribute("", "metadata.config.sampling_task", "code")
    store.set_attribute("l0h0", "metadata.config.observables.0", {"obs_id": "x", "name": "x", "batches_per_draw": 1})
    for name in ("loss_", "input_ids_", "init_loss_", "row_"):
        store.rename(f"l0h0/{name}code", f"l0h0/{name}x")


@mutation("DI421", "llc")
def _the_mean_is_off(store: StoreEditor) -> None:
    """llc_mean is not the mean of the chains."""
    store.change("llc_mean", lambda value: value + 1e-3)


@mutation("DI421", "llc")
def _the_spread_has_another_divisor(store: StoreEditor) -> None:
    """llc_std was computed with ddof 1."""
    store.change("llc_std", lambda value: value * np.sqrt(3 / 2))


@mutation("DI421", "llc of a study")
def _one_chain_was_changed(store: StoreEditor) -> None:
    """The LLC of one chain of one restriction was changed afterwards."""

    def add(values: np.ndarray) -> None:
        values[1, 2, 0] += 1.0

    store.change("llc_per_chain", add)


@mutation("DI421", "llc")
def _the_start_was_changed(store: StoreEditor) -> None:
    """init_loss is that of another run."""
    store.change("init_loss", lambda value: value + 1.0)


@mutation("DI421", "llc over steps")
def _the_inverse_temperature_was_changed(store: StoreEditor) -> None:
    """The attribute n_beta is that of another run."""
    store.set_attribute("", "n_beta", store.document("")["attributes"]["n_beta"] * 2)


@mutation("DI431", "bif")
def _a_sequence_that_is_not_there(store: StoreEditor) -> None:
    """batch_1 names a sequence beyond the last."""
    store.change("batch_1", lambda index: np.where(index == index.max(), 99, index))


@mutation("DI431", "sequence bif")
def _every_second_sequence_is_beyond_the_last(store: StoreEditor) -> None:
    """batch_2 counts in another way."""
    store.change("batch_2", lambda index: index + 5)


@mutation("DI431", "bif")
def _fewer_tokens_than_positions(store: StoreEditor) -> None:
    """The tokens of the last positions are missing."""
    store.rewrite("input_ids", store.read("input_ids")[:, :3])


@mutation("DI432", "bif")
def _a_correlation_beyond_1(store: StoreEditor) -> None:
    """A correlation is larger than 1."""
    store.set_value("influences", (0, 0, 0, 1), 1.5)


@mutation("DI432", "sequence bif")
def _influences_are_not_symmetric(store: StoreEditor) -> None:
    """One half of the matrix was changed."""

    def change(values: np.ndarray) -> None:
        first = int(np.argmax(store.read("batch_1") == 0))
        second = int(np.argmax(store.read("batch_2") == 1))
        values[first, second] = 0.987 if values[first, second] < 0 else -0.987

    store.change("influences", change)


@mutation("DI432", "bif")
def _a_loss_does_not_correlate_with_itself(store: StoreEditor) -> None:
    """The diagonal is not 1."""
    first, second = store.read("batch_1"), store.read("batch_2")
    row = int(first[0])
    store.set_value("influences", (0, int(np.argmax(second == row)), 1, 1), 0.5)


@mutation("DI441", "susceptibilities")
def _a_token_twice(store: StoreEditor) -> None:
    """One predicted token occurs twice, another not at all."""
    store.set_value("susceptibilities/target_position", 0, 2)


@mutation("DI441", "susceptibilities", also=("DI443",))
def _a_row_of_tokens_twice(store: StoreEditor) -> None:
    """One row occurs twice."""
    store.change("context/batch", lambda rows: np.zeros_like(rows))


@mutation("DI441", "susceptibilities")
def _an_observable_that_is_not_listed(store: StoreEditor) -> None:
    """dataset_id points behind the list of names."""
    store.change("susceptibilities/dataset_id", lambda identity: identity + 1)


@mutation("DI443", "susceptibilities")
def _groups_with_different_observables(store: StoreEditor) -> None:
    """The groups list different observables."""
    store.set_attribute("context", "dataset_id_to_name", ["code", "prose"])


@mutation("DI443", "susceptibilities")
def _observables_exchanged_in_one_group(store: StoreEditor) -> None:
    """The groups list the observables in another order."""
    store.set_attribute("context", "dataset_id_to_name", ["math", "code"])


def _keep(store: StoreEditor, group: str, position: str, function: object) -> None:
    parts = [store.read(f"{group}/{name}") for name in ("dataset_id", "batch", position)]
    keep = function(*parts)  # type: ignore[operator]
    for path in [p for p in store.arrays() if p.startswith(f"{group}/") and not p.endswith("/wr")]:
        store.rewrite(path, store.read(path)[keep])


@mutation("DI443", "susceptibilities")
def _context_without_its_last_position(store: StoreEditor) -> None:
    """The last token of every row is missing."""
    _keep(store, "context", "position", lambda dataset, row, place: place < place.max())


@mutation("DI443", "susceptibilities")
def _context_without_a_row(store: StoreEditor) -> None:
    """A row has susceptibilities and no tokens."""
    _keep(
        store,
        "context",
        "position",
        lambda dataset, row, place: (dataset != 0) | (row < max(1, row[dataset == 0].max())),
    )
