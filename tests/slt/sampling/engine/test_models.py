"""Models as other people make them: taken, or refused by one clear error, before a store is left."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from devinterp.errors import DataError, DevinterpWarning, ModelError
from devinterp.slt.sampling import sample

IDS = np.random.default_rng(0).integers(0, 8, (8, 5))


def run(model, rows=IDS, path=None, **changes):
    settings = {"lr": 1e-3, "n_beta": 10.0, "num_chains": 1, "num_draws": 2, "batch_size": 2, "batches_per_draw": 1,
                "num_init_loss_batches": 1, "device": "cpu", "progress": False}  # fmt: skip
    return sample(model, rows, {"a": rows}, output_path=path, **{**settings, **changes})


class Model(nn.Module):
    def __init__(self, **embedding):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.out = nn.Embedding(8, 4, **embedding), nn.Linear(4, 8)

    def forward(self, ids):
        return self.out(self.embed(ids))


def same(one, other):
    np.testing.assert_array_equal(one["sampling_loss"], other["sampling_loss"])
    np.testing.assert_array_equal(one["loss_a"], other["loss_a"])


# Frozen weights, and weights without a gradient


def frozen(*, values):
    model = Model()
    model.frozen = nn.Parameter(values, requires_grad=False)
    return model


def test_a_frozen_mask_of_infinities_fails_no_chain():
    same(run(frozen(values=torch.full((3,), -torch.inf))), run(Model()))


def test_a_frozen_weight_is_not_in_a_checkpoint(tmp_path):
    run(frozen(values=torch.zeros(100_000)), path=tmp_path / "a.zarr", keep_state=True)
    (state,) = (tmp_path / "a.zarr" / ".devinterp").rglob("*.state")
    assert state.stat().st_size < 100_000
    assert b"frozen" not in state.read_bytes()


class Unused(Model):
    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(4, 4)


def test_weights_without_a_gradient_are_named_and_not_counted():
    with pytest.warns(DevinterpWarning, match=r"no gradient to 'unused\.weight', 'unused\.bias'"):
        tree = run(Unused())
    same(tree, run(Model()))
    assert tree.attrs["metadata"]["provenance"]["sampled"] == {"parameters": 3, "weights": 72}


class Checkpointed(Model):
    def forward(self, ids):
        return self.out(checkpoint(lambda x: self.hidden(x), self.embed(ids), use_reentrant=True))

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(4, 4)


# torch's own warning, where there is no gradient: of the forward passes that ask for none, for one
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
# torch 2.4's own as well: its checkpoints ask for the processor's precision by a name that it has deprecated
@pytest.mark.filterwarnings(r"ignore:`torch\.cpu\.amp\.autocast:FutureWarning")
def test_reentrant_checkpointing_hides_no_gradient():
    tree = run(Checkpointed())
    assert tree.attrs["metadata"]["provenance"]["sampled"]["parameters"] == 5


# torch's own warning, where there is no gradient: of the forward passes that ask for none, for one
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_reentrant_checkpointing_that_loses_gradients_is_named():
    model = Checkpointed()
    model.embed.weight.requires_grad_(False)
    with pytest.warns(DevinterpWarning, match=r"'hidden\.weight', 'hidden\.bias'"):
        run(model)


# Kinds of modules


def test_sparse_embeddings_are_sampled_as_dense_ones():
    same(run(Model(sparse=True)), run(Model()))


def test_parallel_wrappers_are_the_model_inside(tmp_path):
    run(Model(), path=tmp_path / "a.zarr")
    same(run(nn.DataParallel(Model()), path=tmp_path / "a.zarr"), run(Model()))


def test_a_compiled_model_is_the_model_inside(tmp_path):
    """Compiled kernels may round otherwise, which the probe's losses tell; these are the model's own."""
    run(Model(), path=tmp_path / "a.zarr")
    same(run(torch.compile(Model(), backend="eager"), path=tmp_path / "a.zarr"), run(Model()))
    compiled = Model()
    compiled.compile(backend="eager")
    same(run(compiled, path=tmp_path / "a.zarr"), run(Model()))


def inference():
    with torch.inference_mode():
        return Model()


def lazy():
    model = Model()
    model.extra = nn.LazyLinear(3)
    return model


REFUSED = {
    "made under inference_mode": (inference, "inference_mode"),
    "meta": (lambda: Model().to("meta"), "meta device"),
    "lazy": (lazy, "lazy module"),
    "a wrapper that is no module": (lambda: SimpleNamespace(_model=Model()), r"model\._model"),
    "no parameters": (nn.Identity, "no parameters"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_sampled_is_named(kind, tmp_path):
    build, words = REFUSED[kind]
    with pytest.raises(ModelError, match=words):
        run(build(), path=tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


# HuggingFace


def transformers():
    return pytest.importorskip("transformers", reason="transformers is not installed")


def gpt2(kind="GPT2LMHeadModel", **changes):
    library = transformers()
    torch.manual_seed(0)
    sizes = {"vocab_size": 16, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
    return getattr(library, kind)(library.GPT2Config(**{**sizes, **changes}))


ROWS = np.random.default_rng(0).integers(9, 16, (8, 5))
QUIET = {"mode": "eval"}


def test_a_mixture_that_returns_its_router_gives_its_logits():
    library = transformers()

    def build(router):
        torch.manual_seed(0)
        return library.MixtralForCausalLM(library.MixtralConfig(
            vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, num_local_experts=2, num_experts_per_tok=2, output_router_logits=router,
        ))  # fmt: skip

    same(run(build(True), ROWS, **QUIET), run(build(False), ROWS, **QUIET))


def test_a_class_of_transformers_whose_forward_takes_ids_alone():
    library = transformers()

    class Own(library.PreTrainedModel):
        config_class = library.PretrainedConfig

        def __init__(self, config):
            super().__init__(config)
            self.inner = Model()

        def forward(self, input_ids):
            return self.inner(input_ids)

    same(run(Own(library.PretrainedConfig())), run(Model()))


def test_a_model_that_returns_tuples_by_its_config_gives_its_logits():
    same(run(gpt2(return_dict=False), ROWS, **QUIET), run(gpt2(), ROWS, **QUIET))


@pytest.mark.parametrize(("kind", "words"), [("GPT2Model", "head"), ("GPT2ForTokenClassification", "narrower")])
def test_a_model_without_a_head_is_named(kind, words):
    with pytest.raises(ModelError, match=words):
        run(gpt2(kind), ROWS, **QUIET)


def test_rows_longer_than_the_positions_are_named():
    with pytest.raises(DataError, match="longer than the model has positions"):
        run(gpt2(n_positions=4), ROWS, **QUIET)


def test_an_encoder_decoder_is_named():
    library = transformers()
    config = library.T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with pytest.raises(ModelError, match="encoder-decoder"):
        run(library.T5ForConditionalGeneration(config), ROWS, **QUIET)


class Ahead(Model):
    """Each token reads the next one as well."""

    def forward(self, ids):
        return super().forward(ids) + super().forward(ids.roll(-1, 1))


def test_a_model_that_has_seen_what_it_predicts_is_named():
    library = transformers()
    sizes = {
        "vocab_size": 16,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    model = library.BertForMaskedLM(library.BertConfig(**sizes, hidden_dropout_prob=0, attention_probs_dropout_prob=0))
    both_ways = library.BertLMHeadModel(library.BertConfig(**sizes))
    half = copy.deepcopy(both_ways).to(torch.bfloat16)
    with torch.no_grad():
        for weight in half.parameters():  # as large as those of a trained model
            weight.mul_(8 if weight.ndim > 1 else 1)
    for each, rows in ((model, ROWS), (both_ways, ROWS), (half, ROWS), (Ahead(), IDS)):
        with pytest.raises(ModelError, match="would have seen it"):
            run(each, rows)
    decoder = library.BertLMHeadModel(library.BertConfig(**sizes, is_decoder=True))
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.mul_(8 if weight.ndim > 1 else 1)
    assert np.isfinite(run(decoder, ROWS, **QUIET)["init_loss"]).all()

    def hide_the_last(model, ids):
        hidden = torch.cat([ids[:, :-1], torch.zeros_like(ids[:, :1])], dim=1)
        losses = nn.functional.cross_entropy(model(hidden).logits.mT, ids, reduction="none")
        return losses[:, 1:]

    assert np.isfinite(run(model, ROWS, loss_fn=hide_the_last, **QUIET)["init_loss"]).all()
