"""Frozen prefix: what comes before the first sampled weight is computed once per fixed batch, and given out again.

A chain evaluates the same rows at every draw, and moves a part of the weights. The calls of modules that end before
the first operation on a moved weight then give the same activations at every draw, in every chain and in every
restriction that moves the same parameters. Of these calls only the outputs that something later still reads are kept,
as a rule one tensor per batch; the calls before it give out a stand-in of the right shape.

Nothing is known of architectures. An evaluation of two rows is watched (`call_trace`), which tells what may be left
out; the first batch is then evaluated with and without, and only if the losses agree bit for bit are results given out
from there on. Otherwise all passes are plain, and the store tells why. Where a run evaluates its first batch twice at
the same weights anyway, to look at the model and at the first step, these two are compared.
"""

from __future__ import annotations

from devinterp.slt.sampling.engine.frozen_prefix.evaluator import Evaluator, other_row
from devinterp.slt.sampling.engine.frozen_prefix.memory import FrozenPrefix, plain_passes
from devinterp.slt.sampling.engine.frozen_prefix.prefix_plan import Reuse

__all__ = ["Evaluator", "FrozenPrefix", "Reuse", "other_row", "plain_passes"]
