"""Parts of any module tree by path, class and slice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from devinterp.errors import RestrictionError
from devinterp.names import check_restriction_names
from devinterp.slt.sampling import sample_restrictions
from devinterp.slt.susceptibilities import compute_susceptibilities
from devinterp.slt.weight_restrictions import create_param_masks
from devinterp.slt.weight_restrictions.grammar import parse

NAMES = st.sampled_from(["conv1", "fc", "0", "1", "blocks", "Ünit", "w[0]", "l0", "a b", "x*", "full", "norm_1"])


class Part(nn.Module):
    """A module that has parameters of its own, and children."""

    def __init__(self, params, children):
        super().__init__()
        for name, shape in params.items():
            if name not in children:
                self.register_parameter(name, nn.Parameter(torch.zeros(shape)))
        for name, child in children.items():
            self.add_module(name, child)


SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple)
LEAVES = st.one_of(
    st.builds(lambda i, o, b: nn.Linear(i, o, bias=b), st.integers(1, 4), st.integers(1, 4), st.booleans()),
    st.builds(lambda c: nn.Conv2d(c, 2, 3), st.integers(1, 3)),
    st.builds(nn.LayerNorm, st.integers(1, 4)),
    st.builds(nn.ReLU),
)


def part(children):
    return st.builds(
        Part, st.dictionaries(NAMES, SHAPES, max_size=2), st.dictionaries(NAMES, children, min_size=1, max_size=3)
    )


TREES = part(st.recursive(LEAVES, part, max_leaves=6)).filter(lambda tree: any(True for _ in tree.parameters()))


def selected(model, restriction):
    """The weights that a restriction selects, as booleans in one vector."""
    masks = create_param_masks(model, restriction)
    return torch.cat(
        [
            torch.zeros(p.numel(), dtype=torch.bool) if name not in masks
            else torch.ones(p.numel(), dtype=torch.bool) if masks[name] is None
            else masks[name].flatten()
            for name, p in model.named_parameters()
        ]
    )  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(TREES)
def test_leaves_together_are_everything_and_each_module_is_its_parameters(model):
    owners = [n for n, m in model.named_modules() if any(True for _ in m.parameters(recurse=False))]
    leaves = [f"module:{n}" for n in owners if n] + [f"module:{n}" for n, _ in model.named_parameters(recurse=False)]
    assert selected(model, leaves).all()
    assert selected(model, "module:").all()
    for name, module in model.named_modules():
        own = {id(p) for p in module.parameters()}
        if own:
            expected = [n for n, p in model.named_parameters() if id(p) in own]
            assert create_param_masks(model, f"module:{name}") == dict.fromkeys(expected)
            of_class = create_param_masks(model, f"class:{type(module).__name__}")
            assert of_class.keys() >= set(expected)


@settings(max_examples=25, deadline=None)
@given(TREES, st.data())
def test_slices_along_an_axis_partition_a_parameter(model, data):
    name, param = data.draw(st.sampled_from([(n, p) for n, p in model.named_parameters()]))
    whole = selected(model, f"module:{name}")
    assert int(whole.sum()) == param.numel()
    if not param.dim():
        with pytest.raises(RestrictionError, match="more axes"):
            create_param_masks(model, f"module:{name}[0]")
        return
    axis = data.draw(st.integers(0, param.dim() - 1))
    size = param.shape[axis]
    behind = data.draw(st.sampled_from([":, " * axis, "..., "] if axis == param.dim() - 1 else [":, " * axis]))
    parts = [selected(model, f"module:{name}[{behind}{i}]") for i in range(size)]
    assert torch.equal(sum(p.int() for p in parts), whole.int())
    cut = data.draw(st.integers(0, size))
    halves = [text for text, length in ((f":{cut}", cut), (f"{cut}:", size - cut)) if length]
    parts = [selected(model, f"module:{name}[{behind}{text}]") for text in halves]
    assert torch.equal(sum(p.int() for p in parts), whole.int())
    with pytest.raises(RestrictionError, match=f"axis {axis} has no such place"):
        create_param_masks(model, f"module:{name}[{behind}{size}]")


INDEX = st.one_of(st.integers(-3, 2), st.slices(4), st.just(Ellipsis))


def written(each):
    if isinstance(each, slice):
        return ":".join("" if n is None else str(n) for n in (each.start, each.stop, each.step))
    return "..." if each is Ellipsis else str(each)


@settings(max_examples=60, deadline=None)
@given(st.lists(INDEX, min_size=1, max_size=4).filter(lambda cut: cut.count(Ellipsis) <= 1))
def test_a_slice_is_what_numpy_takes(cut):
    """Of every parameter that numpy can index so, unless nothing is left."""
    model = Part({"w": (3, 4, 2)}, {})
    expected = np.zeros((3, 4, 2), bool)
    text = f"module:w[{', '.join(map(written, cut))}]"
    try:
        expected[tuple(cut)] = True
    except IndexError:
        expected[:] = False
    if expected.any():
        assert np.array_equal(selected(model, text), expected.ravel())
        check_restriction_names([text])
    else:
        with pytest.raises(RestrictionError, match=r"no such place|more axes"):
            create_param_masks(model, text)


@pytest.mark.parametrize(
    "behind", ["[a]", "[1.5]", "[]", "[0][1]", "[..., ...]", "[::0]", "[1:2:3:4]", "[None]", "[٣]"]
)
def test_brackets_that_are_no_slice_are_refused(behind):
    with pytest.raises(RestrictionError, match="selects nothing"):
        create_param_masks(nn.Sequential(nn.Linear(4, 4)), f"module:0.weight{behind}")


class Net(nn.Module):
    """A small network for images, with a shared part and a buffer."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3)
        self.bn, self.fc1, self.drop = nn.BatchNorm2d(4), nn.Linear(32, 10), nn.Dropout()
        self.mlps = nn.ModuleList([nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)) for _ in range(2)])
        self.again = self.fc1


@pytest.mark.parametrize(
    ("restriction", "names"),
    [
        ("module:conv*", "conv1.weight conv1.bias conv2.weight conv2.bias"),
        ("Module: mlps.*.1", "mlps.0.1.weight mlps.0.1.bias mlps.1.1.weight mlps.1.1.bias"),
        ("module:mlps.**.bias", "mlps.0.0.bias mlps.0.1.bias mlps.1.0.bias mlps.1.1.bias"),
        ("module:**.1.weight", "mlps.0.1.weight mlps.1.1.weight"),
        ("module:mlps.1.**", "mlps.1.0.weight mlps.1.0.bias mlps.1.1.weight mlps.1.1.bias"),
        ("module:again", "fc1.weight fc1.bias"),
        ("class:_BatchNorm", "bn.weight bn.bias"),
        ("class:*Norm*", "bn.weight bn.bias mlps.0.1.weight mlps.0.1.bias mlps.1.1.weight mlps.1.1.bias"),
        (["class:LayerNorm", "module:bn.bias"], "bn.bias mlps.0.1.weight mlps.0.1.bias mlps.1.1.weight mlps.1.1.bias"),
    ],
)
def test_paths_with_stars_and_classes(restriction, names):
    assert create_param_masks(Net(), restriction) == dict.fromkeys(names.split())


def test_a_neuron_is_its_row_its_bias_and_its_column_in_the_next_map():
    masks = create_param_masks(
        nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), ["module:0.*[2]", "module:2.weight[:, 2]"]
    )
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"0.weight": 5, "0.bias": 1, "2.weight": 3}
    assert masks["0.weight"][2].all()
    assert masks["2.weight"][:, 2].all()


def test_a_mask_of_one_axis_takes_the_memory_of_that_axis():
    mask = create_param_masks(nn.Embedding(1000, 64), "module:weight[:, 5]")["weight"]
    assert (mask.shape, mask.untyped_storage().nbytes()) == ((1000, 64), 64)


@pytest.mark.parametrize("restriction", ["l0h1", "l0 attn", "embed", "unembed", "l0"])
def test_what_a_network_for_images_has_no_part_for_is_refused_with_names_that_it_has(restriction):
    net = Net()
    if restriction == "l0":
        del net.mlps
    with pytest.raises(RestrictionError) as caught:
        create_param_masks(net, restriction)
    told = [word.strip("',.") for word in caught.value.remedy.split() if ":" in word]
    assert {"module:conv1", "class:Conv2d", "module:conv1.weight[0]"} <= set(told)
    assert all(create_param_masks(net, each) for each in told)


@pytest.mark.parametrize(
    ("restriction", "words"),
    [
        ("module:conv3", "no module or parameter of that name.*Did you mean 'module:conv2' or 'module:conv1'"),
        ("module:CONV1", "Did you mean 'module:conv1'"),
        ("module:weight", "Did you mean 'module:conv1.weight'"),
        ("module:drop", "has no parameters"),
        ("module:bn.running_mean", "is a buffer"),
        ("module:fc1[3]", "slices are of parameters.*'module:fc1.weight\\[3\\]' or 'module:fc1.bias\\[3\\]'"),
        ("module:fc1.weight[10]", r"a place below 10: the shape is \(10, 32\)"),
        ("module:fc1.*[0, 0]", r"cuts more axes than 'fc1.bias' has"),
        ("class:LayerNrm", "no module of that class.*Did you mean 'class:LayerNorm'"),
        ("class:Dropout", "modules of that class have no parameters"),
        ("conv1", "Unknown restriction 'conv1'.*Did you mean 'module:conv1'"),
    ],
)
def test_what_selects_nothing_is_refused_with_what_would(restriction, words):
    with pytest.raises(RestrictionError, match=words):
        create_param_masks(Net(), restriction)


def test_case_matters_in_paths_and_in_nothing_else():
    assert parse(" MODULE:Fc1.W [ : , -1 ] ").path == "Fc1.W"
    assert parse("CLASS: LayerNorm").path == "LayerNorm"


def test_restrictions_are_names_of_groups_in_a_study_and_come_back(tmp_path):
    """A network without attention, sampled by the strings that name its parts."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 7))
    parts = ["module:1", "module:*.bias", "class:LayerNorm", "module:1.weight[3]", "module:3.weight[:, 5]", "module:**"]
    rows = torch.randint(7, (8, 5))
    sample_restrictions(
        model, rows, {"train": rows}, {"full": None, **{name: name for name in parts}}, sampling_task="train",
        lr=1e-3, n_beta=10.0, localization=10.0, num_chains=2, num_draws=3, batch_size=4, batches_per_draw=1,
        output_path=tmp_path / "study.zarr", progress=False,
    )  # fmt: skip
    study = xr.open_datatree(tmp_path / "study.zarr", engine="devinterp")
    assert set(study.children) == {"full", *parts}
    assert list(study.devinterp.llc()["wr"].values) == ["full", *parts]
    sus = compute_susceptibilities(study, "train", include_sampling_task=True)
    assert list(sus["susceptibilities"]["wr"].values) == parts
