"""Helpers around sampling that need no torch themselves."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from devinterp._renamed import successor
from devinterp.errors import DataError, DevinterpWarning, SettingError

__all__ = ["default_nbeta", "tokenize_and_concatenate"]

# Text is tokenised in this many pieces per batch of documents; the number decides where a word may be cut, and so the
# tokens, hence it is the reference's.
_PIECES = 20


def default_nbeta(dataloader: Any, gradient_accumulation_steps: int = 1) -> float:
    """Return the customary inverse temperature n_beta = m / ln m for m rows per step.

    Parameters
    ----------
    dataloader : int or an object with ``batch_size``
        Rows per micro-batch, or a `torch.utils.data.DataLoader`.
    gradient_accumulation_steps : int

    Returns
    -------
    float
        1.0, with a warning, where m is 1 or less and the formula has no value.

    Raises
    ------
    SettingError
        ``dataloader`` is neither.

    References
    ----------
    Watanabe (2013), "A widely applicable Bayesian information criterion": beta = 1 / ln n.
    """
    batch_size = dataloader if isinstance(dataloader, int) else getattr(dataloader, "batch_size", None)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int):
        raise SettingError(
            "The number of rows per step is not known.",
            expected="an int, or a DataLoader with a batch_size",
            found=type(dataloader).__name__,
        )
    rows = batch_size * gradient_accumulation_steps
    if rows <= 1:
        warnings.warn(
            f"n_beta = m / ln m has no value for m = {rows} row(s) per step; 1.0 is used.",
            DevinterpWarning,
            stacklevel=2,
        )
        return 1.0
    return rows / math.log(rows)


def tokenize_and_concatenate(
    dataset: Any,
    tokenizer: Any,
    streaming: bool = False,
    max_length: int = 1024,
    column_name: str = "text",
    add_bos_token: bool = True,
    num_proc: int | None = 10,
) -> Any:
    """Turn a dataset of texts into rows of exactly ``max_length`` tokens.

    The texts of a batch are joined by the end-of-sequence token, tokenised, and cut into rows; what is left over at
    the end of a batch is dropped. Unlike the reference, the tokenizer is not changed, and no token is lost where the
    padding token doubles as another one.

    Parameters
    ----------
    dataset : datasets.Dataset
    tokenizer : transformers.PreTrainedTokenizerBase
    streaming : bool
        The dataset is an iterable one: no worker processes.
    max_length : int
        Tokens per row, the beginning-of-sequence token included.
    column_name : str
    add_bos_token : bool
        Put the beginning-of-sequence token before every row.
    num_proc : int, optional
        Worker processes of ``dataset.map``.

    Returns
    -------
    datasets.Dataset
        One column ``input_ids``, formatted as torch tensors.

    Raises
    ------
    SettingError
        ``max_length`` leaves no room for a token, or the tokenizer lacks the tokens that are asked for.
    DataError
        The texts hold no token.
    """
    row_length = max_length - 1 if add_bos_token else max_length
    if row_length < 1:
        raise SettingError(
            f"max_length={max_length} leaves no room for a token.", expected=f"at least {2 if add_bos_token else 1}"
        )
    if add_bos_token and tokenizer.bos_token_id is None:
        raise SettingError(
            f"{type(tokenizer).__name__} has no beginning-of-sequence token.", remedy="Pass add_bos_token=False."
        )
    if tokenizer.eos_token is None:
        raise SettingError(f"{type(tokenizer).__name__} has no end-of-sequence token to join the texts with.")

    def to_rows(batch: dict[str, list[str]]) -> dict[str, Any]:
        return {"input_ids": _rows(batch[column_name], tokenizer, row_length, add_bos_token)}

    options: dict[str, Any] = {"batched": True, "remove_columns": [column_name]}
    if not streaming:
        options["num_proc"] = num_proc
    rows = dataset.select_columns(column_name).map(to_rows, **options)
    if not streaming and (len(rows) == 0 or "input_ids" not in rows.column_names):
        raise DataError("The texts hold no token.", remedy=f"Look at the column {column_name!r}: is it empty?")
    return rows.with_format("torch") if streaming else rows.with_format("torch", columns=["input_ids"])


def _rows(texts: list[str], tokenizer: Any, row_length: int, add_bos_token: bool) -> Any:
    text = tokenizer.eos_token.join(texts)
    if not text.strip():
        return np.empty((0, row_length + add_bos_token), dtype=np.int64)
    size = (len(text) - 1) // _PIECES + 1
    pieces = [text[i * size : (i + 1) * size] for i in range(_PIECES)]
    tokens = np.array([t for piece in tokenizer(pieces)["input_ids"] for t in piece], dtype=np.int64)
    if len(tokens) < row_length:
        # A single short row is filled up; a tokenizer without a padding token has nothing better than the end token.
        filler = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        tokens = np.concatenate([tokens, np.full(row_length - len(tokens), filler, dtype=np.int64)])
    rows = tokens[: len(tokens) // row_length * row_length].reshape(-1, row_length)
    if add_bos_token:
        rows = np.concatenate([np.full((len(rows), 1), tokenizer.bos_token_id, dtype=np.int64), rows], axis=1)
    return rows


if not TYPE_CHECKING:  # a checker shall know the names that there are

    def __getattr__(name: str) -> Any:
        return successor(__name__, name)
