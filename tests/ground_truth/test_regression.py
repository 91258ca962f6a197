"""A linear regression on pairs of tensors: its posterior is Gaussian, and every estimate has its formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
stats = pytest.importorskip("scipy.stats")

N, DIM = 24, 3
LR, N_BETA, GAMMA = 0.01, 40.0, 15.0
CHAINS, DRAWS, THIN = 10, 100, 5
LEVEL = 0.99


def half_squares(model: Any, batch: Any) -> Any:
    x, y = batch
    return (model(x)[:, 0] - y) ** 2 / 2


class Law:
    """The law of the weights that move, with the bias of a step of finite length; the others stay at the minimum."""

    def __init__(self, x: Any, y: Any, best: Any, moving: Any) -> None:
        precision = N_BETA * (x[:, moving].T @ x[:, moving]) / len(x) + GAMMA * np.eye(moving.sum())
        self.moving, self.best = moving, best
        # w' - w* = (1 - lr/2 A) (w - w*) + sqrt(lr) noise is stationary at this covariance
        self.covariance = np.linalg.inv(precision @ (np.eye(len(precision)) - LR / 4 * precision))

    def spread(self, one: Any, other: Any) -> Any:
        return one[:, self.moving] @ self.covariance @ other[:, self.moving].T

    def mean(self, x: Any, y: Any) -> Any:
        return ((x @ self.best - y) ** 2 + np.diag(self.spread(x, x))) / 2

    def covariances(self, one: tuple[Any, Any], other: tuple[Any, Any]) -> Any:
        """Cov(l_i, l_j) = r_i r_j c_ij + c_ij^2 / 2."""
        (xi, yi), (xj, yj) = one, other
        c = self.spread(xi, xj)
        return np.outer(xi @ self.best - yi, xj @ self.best - yj) * c + c**2 / 2


@pytest.fixture(scope="module")
def problem() -> Any:
    from devinterp.slt.sampling import sample_restrictions

    rng = np.random.default_rng(0)
    x, probe = rng.normal(size=(N, DIM)), rng.normal(size=(N, DIM))
    truth = np.array([1.0, -0.5, 0.25, 0.7])
    ones = np.ones((N, 1))
    y, other = (np.hstack([each, ones]) @ truth + 0.3 * rng.normal(size=N) for each in (x, probe))
    best = np.linalg.lstsq(np.hstack([x, ones]), y, rcond=None)[0]
    model = torch.nn.Linear(DIM, 1).double()
    with torch.no_grad():
        model.weight[:] = torch.from_numpy(best[None, :DIM])
        model.bias[:] = float(best[DIM])
    data = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    beside = torch.utils.data.TensorDataset(torch.from_numpy(probe), torch.from_numpy(other))
    study = sample_restrictions(
        model, data, {"train": (data, 1), "probe": (beside, 1)}, {"full": None, "weight": {"weight": None}},
        sampling_task="train", loss_fn=half_squares, lr=LR, n_beta=N_BETA, localization=GAMMA, num_chains=CHAINS,
        num_draws=DRAWS, num_burnin_steps=40, num_steps_bw_draws=THIN, batch_size=N, num_init_loss_batches=1,
        progress=False, device="cpu",
    ).load()  # fmt: skip
    rows = {"train": (np.hstack([x, ones]), y), "probe": (np.hstack([probe, ones]), other)}
    everything, weights = np.ones(DIM + 1, dtype=bool), np.arange(DIM + 1) < DIM
    laws = {"full": Law(*rows["train"], best, everything), "weight": Law(*rows["train"], best, weights)}
    seen = {obs: tuple(each[study[f"full/row_{obs}"].values] for each in rows[obs]) for obs in rows}
    return study, laws, seen


def assert_inside(per_chain: Any, target: Any) -> None:
    """Every number lies in its interval, of all of them together at LEVEL, from chains that are independent."""
    values = np.asarray(per_chain, dtype=np.float64).reshape(CHAINS, -1)
    target = np.asarray(target).ravel()
    t = stats.t.ppf(1 - (1 - LEVEL) / 2 / target.size, CHAINS - 1)
    half = t * values.std(axis=0, ddof=1) / np.sqrt(CHAINS)
    outside = np.abs(values.mean(axis=0) - target) > half
    assert not outside.any(), np.stack([values.mean(axis=0), target, half])[:, outside]


def test_the_llc(problem: Any) -> None:
    from devinterp.slt.llc import compute_llc

    study, laws, seen = problem
    for name, law in laws.items():
        x = seen["train"][0]
        target = N_BETA * np.mean(np.diag(law.spread(x, x))) / 2
        for over in ("observable", "draws"):
            options = {"observable": "train"} if over == "observable" else {}
            found = compute_llc(study[name], over=over, **options)
            assert_inside(found["llc_per_chain"].values, [target])


def test_the_influence(problem: Any) -> None:
    from devinterp.slt.bif import compute_bif

    study, laws, seen = problem
    found = [
        compute_bif(
            study["full"].isel(chain=[c]), correlation_method="sequence", compute_covariance=True, loss_keys=["train"]
        )["influences"].values
        for c in range(CHAINS)
    ]
    assert_inside(found, laws["full"].covariances(seen["train"], seen["train"]))


def test_the_susceptibilities(problem: Any) -> None:
    from devinterp.slt.susceptibilities import compute_susceptibilities

    study, laws, seen = problem
    part = laws["weight"]
    found = [
        compute_susceptibilities({name: study[name].isel(chain=[c]) for name in laws}, "train") for c in range(CHAINS)
    ]
    u = {name: law.mean(*seen["train"]).mean() for name, law in laws.items()}
    ell = {name: law.mean(*seen["probe"]) for name, law in laws.items()}
    phi = u["weight"] - np.mean((seen["train"][0] @ part.best - seen["train"][1]) ** 2) / 2
    variance = part.covariances(seen["train"], seen["train"]).mean()
    covariance = part.covariances(seen["train"], seen["probe"]).mean(axis=0)
    target = (variance - covariance) + phi * ((ell["full"] - u["full"]) - (ell["weight"] - u["weight"]))
    assert_inside([each["susceptibilities"]["sus"].values[:, 0] for each in found], target)
