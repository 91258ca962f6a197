"""Runs on rows that are not tokens: pairs of an image and its class, a regression's table, several losses per row."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import xarray as xr
from interrupted import assert_same_in_other_ways
from torch import nn
from torch.utils.data import TensorDataset

import devinterp
from devinterp.errors import DataError, MissingVariableError, ModelError, SettingError, StoreConflictError
from devinterp.report import build_report
from devinterp.slt.bif import compute_bif
from devinterp.slt.estimands import ESTIMANDS, resolve
from devinterp.slt.llc import compute_llc
from devinterp.slt.sampling import sample, sample_restrictions

generator = torch.Generator().manual_seed(0)
X = torch.randn(24, 3, generator=generator)
Y = (X @ torch.tensor([1.0, -2.0, 0.5]) + 0.1 * torch.randn(24, generator=generator)).sign().long().clamp(0)
DATA = TensorDataset(X, Y)
OPTIONS = {
    "lr": 1e-3, "n_beta": 5.0, "num_chains": 2, "num_draws": 3, "batch_size": 4, "num_init_loss_batches": 1,
    "localization": 1.0, "progress": False,
}  # fmt: skip


def build():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def cross_entropy(model, batch):
    x, y = batch
    return nn.functional.cross_entropy(model(x), y, reduction="none")


def each_output(model, batch):
    return (model(batch[0]) - batch[0][:, :2]) ** 2


def run(data=DATA, observables=None, loss_fn=cross_entropy, **changes):
    observables = {"train": (data, 2)} if observables is None else observables
    return sample(build(), data, observables, loss_fn=loss_fn, **{**OPTIONS, **changes})


def test_a_run_has_what_a_run_on_tokens_has_but_for_the_tokens():
    tree = run(save_step_losses=True, save_metrics=True)
    assert devinterp.validate(tree).ok
    names = set(map(str, tree.data_vars))
    assert not {name for name in names if "input_ids" in name}
    assert "token" not in tree.dims
    assert {"sampling_loss", "loss_train", "init_loss_train", "row_train", "sampling_loss_micro"} <= names
    assert tree.sizes["token_pos"] == 1
    assert not [v.attrs["long_name"] for v in tree.data_vars.values() if "token" in v.attrs.get("long_name", "")]
    rows = tree["row_train"].values
    with torch.no_grad():
        expected = cross_entropy(build(), (X[rows], Y[rows]))
    np.testing.assert_allclose(tree["init_loss_train"].values[:, 0], expected, rtol=1e-6)
    assert np.isfinite(compute_llc(tree)["llc_mean"])


@pytest.mark.parametrize("data", [{"x": X, "y": Y}, [(x, int(y)) for x, y in zip(X, Y, strict=True)]])
def test_draws_do_not_depend_on_what_rows_are_kept_in(data):
    def loss_fn(model, batch):
        return cross_entropy(model, tuple(batch.values()) if isinstance(batch, dict) else batch)

    ours, theirs = run(data, loss_fn=loss_fn), run()
    for name in ("sampling_loss", "loss_train", "init_loss", "step_loss"):
        np.testing.assert_array_equal(ours[name].values, theirs[name].values)


def test_a_row_may_have_several_losses():
    tree = run(loss_fn=each_output)
    assert tree.sizes["token_pos"] == 2
    assert devinterp.validate(tree).ok


def test_chains_in_other_processes_and_after_an_interruption_write_the_same_bytes(tmp_path):
    assert_same_in_other_ways(run, tmp_path)


def test_the_store_tells_the_rows_by_their_contents(tmp_path):
    where = tmp_path / "run.zarr"
    run(output_path=where)
    run(output_path=where)  # what lies there
    for changed in (TensorDataset(X + 1e-3, Y), TensorDataset(X, 1 - Y)):
        with pytest.raises(StoreConflictError, match=r"provenance\.dataset\.rows"):
            run(changed, output_path=where)


def test_labels_and_units_are_kept(tmp_path):
    labels = [f"image {i}" for i in range(24)]
    tree = run(row_labels={"train": labels}, loss_unit="bit", output_path=tmp_path / "run.zarr")
    assert devinterp.validate(tmp_path / "run.zarr").ok
    plain = xr.open_datatree(tmp_path / "run.zarr", engine="zarr", consolidated=False)
    for each in (tree, plain):
        assert list(each["label_train"].values) == [labels[row] for row in each["row_train"].values]
        assert "label_train" in each["loss_train"].coords
        assert {each[n].attrs["units"] for n in ("sampling_loss", "loss_train", "init_loss", "step_loss")} == {"bit"}
    with pytest.raises(StoreConflictError, match=r"labels"):
        run(row_labels={"train": labels[::-1]}, loss_unit="bit", output_path=tmp_path / "run.zarr")
    with pytest.raises(StoreConflictError, match="loss_unit"):
        run(row_labels={"train": labels}, output_path=tmp_path / "run.zarr")


def test_tokens_may_have_labels_too():
    tokens = np.arange(48).reshape(8, 6) % 5
    tree = sample(
        nn.Embedding(5, 5), tokens, {"a": (tokens, 1), "b": (tokens, 1)}, row_labels={"b": np.arange(8)}, **OPTIONS
    )  # fmt: skip
    assert devinterp.validate(tree).ok
    assert "label_a" not in tree.coords
    assert [int(label) for label in tree["label_b"].values] == tree["row_b"].values.tolist()


def test_a_study_shares_labels_and_rows(tmp_path):
    restrictions = {"full": None, "first": {"0.weight": None}}
    study = sample_restrictions(
        build(), DATA, {"train": (DATA, 1)}, restrictions, sampling_task="train", loss_fn=cross_entropy,
        row_labels={"train": Y.tolist()}, output_path=tmp_path / "study.zarr", **OPTIONS,
    )  # fmt: skip
    assert devinterp.validate(tmp_path / "study.zarr").ok
    for name in restrictions:
        assert study[name]["label_train"].dims == ("batch_train",)


def two_kinds():
    counts = iter([2, 2, 1, 1, 1, 1, 1, 1, 1])

    def loss(model, batch):
        return model(batch[0])[:, : next(counts)]

    return loss


BAD = {
    "mean": ({"loss_fn": lambda m, b: m(b[0]).mean()}, ModelError, "one number per row"),
    "three dimensions": ({"loss_fn": lambda m, b: m(b[0])[..., None]}, ModelError, "wrong shape"),
    "no losses": ({"loss_fn": lambda m, b: m(b[0])[:, :0]}, ModelError, "wrong shape"),
    "another number": ({"loss_fn": two_kinds()}, ModelError, "another number of positions"),
    "no tensor": ({"loss_fn": lambda m, b: 1.0}, ModelError, "no tensor"),
    "tokens observed": ({"observables": {"a": np.ones((24, 3), int)}}, DataError, "another kind"),
    "too many labels": ({"row_labels": {"train": range(25)}}, DataError, "24 rows"),
    "one text": ({"row_labels": {"train": "x" * 24}}, DataError, "24 rows"),
    "labels of nothing": ({"row_labels": {"test": range(24)}}, SettingError, "row_labels"),
    "labels alone": ({"row_labels": list(range(24))}, SettingError, "row_labels"),
    "no unit": ({"loss_unit": ""}, SettingError, "loss_unit"),
    "no loss": ({"loss_fn": None}, DataError, "loss_fn="),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_is_one_clear_error(kind, tmp_path):
    changes, error, words = BAD[kind]
    with pytest.raises(error, match=words):
        run(**changes)


@pytest.fixture(scope="module")
def study():
    other = TensorDataset(-X, Y)
    return sample_restrictions(
        build(), DATA, {"train": (DATA, 1), "other": (other, 1)}, {"full": None, "first": {"0.weight": None}},
        sampling_task="train", loss_fn=cross_entropy, loss_unit="bit",
        row_labels={"other": [f"row {i}" for i in range(24)]}, **{**OPTIONS, "num_draws": 12},
    ).load()  # fmt: skip


def test_what_is_estimated_has_no_tokens_either_and_keeps_labels_and_units(study, tmp_path):
    full = study["full"].devinterp
    kept = tmp_path / "influence.zarr"
    results = {
        "llc": study.devinterp.llc(),
        "sequence": full.bif(method="sequence", compute_covariance=True),
        "position": full.bif(compute_covariance=True),
        "stored": compute_bif(study["full"], correlation_method="sequence", compute_covariance=True, output_path=kept),
        "strongest": full.bif(method="sequence", top_k=2),
        "reweighting": full.reweighting(method="sequence"),
        "waic": full.waic(),
        "wbic": full.wbic(),
        "susceptibilities": study.devinterp.susceptibilities(),
    }
    for name, result in results.items():
        assert devinterp.validate(result).ok, name
        assert "input_ids" not in result, name
    assert devinterp.validate(kept).ok
    labels = study["full/label_other"].values.tolist() + [""] * 4
    for name in ("sequence", "position", "stored", "reweighting"):
        assert results[name]["label_2"].values.tolist() == labels, name
    assert results["llc"]["loss_trace"].attrs["units"] == "bit"
    assert results["sequence"]["influences"].attrs["units"] == results["stored"]["influences"].attrs["units"] == "bit^2"
    sus = results["susceptibilities"]
    assert sus["susceptibilities/label"].values.tolist() == labels[:4]
    assert sus["susceptibilities/sus"].attrs["units"] == "bit^2"
    by_row = sus.devinterp.unflatten()
    assert by_row["other/label"].values.tolist() == labels[:4]
    xr.testing.assert_identical(by_row.devinterp.flatten(), sus)


def test_what_needs_text_says_that_there_is_none(study):
    with pytest.raises(MissingVariableError, match="not tokens"):
        study["full"].devinterp.tokens()
    with pytest.raises(MissingVariableError, match="not tokens"):
        study.devinterp.susceptibilities().devinterp.tokens()


def test_the_report_says_nothing_of_tokens(study, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    study.devinterp.save(tmp_path / "study.zarr")
    page = build_report(tmp_path / "study.zarr")
    seen = re.sub(r"<[^>]+>", " ", re.sub(r"<(script|style|svg).*?</\1>", "", page, flags=re.DOTALL))
    assert re.findall(r"[^.]*\btokens?\b[^.]*", seen) == []


def test_nothing_says_nat_or_token_of_losses_that_are_neither(study, capsys):
    plt = pytest.importorskip("matplotlib.pyplot", reason="matplotlib is not installed")
    full, sus = study["full"].devinterp, study.devinterp.susceptibilities(include_sampling_task=True)
    pictures = [
        lambda: full.plot.traces(), lambda: full.plot.verdict(), lambda: full.plot.running_means(),
        lambda: full.plot.influence(compute_covariance=True), lambda: full.plot.ranked_influences(0),
        lambda: full.plot.token_influence(0, 1), lambda: study.devinterp.plot.llc(),
        lambda: sus.devinterp.plot.susceptibilities("label", standardize=False),
    ]  # fmt: skip
    said = [str(full.diagnose()), repr(study.devinterp)]
    for draw in pictures:
        draw()
        said += [text.get_text() for text in plt.gcf().findobj(match=plt.Text)]
        plt.close("all")
    assert any("bit²" in each for each in said)
    for kind, result in {
        "bif": full.bif(method="sequence", top_k=2),
        "susceptibilities": sus,
        "waic": full.waic(),
    }.items():
        resolve(ESTIMANDS[kind].screen)(result, "store", ESTIMANDS[kind])
        header, rows = resolve(ESTIMANDS[kind].records)(result)
        assert all(len(row) == len(header) for row in rows)
        said += header
    said += full.to_arviz()["posterior/sampling_loss"].attrs.values()
    said.append(capsys.readouterr().out)
    assert not [each for each in said if re.search(r"\bnats?\b|nat[²^]|(?<!no )token(?!_pos)", str(each))]


def test_tables_have_the_labels_of_rows(study):
    full = study["full"].devinterp
    for result in (full.bif(method="sequence"), full.bif(method="sequence", top_k=2)):
        header, rows = resolve(ESTIMANDS["bif"].records)(result)
        first, second = (header.index(n) for n in header if "label" in n)
        partner = header.index("batch_2" if "batch_2" in header else "partner_batch")
        label = result["label"].values.tolist()
        for row in rows:
            assert [row[first], row[second]] == [label[row[0]], label[row[partner]]]
    header, rows = resolve(ESTIMANDS["susceptibilities"].records)(study.devinterp.susceptibilities())
    assert [row[header.index("label")] for row in rows] == study["full/label_other"].values.tolist()
