"""Counts, text and HTML of what a restriction selects."""

from __future__ import annotations

import html.parser

import pytest
import torch
from plain_transformers import D_MODEL, HEADS, PlainLM, seeded
from torch import nn

from devinterp.errors import RestrictionError
from devinterp.slt.weight_restrictions import create_param_masks, preview_restriction


@pytest.fixture(scope="module")
def model():
    return seeded(lambda: PlainLM("concat", says=True))


def test_counts_and_percentages_of_a_head(model):
    shown = preview_restriction(model, "l1h2")
    assert {row.name: (row.shape, row.selected, row.total) for row in shown.rows} == {
        "layers.1.attn.qkv.weight": ((96, 32), 24 * 32, 96 * 32),
        "layers.1.attn.qkv.bias": ((96,), 24, 96),
        "layers.1.attn.wo.weight": ((32, 32), 8 * 32, 32 * 32),
    }
    assert shown.rows[0].fraction == 1 / HEADS
    assert shown.selected == 24 * 32 + 24 + 8 * 32
    assert shown.model_total == sum(param.numel() for param in model.parameters())
    assert shown.fraction == shown.selected / shown.model_total


def test_full_selects_everything(model):
    shown = preview_restriction(model, "full")
    assert shown.selected == shown.model_total
    assert shown.fraction == 1
    assert [row.name for row in shown.rows] == [name for name, _ in model.named_parameters()]


def test_text_has_a_line_for_each_parameter_with_its_share(model):
    lines = str(preview_restriction(model, ["l1h2", "embed"])).splitlines()
    assert lines[0].startswith("l1h2 + embed: ")
    assert "in 4 parameters" in lines[0]
    assert len(lines) == 5
    assert lines[1].split()[:2] == ["tokens.weight", "64×32"]
    assert "100.00%" in lines[1]
    assert "768 of 3,072" in lines[2]
    assert "25.00%" in lines[2]
    assert repr(preview_restriction(model, "l1h2")) == str(preview_restriction(model, "l1h2"))


@pytest.mark.filterwarnings("ignore:restriction scales 1 parameters")
def test_masks_of_ones_own_and_numeric_ones_are_counted(model):
    mask = torch.zeros(D_MODEL, D_MODEL)
    mask[0, :5] = 0.5
    shown = preview_restriction(model, {"layers.0.attn.wo.weight": mask, "norm.bias": None})
    assert [(row.selected, row.total) for row in shown.rows] == [(5, 1024), (32, 32)]


def test_masks_that_do_not_fit_are_refused(model):
    with pytest.raises(RestrictionError, match=r"norm\.bies"):
        preview_restriction(model, {"norm.bies": None})
    with pytest.raises(RestrictionError, match="shape"):
        preview_restriction(model, {"norm.bias": torch.ones(3, dtype=torch.bool)})


class Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def test_html_is_a_table_and_escapes_names():
    model = nn.Module()
    evil = "<script>alert('x')&"
    model.register_parameter(evil, nn.Parameter(torch.zeros(2, 3)))
    text = preview_restriction(model, evil)._repr_html_()
    page = Tags()
    page.feed(text)
    assert "script" not in page.tags
    assert page.tags.count("tr") == 2
    assert page.text.count(evil) == 2  # the caption and the row
    assert "100.00%" in text


def test_preview_and_masks_agree_for_every_kind(model):
    for restriction in ("l0", "l0 attn", "l0 mlp", "l0g1", "unembed"):
        masks = create_param_masks(model, restriction)
        assert preview_restriction(model, restriction).rows == preview_restriction(model, masks).rows


def test_an_empty_parameter_counts_as_none():
    model = nn.Module()
    model.register_parameter("empty", nn.Parameter(torch.zeros(0, 3)))
    (row,) = preview_restriction(model, "empty").rows
    assert (row.selected, row.total, row.fraction) == (0, 0, 0.0)
    assert preview_restriction(model, "empty").fraction == 0
