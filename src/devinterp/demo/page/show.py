"""Printed tables, PNG figures, one HTML page, one JSON file."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from devinterp.demo.page.figures import make_figures
from devinterp.demo.page.tables import Table, make_tables
from devinterp.demo.results import Results
from devinterp.demo.settings import Settings

if TYPE_CHECKING:
    from devinterp.demo.corpus import Corpus
    from devinterp.demo.model import AttentionOnly

__all__ = ["SNIPPET", "introduction", "show"]

SNIPPET = """
import xarray as xr
study = xr.open_datatree("{study}", engine="zarr", consolidated=False)
study["full/sampling_loss"].values      # (chain, draw, batch, token_pos), nat

import devinterp                        # registers the accessor
study.isel(draw=slice(10, None)).devinterp.llc(over="observable", ci=0.9)

series = xr.open_datatree("{series}", engine="zarr", consolidated=False)
series.devinterp.plot.llc()             # the LLC along training, with intervals and verdicts
"""

SECTIONS = {
    "training": "The model learns to copy",
    "heads": "Which heads copy",
    "refined": "Around which heads the loss on copied text is sharp",
    "llc": "The whole model along training",
    "influence": "Which data influence which",
    "susceptibilities": "What each head answers to",
    "stores": "How local, and where it is stored",
}

_STYLE = """
:root { color-scheme: light; --ink: #1b1b1f; --dim: #5c5c66; --line: #d9d9df; --page: #ffffff; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem; font: 1rem/1.5 system-ui, sans-serif; color: var(--ink);
       background: var(--page); }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; }
img { max-width: 100%; height: auto; } figure { margin: .8rem 0; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; white-space: nowrap; font-weight: 600; padding-bottom: .3rem; }
th, td { padding: .2rem .45rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } tr.strong { font-weight: 700; }
.note { color: var(--dim); font-size: .85rem; } pre { background: #f4f4f7; padding: .8rem; overflow-x: auto; }
"""

_CAPTIONS = {
    "training": "Loss on shuffled bytes at their first and second showing, and the best prefix-matching score, "
    "over training steps.",
    "heads": "Loss rise on copied bytes when each head is sampled, beside noise, and against removal and attention.",
    "llc": "Loss rise around the whole model over training steps, on training rows and on copied bytes.",
    "influence": "Matrix of influences between windows, and histograms for pairs of one kind and of two kinds.",
    "susceptibilities": "Susceptibility of each head to each class of bytes.",
}


def introduction(corpus: Corpus, model: AttentionOnly, settings: Settings) -> str:
    """Say what the demo is about to do."""
    config, texts = (
        model.config,
        ", ".join(f"{len(text) / 1e6:.1f} MB of {name}" for name, text in corpus.texts.items()),
    )
    return (
        f"A transformer without feed-forward layers ({config.num_hidden_layers} layers × {config.num_attention_heads} "
        f"heads, width {config.hidden_size}, {sum(p.numel() for p in model.parameters()):,} weights) learns bytes from "
        f"this Python's own library: {texts}, and snippets of code repeated. Then SGLD samples the weights around it "
        f"(n_beta {settings.n_beta:g}, localization {settings.localization:g}; lr {settings.lr:g}, of heads "
        f"{settings.head_lr:g}, of heads of the circuit {settings.circuit_lr:g}; {settings.num_chains} chains × "
        f"{settings.num_draws} draws, half a relaxation time 2 / (lr × localization) apart).\n"
    )


def show(results: Results, intro: str, out: Path, console: Console) -> Path:
    """Print the results, and write figures, numbers and the page."""
    tables, sentences, figures = make_tables(results), results.sentences(), {}
    sentences["heads"] += f" {several_seeds()}"
    (out / "figures").mkdir(exist_ok=True)
    for name, figure in make_figures(results).items():
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=150)
        figures[name] = buffer.getvalue()
        (out / "figures" / f"{name}.png").write_bytes(figures[name])
    for name in SECTIONS:
        console.print()
        if name in tables:
            console.print(tables[name].to_rich(), highlight=False)
        if name in sentences:
            console.print(sentences[name], highlight=False)
    local = _locality(results)
    console.print(f"\n{local}", highlight=False)
    (out / "results.json").write_text(json.dumps(results.to_dict(), indent=2) + "\n", encoding="utf-8")
    page = out / "index.html"
    snippet = SNIPPET.format(study=out / "study.zarr", series=out / "checkpoints.zarr").strip()
    page.write_text(_page(intro.strip(), sentences | {"stores": local}, figures, tables, snippet), encoding="utf-8")
    return page


def several_seeds() -> str:
    """Say what the comparison of heads gave with several seeds, when and by which script."""
    record = json.loads(files("devinterp.demo.page").joinpath("several_seeds.json").read_text(encoding="utf-8"))
    return f"With several seeds ({record['script']}, {record['date']}): {record['found']}"


def _locality(results: Results) -> str:
    settings, scale = results.settings, results.weight_scale
    spread, allowed = (results.comparison.baselines[name] for name in ("spread", "allowed"))
    share = float((spread**2 / allowed**2).mean())
    return (
        f"How local this is: the sampled heads' weights lie {float(spread.min()):.3f} to {float(spread.max()):.3f} "
        f"from their trained values (root mean square; localization {settings.localization:g} alone would allow "
        f"{float(allowed.mean()):.3f}), where the weights themselves have a root mean square of {scale:.3f}. Their "
        f"variance is {100 * share:.0f} % of what localization alone would allow."
    )


def _page(
    intro: str, sentences: Mapping[str, str], figures: Mapping[str, bytes], tables: Mapping[str, Table], snippet: str
) -> str:
    """Put everything on one page that asks nothing of anywhere: sentences, PNG figures and tables by section."""
    parts = []
    for name, title in SECTIONS.items():
        parts.append(f"<section id={name}><h2>{escape(title)}</h2>")
        if name in sentences:
            parts.append(f"<p>{escape(sentences[name])}</p>")
        if name in figures:
            data = b64encode(figures[name]).decode()
            parts.append(f'<figure><img alt="{escape(_CAPTIONS[name])}" src="data:image/png;base64,{data}"></figure>')
        if name in tables:
            parts.append(tables[name].to_html())
        parts.append("</section>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>devinterp demo</title><style>{_STYLE}</style></head><body><main><h1>devinterp demo</h1>"
        f"<p>{escape(intro)}</p>{''.join(parts)}<section><h2>Go on from here</h2><pre>{escape(snippet)}</pre>"
        "</section></main></body></html>\n"
    )
