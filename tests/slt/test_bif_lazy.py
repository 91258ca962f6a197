from __future__ import annotations

import pytest
import xarray as xr
from made_runs import fail_chain, make_run, make_study, to_store

from devinterp.errors import ChainFailedWarning
from devinterp.slt import bif_lazy
from devinterp.slt.bif import compute_bif
from devinterp.slt.llc import compute_llc
from devinterp.slt.susceptibilities import compute_susceptibilities

OPTIONS = [
    {},
    {"correlation_method": "sequence"},
    {"average_tokenwise_bif": True},
    {"compute_covariance": True},
    {"reduce_chain_dimension_method": "mean"},
    {"batch_index_range_1": [9, 0, 5], "batch_index_range_2": "math"},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("se", [False, True])
@pytest.mark.parametrize("from_dask", [False, True])
def test_is_computed_on_demand_and_equals_memory(options, se, from_dask):
    tree = make_run()
    source = tree.chunk(chain=1, draw=15) if from_dask else tree
    result = compute_bif(source, lazy=None if from_dask else True, se=se, batch_size=4, **options)
    assert result["influences"].chunks is not None
    expected = compute_bif(tree, se=se, **options)
    assert result.attrs == expected.attrs
    xr.testing.assert_allclose(result.compute(), expected, atol=1e-6)


def test_failed_chains_and_constant_losses_are_counted():
    tree = fail_chain(make_run(), 1, 12)
    tree["loss_code"].values[[0, 2], :, 1, 2] = 2.5
    with pytest.warns(ChainFailedWarning, match="chain 1"):
        expected = compute_bif(tree)
    with pytest.warns(ChainFailedWarning, match="chain 1"):
        result = compute_bif(tree.chunk(chain=1, draw=15))
    assert result.attrs == expected.attrs
    assert result.attrs["n_constant_losses"] == 1
    xr.testing.assert_allclose(result.compute(), expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # what a cluster warns of at its start and end is not ours
def test_a_cluster_gives_the_in_memory_results_from_lazily_opened_chunks(tmp_path):
    from distributed import Client, LocalCluster

    study = make_study()
    stored = to_store(study, tmp_path / "study.zarr")
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0) as cluster,
        Client(cluster),
    ):
        tree = stored.chunk(chain=1, draw=16)
        llc = compute_llc(tree, over="observable", ci=0.9)
        bif = compute_bif(tree["full"], se=True, batch_size=4).compute()
        top = compute_bif(tree["full"], top_k=2)
        sus = compute_susceptibilities(tree, se=True, terms=True)
    xr.testing.assert_allclose(llc, compute_llc(study, over="observable", ci=0.9), rtol=1e-9)
    xr.testing.assert_allclose(bif, compute_bif(study["full"], se=True), atol=1e-6)
    xr.testing.assert_allclose(top, compute_bif(study["full"], top_k=2), atol=1e-6)
    expected = compute_susceptibilities(study, se=True, terms=True)
    for name in ("susceptibilities", "context"):
        xr.testing.assert_allclose(sus[name].to_dataset(), expected[name].to_dataset(), rtol=1e-4, atol=1e-7)
        assert sus[name].attrs == expected[name].attrs


def test_no_task_sees_the_losses_of_more_sequences_than_a_block(monkeypatch):
    seen = []

    def watched(name):
        original = getattr(bif_lazy, name)

        def call(*blocks, **options):
            seen.extend(block.shape for block in blocks)
            return original(*blocks, **options)

        monkeypatch.setattr(bif_lazy, name, call)

    watched("_tile")
    watched("_standardized")
    tree = make_run(rows={"code": 40}, draws=100).chunk(chain=1, draw=20)
    compute_bif(tree, batch_size=4).compute()
    assert len(seen) > 100
    assert max(shape[1] for shape in seen) == 4
