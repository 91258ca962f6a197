"""Relations inside a run, each by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from contexts import said
from hypothesis import given
from hypothesis import strategies as st

from devinterp.schema.rules import samples as module
from devinterp.steps import StepLayout
from devinterp.testing import make_tree

SIZES = {"num_chains": 3, "num_draws": 4, "num_burnin_steps": 3, "num_steps_bw_draws": 2, "save_metrics": True}
NORMS = ("scaled_grad", "localization", "weight_decay", "noise")


def run() -> xr.DataTree:
    return make_tree("samples", parameters=SIZES)


def config(tree: xr.DataTree) -> dict[str, Any]:
    found: dict[str, Any] = tree.attrs["metadata"]["config"]
    return found


def chains(tree: xr.DataTree) -> list[Any]:
    found: list[Any] = tree.attrs["metadata"]["run"]["chains"]
    return found


def test_a_valid_run_breaks_no_relation() -> None:
    tree = run()
    for rule in ("failed_chains", "chain_states", "sanitized_observables", "metric_inequalities",
                 "distance_starts_at_zero", "distance_growth"):  # fmt: skip
        assert said(rule, tree) == [], rule
    assert said("draws_written_agree", tree, variable="draws_written", dim="draw") == []


@pytest.mark.parametrize(("value", "shown"), [(0, "0"), (None, "None"), ("1", "'1'"), (2, "2"), (..., "no attribute")])
def test_what_has_not_completed_says_so(value: Any, shown: str) -> None:
    tree = run()
    tree.attrs["completed"] = value
    if value in (..., None):
        del tree.attrs["completed"]
        shown = "no attribute"
    assert said("completed", tree, what="run") == [("The run has not completed.", "completed = 1", shown, "")]
    assert bool(said("completed", tree, what="run", unless_without=["metadata"]))
    assert said("completed", tree, what="run", unless_without=["nothing"]) == []
    tree.attrs["completed"] = 1
    assert said("completed", tree, what="run") == []


def test_failed_chains_of_completed_runs_are_named() -> None:
    tree = run()
    chains(tree)[1].update(status="failed", step=7, reason="loss is NaN")
    assert said("failed_chains", tree) == [("Chain 1 failed.", None, "at step 7: loss is NaN", "")]
    tree.attrs["completed"] = 0
    assert said("failed_chains", tree) == []
    tree.attrs.update(completed=1, metadata={"run": {"chains": {"0": "failed"}}})
    assert said("failed_chains", tree) == []


def test_there_is_one_state_per_chain() -> None:
    tree = run()
    chains(tree).pop()
    missing = ("metadata.run.chains does not have one entry per chain.", 3, 2, "")
    assert said("chain_states", tree) == [missing]
    tree.attrs["completed"] = 0
    assert said("chain_states", tree) == [missing]
    chains(tree).clear()
    assert said("chain_states", tree) == []  # a run that has not begun
    tree.attrs["completed"] = 1
    assert said("chain_states", tree) == [(missing[0], 3, 0, "")]
    config(tree)["sampler"].pop("num_chains")
    assert said("chain_states", tree) == []


def test_a_completed_run_has_no_interrupted_chain() -> None:
    tree = run()
    chains(tree)[2]["status"] = "interrupted"
    chains(tree)[0] = "interrupted"
    found = said("chain_states", tree)
    assert found == [("Chain 2 of a completed run is interrupted.", "complete or failed", "interrupted", "")]
    tree.attrs["completed"] = 0
    assert said("chain_states", tree) == []


def test_ids_of_observables_are_their_names_made_safe() -> None:
    tree = run()
    listed = config(tree)["observables"]
    listed[0].update(obs_id="my_code", name="my code")
    assert said("sanitized_observables", tree) == []
    listed[0]["obs_id"] = "mycode"
    found = ("An obs_id is not the observable's name made safe.", "'my_code'", "'mycode'", "")
    assert said("sanitized_observables", tree) == [found]
    listed[0].update(obs_id="a b", name=None)
    assert said("sanitized_observables", tree)[0][1:3] == ("'a_b'", "'a b'")
    listed[0].update(obs_id=3)
    listed.append("text")
    assert said("sanitized_observables", tree) == []
    listed[0].update(obs_id=listed[1]["obs_id"], name=listed[1]["name"])
    assert len(said("sanitized_observables", tree)) == 1
    config(tree)["observables"] = None
    assert said("sanitized_observables", tree) == []


@given(st.data())
def test_a_chain_ended_at_a_step_of_the_draws_that_it_wrote(data: st.DataObject) -> None:
    tree = run()
    steps = StepLayout.of(config(tree)["sampler"])
    written = data.draw(st.integers(0, steps.draws), label="written")
    step = data.draw(st.integers(0, steps.num_steps + 2), label="step")
    status = data.draw(st.sampled_from(["failed", "complete"] if written == steps.draws else ["failed"]))
    tree["draws_written"].values[1] = written
    chains(tree)[1].update(status=status, step=step)
    found = said("draws_written_agree", tree, variable="draws_written", dim="draw")
    # A draw may have been taken and not be finite.
    could = {written, min(written + 1, steps.draws)} if status == "failed" else {steps.draws}
    ended = step == steps.num_steps if status == "complete" else step <= steps.num_steps
    assert bool(found) != (steps.draws_taken(step) in could and ended)
    chains(tree)[1]["data_lost"] = True  # what was lost had been written
    assert said("draws_written_agree", tree, variable="draws_written", dim="draw") == []


@pytest.mark.parametrize(
    ("written", "state", "message"),
    [
        (4, "complete", None),
        (3, "complete", "A complete chain lacks draws."),
        (3, "failed", None),
        (0, "failed", None),
        (5, "failed", "draws_written is out of bounds."),
        (-1, "failed", "draws_written is out of bounds."),
    ],
)
def test_draws_written_are_those_of_the_states(written: int, state: str, message: str | None) -> None:
    tree = run()
    tree["draws_written"].values[1] = written
    steps = StepLayout.of(config(tree)["sampler"])
    chains(tree)[1].update(status=state, step=steps.steps_of(max(written, 0)))
    found = said("draws_written_agree", tree, variable="draws_written", dim="draw")
    assert [f[0] for f in found] == ([] if message is None else [message])
    if found:
        assert found[0][2:] == (f"{written} in chain 1", "draws_written")
        assert found[0][1] == (4 if state == "complete" else "from 0 to 4")
    chains(tree)[:] = ["complete"]
    found = said("draws_written_agree", tree, variable="draws_written", dim="draw")
    assert bool(found) == (not 0 <= written <= 4)
    assert said("draws_written_agree", tree, variable="nothing", dim="draw") == []
    assert said("draws_written_agree", tree, variable="draws_written", dim="nothing") == []


def test_a_scalar_repeats_its_setting() -> None:
    arguments = {"variable": "n_beta", "path": "metadata.config.sampler.n_beta"}
    tree = run()
    right = float(tree["n_beta"])
    assert said("scalar_equals_parameter", tree, **arguments) == []
    config(tree)["sampler"]["n_beta"] = right * (1 + 1e-13)
    assert said("scalar_equals_parameter", tree, **arguments) == []
    config(tree)["sampler"]["n_beta"] = right * (1 + 1e-10)
    ((message, wanted, found, name),) = said("scalar_equals_parameter", tree, **arguments)
    assert (message, found, name) == ("n_beta is not the setting metadata.config.sampler.n_beta.", right, "n_beta")
    assert wanted == right * (1 + 1e-10)
    for value in (True, "30", None):
        config(tree)["sampler"]["n_beta"] = value
        assert said("scalar_equals_parameter", tree, **arguments) == []
    config(tree)["sampler"]["n_beta"] = 0
    tree["n_beta"].values[...] = 1e-300
    assert len(said("scalar_equals_parameter", tree, **arguments)) == 1


def measured(**values: float) -> xr.DataTree:
    """A run whose every metric is constant: norms 1, 2, 3, 4, no products, a distance of 0."""
    tree = run()
    given = {**dict(zip(NORMS, (1.0, 2.0, 3.0, 4.0), strict=True)), "distance": 0.0, **values}
    for name in tree.data_vars:
        if str(name).startswith("metrics_"):
            tree[name].values[...] = given.get(str(name).removeprefix("metrics_"), 0.0)
    return tree


@pytest.mark.parametrize(
    ("dot", "most", "text"),
    [
        ("dot_grad_noise", 1 * 4, "scaled_grad * noise"),
        ("dot_prior_noise", (2 + 3) * 4, "(localization + weight_decay) * noise"),
        ("dot_grad_prior", 1 * (2 + 3), "scaled_grad * (localization + weight_decay)"),
    ],
)
@pytest.mark.parametrize("block", [1, 2, 100])
def test_a_product_is_no_larger_than_its_norms(
    dot: str, most: float, text: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    assert said("metric_inequalities", measured(**{dot: most})) == []
    assert said("metric_inequalities", measured(**{dot: -most * (1 + 5e-5)})) == []
    tree = measured()
    tree[f"metrics_{dot}"].values[1, 4:6] = -most * (1 + 3e-4)
    found = said("metric_inequalities", tree)
    assert {f[:2] + f[3:] for f in found} == {(f"|{dot}| is larger than {text}.", f"at most {text}", f"metrics_{dot}")}
    assert found[0][2].endswith("the first in chain 1 at step 4")
    if block == 100:
        assert [f[2] for f in found] == ["2 step(s), the first in chain 1 at step 4"]


def test_a_distance_starts_at_zero_unless_noise_was_added() -> None:
    tree = measured()
    tree["metrics_distance"].values[2, 0] = 1e-3
    ((message, wanted, found, name),) = said("distance_starts_at_zero", tree)
    assert (message, wanted, name) == ("The distance does not start at 0.", 0, "metrics_distance")
    assert str(found).endswith("in chain 2")
    tree["draws_written"].values[2] = 0  # nothing of it is written
    assert said("distance_starts_at_zero", tree) == []
    tree["draws_written"].values[2] = 4
    config(tree)["sampler"]["init_noise"] = 0.1
    assert said("distance_starts_at_zero", tree) == []
    config(tree)["sampler"]["init_noise"] = 0.0
    assert len(said("distance_starts_at_zero", tree)) == 1
    assert len(said("distance_starts_at_zero", xr.DataTree(tree.to_dataset().drop_vars("draws_written")))) == 1
    tree["metrics_distance"].values[2, 0] = 1e-13
    assert said("distance_starts_at_zero", tree) == []


@pytest.mark.parametrize("block", [1, 3, 100])
def test_a_distance_grows_by_no_more_than_the_update(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    tree = measured()
    steps = tree.sizes["step"]
    tree["metrics_distance"].values[...] = 10.0 * np.arange(steps)  # 1 + 2 + 3 + 4 at each
    assert said("distance_growth", tree) == []
    tree["metrics_distance"].values[1, 6:] += 0.1
    ((message, _, found, name),) = said("distance_growth", tree)
    assert (message, name) == ("The distance grows by more than the terms of the update.", "metrics_distance")
    assert found == "1 step(s), the first in chain 1 at step 6"
    config(tree)["sampler"]["bounding_box_size"] = 1.0
    assert said("distance_growth", tree) == []
    config(tree)["sampler"]["bounding_box_size"] = None
    assert len(said("distance_growth", tree)) == 1


def test_steps_that_were_not_written_are_not_looked_at() -> None:
    tree = measured()
    tree["draws_written"].values[:] = [4, 1, 0]
    chains(tree)[1]["status"] = chains(tree)[2]["status"] = "failed"
    for name in ("metrics_dot_grad_noise", "metrics_distance"):
        tree[name].values[1, 4:] = 1e6
        tree[name].values[2] = 1e6
    assert said("metric_inequalities", tree) == said("distance_growth", tree) == []
    tree["metrics_dot_grad_noise"].values[1, 3] = 1e6  # the step of its only draw
    assert [f[2] for f in said("metric_inequalities", tree)] == ["1 step(s), the first in chain 1 at step 3"]


PAIRED = {"num_chains": 3, "num_draws": 4, "num_burnin_steps": 0, "save_paired_losses": True}


def paired(**changes: Any) -> xr.DataTree:
    return make_tree("samples", parameters={**PAIRED, **changes})


def test_chains_that_share_minibatches_have_one_loss_at_the_start() -> None:
    tree = paired(num_burnin_steps=2)
    assert said("paired_losses", tree) == []
    tree["init_loss_sampling"].values[2, 3] += 0.5
    message = "Chains that share their minibatches differ in their losses at the start."
    assert said("paired_losses", tree) == [(message, "one loss", "draw 3 of chain 2 has another", "init_loss_sampling")]
    config(tree)["sampler"]["match_sampling_input_ids_across_chains"] = False
    assert said("paired_losses", tree) == []


def test_draws_behind_the_last_of_a_chain_that_failed_are_not_compared() -> None:
    tree = make_tree("samples", parameters=PAIRED, failed={1: 1}, seed=3)
    assert np.isnan(tree["init_loss_sampling"].values[1, 1:]).all()
    assert said("paired_losses", tree) == []


@pytest.mark.parametrize("why", [None, "burn-in", "noise", "dropout"])
def test_a_draw_before_the_first_step_has_the_loss_at_the_start(why: str | None) -> None:
    tree = paired(**({"num_burnin_steps": 1} if why == "burn-in" else {}))
    assert said("paired_losses", tree) == []
    tree["sampling_loss"].values[1, 0, 0, 0] += 0.75
    if why == "noise":
        config(tree)["sampler"]["init_noise"] = 0.1
    elif why == "dropout":
        tree.attrs["metadata"]["provenance"] = {"random_forward": True}
    found = said("paired_losses", tree)
    wanted = [("The losses before the first step are not those of init_loss_sampling.", "chain 1 differs by 0.75")]
    assert [(message, shown) for message, _, shown, _ in found] == (wanted if why is None else [])


def test_two_passes_may_differ_by_what_the_run_recorded_of_its_machine() -> None:
    tree = paired()
    tree["sampling_loss"].values[0, 0] += 0.02
    assert said("paired_losses", tree) == []  # half precision, for all that is known
    tree.attrs["metadata"]["provenance"] = {"computes": {"first_loss": {"tolerance": 1e-3}}}
    assert len(said("paired_losses", tree)) == 1
