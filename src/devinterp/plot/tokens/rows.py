"""Which rows of a run or a result are shown as text, and the number that colours each of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from devinterp.errors import SettingError
from devinterp.plain_json import listed
from devinterp.plot.drawing.style import symmetric_limit
from devinterp.plot.inputs import as_susceptibilities, context_of, observable_names, one_run, refuse_options
from devinterp.plot.tokens.coloured import TextRow, TokenText
from devinterp.plot.tokens.decode import token_strings
from devinterp.plot.tokens.influence_rows import influence_rows
from devinterp.slt.runs.kind import kind_of
from devinterp.slt.runs.masked_means import row_mask
from devinterp.slt.runs.read_blocks import block_slices, read_blocks
from devinterp.slt.runs.results import loss_unit
from devinterp.slt.runs.run import Tree, study_members
from devinterp.slt.susceptibilities.matrix import matrix
from devinterp.wording import one_of

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["tokens"]


def tokens(
    obj: Tree,
    tokenizer: Any = None,
    *,
    by: Literal["loss", "change", "susceptibility", "influence"] | None = None,
    observable: str | None = None,
    rows: Sequence[int] | int | None = None,
    wr: str | None = None,
    query: tuple[int, int] | None = None,
    limit: float | None = None,
    most: int = 6,
    **options: Any,
) -> TokenText:
    """Show texts as text, each token coloured by a number.

    Parameters
    ----------
    obj : DataTree or Dataset
        A run, a study, or a result of ``compute_bif`` or ``compute_susceptibilities``.
    tokenizer : optional
        See `devinterp.plot.tokens.decode.token_strings`.
    by : {"loss", "change", "susceptibility", "influence"}, optional
        The mean loss over chains and draws; its change against the loss at the start; the susceptibility of the
        restriction ``wr``, in its standard deviations; the influence on the token ``query``. By default what the
        object holds: of a run the loss, of a study the loss of ``full``.
    observable : str, optional
        Which texts; by default those of the first observable (for an influence: all).
    rows : int or sequence of int, optional
        Which of its rows; the first ``most`` by default, for an influence the most influential.
    wr : str, optional
        Which restriction; the first by default.
    query : (int, int), optional
        Sequence (as in ``batch_1``) and 1-indexed position of the token whose influences are shown.
    limit : float, optional
        Where the colour is strongest; by default what covers 99.5 % of the values.
    most : int
        At most so many rows, where ``rows`` does not say which.
    **options
        Passed to the analysis, where one is needed.

    Returns
    -------
    TokenText
        HTML in a notebook, colours in a terminal (``rich.print``), and plain text by ``str``.

    Raises
    ------
    SettingError
        An argument is missing or has a value that it cannot take.
    MissingVariableError
        There is no such observable, restriction or row.
    """
    kind = kind_of(obj)
    if by is None:
        by = {"bif": "influence", "bif_topk": "influence", "susceptibilities": "susceptibility"}.get(kind, "loss")  # type: ignore[assignment]
    if by in ("loss", "change"):
        refuse_options(options, "the losses are in the run")
        label = "mean loss" if by == "loss" else "mean loss minus loss at the start"
        unit, found = _loss_rows(obj, tokenizer, observable, _row_list(rows), most, change=by == "change", wr=wr)
        return _finish(found, label, unit, limit, diverging=by == "change")
    if by == "susceptibility":
        name, found = _susceptibility_rows(obj, tokenizer, observable, _row_list(rows), most, wr, options)
        return _finish(found, f"susceptibility of {name}", "standard deviations", limit, diverging=True)
    if by == "influence":
        if query is None:
            raise SettingError("Whose influences?", expected="query=(sequence, position)", found=None)
        found, unit = influence_rows(obj, tokenizer, observable, _row_list(rows), most, query, options)
        return _finish(found, f"influence on position {query[1]} of sequence {query[0]}", unit, limit, diverging=True)
    raise SettingError(
        "Tokens cannot be coloured by that.",
        expected="by = 'loss', 'change', 'susceptibility' or 'influence'",
        found=repr(by),
    )


def _row_list(rows: Sequence[int] | int | None) -> list[int] | None:
    if rows is None:
        return None
    return [int(rows)] if isinstance(rows, int | np.integer) else [int(r) for r in rows]


def _finish(rows: list[TextRow], label: str, unit: str, limit: float | None, *, diverging: bool) -> TokenText:
    values = np.concatenate([r.values[[i for i in range(r.values.size) if i != r.marked]] for r in rows])
    return TokenText(tuple(rows), label, unit, symmetric_limit(values, limit=limit)[0], diverging)


def _picked(count: int, rows: list[int] | None, most: int, what: str) -> list[int]:
    if rows is None:
        return list(range(min(count, most)))
    wrong = [r for r in rows if not 0 <= r < count]
    if wrong or not rows:
        raise SettingError(f"{what} has no such row.", expected=f"rows from 0 to {count - 1}", found=wrong)
    return rows


def _loss_rows(
    obj: Tree,
    tokenizer: Any,
    observable: str | None,
    rows: list[int] | None,
    most: int,
    *,
    change: bool,
    wr: str | None,
) -> tuple[str, list[TextRow]]:
    members = study_members(obj)
    if wr is not None:
        if members is None or wr not in members:
            raise SettingError(f"There is no restriction {wr!r}.", expected=one_of(members or ()))
        obj = members[wr]
    run = one_run(obj)
    if not run.observables:
        raise SettingError("The run has no observable whose texts could be shown.")
    name = run.observables[0] if observable is None else run.observable(observable)
    ids = run.input_ids(name)
    losses = run.loss(name)
    picked = _picked(losses.sizes[f"batch_{name}"], rows, most, repr(name))
    chosen = losses.isel({f"batch_{name}": picked})
    values = _mean_loss(chosen)
    if change:
        start = run.variable(f"init_loss_{name}", (f"batch_{name}", "token_pos"))
        values = values - np.asarray(start.isel({f"batch_{name}": picked}).values, dtype=np.float64)
    positions = run.token_positions()
    _, predicted, losses_of = np.intersect1d(positions, run.target_positions(), return_indices=True)
    coloured = np.full((len(picked), positions.size), np.nan)
    coloured[:, predicted] = values[:, losses_of]
    reading = np.argsort(positions)
    counts, mask = np.ones(coloured.shape, dtype=bool), row_mask(run, name)
    if mask is not None:
        counts[:, predicted] = mask[picked][:, losses_of]
    return loss_unit(run.metadata), [
        TextRow(
            f"{name}, row {row}",
            tuple(token_strings(ids[row][reading], tokenizer)),
            line[reading],
            counts=None if mask is None else own[reading],
        )
        for row, line, own in zip(picked, coloured, counts, strict=True)
    ]


def _mean_loss(losses: xr.DataArray) -> npt.NDArray[np.float64]:
    """Mean over chains and draws, the fill of chains that stopped left out: shape (row, token_pos)."""
    total = np.zeros(losses.shape[2:])
    count = np.zeros(losses.shape[2:])
    for block in read_blocks(("", losses, chains, draws) for chains, draws in block_slices(losses)):
        known = np.isfinite(block.values)
        total += np.where(known, block.values, 0).sum(axis=(0, 1), dtype=np.float64)
        count += known.sum(axis=(0, 1))
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))


def _susceptibility_rows(
    obj: Tree,
    tokenizer: Any,
    observable: str | None,
    rows: list[int] | None,
    most: int,
    wr: str | None,
    options: dict[str, Any],
) -> tuple[str, list[TextRow]]:
    tree = as_susceptibilities(obj, **options)
    sus, context = tree["susceptibilities"].to_dataset(), context_of(tree)
    restrictions = [str(v) for v in sus["wr"].values]
    wr = restrictions[0] if wr is None else wr
    names = observable_names(sus)
    observable = names[0] if observable is None else observable
    for given, known in ((wr, restrictions), (observable, names)):
        if given not in known:
            raise SettingError(f"There is no {given!r} here.", expected=one_of(known))
    column = matrix(tree, standardize="columns").isel(wr=restrictions.index(wr)).values
    which = names.index(observable)
    here, there = sus["dataset_id"].values == which, context["dataset_id"].values == which
    count = int(context["batch"].values[there].max(initial=-1)) + 1
    found = []
    for row in _picked(count, rows, most, repr(observable)):
        line, text = here & (sus["batch"].values == row), there & (context["batch"].values == row)
        order = np.argsort(context["position"].values[text], kind="stable")
        positions = context["position"].values[text][order]
        values = np.full(positions.size, np.nan)
        values[np.searchsorted(positions, sus["target_position"].values[line])] = column[line]
        texts = token_strings(context["input_ids"].values[text][order], tokenizer)
        counts = np.isfinite(values) if observable in listed(sus.attrs, "masked") else None
        found.append(TextRow(f"{observable}, row {row}", tuple(texts), values, counts=counts))
    return wr, found
