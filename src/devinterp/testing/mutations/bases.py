"""The valid stores that mutations start from, by name."""

from __future__ import annotations

from typing import Any

from devinterp.testing.valid.recipe import StoreRecipe

__all__ = ["BASES", "EXTENDED"]

_PARAMETERS: dict[str, Any] = {
    "num_chains": 3,
    "num_draws": 3,
    "num_burnin_steps": 1,
    "num_steps_bw_draws": 2,
    "batch_size": 2,
    "gradient_accumulation_steps": 1,
    "save_metrics": True,
    "save_step_losses": True,
}
_MEMBERS: dict[str, Any] = {
    "obs": {
        "code": {"batches_per_draw": 1, "name": "code"},
        "My_data_1": {"batches_per_draw": 2, "name": "My data/1"},
    }
}
_VOCABULARY = {"metadata": {"provenance": {"vocabulary_size": 50, "weights": {"sha256": "00"}}}}

EXTENDED: dict[str, Any] = {
    "schema": "lab/samples",
    "version": 1,
    "doc": "Samples with a temperature per chain and where each row came from.",
    "extends": "devinterp/samples@1",
    "nodes": {
        "/": {
            "doc": "All arrays of a run, on the root.",
            "variables": {
                "temperature": {
                    "dims": ["chain"],
                    "dtype": "float64",
                    "unit": "1",
                    "doc": "Temperature of the chain.",
                    "checks": [
                        {"code": "DI302", "predicate": "at_least", "arguments": {"minimum": 0}},
                        {"code": "DI308", "predicate": "at_most", "arguments": {"maximum": 10}},
                    ],
                }
            },
            "attributes": {
                "type": "object",
                "required": ["lab"],
                "properties": {"lab": {"type": "string", "minLength": 1}},
            },
        }
    },
}
"""A consumer's document: one more variable, one more attribute."""

_SAMPLES = StoreRecipe(
    "samples", parameters=_PARAMETERS, members=_MEMBERS, sizes={"token_pos": 3}, attributes=_VOCABULARY, seed=1
)
_STUDY = StoreRecipe(
    "study",
    parameters={**_PARAMETERS, "num_chains": 2, "save_step_losses": False, "save_metrics": False},
    members={**_MEMBERS, "restriction": {"full": {}, "l0h0": {}, "l1 mlp": {}}},
    sizes={"token_pos": 2},
    children={name: {"attributes": _VOCABULARY} for name in ("full", "l0h0", "l1 mlp")},
    seed=2,
)

BASES: dict[str, StoreRecipe] = {
    "samples": _SAMPLES,
    "bare samples": StoreRecipe(
        "samples",
        parameters={**_PARAMETERS, "save_metrics": False, "save_step_losses": False},
        members=_MEMBERS,
        sizes={"token_pos": 3},
        seed=3,
    ),
    "failed chain": StoreRecipe(
        "samples", parameters=_PARAMETERS, members=_MEMBERS, sizes={"token_pos": 3}, failed={1: 1}, seed=4
    ),
    "two failed chains": StoreRecipe(
        "samples", parameters=_PARAMETERS, members=_MEMBERS, sizes={"token_pos": 3}, failed={0: 0, 2: 2}, seed=5
    ),
    "long samples": StoreRecipe(
        "samples",
        parameters={
            **_PARAMETERS, "num_chains": 2, "num_draws": 60, "num_steps_bw_draws": 1, "save_step_losses": False
        },
        members=_MEMBERS,
        sizes={"token_pos": 2},
        seed=6,
    ),
    "wide samples": StoreRecipe(
        "samples",
        parameters={**_PARAMETERS, "num_chains": 1, "save_metrics": False, "save_step_losses": False},
        members=_MEMBERS,
        sizes={"token_pos": 200_000},
        seed=18,
    ),
    "peer samples": StoreRecipe(
        "samples", "devinterp-2.0", parameters=_PARAMETERS, members=_MEMBERS, sizes={"token_pos": 3}, seed=7
    ),
    "extended": StoreRecipe(
        EXTENDED, parameters=_PARAMETERS, members=_MEMBERS, sizes={"token_pos": 2}, attributes={"lab": "x"}, seed=8
    ),
    "study": _STUDY,
    "study with a failed chain": StoreRecipe(
        "study",
        parameters=_STUDY.parameters,
        members=_STUDY.members,
        sizes=_STUDY.sizes,
        children={"l0h0": {"failed": {1: 1}}},
        seed=9,
    ),
    "sweep": StoreRecipe(
        "sweep",
        parameters=_STUDY.parameters,
        members={**_MEMBERS, "cell": {"warm": {}, "cold": {}, "fast": {}}},
        sizes={"token_pos": 2},
        children={name: {"attributes": _VOCABULARY} for name in ("warm", "cold", "fast")},
        seed=19,
    ),
    "series": StoreRecipe(
        "series",
        parameters=_STUDY.parameters,
        members={**_MEMBERS, "restriction": {"full": {}, "l0h0": {}}, "checkpoint": {"0": {}, "64": {}, "512": {}}},
        sizes={"token_pos": 2},
        seed=21,
    ),
    "llc": StoreRecipe("llc", sizes={"chain": 4, "draw": 5}, optional=frozenset({"llc_ci"}), failed={1: 2}, seed=10),
    "llc of a study": StoreRecipe(
        "llc", sizes={"chain": 2, "draw": 3, "wr": 3, "checkpoint": 2}, leading=frozenset({"wr", "checkpoint"}),
        optional=frozenset({"llc_ci"}), seed=11,
    ),
    "llc of a sweep": StoreRecipe(
        "llc", sizes={"chain": 2, "draw": 3, "lr": 2, "n_beta": 3, "localization": 2},
        leading=frozenset({"lr", "n_beta", "localization"}), seed=20,
    ),
    "llc over steps": StoreRecipe("llc", sizes={"chain": 2, "step": 3}, alternative=1, seed=12),
    "bif": StoreRecipe("bif", sizes={"batch": 5, "batch_1": 4, "batch_2": 5, "target_position": 3}, seed=13),
    "sequence bif": StoreRecipe("bif", sizes={"batch": 5, "batch_1": 5, "batch_2": 5}, alternative=1, seed=14),
    "peer bif": StoreRecipe(
        "bif", "devinterp-2.0", sizes={"batch": 3, "batch_1": 3, "batch_2": 3, "target_position": 2}, seed=15
    ),
    "susceptibilities": StoreRecipe("susceptibilities", sizes={"wr": 2, "token_pos": 3}, seed=16),
    "peer susceptibilities": StoreRecipe("susceptibilities", "devinterp-2.0", sizes={"wr": 2, "token_pos": 2}, seed=17),
}  # fmt: skip
