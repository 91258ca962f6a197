"""Mutations of the structure: DI1xx."""

from __future__ import annotations

import numpy as np

from devinterp.testing.mutations.catalogue import mutation
from devinterp.testing.mutations.editor import StoreEditor

__all__: list[str] = []


@mutation("DI101")
def _sampling_loss_is_missing(store: StoreEditor) -> None:
    """A required variable is not there."""
    store.remove("sampling_loss")


@mutation("DI101", also=("DI102",))
def _an_observable_is_misspelt(store: StoreEditor) -> None:
    """The losses of an observable lie under a misspelt name."""
    store.rename("loss_code", "los_code")


@mutation("DI101")
def _one_metric_is_missing(store: StoreEditor) -> None:
    """The settings say that metrics were kept, and one is not there."""
    store.remove("metrics_noise")


@mutation("DI101", "susceptibilities")
def _a_coordinate_is_missing(store: StoreEditor) -> None:
    """Without dataset_id nobody knows which observable a value belongs to."""
    store.remove("susceptibilities/dataset_id")
    store.set_attribute("susceptibilities/sus", "coordinates", "batch target_position")


@mutation("DI101", "extended")
def _a_variable_of_an_extension_is_missing(store: StoreEditor) -> None:
    """What a consumer's schema requires is not there."""
    store.remove("temperature")


@mutation("DI102")
def _an_array_of_notes(store: StoreEditor) -> None:
    """There is an array that no schema declares."""
    store.copy("n_beta", "notes")


@mutation("DI102")
def _losses_of_an_observable_that_is_not_listed(store: StoreEditor) -> None:
    """There are losses of an observable that the attributes do not list."""
    store.copy("loss_code", "loss_other")


@mutation("DI102", "bif")
def _an_index_of_draws_in_a_bif(store: StoreEditor) -> None:
    """There is a coordinate that no schema declares."""
    store.copy("batch_1", "draw")
    store.edit("draw", dimension_names=["draw"])


@mutation("DI103")
def _a_dimension_is_renamed(store: StoreEditor) -> None:
    """A dimension has another name than declared."""
    store.edit("sampling_loss", dimension_names=["chain", "iteration", "batch", "token_pos"])


@mutation("DI103")
def _two_dimensions_are_swapped(store: StoreEditor) -> None:
    """The values are transposed, and so are the names."""
    values = np.swapaxes(store.read("loss_code"), 2, 3)
    store.rewrite("loss_code", values, dimension_names=["chain", "draw", "token_pos", "batch_code"])


@mutation("DI103", "llc")
def _a_scalar_has_a_dimension(store: StoreEditor) -> None:
    """A scalar was written with a dimension."""
    store.rewrite("llc_mean", store.read("llc_mean")[None], dimension_names=["chains"])


@mutation("DI104", also=("DI201",))
def _token_ids_are_floats(store: StoreEditor) -> None:
    """Ids that went through a _FillValue came back as float64."""
    store.rewrite("input_ids_code", store.read("input_ids_code").astype("f8"), data_type="float64", fill_value="NaN")


@mutation("DI104")
def _losses_are_doubles(store: StoreEditor) -> None:
    """Losses were written in float64."""
    store.rewrite("sampling_loss", store.read("sampling_loss").astype("f8"), data_type="float64")


@mutation("DI104", "susceptibilities")
def _positions_are_32_bit(store: StoreEditor) -> None:
    """Positions were written in int32."""
    path = "susceptibilities/target_position"
    store.rewrite(path, store.read(path).astype("i4"), data_type="int32")


@mutation("DI105", "susceptibilities")
def _coordinates_are_not_marked(store: StoreEditor) -> None:
    """The attribute that makes variables coordinates is gone."""
    store.remove_attribute("susceptibilities/sus", "coordinates")


@mutation("DI105")
def _a_loss_is_a_coordinate(store: StoreEditor) -> None:
    """A data variable is marked as a coordinate."""
    store.set_attribute("sampling_loss", "coordinates", "init_loss")


@mutation("DI105", "susceptibilities")
def _one_coordinate_is_not_marked(store: StoreEditor) -> None:
    """One of three coordinates is not named."""
    store.set_attribute("context/input_ids", "coordinates", "batch position")


@mutation("DI106", "susceptibilities")
def _context_is_missing(store: StoreEditor) -> None:
    """Susceptibilities without the tokens that they speak of."""
    store.remove("context")


@mutation("DI106", "susceptibilities")
def _susceptibilities_are_missing(store: StoreEditor) -> None:
    """Tokens without their susceptibilities."""
    store.remove("susceptibilities")


@mutation("DI106", "study", also=("DI411", "DI412"))
def _every_run_is_missing(store: StoreEditor) -> None:
    """A study of no run."""
    for name in ("full", "l0h0", "l1 mlp"):
        store.remove(name)


@mutation("DI107")
def _a_group_among_the_arrays(store: StoreEditor) -> None:
    """There is a group where only arrays belong."""
    store.write_document("extra", {"zarr_format": 3, "node_type": "group", "attributes": {}})


@mutation("DI107", "susceptibilities")
def _a_third_group(store: StoreEditor) -> None:
    """There is a group that no schema declares."""
    store.write_document("plots", {"zarr_format": 3, "node_type": "group", "attributes": {}})


@mutation("DI107", "study")
def _a_group_inside_a_run(store: StoreEditor) -> None:
    """There is a group inside a run of a study."""
    store.write_document("l0h0/old", {"zarr_format": 3, "node_type": "group", "attributes": {}})


@mutation("DI108")
def _more_draws_in_the_settings(store: StoreEditor) -> None:
    """The settings say more draws than the arrays have."""
    store.set_attribute("", "metadata.config.sampler.num_draws", 4)


@mutation("DI108")
def _the_batches_of_an_observable_differ(store: StoreEditor) -> None:
    """The settings say other numbers of rows of an observable."""
    store.set_attribute("", "metadata.config.observables.0.batches_per_draw", 5)


@mutation("DI108", "bif")
def _another_number_of_second_positions(store: StoreEditor) -> None:
    """target_position and target_position_T must be equally long."""
    store.rewrite("influences", store.read("influences")[..., :2])
    store.rewrite("target_position_T", store.read("target_position_T")[:2])


@mutation("DI109")
def _the_start_of_an_observable_has_fewer_positions(store: StoreEditor) -> None:
    """Two arrays disagree about the number of positions."""
    store.rewrite("init_loss_code", store.read("init_loss_code")[:, :2])


@mutation("DI109")
def _the_start_has_fewer_positions(store: StoreEditor) -> None:
    """Two arrays disagree about the number of positions."""
    store.rewrite("init_loss", store.read("init_loss")[:, :2])


@mutation("DI109", "llc")
def _the_trace_has_more_chains(store: StoreEditor) -> None:
    """Two arrays disagree about the number of chains."""
    trace = store.read("loss_trace")
    store.rewrite("loss_trace", np.concatenate([trace, trace]))


@mutation("DI110")
def _the_step_size_is_missing(store: StoreEditor) -> None:
    """A required setting is not there."""
    store.remove_attribute("", "metadata.config.sampler.lr")


@mutation("DI110")
def _an_unknown_sampling_method(store: StoreEditor) -> None:
    """A setting has a value that it cannot have."""
    store.set_attribute("", "metadata.config.sampler.sampling_method", "langevin")


@mutation("DI110", "susceptibilities", also=("DI443",))
def _names_of_observables_are_no_list(store: StoreEditor) -> None:
    """dataset_id_to_name must be a list."""
    store.set_attribute("susceptibilities", "dataset_id_to_name", "code")


@mutation("DI110", "extended")
def _an_attribute_of_an_extension_is_missing(store: StoreEditor) -> None:
    """What a consumer's schema demands of the attributes is not there."""
    store.remove_attribute("", "lab")


@mutation("DI111")
def _losses_in_bits(store: StoreEditor) -> None:
    """Losses say that they are in bits."""
    store.set_attribute("sampling_loss", "units", "bit")


@mutation("DI111", "susceptibilities")
def _susceptibilities_in_nat(store: StoreEditor) -> None:
    """Susceptibilities are in nat squared."""
    store.set_attribute("susceptibilities/sus", "units", "nat")


@mutation("DI111", "bif")
def _influences_in_nat(store: StoreEditor) -> None:
    """Influences are 1, or nat squared."""
    store.set_attribute("influences", "units", "nat")


@mutation("DI112")
def _metrics_that_were_not_kept(store: StoreEditor) -> None:
    """The settings say that no metrics were kept, and they are there."""
    store.set_attribute("", "metadata.config.sampler.save_metrics", False)


@mutation("DI112")
def _step_losses_that_were_not_kept(store: StoreEditor) -> None:
    """The settings say that no step losses were kept, and they are there."""
    store.set_attribute("", "metadata.config.sampler.save_step_losses", False)


@mutation("DI112", "peer samples")
def _a_variable_of_ours_in_a_store_of_the_peer(store: StoreEditor) -> None:
    """devinterp 2.0 never wrote draws_written."""
    store.copy("metrics_noise", "step_loss")
    store.set_attribute("step_loss", "units", "nat")


@mutation("DI113")
def _a_group_named_like_an_array(store: StoreEditor) -> None:
    """There is a group where an array belongs."""
    store.remove("n_beta")
    store.write_document("n_beta", {"zarr_format": 3, "node_type": "group", "attributes": {}})


@mutation("DI113", "susceptibilities")
def _an_array_named_like_a_group(store: StoreEditor) -> None:
    """There is an array where a group belongs."""
    store.copy("context/input_ids", "tokens")
    store.remove("context")
    store.rename("tokens", "context")


@mutation("DI113", "llc")
def _an_array_at_the_root(store: StoreEditor) -> None:
    """The root is an array."""
    document = store.document("llc_mean")
    store.write_document("", document)
