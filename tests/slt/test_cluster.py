"""Every analysis on a real dask cluster: the in-memory results, and the losses stay where they are."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import xarray as xr
from made_runs import make_study, to_store

from devinterp.slt.bif import compute_bif
from devinterp.slt.bif.strongest import NOISE_SERIES, NULL_PARTNERS
from devinterp.slt.diagnostics import diagnose
from devinterp.slt.llc import compute_llc
from devinterp.slt.susceptibilities import compute_susceptibilities

ROWS, TOKENS, BLOCK = {"train": 20, "code": 20}, 16, 8


@contextmanager
def local_cluster():
    """A cluster of two processes; yields what all its tasks gave since it was last cleared: (key, bytes, asked for)."""
    from distributed import Client, LocalCluster
    from distributed.diagnostics.plugin import SchedulerPlugin

    results = []

    class Sizes(SchedulerPlugin):
        def transition(self, key, start, finish, *args, **kwargs):
            if finish == "memory":
                task = cluster.scheduler.tasks[key]
                results.append((str(key), task.nbytes, bool(task.who_wants)))

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", memory_limit=0) as cluster,
        Client(cluster),
    ):
        cluster.scheduler.add_plugin(Sizes())
        yield results


@pytest.mark.slow
@pytest.mark.needs("dask")
@pytest.mark.filterwarnings("default")  # what a cluster warns of at its start and end is not ours
def test_a_cluster_gives_the_in_memory_results_and_no_losses_are_gathered(tmp_path):
    study = make_study(("full", "l0h0"), chains=2, draws=80, rows=ROWS, tokens=TOKENS)
    stored = to_store(study, tmp_path / "study.zarr", draws=40)
    losses = sum(study["full"][f"loss_{name}"].nbytes for name in ROWS)
    largest, fetched = {}, {}
    with local_cluster() as results:

        def watched(name, work):
            results.clear()
            found = work()
            largest[name] = max(size for _, size, asked in results if not asked)
            # Standardised losses that are asked for are to be held by the workers, not to be sent.
            fetched[name] = sum(size for key, size, asked in results if asked and "_standardized" not in key)
            return found

        tree = stored.chunk(chain=1, draw=40)
        llc = watched("llc", lambda: compute_llc(tree, over="observable", ci=0.9))
        sus = watched("sus", lambda: compute_susceptibilities(tree, se=True, terms=True))
        top = watched("top", lambda: compute_bif(tree["full"], top_k=2, batch_size=BLOCK))
        lazy = watched("bif", lambda: compute_bif(tree["full"], se=True, batch_size=BLOCK))
        found = watched("diagnosis", lambda: diagnose(tree["full"], sampling_task="train"))
        bif = watched("its tiles", lambda: lazy.compute())
    xr.testing.assert_allclose(llc, compute_llc(study, over="observable", ci=0.9), rtol=1e-9)
    xr.testing.assert_allclose(bif, compute_bif(study["full"], se=True), atol=1e-6)
    xr.testing.assert_allclose(top, compute_bif(study["full"], top_k=2), atol=1e-6)
    expected = compute_susceptibilities(study, se=True, terms=True)
    for name in ("susceptibilities", "context"):
        xr.testing.assert_allclose(sus[name].to_dataset(), expected[name].to_dataset(), rtol=1e-4, atol=1e-7)
        assert sus[name].attrs == expected[name].attrs
    assert found.rhat == pytest.approx(diagnose(study["full"], sampling_task="train").rhat, rel=1e-6)
    # No task gives more than a chunk of draws, the losses of one block of sequences, or what is made of two blocks.
    chunk, block, product = losses // 8, losses // 5, 4 * (BLOCK * TOKENS) ** 2
    assert {k: n / losses for k, n in largest.items() if n > 1.01 * max(chunk, block, product)} == {}
    # Means over tokens, sums over draws and a few series come back: little, the less the more tokens and draws.
    # For the floors of the strongest partners a fixed number of series comes too, however many there are; 640 are few.
    observations = losses // (4 * sum(ROWS.values()) * TOKENS)
    floors = 4 * observations * (2 * NOISE_SERIES + NULL_PARTNERS)
    allowed = {"sus": 0.6 * losses, "top": 0.3 * losses + floors}
    assert {k: n for k, n in fetched.items() if k != "its tiles" and n > allowed.get(k, 0.3 * losses)} == {}
