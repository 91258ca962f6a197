"""`sample`: one SGLD run, from a model and tokens to a completed store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import fields
from typing import Any

import torch
import xarray as xr

from devinterp.slt.diagnostics.step_bias import warn_of_step
from devinterp.slt.sampling.engine.losses import LossFn
from devinterp.slt.sampling.inputs.rows import RowOptions
from devinterp.slt.sampling.running.coordinator import execute
from devinterp.slt.sampling.running.options import Execution
from devinterp.slt.sampling.running.progress import ProgressEvent
from devinterp.slt.sampling.running.run_plan import describe, make_plan
from devinterp.slt.sampling.settings import SamplerSettings
from devinterp.store import StoreLike

__all__ = ["sample"]


def sample(
    model: torch.nn.Module,
    dataset: Any,
    observables: Mapping[str, Any],
    *,
    lr: float,
    n_beta: float,
    param_masks: Mapping[str, torch.Tensor | None] | None = None,
    num_chains: int = 4,
    num_draws: int = 200,
    batch_size: int = 32,
    num_burnin_steps: int = 0,
    num_steps_bw_draws: int = 1,
    num_init_loss_batches: int = 32,
    init_seed: int = 100,
    batches_per_draw: int = 3,
    obs_seed: int = 1337,
    gradient_accumulation_steps: int = 1,
    localization: float = 0.0,
    noise_level: float = 1.0,
    llc_weight_decay: float = 0.0,
    bounding_box_size: float | None = None,
    sampling_method: str = "sgmcmc_sgld",
    sampling_method_kwargs: Mapping[str, Any] | None = None,
    rmsprop_eps: float | None = None,
    rmsprop_alpha: float | None = None,
    shuffle: bool = True,
    match_sampling_input_ids_across_chains: bool = True,
    init_noise: float | None = None,
    device: str | torch.device | None = None,
    save_metrics: bool = False,
    output_path: StoreLike | None = None,
    loss_fn: LossFn | None = None,
    loss_mask: Any = None,
    row_labels: Mapping[str, Sequence[Any]] | None = None,
    loss_unit: str = "nat",
    save_step_losses: bool = False,
    save_paired_losses: bool = False,
    mode: str = "train",
    tokenizer: Any = None,
    chain_method: str = "sequential",
    executor: Executor | None = None,
    num_workers: int | None = None,
    threads_per_chain: int | None = None,
    resume: bool | str = True,
    keep_state: bool = False,
    checkpoint_every: int | None = None,
    progress: bool | Callable[[ProgressEvent], object] = True,
) -> xr.DataTree:
    """Sample the weights around a model's own with SGLD, and record losses on the way.

    Each chain starts from the model's weights and follows Welling & Teh (2011), localised after Lau et al. (2023).
    At every draw the per-token loss of the sampling batch and of every observable's fixed rows is recorded. The model
    comes back as it was: weights, gradients, buffers, modes, device and random generators.

    Parameters
    ----------
    model : torch.nn.Module
        Returns logits, or an object with ``.logits``; any module will do with `loss_fn`.
    dataset : datasets.Dataset, indexable of ``{"input_ids": ...}``, or 2-D integer array or tensor
        Sequences of at least 2 tokens that chains sample on. With `loss_fn` also any map-style dataset whose
        rows are not tokens (pairs of image and class, a ``TensorDataset``, a dict of tensors or arrays, a float table):
        they are read once and collated as ``torch.utils.data.default_collate`` does.

        Rows of tokens may carry ``attention_mask``, ``labels`` with -100 (unshifted: that of the token at p masks the
        loss that predicts it) or ``loss_mask`` of 0 and 1. What is masked counts for nothing: losses are NaN there, and
        a step's gradient is that of the sum of what counts over the whole step, divided by its count. A list, or a
        HuggingFace dataset, of rows of unequal lengths is padded on the right. The model is given the attention mask,
        and position ids where tokens are missing on the left, as far as its forward names them.
    observables : mapping of str to dataset or (dataset, batches_per_draw)
        Rows are fixed by `obs_seed`, ``batch_size * batches_per_draw`` of each.
    lr : float
        Step size ε.
    n_beta : float
        Inverse temperature times the number of samples, nβ.
    param_masks : mapping of parameter name to mask, optional
        The parameters to sample, in the order of the update, with boolean masks of their shapes or None. None samples
        every parameter. Parameters with ``requires_grad=False`` are never moved. A value m other than 0 and 1
        multiplies drift and noise alike: above 0 that samples the weight with a step of m lr at a temperature of m,
        below 0 the weight climbs the loss and flees from its start. A warning says so.
    num_chains, num_draws : int
        Chains, and draws of each.
    batch_size : int
        Rows of a batch, for sampling and for observables.
    num_burnin_steps : int
        Steps before the first draw.
    num_steps_bw_draws : int
        Steps from one draw to the next. The first pass over the data repeats, so with a number that has a divisor in
        common with the batches of a pass, draws see the same few batches again and again, and a warning says so.
    num_init_loss_batches : int
        Batches that ``init_loss`` averages.
    init_seed : int
        Chain ``c`` seeds its generators with ``init_seed + c``: runs that are to be independent need seeds that lie
        `num_chains` apart, as `devinterp.utils.replicate_seeds` gives them; 100 and 101 have all chains but one in
        common.
    batches_per_draw : int
        For observables that are given without a number.
    obs_seed : int
        Seed of the observables' rows.
    gradient_accumulation_steps : int
        Micro-batches per step, each of `batch_size` rows.
    localization : float
        Strength γ of the pull towards the start.
    noise_level : float
        Standard deviation of the noise. Anything but 1 samples no posterior.
    llc_weight_decay : float
        Precision of a Gaussian prior around zero.
    bounding_box_size : float, optional
        Clamp weights to within this distance of their start. A weight that reaches a face of the box stays on it until
        the next step, so that what is sampled is not the posterior within the box: `localization` does better.
    sampling_method : {"sgmcmc_sgld", "rmsprop_sgld"}
        Plain SGLD, or SGLD preconditioned with RMSprop (Li et al. 2016) without its correction term, which samples
        another law than the posterior.
    sampling_method_kwargs : mapping, optional
        ``alpha`` (0.99) and ``eps`` (0.1) of ``rmsprop_sgld``.
    rmsprop_eps, rmsprop_alpha : float, optional
        The same two, shorter.
    shuffle : bool
        Whether the sampling dataset is shuffled. Its first pass repeats in the same order.
    match_sampling_input_ids_across_chains : bool
        Whether all chains see the same batches.
    init_noise : float, optional
        Standard deviation of noise on the sampled weights before the first step. ``init_loss`` is then that of noised
        weights, and no reference for an LLC; ``init_loss_{obs}`` is of the trained ones.
    device : str or torch.device, optional
        None picks CUDA, MPS or the CPU.
    save_metrics : bool
        Keep the norms and dot products of every step's update.
    output_path : path, URL or zarr Store, optional
        Where the store goes. None makes a temporary directory.
    loss_fn : callable, optional
        ``(model, input_ids) -> (batch, token - 1)``, replaces the cross-entropy of the next token. Of rows that are not
        tokens, ``(model, batch) -> (batch,)``, or ``(batch, token_pos)`` where each row has several losses. Where
        tokens are missing, it gets a dict of ``input_ids``, ``attention_mask`` and, if need be, ``position_ids``.
    loss_mask : array of 0 and 1, or mapping of str to array, optional
        Which losses count, beside what the datasets themselves say: (token,), of the predicted tokens as ``labels``
        are, or (token_pos,), for every row of every dataset; or by dataset, where ``"sampling"`` is the sampling
        dataset and any other name an observable, also with a row each, (rows, token) or (rows, token_pos).
    row_labels : mapping of str to sequence of str, optional
        What the rows of an observable's dataset are called (class, file name), one for each, by the observable's name.
    loss_unit : str
        Unit of what `loss_fn` returns, where it is not minus the logarithm of a probability.
    save_step_losses : bool
        Keep the losses and ids of every micro-batch of every step.
    save_paired_losses : bool
        Keep the loss of every draw's minibatch at the caller's weights too, `init_loss_sampling`, from which
        ``llc(over="paired")`` takes an LLC without the noise of which rows were drawn. It costs a forward pass per
        draw, or per minibatch of the dataset where these come again; no draw changes.
    mode : {"train", "eval"}
        Mode of the model while it is sampled.
    tokenizer : HuggingFace tokenizer or str, optional
        Its identity is recorded.
    chain_method : {"sequential", "parallel"}
        One chain after the other here, or each in a process of its own. The numbers are the same at the same number
        of threads per chain.
    executor : concurrent.futures.Executor, optional
        Takes the chains of a parallel run (dask, MPI, loky); it is not shut down. None starts processes here.
    num_workers : int, optional
        Processes to start; by default as many as there are cores for, and this process samples as well until they
        are there.
    threads_per_chain : int, optional
        Torch threads of each chain; by default what an interrupted run was begun with, else what torch is set to, and
        1 in a process of our own.
    resume : bool or "inexact"
        Go on with an interrupted store of the same request; False refuses. "inexact" goes on also where other
        hardware, threads or versions of torch cannot give the bytes of an uninterrupted run.
    keep_state : bool
        Keep the chains' last states in the completed store.
    checkpoint_every : int, optional
        Draws between checkpoints.
    progress : bool or callable
        Bars on standard error (in a log, a line every half minute), nothing, or a callable that gets every
        `ProgressEvent`.

    Returns
    -------
    xarray.DataTree
        Defined by the schema ``devinterp/samples``; lazily loaded.

    Raises
    ------
    SettingError, DataError, ModelError, RestrictionError
        Bad input: raised before any sampling, and no store is left behind.
    StoreExistsError, StoreConflictError, StoreLockedError
        Something else, another request's store, or a live writer is at `output_path`.
    AllChainsFailedError
        No chain survived.

    Warns
    -----
    StepBiasWarning
        ``lr * localization`` is above 0.36, which inflates every variance by more than a tenth; before any sampling.
    ChainFailedWarning
        Some chains met a non-finite loss, logit or weight, and ended there.
    """
    given = locals()  # before there are others: the arguments
    settings = SamplerSettings.build(**{field.name: given[field.name] for field in fields(SamplerSettings)})
    options = Execution(**{field.name: given[field.name] for field in fields(Execution)})
    about = RowOptions(**{field.name: given[field.name] for field in fields(RowOptions)})
    options.check(output_path)
    options.begin(model)
    warn_of_step([settings.as_dict()])
    variants = {"/": (settings, param_masks)}
    plan = make_plan(model, dataset, observables, variants, device=device, loss_fn=loss_fn, options=about)
    requests = describe(plan, tokenizer=tokenizer, target=output_path)
    return execute(plan, requests, output_path, options)
