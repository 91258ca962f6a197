"""Runs in which some positions do not count: padded rows, masked prompts, a loss at one position."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch
import xarray as xr
from engine import assert_same_snapshot, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st
from interrupted import assert_same_in_other_ways
from tiny_lm import build_model, build_tokens
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, Subset

import devinterp
from devinterp.cli import main
from devinterp.errors import DataError, ModelError, SettingError, StoreConflictError
from devinterp.slt.sampling import sample
from devinterp.slt.sampling.engine.losses import next_token_loss
from devinterp.slt.sampling.running.run_plan import make_plan
from devinterp.slt.sampling.settings import SamplerSettings

TOKENS = build_tokens("train")[:, :9]
N, LENGTH = TOKENS.shape
rng = np.random.default_rng(3)
LENGTHS = rng.integers(3, LENGTH + 1, N)
LENGTHS[:2] = LENGTH
RIGHT = np.arange(LENGTH) < LENGTHS[:, None]
OPTIONS = {
    "lr": 1e-3, "n_beta": 30.0, "num_chains": 2, "num_draws": 4, "batch_size": 4, "num_init_loss_batches": 2,
    "localization": 10.0, "progress": False,
}  # fmt: skip


def padded(mask=RIGHT, **columns):
    return {"input_ids": np.where(mask, TOKENS, 0), "attention_mask": mask.astype(np.int64), **columns}


def run(data, observables=None, model=None, **changes):
    observables = {"train": (data, 2)} if observables is None else observables
    return sample(model or build_model(), data, observables, **{**OPTIONS, **changes})


def equal(one, other):
    xr.testing.assert_equal(one.to_dataset().load(), other.to_dataset().load())


def losses_of(rows, model=None):
    """The loss of each row by itself, without anything beside it."""
    model = model or build_model()
    with torch.no_grad():
        return [next_token_loss(model(row[None]), row[None])[0].numpy() for row in map(torch.from_numpy, rows)]


def test_losses_are_nan_exactly_where_a_position_does_not_count(tmp_path):
    before = snapshot(model := build_model())
    options = {"save_step_losses": True, "gradient_accumulation_steps": 2}
    tree = run(padded(), model=model, output_path=tmp_path / "run.zarr", **options)
    assert_same_snapshot(before, snapshot(model))
    assert devinterp.validate(tmp_path / "run.zarr").ok
    rows = tree["row_train"].values
    np.testing.assert_array_equal(tree["mask_train"].values, RIGHT[rows, 1:])
    for loss, of in [("loss_train", "train"), ("sampling_loss", "sampling"), ("sampling_loss_micro", "sampling_micro")]:
        mask = np.broadcast_to(tree[f"mask_{of}"].values, tree[loss].shape)
        np.testing.assert_array_equal(np.isfinite(tree[loss].values), mask == 1)
    for row, loss in zip(rows, tree["init_loss_train"].values, strict=True):
        np.testing.assert_allclose(loss[: LENGTHS[row] - 1], losses_of([TOKENS[row, : LENGTHS[row]]])[0], rtol=1e-5)
    micro = tree["sampling_loss_micro"]
    np.testing.assert_array_equal(tree["step_count"], np.isfinite(micro).sum(("batch_sampling", "token_pos")))
    np.testing.assert_allclose(tree["step_loss"], micro.mean(("batch_sampling", "token_pos")), rtol=1e-5)
    both = micro.isel(step=0).values.reshape(2, 2, 4, LENGTH - 1)
    with np.errstate(all="ignore"):
        expected = np.where(np.isnan(both).all(1), np.nan, np.nansum(both, 1) / np.isfinite(both).sum(1))
    np.testing.assert_allclose(tree["sampling_loss"].isel(draw=0), expected, rtol=1e-6)


def test_all_ones_give_the_bytes_of_a_set_without_masks():
    ones = np.ones_like(TOKENS)
    plain = run(TOKENS)
    equal(run({"input_ids": TOKENS, "attention_mask": ones, "labels": TOKENS, "loss_mask": ones}), plain)
    equal(run(TOKENS, loss_mask=np.ones(LENGTH)), plain)


FORMS = {
    "dicts": lambda c: [{k: v[i].tolist() for k, v in c.items()} for i in range(N)],
    "datasets": lambda c: datasets.Dataset.from_dict({k: v.tolist() for k, v in c.items()}),
    "columns": lambda c: c,
    "tensors": lambda c: {k: torch.from_numpy(v) for k, v in c.items()},
}


@pytest.mark.parametrize("form", FORMS)
def test_masks_are_found_in_every_kind_of_dataset(form):
    equal(run(FORMS[form](padded())), run(padded()))


def test_rows_of_unequal_lengths_are_padded_on_the_right():
    rows = [row[:n].tolist() for row, n in zip(TOKENS, LENGTHS, strict=True)]
    expected = run(padded())
    equal(run(rows), expected)
    equal(run([{"input_ids": row} for row in rows]), expected)
    equal(run(datasets.Dataset.from_dict({"input_ids": rows})), expected)
    # also where one dataset is shorter than the other, and has rows of one length
    tree = run(rows, {"short": (TOKENS[:, :4], 2)})
    assert tree["mask_short"].values.sum(1).tolist() == [3] * 8


class Lazy(Dataset):
    """Rows that come into being when they are asked for, and how many were."""

    def __init__(self, lengths=LENGTHS, whole=True):
        self.lengths, self.whole, self.asked = lengths, whole, 0

    def __len__(self):
        return N

    def __getitem__(self, index):
        self.asked += 1
        ids = torch.from_numpy(TOKENS[index, : self.lengths[index]])
        return {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)} if self.whole else ids


def on_the_fly():
    texts = datasets.Dataset.from_dict({"row": list(range(N))})
    texts.set_transform(lambda some: {"input_ids": [TOKENS[i, : LENGTHS[i]].tolist() for i in some["row"]]})
    return texts


LAZY = {
    "map-style": Lazy,
    "bare": lambda: Lazy(whole=False),
    "parts": lambda: ConcatDataset([Subset(Lazy(), range(5)), Subset(Lazy(), range(5, N))]),
    "datasets": on_the_fly,
}


@pytest.mark.parametrize("kind", LAZY)
def test_rows_that_do_not_tell_their_lengths_are_padded_as_those_that_do(kind):
    equal(run(LAZY[kind]()), run(padded()))


@given(seed=st.integers(0, 2**16), longest=st.integers(4, LENGTH), other=st.integers(2, LENGTH))
@settings(max_examples=25, deadline=None)
def test_wherever_the_longest_row_lies_all_datasets_are_as_wide(seed, longest, other):
    """Also in a row that no step visits, and in no other: a run that is extended must find the same widths."""
    lengths = np.minimum(LENGTHS, longest - 1)
    lengths[np.random.default_rng(seed).integers(N)] = longest
    chosen = SamplerSettings.build(
        lr=1e-3, n_beta=30.0, batch_size=4, num_chains=1, num_draws=1, num_init_loss_batches=1
    )
    observables = {"train": (Lazy(lengths), 1), "other": (TOKENS[:, :other], 1)}
    plan = make_plan(build_model(), Lazy(lengths), observables, {"/": (chosen, None)}, device="cpu", loss_fn=None)
    for rows, of, held in [
        (plan.data.feed(0).rows, lengths, plan.data.held),
        (plan.observables[0].rows, lengths, plan.observables[0].held),
        (plan.observables[1].rows, np.full(N, other), plan.observables[1].held),
    ]:
        assert held.ids.shape[1] == max(longest, other)
        there = np.arange(held.ids.shape[1]) < of[rows][:, None]
        np.testing.assert_array_equal(held.ids, np.where(there, TOKENS[rows][:, : there.shape[1]], 0))
        np.testing.assert_array_equal(held.attended if held.attended is not None else True, there)
        np.testing.assert_array_equal(held.counts if held.counts is not None else True, there[:, 1:])


def test_only_rows_of_unequal_lengths_cost_a_look_at_all_of_them(monkeypatch):
    monkeypatch.setattr("devinterp.slt.sampling.inputs.rows._FINGERPRINT_ROWS", 2)
    few = {"num_chains": 1, "num_draws": 1, "num_init_loss_batches": 1}
    alike, unequal = Lazy(np.full(N, LENGTH)), Lazy()
    equal(run(alike, {}, **few), run(TOKENS, {}, **few))
    assert alike.asked < 12
    run(unequal, {}, **few)
    assert N < unequal.asked < N + 24


WAYS = ("labels", "loss_mask", "shorter loss_mask", "argument", "argument by dataset", "row of the argument")


@pytest.mark.parametrize("way", WAYS)
def test_a_prompt_that_does_not_count_may_be_said_in_several_ways(way):
    answer = np.broadcast_to(np.arange(LENGTH) >= 5, TOKENS.shape)
    options = {}
    data = {"input_ids": TOKENS}
    if way == "labels":
        data["labels"] = np.where(answer, TOKENS, -100)
    elif way == "loss_mask":
        data["loss_mask"] = answer.astype(int)
    elif way == "shorter loss_mask":
        data["loss_mask"] = answer[:, 1:]
    elif way == "argument":
        options["loss_mask"] = answer[0]
    elif way == "argument by dataset":
        options["loss_mask"] = {"sampling": torch.from_numpy(answer.copy()), "train": answer[:, 1:]}
    else:
        options["loss_mask"] = {"sampling": answer[0, 1:], "train": answer[0]}
    tree = run(data, **options)
    assert (tree["mask_train"].values == answer[0, 1:]).all()
    assert (tree["mask_sampling"].values == answer[0, 1:]).all()
    start = run(TOKENS)["init_loss_train"].values
    np.testing.assert_array_equal(tree["init_loss_train"].values[:, 4:], start[:, 4:])


def test_only_the_last_position_may_count():
    def last(model, ids):
        return nn.functional.cross_entropy(model(ids)[:, -2], ids[:, -1], reduction="none")

    masked = run(TOKENS, loss_mask=[0] * (LENGTH - 1) + [1])
    alone = sample(
        build_model(), [{"x": row} for row in TOKENS], {"train": ([{"x": row} for row in TOKENS], 2)},
        loss_fn=lambda model, batch: last(model, batch["x"]), **OPTIONS,
    )  # fmt: skip
    for name in ("sampling_loss", "loss_train", "init_loss_train", "init_loss"):
        np.testing.assert_allclose(masked[name].values[..., -1], alone[name].values[..., 0], rtol=2e-5)
        assert np.isnan(masked[name].values[..., :-1]).all()


def gpt2():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=64, n_positions=16, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


FAMILIES = {
    "GPTNeoForCausalLM": {"num_layers": 1, "num_heads": 2, "attention_types": [[["local"], 1]], "window_size": 4},
    "GPTNeoXForCausalLM": {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    "LlamaForCausalLM": {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    "OPTForCausalLM": {"num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16, "word_embed_proj_dim": 16},
    "BloomForCausalLM": {"n_layer": 1, "n_head": 2},
}


@pytest.mark.parametrize("family", ["GPT2LMHeadModel", *FAMILIES])
def test_every_family_reads_padded_rows_as_cut_ones(family):
    """Attention mask and position ids are those that the family expects: on the left, on the right, and cut."""
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    model = gpt2()
    if family in FAMILIES:
        kind = getattr(library, family)
        model = kind(kind.config_class(vocab_size=64, hidden_size=16, max_position_embeddings=16, **FAMILIES[family]))
    with torch.no_grad():
        for weight in model.eval().parameters():  # large enough for every token before to matter
            weight.mul_(8 if weight.ndim > 1 else 1)
    rows = {"right": np.where(RIGHT, TOKENS, 1), "left": np.ones_like(TOKENS)}
    masks = {"right": RIGHT, "left": RIGHT[:, ::-1]}
    rows["left"][masks["left"]] = TOKENS[RIGHT]
    for side, ids in rows.items():
        tree = run(
            {"input_ids": ids, "attention_mask": masks[side].astype(int)}, model=model,
            mode="eval", num_draws=1, num_chains=1, num_init_loss_batches=1,
        )  # fmt: skip
        for row, losses in zip(tree["row_train"].values, tree["init_loss_train"].values, strict=True):
            (whole,) = losses_of([TOKENS[row, : LENGTHS[row]]], lambda cut: model(cut).logits)
            np.testing.assert_allclose(losses[np.isfinite(losses)], whole, rtol=0, atol=1e-5)


def test_what_is_padded_on_the_left_reads_as_if_it_were_not():
    left = RIGHT[:, ::-1]
    shifted = np.zeros_like(TOKENS)
    for row, n in enumerate(LENGTHS):
        shifted[row, LENGTH - n :] = TOKENS[row, :n]
    on_left = run({"input_ids": shifted, "attention_mask": left.astype(int)}, model=gpt2())
    on_right = run(padded(), model=gpt2())
    rows = on_left["row_train"].values
    for name in ("loss_train", "init_loss_train"):
        one, other = on_left[name].values, on_right[name].values
        for place, row in enumerate(rows):
            n = LENGTHS[row] - 1
            np.testing.assert_allclose(one[..., place, LENGTH - 1 - n :], other[..., place, :n], rtol=2e-4)
            assert np.isnan(one[..., place, : LENGTH - 1 - n]).all()
    with pytest.raises(ModelError, match="takes no attention mask"):
        run({"input_ids": shifted, "attention_mask": left.astype(int)})


def test_padded_and_cut_rows_agree_in_double_precision():
    for seed in range(10):
        draw = np.random.default_rng(seed)
        tokens = draw.integers(0, 64, (16, 6))
        wide = np.concatenate([tokens, draw.integers(0, 64, (16, 3))], axis=1)
        mask = np.broadcast_to(np.arange(9) < 6, wide.shape).astype(int)
        options = {"num_draws": 6, "batch_size": 4, "num_chains": 1, "gradient_accumulation_steps": 1 + seed % 2}
        cut = run(tokens, model=build_model().double(), **options)
        full = run({"input_ids": wide, "attention_mask": mask}, model=build_model().double(), **options)
        for name in ("sampling_loss", "loss_train", "init_loss", "init_loss_train"):
            np.testing.assert_allclose(full[name].values[..., :5], cut[name].values, rtol=0, atol=1e-9)
        np.testing.assert_allclose(full["step_loss"].values, cut["step_loss"].values, rtol=1e-6)


def test_a_loss_of_another_shape_says_how_rows_are_not_taken_for_tokens():
    def last(model, batch):
        ids = batch["x"] if isinstance(batch, dict) else batch
        return nn.functional.cross_entropy(model(ids)[:, -2], ids[:, -1], reduction="none")

    with pytest.raises(ModelError, match=r"\{'x': rows\}"):
        run(TOKENS, loss_fn=last)
    assert run({"x": TOKENS}, loss_fn=last).sizes["token_pos"] == 1


def test_a_model_that_cannot_do_without_a_mask_is_given_one_of_ones():
    class Strict(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = build_model()

        def forward(self, input_ids, attention_mask, *, position_ids):
            assert attention_mask.shape == position_ids.shape == input_ids.shape
            return self.inner(input_ids)

    plain, strict = run(TOKENS), run(TOKENS, model=Strict())
    for name in ("sampling_loss", "loss_train"):
        np.testing.assert_array_equal(strict[name], plain[name])
    assert run(padded(), model=Strict()).sizes["token_pos"] == LENGTH - 1


def test_rows_of_unequal_lengths_agree_with_each_row_evaluated_by_itself():
    """The oracle cuts every row to its own length, and gives it to the model alone."""

    def each_alone(model, batch):
        losses = []
        for ids, there in zip(batch["input_ids"], batch["attention_mask"].sum(1), strict=True):
            row = ids[None, :there]
            alone = next_token_loss(model(row), row)[0]
            losses.append(nn.functional.pad(alone, (0, len(ids) - int(there)), value=torch.nan))
        return torch.stack(losses)

    for seed in range(10):
        draw = np.random.default_rng(seed)
        rows = [draw.integers(0, 64, length).tolist() for length in [2, 9, *draw.integers(2, 10, 10)]]
        options = {"num_draws": 3, "batch_size": 6, "num_chains": 1, "num_init_loss_batches": 1}
        padded_rows, alone = (
            run(rows, {"train": (rows, 1)}, build_model().double(), loss_fn=loss_fn, **options)
            for loss_fn in (None, each_alone)
        )
        for name in ("sampling_loss", "loss_train", "init_loss", "init_loss_train"):
            np.testing.assert_allclose(padded_rows[name].values, alone[name].values, rtol=0, atol=1e-9)


def test_a_loss_of_the_callers_gets_the_attention_mask():
    seen = []

    def loss(model, batch):
        seen.append(type(batch))
        return next_token_loss(model(batch["input_ids"]), batch["input_ids"])

    observables = {"train": (padded(), 2), "whole": (TOKENS, 1)}
    equal(run(padded(), observables, loss_fn=loss), run(padded(), observables))
    assert set(seen) == {dict}


def test_what_does_not_count_may_be_anything():
    def loss(model, batch):
        losses = next_token_loss(model(batch["input_ids"]), batch["input_ids"])
        return torch.where(batch["attention_mask"][:, 1:].bool(), losses, torch.inf)

    equal(run(padded(), loss_fn=loss), run(padded()))


def test_other_processes_and_an_interruption_change_no_byte(tmp_path):
    where = assert_same_in_other_ways(lambda **options: run(padded(), **options), tmp_path)
    with pytest.raises(StoreConflictError, match="mask"):
        run(padded(loss_mask=np.arange(LENGTH) != 2 + 0 * TOKENS), output_path=where)


def without_answer():
    labels = TOKENS.copy()
    labels[5, 1:] = -100
    return {"input_ids": TOKENS, "labels": labels}


HALF, TWO = np.full(TOKENS.shape, 0.5), np.full(TOKENS.shape, 2)
BAD = {
    "weights": ({"input_ids": TOKENS, "attention_mask": HALF}, {}, DataError, "not made of 0 and 1"),
    "two": ({"input_ids": TOKENS, "loss_mask": TWO}, {}, DataError, "not made of 0 and 1"),
    "shape": ({"input_ids": TOKENS, "attention_mask": np.ones((N, 5))}, {}, DataError, "does not fit its tokens"),
    "shifted labels": ({"input_ids": TOKENS, "labels": np.roll(TOKENS, -1, 1)}, {}, DataError, "not shifted"),
    "no answer": (without_answer(), {"batch_size": 64}, DataError, "no position that counts.*row 5"),
    "argument's rows": (TOKENS, {"loss_mask": {"sampling": np.ones((3, LENGTH))}}, DataError, f"{N} rows"),
    "argument's width": (TOKENS, {"loss_mask": [1, 0, 1]}, DataError, "does not fit its tokens"),
    "argument for whom": (TOKENS, {"loss_mask": np.ones((N, LENGTH))}, SettingError, "sampling"),
    "argument for nobody": (TOKENS, {"loss_mask": {"test": np.ones(LENGTH)}}, SettingError, "'test'"),
    "argument's values": (TOKENS, {"loss_mask": np.linspace(0, 1, LENGTH)}, DataError, "not made of 0 and 1"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_mask_that_cannot_be_is_one_clear_error(kind):
    data, options, error, words = BAD[kind]
    with pytest.raises(error, match=words):
        run(data, {"train": (TOKENS, 1)}, **options)


def test_of_rows_that_are_no_tokens_some_losses_may_not_count():
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    mask = np.ones((16, 3), dtype=int)
    mask[::2, 2] = 0

    def loss(model, batch):
        return (model(batch) - batch) ** 2

    options = {**OPTIONS, "loss_fn": loss}
    tree = sample(nn.Linear(3, 3), x, {"train": (x, 2)}, loss_mask={"sampling": mask, "train": mask}, **options)
    assert devinterp.validate(tree).ok
    np.testing.assert_array_equal(np.isfinite(tree["init_loss_train"]), mask[tree["row_train"].values] == 1)
    with pytest.raises(ModelError, match="another number of positions than the loss"):
        sample(nn.Linear(3, 3), x, {"train": (x, 2)}, loss_mask={"sampling": mask[:, 1:]}, **options)
    from_rows = {"x": x, "loss_mask": mask}
    again = sample(
        nn.Linear(3, 3), from_rows, {"train": (from_rows, 2)}, **{**OPTIONS, "loss_fn": lambda m, b: loss(m, b["x"])}
    )
    np.testing.assert_array_equal(again["mask_train"].values, tree["mask_train"].values)


def test_what_does_not_count_is_told_at_a_glance(tmp_path, capsys):
    tree = run(padded(), {"train": (padded(), 2), "whole": (TOKENS, 1)}, output_path=tmp_path / "run.zarr")
    with pytest.raises(SystemExit):
        main(["info", str(tmp_path / "run.zarr")])
    said = capsys.readouterr().out
    for text in (repr(tree.devinterp), said):
        (line,) = [each for each in text.splitlines() if each.strip().startswith("rows:")]
        assert line.split(":", 1)[1].strip() == "not all positions count of: sampling, train"
    assert "rows:" not in repr(run(TOKENS).devinterp)
