"""Runs of the reference's model and rows that take a moment."""

from __future__ import annotations

from tiny_lm import build_model, build_tokens

from devinterp.slt.sampling import sample

TRAIN, CODE, MATH = (build_tokens(name) for name in ("train", "code", "math"))


OBSERVABLES = {"train": (TRAIN, 2), "code": (CODE, 2), "math": (MATH, 1)}


QUICK = {
    "lr": 1e-3, "n_beta": 30.0, "num_chains": 2, "num_draws": 3, "batch_size": 4, "num_init_loss_batches": 2,
    "localization": 10.0, "device": "cpu", "progress": False,
}  # fmt: skip


def quick(model=None, dataset=TRAIN, observables=None, **changes):
    return sample(
        model or build_model(),
        dataset,
        {"code": (CODE, 1)} if observables is None else observables,
        **{**QUICK, **changes},
    )


def assert_same_store(one, other, *, but=()):
    assert set(one.data_vars) == set(other.data_vars)
    for name in set(one.data_vars) - set(but):
        assert one[name].dtype == other[name].dtype, name
        assert one[name].values.tobytes() == other[name].values.tobytes(), name
