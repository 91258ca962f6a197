"""Whatever the legal settings: a valid store under `strict`, metrics that obey their inequalities, and clean hands."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from devinterp.schema import validate
from devinterp.testing import sample_settings

torch = pytest.importorskip("torch")

# The model draws random numbers and mixes rows on purpose, and is told so.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The model draws random numbers:devinterp.errors.DevinterpWarning"),
    pytest.mark.usefixtures("one_thread"),
]
VOCABULARY, LENGTH = 7, 4


class Model(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Embedding, dropout and a linear layer: draws from the global generator in train mode, and has a frozen part."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(VOCABULARY, 3)
        self.drop = torch.nn.Dropout(0.2)
        self.norm = torch.nn.BatchNorm1d(LENGTH)
        self.out = torch.nn.Linear(3, VOCABULARY)
        self.out.bias.requires_grad_(False)

    def forward(self, ids: Any) -> Any:
        return self.out(self.drop(self.norm(self.embed(ids))))


def run(model: Any, **arguments: Any) -> Any:
    from devinterp.slt.sampling import sample

    rows = np.random.default_rng(5).integers(0, VOCABULARY, (12, LENGTH))
    store = zarr.storage.MemoryStore()
    tree = sample(model, rows, {"train": rows, "a b": rows[::-1].copy()}, device="cpu", progress=False,
                  output_path=store, **arguments)  # fmt: skip
    return tree, store


def picture(model: Any) -> dict[str, Any]:
    """Everything about a model and the generators that a caller could notice."""
    return {
        "state": {k: v.clone() for k, v in model.state_dict().items()},
        "grad": {k: None if p.grad is None else p.grad.clone() for k, p in model.named_parameters()},
        "requires_grad": {k: p.requires_grad for k, p in model.named_parameters()},
        "identity": {k: id(p) for k, p in model.named_parameters()},
        "modes": {k: m.training for k, m in model.named_modules()},
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(),  # noqa: NPY002
        "random": random.getstate(),
        "grad_enabled": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


# Without noise the way from the start is that of the gradient, so that each bound on their product is nearly reached.
DOWNHILL = {
    "lr": 1e-2, "n_beta": 30.0, "localization": 10.0, "noise_level": 0.0, "num_chains": 1, "num_draws": 4,
    "num_burnin_steps": 0, "num_steps_bw_draws": 1, "batch_size": 12, "batches_per_draw": 1, "num_init_loss_batches": 1,
    "save_metrics": True, "save_step_losses": True, "init_noise": None, "sampling_method": "sgmcmc_sgld",
    "bounding_box_size": None,
}  # fmt: skip


@settings(max_examples=7)
@example(arguments=DOWNHILL, training=False, masked=None)
@given(
    sample_settings(max_steps=6), st.booleans(), st.sampled_from([None, ["embed.weight"], ["out.weight", "norm.bias"]])
)
def test_valid_and_untouched(arguments: dict[str, Any], training: bool, masked: list[str] | None) -> None:
    torch.manual_seed(0)
    model = Model().train(training)
    model.embed.weight.grad = torch.ones_like(model.embed.weight)
    if masked is not None:
        arguments = {**arguments, "param_masks": dict.fromkeys(masked)}
    torch.manual_seed(123)
    before = picture(model)
    tree, store = run(model, **arguments)
    after = picture(model)
    for key, value in before.items():
        assert same(value, after[key]), key

    report = validate(store, profile="strict", level="values")
    assert [str(f) for f in report.findings if f.severity != "note"] == []

    draws, steps = arguments["num_draws"], tree.sizes["step"]
    assert tree["draws_written"].values.tolist() == [draws] * arguments["num_chains"]
    assert steps == arguments["num_burnin_steps"] + draws * arguments["num_steps_bw_draws"]
    at_draws = tree["step_loss"].values[:, arguments["num_burnin_steps"] :: arguments["num_steps_bw_draws"]]
    np.testing.assert_allclose(tree["sampling_loss"].mean(("batch", "token_pos")), at_draws, rtol=1e-5)
    if arguments["save_metrics"]:
        check_metrics(tree, arguments, masked)


def check_metrics(tree: Any, arguments: dict[str, Any], masked: list[str] | None) -> None:
    m = {
        str(n).removeprefix("metrics_"): v.values.astype(np.float64)
        for n, v in tree.data_vars.items()
        if "metrics" in str(n)
    }
    slack, prior = 1 + 1e-4, m["localization"] + m["weight_decay"]
    assert (np.abs(m["dot_grad_noise"]) <= m["scaled_grad"] * m["noise"] * slack + 1e-12).all()
    assert (np.abs(m["dot_prior_noise"]) <= prior * m["noise"] * slack + 1e-12).all()
    assert (np.abs(m["dot_grad_prior"]) <= m["scaled_grad"] * prior * slack + 1e-12).all()
    for norm in ("scaled_grad", "unscaled_grad", "localization", "weight_decay", "noise", "distance"):
        assert (m[norm] >= 0).all()
    if not arguments["init_noise"]:
        assert not m["distance"][:, 0].any()
    if arguments["sampling_method"] == "sgmcmc_sgld" and masked is None:
        np.testing.assert_array_equal(m["scaled_grad"], m["unscaled_grad"])
    if arguments["sampling_method"] == "sgmcmc_sgld" and arguments["noise_level"]:
        weights = 50 if masked is None else {"embed.weight": 21, "out.weight": 25}[masked[0]]
        low, high = chi2.ppf([1e-10, 1 - 1e-10], weights)
        squares = m["noise"] ** 2 / (arguments["lr"] * arguments["noise_level"] ** 2)
        assert ((low < squares) & (squares < high)).all()
    if arguments["bounding_box_size"] is None:
        terms = m["scaled_grad"] + prior + m["noise"]
        assert (m["distance"][:, 1:] <= (m["distance"] + terms)[:, :-1] * slack + 1e-6).all()


@settings(max_examples=3)
@given(sample_settings(max_steps=5))
def test_the_same_call_gives_the_same_bytes(arguments: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Model()
    chunks = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        _, store = run(model, **arguments)
        chunks.append({k: b.to_bytes() for k, b in store._store_dict.items() if not k.endswith("zarr.json")})
    assert chunks[0] == chunks[1]


def test_an_exception_leaves_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    model = Model()
    calls = []

    def fails(model: Any, ids: Any) -> Any:
        calls.append(1)
        if len(calls) > 9:
            raise ZeroDivisionError("on purpose")
        return torch.nn.functional.cross_entropy(
            model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        ).view(len(ids), -1)

    before = picture(model)
    with pytest.raises(ZeroDivisionError):
        run(model, lr=1e-4, n_beta=1.0, num_chains=1, num_draws=20, batch_size=2, batches_per_draw=1,
            num_init_loss_batches=1, loss_fn=fails)  # fmt: skip
    after = picture(model)
    assert [k for k in before if not same(before[k], after[k])] == []
