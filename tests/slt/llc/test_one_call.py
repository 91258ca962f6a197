"""The data-refined LLC samples on each kind alone: checked where the curvature of every kind is known."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import targets  # noqa: E402

from devinterp.errors import SettingError  # noqa: E402
from devinterp.slt.llc import data_refined_llc  # noqa: E402
from devinterp.slt.runs.results import told  # noqa: E402

CURVATURES = {"steep": 3, "flat": 1}
DIRECTIONS, LR, N_BETA, LOCALIZATION = 64, 0.01, 30.0, 10.0
KINDS = {name: torch.full((64, 2), h) for name, h in CURVATURES.items()}
RUN = {
    "lr": LR,
    "n_beta": N_BETA,
    "localization": LOCALIZATION,
    "num_chains": 2,
    "num_draws": 600,
    "num_burnin_steps": 50,
    "batch_size": 4,
    "batches_per_draw": 1,
    "num_init_loss_batches": 1,
    "device": "cpu",
    "progress": False,
}


class Bowl(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(DIRECTIONS))


def loss(model: Bowl, ids: torch.Tensor) -> torch.Tensor:
    """h w^2 / 2, with the curvature h that the row's tokens say."""
    return 0.5 * ids[:, :1].float() * (model.w**2).sum()


def test_each_kind_has_the_llc_of_its_own_curvature(tmp_path) -> None:
    result = data_refined_llc(Bowl(), KINDS, loss_fn=loss, ci=0.99, output_path=tmp_path, **RUN)
    assert result["data"].values.tolist() == list(KINDS)
    for name, h in CURVATURES.items():
        exact = targets.quadratic_llc([h] * DIRECTIONS, N_BETA, LOCALIZATION, LR)
        low, high = result["llc_ci"].sel(data=name).values
        assert low < exact < high, (name, exact, low, high)
        assert high - low < 0.25 * exact
        assert (tmp_path / f"{name}.zarr").is_dir()
    assert float(result["llc_mean"].sel(data="steep")) > float(result["llc_mean"].sel(data="flat")) + 0.5
    assert told(result.attrs, "observable") == {"steep": "steep", "flat": "flat"}
    assert result.devinterp.report().ok, str(result.devinterp.report())


@pytest.mark.parametrize("kinds", [{}, {"a b": KINDS["flat"], "a_b": KINDS["steep"]}])
def test_kinds_need_names_of_their_own(kinds) -> None:
    with pytest.raises(SettingError, match="name of its own"):
        data_refined_llc(Bowl(), kinds, loss_fn=loss, **RUN)
