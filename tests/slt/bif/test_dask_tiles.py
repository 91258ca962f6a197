from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from made_runs import fail_chain, make_run

from devinterp.errors import ChainFailedWarning
from devinterp.slt.bif import compute_bif
from devinterp.slt.bif import dask_tiles as bif_lazy
from devinterp.slt.bif import strongest as bif_topk

pytestmark = pytest.mark.needs("dask")

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


@pytest.mark.parametrize("options", [{}, {"correlation_method": "sequence"}, {"average_tokenwise_bif": True}])
def test_each_pair_of_blocks_is_multiplied_once(monkeypatch, options):
    multiplied = []
    tile = bif_lazy.influence_tile
    monkeypatch.setattr(bif_lazy, "influence_tile", lambda *a, **k: multiplied.append(1) or tile(*a, **k))
    result = compute_bif(make_run(), lazy=True, batch_size=2, **options)["influences"]
    values = result.values
    assert len(multiplied) == 5 * 6 / 2
    np.testing.assert_array_equal(values, values.transpose(1, 0, 3, 2) if values.ndim == 4 else values.T)
    np.testing.assert_array_equal(result[7, 1], values[7, 1])


@pytest.mark.parametrize("options", [{"top_k": 2}, {"output_path": "bif.zarr"}])
def test_losses_are_standardised_once_however_many_tiles_there_are(monkeypatch, tmp_path, options):
    blocks = []
    standardized = bif_lazy._standardized
    monkeypatch.setattr(bif_lazy, "_standardized", lambda *a, **k: blocks.append(1) or standardized(*a, **k))
    monkeypatch.setattr(bif_topk, "ROW_SERIES", 12)
    monkeypatch.setattr(bif_topk, "COLUMN_SERIES", 12)
    monkeypatch.chdir(tmp_path)
    compute_bif(make_run().chunk(chain=1, draw=15), batch_size=2, **options)
    assert len(blocks) == 5


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
