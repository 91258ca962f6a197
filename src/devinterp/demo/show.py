"""Putting the demo's results before people: printed tables, PNG figures, one HTML page, one JSON file."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from devinterp.demo.figures import make_figures
from devinterp.demo.page import make_page
from devinterp.demo.results import Results
from devinterp.demo.settings import Settings
from devinterp.demo.tables import make_tables

if TYPE_CHECKING:
    from devinterp.demo.corpus import Corpus
    from devinterp.demo.model import AttentionOnly

__all__ = ["SNIPPET", "introduction", "show"]

SNIPPET = """
import xarray as xr
study = xr.open_datatree("{study}", engine="zarr", consolidated=False)
study["full/sampling_loss"].values      # (chain, draw, batch, token_pos), nat

import devinterp                        # registers the accessor
study.isel(draw=slice(50, None)).devinterp.llc(over="observable", ci=0.9)

series = xr.open_datatree("{series}", engine="zarr", consolidated=False)
series.devinterp.plot.llc()             # the LLC along training, with intervals and verdicts
"""

_CAPTIONS = {
    "training": "Loss on shuffled bytes at their first and second showing, and the best prefix-matching score, "
    "over training steps.",
    "heads": "Effect of sampling each head on copied bytes, and the same against its attention scores.",
    "llc": "Learning coefficient of the whole model over training steps, on training rows and on copied bytes.",
    "influence": "Matrix of influences between windows, and histograms for pairs of one kind and of two kinds.",
    "susceptibilities": "Susceptibility of each head to each class of bytes.",
}


def introduction(corpus: Corpus, model: AttentionOnly, settings: Settings) -> str:
    """Say what the demo is about to do.

    Parameters
    ----------
    corpus, model, settings
        What it works with.

    Returns
    -------
    str
        A few lines.
    """
    config, texts = (
        model.config,
        ", ".join(f"{len(text) / 1e6:.1f} MB of {name}" for name, text in corpus.texts.items()),
    )
    return (
        f"A transformer without feed-forward layers ({config.num_hidden_layers} layers × {config.num_attention_heads} "
        f"heads, width {config.hidden_size}, {sum(p.numel() for p in model.parameters()):,} weights) learns bytes from "
        f"this Python's own library: {texts}, and snippets of code repeated. Then SGLD samples the weights around it "
        f"(lr {settings.lr:g}, n_beta {settings.n_beta:g}, localization {settings.localization:g}, "
        f"{settings.num_chains} chains × {settings.num_draws} draws).\n"
    )


def show(results: Results, intro: str, out: Path, console: Console) -> Path:
    """Print the results, and write figures, numbers and the page.

    Parameters
    ----------
    results : Results
        What was found.
    intro : str
        What `introduction` said; it heads the page.
    out : Path
        Gets ``figures/*.png``, ``results.json`` and ``index.html``.
    console : Console
        Where the tables are printed.

    Returns
    -------
    Path
        The page.
    """
    tables, sentences, figures = make_tables(results), results.sentences(), {}
    (out / "figures").mkdir(exist_ok=True)
    for name, figure in make_figures(results).items():
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=150)
        figures[name] = buffer.getvalue()
        (out / "figures" / f"{name}.png").write_bytes(figures[name])
    for name in ("training", "heads", "llc", "influence", "susceptibilities", "stores"):
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
    page.write_text(
        make_page(intro.strip(), sentences | {"stores": local}, figures, tables, _CAPTIONS, snippet), encoding="utf-8"
    )
    return page


def _locality(results: Results) -> str:
    settings, scale = results.settings, results.weight_scale
    return (
        f"How local this is: localization {settings.localization:g} holds every sampled weight within about "
        f"±{settings.spread:.3f} of its trained value, where the heads' weights have a root mean square of "
        f"{scale:.3f}. At n_beta {settings.n_beta:g} the loss pulls far less than that. These learning coefficients "
        f"measure how the loss rises in a ball of this size, which compares heads and checkpoints; they do not "
        f"estimate the global learning coefficient of the model."
    )
