"""Identities of results: what holds of valid ones to the tolerance, and what is found of each that does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from contexts import context_of, problems

from devinterp.schema.reading.nodes import NotReadableError
from devinterp.schema.rules.registry import find_predicate


def result(schema: str, variables: dict[str, Any], coords: Any = None, **attrs: Any) -> xr.DataTree:
    dataset = xr.Dataset(
        variables, coords=coords, attrs={"devinterp_schema": f"devinterp/{schema}@1", "completed": 1, **attrs}
    )
    return xr.DataTree(dataset)


def found(tree: xr.DataTree, rule: str, **arguments: Any) -> list[tuple[str, str, Any, Any]]:
    kind = tree.attrs["devinterp_schema"].split("/")[1].split("@")[0]
    return [(p.name, p.message, p.expected, p.found) for p in problems(rule, tree, kind, **arguments)]


def llc(**changes: Any) -> xr.DataTree:
    """An LLC that follows from its trace: chains of losses 2 + k / 8, from a start of 1.5, at n_beta 16."""
    trace = 2 + np.arange(12).reshape(3, 4) / 8
    per_chain = 16 * (trace.mean(axis=1) - 1.5)
    values: dict[str, Any] = {
        "loss_trace": (("chain", "draw"), trace.astype(np.float32)),
        "init_loss": ((), 1.5),
        "llc_per_chain": ("chain", per_chain),
        "llc_mean": ((), per_chain.mean()),
        "llc_std": ((), per_chain.std()),
        "llc_scalar": ((), per_chain.mean()),
        "n_beta": 16.0,
        **changes,
    }
    n_beta = values.pop("n_beta")
    return result("llc", values, n_beta=n_beta)


def test_a_result_that_follows_from_its_trace_is_right() -> None:
    assert found(llc(), "llc_identities") == found(llc(), "llc_from_trace") == []
    assert llc()["llc_std"] == pytest.approx(np.std([11.0 - 8, 19 - 8, 27 - 8]))


@pytest.mark.parametrize("name", ["llc_mean", "llc_std"])
def test_mean_and_spread_are_those_over_chains(name: str) -> None:
    right = float(llc()[name])
    for off, wrong in ((1e-5, True), (1e-10, False), (-1e-5, True)):
        changed = llc(**{name: ((), right + off)})
        wrong_ones = [p for p in found(changed, "llc_identities") if p[0] == name]
        assert bool(wrong_ones) == wrong
    ((_, message, expected, value),) = found(llc(**{name: ((), right + 1)}), "llc_identities")[:1]
    assert message == f"{name} is not that of llc_per_chain."
    assert float(str(expected)) == pytest.approx(right)
    assert float(str(value)) == pytest.approx(right + 1)


def test_a_chain_that_is_nan_does_not_count() -> None:
    per_chain = np.array([3.0, np.nan, 7.0])
    trace = np.asarray(llc()["loss_trace"]).copy()
    trace[1] = np.nan
    trace[0], trace[2] = 1.5 + 3 / 16, 1.5 + 7 / 16
    values = {
        "llc_per_chain": ("chain", per_chain), "loss_trace": (("chain", "draw"), trace),
        "llc_mean": ((), 5.0), "llc_std": ((), 2.0), "llc_scalar": ((), 5.0),
    }  # fmt: skip
    assert found(llc(**values), "llc_identities") == found(llc(**values), "llc_from_trace") == []
    assert found(llc(**{**values, "llc_mean": ((), np.nan)}), "llc_identities")
    alone = {"llc_per_chain": ("chain", np.full(3, np.nan)), "llc_mean": ((), np.nan), "llc_std": ((), np.nan)}
    assert found(llc(**alone), "llc_identities") == []
    assert found(llc(**{**alone, "llc_mean": ((), 0.0)}), "llc_identities")


def test_the_spread_of_nearly_equal_chains_is_as_good_as_their_numbers() -> None:
    per_chain = np.array([1e6, 1e6 + 1e-9, 1e6])
    assert (
        found(llc(llc_per_chain=("chain", per_chain), llc_mean=((), 1e6), llc_std=((), 1e-6)), "llc_identities") == []
    )
    assert found(llc(llc_per_chain=("chain", per_chain), llc_mean=((), 1e6), llc_std=((), 1e-2)), "llc_identities")


@pytest.mark.parametrize(("name", "value"), [("llc_per_chain", 0), ("llc_scalar", 0)])
def test_an_estimate_that_does_not_follow_from_its_trace_is_found(name: str, value: int) -> None:
    tree = llc()
    right = np.asarray(tree[name]).copy()
    for off, wrong in ((1e-3, True), (-1e-3, True), (1e-6, False)):
        spoilt = right.copy()
        spoilt.ravel()[-1] += off
        changed = llc(**{name: (tree[name].dims, spoilt)})
        wrong_ones = [p for p in found(changed, "llc_from_trace") if p[0] == name]
        assert bool(wrong_ones) == wrong, off
        if wrong:
            ((_, message, expected, there),) = wrong_ones
            assert message == f"{name} does not follow from loss_trace, init_loss and n_beta."
            assert str(expected).endswith(f"= {right.ravel()[-1]:.9g}")
            assert there == f"{spoilt.ravel()[-1]:.9g}"


@pytest.mark.parametrize("n_beta", [True, "16", None, float("nan"), float("inf")])
def test_without_a_number_for_n_beta_nothing_follows(n_beta: Any) -> None:
    assert found(llc(n_beta=n_beta, llc_scalar=((), 99.0)), "llc_from_trace") == []
    assert found(llc(n_beta=16, llc_scalar=((), 99.0)), "llc_from_trace")


def test_of_chains_of_different_lengths_the_draws_that_all_have_count() -> None:
    trace = np.asarray(llc()["loss_trace"]).copy()
    trace[0, 2:] = np.nan
    per_chain = 16 * (trace[:, :2].astype(np.float64).mean(axis=1) - 1.5)
    values = {
        "loss_trace": (("chain", "draw"), trace),
        "llc_per_chain": ("chain", per_chain),
        "llc_scalar": ((), per_chain.mean()),
    }
    assert found(llc(**values), "llc_from_trace") == []
    assert found(llc(**{**values, "llc_scalar": ((), per_chain.mean() + 1)}), "llc_from_trace")
    trace[1, 0] = np.nan  # a hole is not the end of a chain
    assert found(llc(**{**values, "loss_trace": (("chain", "draw"), trace)}), "llc_from_trace") == []


def bif(influences: Any, *, by_token: bool = True, second: Any = None, **attrs: Any) -> xr.DataTree:
    values = np.asarray(influences, dtype=np.float32)
    first = np.arange(values.shape[0])
    second = np.arange(values.shape[1]) if second is None else np.asarray(second)
    coords: dict[str, Any] = {"batch_1": first, "batch_2": second}
    dims = ["batch_1", "batch_2"]
    if by_token:
        dims += ["target_position", "target_position_T"]
        coords["target_position"] = np.arange(1, values.shape[2] + 1)
        coords["target_position_T"] = np.arange(1, values.shape[3] + 1)
    width = values.shape[2] + 1 if by_token else 3
    ids = np.zeros((int(max(first.max(), second.max())) + 1, width), dtype=np.int64)
    variables = {"influences": (dims, values), "input_ids": (("batch", "position"), ids)}
    return result("bif", variables, coords, correlation_method="token" if by_token else "sequence", **attrs)


def correlations(rows: int = 3, tokens: int = 2) -> Any:
    series = np.random.default_rng(0).normal(size=(50, rows * tokens))
    flat = np.corrcoef(series, rowvar=False)
    return flat.reshape(rows, tokens, rows, tokens).transpose(0, 2, 1, 3)


def test_correlations_are_symmetric_with_ones_on_the_diagonal() -> None:
    values = correlations()
    assert found(bif(values), "bif_correlation") == []
    assert found(bif(values[:, [2, 0]], second=[2, 0]), "bif_correlation") == []
    sequences = np.corrcoef(np.random.default_rng(1).normal(size=(50, 4)), rowvar=False)
    assert found(bif(sequences, by_token=False), "bif_correlation") == []


@pytest.mark.parametrize("by_token", [True, False])
def test_a_correlation_beyond_one_is_found(by_token: bool) -> None:
    values = correlations() if by_token else np.eye(3)
    place, mirror = ((0, 1, 0, 1), (1, 0, 1, 0)) if by_token else ((0, 1), (1, 0))
    for value, wrong in ((1 + 5e-6, False), (1 + 1e-3, True), (-1 - 1e-3, True)):
        spoilt = values.copy()
        spoilt[place] = spoilt[mirror] = value
        wrong_ones = found(bif(spoilt, by_token=by_token), "bif_correlation")
        assert [p[1] for p in wrong_ones] == (["A correlation is beyond 1."] if wrong else [])
        assert found(bif(spoilt, by_token=by_token, compute_covariance=True), "bif_correlation") == []


@pytest.mark.parametrize("off", [1e-3, 3e-5, 1e-5])
def test_influences_that_are_not_symmetric_are_found_where_they_are(off: float) -> None:
    values = correlations()
    values[2, 1, 0, 1] += off
    wrong_ones = found(bif(values), "bif_correlation")
    assert bool(wrong_ones) == (off > 2e-5)
    for covariance in (True, False):
        for _, message, _, there in found(bif(values, compute_covariance=covariance), "bif_correlation"):
            assert message == "The influences are not symmetric."
            assert "in the row of sequence 1" in str(there)
    # Where the operands share no sequence there is nothing to compare.
    assert found(bif(values[:, [2, 1]], second=[7, 8]), "bif_correlation") == []


def test_covariances_are_symmetric_to_the_precision_of_the_largest() -> None:
    values = 1e4 * correlations()
    values[0, 1, 0, 0] += 0.1
    assert found(bif(values, compute_covariance=True), "bif_correlation") == []
    values[0, 1, 0, 0] += 1
    assert found(bif(values, compute_covariance=True), "bif_correlation")


@pytest.mark.parametrize("by_token", [True, False])
def test_a_loss_correlates_with_itself_unless_it_is_constant(by_token: bool) -> None:
    values = correlations() if by_token else np.eye(3)
    own = (1, 1, 0, 0) if by_token else (1, 1)
    for value, wrong in ((0.0, False), (1 - 5e-6, False), (0.5, True), (1 - 1e-3, True)):
        spoilt = values.copy()
        spoilt[own] = value
        tree = bif(spoilt, by_token=by_token, compute_covariance=False)
        wrong_ones = found(tree, "bif_correlation")
        assert [p[1] for p in wrong_ones] == (["A loss does not correlate with itself."] if wrong else [])
        if wrong:
            assert float(str(wrong_ones[0][3])) == pytest.approx(value)


def test_an_average_over_tokens_has_no_ones_on_its_diagonal() -> None:
    tree = bif(0.5 * np.eye(3), by_token=False)
    tree.attrs["correlation_method"] = "token"
    assert found(tree, "bif_correlation") == []


def test_the_peers_covariances_are_told_by_their_diagonal() -> None:
    """devinterp 2.0 does not say which it computed."""
    assert found(bif(3 * correlations()), "bif_correlation") == []
    values = correlations()
    values[0, 1, 0, 0] = values[1, 0, 0, 0] = 2.0
    assert [p[1] for p in found(bif(values), "bif_correlation")] == ["A correlation is beyond 1."]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("batch_1", [0, 1, 9], "batch_1 names a sequence that is not there."),
        ("batch_2", [0, 1, 3], "batch_2 names a sequence that is not there."),
    ],
)
def test_indices_are_those_of_sequences(name: str, change: Any, message: str) -> None:
    dataset = bif(correlations()).to_dataset().assign_coords({name: change})
    ((path, said, expected, there),) = found(xr.DataTree(dataset), "bif_indices")
    assert (path, said, expected, there) == (name, message, "below 3", max(change))


@pytest.mark.parametrize("name", ["target_position", "target_position_T"])
def test_a_predicted_token_lies_within_its_sequence(name: str) -> None:
    dataset = bif(correlations()).to_dataset()
    dataset = dataset.drop_vars("input_ids").assign(input_ids=(("batch", "position"), np.zeros((3, 2), dtype=np.int64)))
    wrong = {p[0]: p[1:] for p in found(xr.DataTree(dataset), "bif_indices")}
    assert wrong[name] == (f"{name} lies beyond the last token.", "below 2", 2)


def flat(height: int = 2, width: int = 3, names: Any = ("code", "math")) -> xr.DataTree:
    """Susceptibilities of two observables: every row and position once."""
    groups = {}
    for group, position, start in (("susceptibilities", "target_position", 1), ("context", "position", 0)):
        positions = np.arange(start, width + 1)
        rows = [(i, r, p) for i in range(len(names)) for r in range(height + i) for p in positions]
        index = np.array(rows, dtype=np.int64).T
        dim = "sus_flat" if group == "susceptibilities" else "ctx_flat"
        variables: dict[str, Any] = {n: (dim, v) for n, v in zip(("dataset_id", "batch", position), index, strict=True)}
        if group == "susceptibilities":
            variables["sus"] = ((dim, "wr"), np.zeros((len(rows), 1), dtype=np.float32))
        else:
            variables["input_ids"] = (dim, np.zeros(len(rows), dtype=np.int64))
        coords = {"wr": ["l0h0"]} if group == "susceptibilities" else {}
        groups[f"/{group}"] = xr.Dataset(variables, coords=coords, attrs={"dataset_id_to_name": list(names)})
    tree = xr.DataTree.from_dict(groups)
    tree.attrs.update(devinterp_schema="devinterp/susceptibilities@1", completed=1)
    return tree


def problems_of(tree: xr.DataTree) -> set[str]:
    both = [
        *problems(
            "flat_bijection", tree, "susceptibilities", group="/susceptibilities", position="target_position", start=1
        ),
        *problems("flat_bijection", tree, "susceptibilities", group="/context", position="position", start=0),
        *problems("flat_names_agree", tree, "susceptibilities"),
        *problems("flat_groups_agree", tree, "susceptibilities"),
    ]
    return {p.message for p in both}


def test_every_row_and_position_occurs_once() -> None:
    assert problems_of(flat()) == set()
    assert problems_of(flat(1, 1)) == set()


@pytest.mark.parametrize(
    ("group", "name", "place", "value", "message"),
    [
        ("susceptibilities", "batch", 0, 1, "The flat index is not a grid of rows and positions."),
        ("susceptibilities", "target_position", 0, 2, "The flat index is not a grid of rows and positions."),
        ("susceptibilities", "target_position", 0, 9, "The flat index is not a grid of rows and positions."),
        ("susceptibilities", "batch", 0, -1, "An index is negative."),
        ("susceptibilities", "target_position", 0, 0, "An index is negative."),
        ("context", "position", 0, -1, "An index is negative."),
        ("susceptibilities", "dataset_id", 0, 2, "dataset_id names an observable that is not there."),
        ("susceptibilities", "dataset_id", 0, -1, "dataset_id names an observable that is not there."),
        ("susceptibilities", "dataset_id", slice(0, 6), 1, "An observable has no entries."),
    ],
)
def test_an_index_that_is_no_grid_is_found(group: str, name: str, place: Any, value: int, message: str) -> None:
    tree = flat()
    tree[group][name].values[place] = value
    assert message in problems_of(tree)


def test_a_flat_index_that_is_not_whole_is_not_judged() -> None:
    arguments = {"group": "/susceptibilities", "position": "target_position", "start": 1}
    tree = flat()
    tree["susceptibilities"]["batch"].values[0] = 1
    assert problems("flat_bijection", tree, "susceptibilities", **arguments)
    nameless = tree.copy(deep=True)
    nameless["susceptibilities"].attrs["dataset_id_to_name"] = {"code": 0}
    assert problems("flat_bijection", nameless, "susceptibilities", **arguments) == []
    tree["susceptibilities"] = xr.DataTree(tree["susceptibilities"].to_dataset().drop_vars("dataset_id"))
    assert problems("flat_bijection", tree, "susceptibilities", **arguments) == []


def test_a_flat_index_is_held_at_once_where_five_numbers_for_each_entry_fit() -> None:
    size = flat()["susceptibilities"].sizes["sus_flat"]
    rule = find_predicate("flat_bijection").function
    for budget, fits in ((5 * 8 * size, True), (5 * 8 * size - 1, False)):
        context = context_of(flat(), "susceptibilities", path="/susceptibilities")
        context._values.budget = budget  # type: ignore[union-attr]
        if fits:
            assert list(rule(context, position="target_position", start=1)) == []
        else:
            with pytest.raises(NotReadableError, match=f"{size} entries"):
                list(rule(context, position="target_position", start=1))


def test_both_groups_speak_of_the_same_rows_and_one_token_more() -> None:
    tree = flat()
    tree["context"].attrs["dataset_id_to_name"] = ["math", "code"]
    assert problems_of(tree) == {"The groups list different observables."}
    for other, said in (
        (flat(3, 3), "3 rows of 4 tokens"),
        (flat(2, 2), "2 rows of 3 tokens"),
        (flat(2, 3, ["x"]), None),
    ):
        mixed = flat()
        mixed["context"] = other["context"]
        mixed["context"].attrs["dataset_id_to_name"] = ["code", "math"]
        first, *_ = [
            (p.message, p.expected, p.found, p.name) for p in problems("flat_groups_agree", mixed, "susceptibilities")
        ]
        message = "The groups have different rows or positions."
        if said is not None:
            assert first == (message, "2 rows of 4 tokens or more in dataset_id 0", said, "context")
        else:
            assert first == (message, "3 rows of 4 tokens or more in dataset_id 1", "none", "context")
