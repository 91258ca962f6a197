"""Helpers around sampling that need no torch themselves."""

from __future__ import annotations

import math
from collections.abc import Sized
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from devinterp._renamed import successor
from devinterp.errors import DataError, SettingError, warn_caller

__all__ = ["StartingPoint", "default_nbeta", "replicate_seeds", "starting_points", "tokenize_and_concatenate"]

# Text is tokenised in this many pieces per batch of documents; the number decides where a word may be cut, and so the
# tokens, hence it is the reference's.
_PIECES = 20


@dataclass(frozen=True)
class StartingPoint:
    """Settings that some work sampled with.

    Attributes
    ----------
    work : str
        What was estimated, of which model.
    parameters : tuple of float
        The smallest and the largest model, by the number of parameters.
    lr, n_beta, localization : tuple of float
        The one value, or the two ends of a range. Settings of `devinterp.sample`.
    source : str
        Where it is from.
    others : dict
        Other settings of `devinterp.sample` that were told.
    """

    work: str
    parameters: tuple[float, float]
    lr: tuple[float, ...]
    n_beta: tuple[float, ...]
    localization: tuple[float, ...]
    source: str
    others: dict[str, int]

    def apart(self, num_parameters: float) -> float:
        """How far a model is from these, in powers of ten of its size; 0 inside."""
        low, high = self.parameters
        return math.log10(max(low / num_parameters, num_parameters / high, 1.0))


_SUSCEPTIBILITIES = "Baker et al. (2025), Studying Small Language Models with Susceptibilities, arXiv:2504.18274"
_REFINED = (
    "Wang et al. (2024), Differentiation and Specialization of Attention Heads via the Refined Local Learning "
    "Coefficient, arXiv:2410.02984"
)
_PASSED_ON = "settings for the Pythia suite as they are passed on in the field; no publication was compared with"
_PYTHIA = ((14e6, 14e6, 1e-3), (31e6, 70e6, 3e-4), (160e6, 410e6, 1e-4), (1e9, 1.4e9, 3e-5), (2.8e9, 2.8e9, 1e-5),
           (6.9e9, 6.9e9, 3e-6))  # fmt: skip
_POINTS = (
    StartingPoint(
        "refined LLC of heads, attention-only transformer", (3e6, 3e6), (1e-3,), (30.0,), (200.0,), _REFINED, {}
    ),
    StartingPoint(
        "susceptibilities, attention-only transformer", (3e6, 3e6), (1e-3,), (30.0,), (300.0,), _SUSCEPTIBILITIES,
        {"batch_size": 64},
    ),
    *(
        StartingPoint("LLC, Pythia", (low, high), (lr,), (30.0,), (300.0,), _PASSED_ON, {})
        for low, high, lr in _PYTHIA
    ),
    StartingPoint(
        "susceptibilities, Pythia", (1.4e9, 1.4e9), (1e-5,), (10.0,), (300.0,), _PASSED_ON, {"num_steps_bw_draws": 160}
    ),
    StartingPoint(
        "ranges to search, language models of any size", (0.0, math.inf), (1e-6, 1e-4), (1.0, 100.0), (10.0, 1000.0),
        "guide of the field's own library to sampling, as it is passed on", {},
    ),
)  # fmt: skip


def starting_points(num_parameters: float | None = None) -> tuple[StartingPoint, ...]:
    """Return the settings that published work sampled with: where to begin, not where to end.

    They are taken from summaries: compare with the source before you cite one. What is right for a model is found by a
    short run and `diagnose()`, or by `devinterp.sweep`, whose default grid begins here.

    Parameters
    ----------
    num_parameters : float, optional
        Put those of models of about this size first.

    Returns
    -------
    tuple of StartingPoint

    Raises
    ------
    SettingError
        ``num_parameters`` is not a positive number.

    Examples
    --------
    >>> from devinterp.utils import starting_points
    >>> nearest = starting_points(70e6)[0]
    >>> nearest.work, nearest.lr, nearest.n_beta, nearest.localization
    ('LLC, Pythia', (0.0003,), (30.0,), (300.0,))
    """
    if num_parameters is None:
        return _POINTS
    if not isinstance(num_parameters, Real) or not 0 < num_parameters < math.inf:
        raise SettingError("A model has some number of parameters.", expected="more than 0", found=num_parameters)
    # Ranges for models of any size tell less than the settings of a model of another size.
    return tuple(sorted(_POINTS, key=lambda point: (len(point.lr), point.apart(num_parameters))))


def replicate_seeds(replicates: int, num_chains: int = 4, *, first: int = 100) -> tuple[int, ...]:
    """Return values of ``init_seed`` for runs that are to be independent of each other.

    Chain ``c`` of a run is seeded with ``init_seed + c``, and minibatches are ordered by ``init_seed``: runs with 100
    and 101 have all chains but one in common. These lie `num_chains` apart. Observables keep their rows, which
    ``obs_seed`` alone decides, so that replicates can be compared row by row.

    Parameters
    ----------
    replicates : int
        How many runs, at least 1.
    num_chains : int
        Chains of the longest of them, at least 1.
    first : int
        Seed of the first.

    Returns
    -------
    tuple of int

    Raises
    ------
    SettingError
        A number is not a whole one, or too small.
    """
    for name, value, least in (("replicates", replicates, 1), ("num_chains", num_chains, 1), ("first", first, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise SettingError(f"{name} cannot be used.", expected=f"an int of {least} or more", found=repr(value))
    return tuple(range(int(first), int(first) + int(replicates) * int(num_chains), int(num_chains)))


def default_nbeta(dataloader: Any, gradient_accumulation_steps: int = 1) -> float:
    """Return the customary inverse temperature n_beta = m / ln m, of a dataset's rows or of those of one step.

    Watanabe's n / ln n, for n rows of the dataset, makes n_beta times the mean loss the WBIC, and n_beta times its rise
    an estimate of the learning coefficient. Where rows are drawn in batches it is customary in this field to put b / ln
    b, for the b rows of a step, in its place: a higher temperature, at which the chain goes further and the loss weighs
    less. The two are different questions, and their coefficients are not to be compared: 32 rows a step of a dataset of
    10000 are 9.2 and 1086.

    Parameters
    ----------
    dataloader : int, an object with ``batch_size``, or a dataset
        Rows: per micro-batch, as a number or a `torch.utils.data.DataLoader`; or those of a dataset, by its length.
    gradient_accumulation_steps : int
        Micro-batches per step; a dataset has none.

    Returns
    -------
    float
        1.0, with a warning, where m is 1 or less and the formula has no value.

    Raises
    ------
    SettingError
        ``dataloader`` is none of these.

    Examples
    --------
    >>> from devinterp.utils import default_nbeta
    >>> round(default_nbeta(32), 2), round(default_nbeta(range(10_000)), 1)
    (9.23, 1085.7)

    References
    ----------
    Watanabe (2013), "A widely applicable Bayesian information criterion", JMLR 14: beta = 1 / ln n.
    Lau et al. (2023), "The local learning coefficient: a singularity-aware complexity measure", arXiv:2308.12108.
    """
    if isinstance(dataloader, int):
        size: Any = dataloader
    elif hasattr(dataloader, "batch_size") or not isinstance(dataloader, Sized) or isinstance(dataloader, str):
        size = getattr(dataloader, "batch_size", None)
    else:
        size = len(dataloader)
        if gradient_accumulation_steps != 1:
            raise SettingError(
                "A dataset has no micro-batches.",
                expected="gradient_accumulation_steps=1, or the number of rows of a micro-batch in the dataset's place",
                found=gradient_accumulation_steps,
            )
    if isinstance(size, bool) or not isinstance(size, int):
        raise SettingError(
            "The number of rows is not known.",
            expected="an int, a DataLoader with a batch_size, or a dataset with a length",
            found=type(dataloader).__name__,
        )
    rows = size * gradient_accumulation_steps
    if rows <= 1:
        warn_caller(f"n_beta = m / ln m has no value for m = {rows} row(s); 1.0 is used.")
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
    the end of a batch is dropped. Unlike in devinterp 2.0, the tokenizer is not changed, and no token is lost where the
    padding token doubles as another one.

    Parameters
    ----------
    dataset : datasets.Dataset
        Rows with a text each.
    tokenizer : transformers.PreTrainedTokenizerBase
        What turns the texts into token ids.
    streaming : bool
        The dataset is an iterable one: no worker processes.
    max_length : int
        Tokens per row, the beginning-of-sequence token included.
    column_name : str
        The column of the texts.
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
