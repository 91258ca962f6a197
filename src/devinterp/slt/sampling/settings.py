"""Sampler settings: every argument of `sample` that decides a draw, checked once and frozen."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from devinterp.errors import SettingError
from devinterp.steps import StepLayout
from devinterp.wording import one_of

__all__ = ["METRICS", "MODES", "SAMPLING_METHODS", "SamplerSettings"]

SAMPLING_METHODS = ("sgmcmc_sgld", "rmsprop_sgld")
MODES = ("train", "eval")

METRICS = (
    "scaled_grad",
    "unscaled_grad",
    "localization",
    "weight_decay",
    "noise",
    "distance",
    "dot_grad_prior",
    "dot_grad_noise",
    "dot_prior_noise",
)
"""Per-step diagnostics, in the order of the rows that the update rule fills."""

_SEED_LIMIT = 2**32  # numpy.random.seed takes no more, and every chain seeds it
_RMSPROP_DEFAULTS = {"alpha": 0.99, "eps": 0.1}


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """What decides the draws of a run, under the argument names of `devinterp.slt.sampling.sample`.

    Build it with `SamplerSettings.build`, which checks every value; the constructor trusts its caller.

    What each means is said there. In frozen settings, ``sampling_method_kwargs`` always has both ``alpha`` and ``eps``
    with ``rmsprop_sgld``, and ``rmsprop_eps`` and ``rmsprop_alpha`` are the same two values; with ``sgmcmc_sgld`` it
    is empty, and they are None.
    """

    lr: float
    n_beta: float
    num_chains: int = 4
    num_draws: int = 200
    batch_size: int = 32
    num_burnin_steps: int = 0
    num_steps_bw_draws: int = 1
    num_init_loss_batches: int = 32
    init_seed: int = 100
    batches_per_draw: int = 3
    obs_seed: int = 1337
    gradient_accumulation_steps: int = 1
    localization: float = 0.0
    noise_level: float = 1.0
    llc_weight_decay: float = 0.0
    bounding_box_size: float | None = None
    sampling_method: str = "sgmcmc_sgld"
    sampling_method_kwargs: Mapping[str, float]
    rmsprop_eps: float | None = None
    rmsprop_alpha: float | None = None
    shuffle: bool = True
    match_sampling_input_ids_across_chains: bool = True
    init_noise: float | None = None
    save_metrics: bool = False
    save_step_losses: bool = False
    save_paired_losses: bool = False
    mode: str = "train"

    @classmethod
    def build(cls, **arguments: Any) -> SamplerSettings:
        """Check the arguments of `sample` one by one and freeze them.

        Raises
        ------
        SettingError
            A value has the wrong type, is out of range, or contradicts another.
        """
        known = {field.name for field in fields(cls)}
        for name in arguments.keys() - known:
            raise SettingError(f"{name!r} is not a sampler setting.", expected=one_of(sorted(known)), found=repr(name))
        checked = dict(arguments)
        for name, check in _CHECKS.items():
            if name in arguments:
                checked[name] = check(name, arguments[name])
        checked.update(_method(checked))
        built = cls(**checked)
        for seed, last in (("init_seed", built.chain_seed(built.num_chains - 1)), ("obs_seed", built.obs_seed)):
            if last >= _SEED_LIMIT:
                raise SettingError(
                    f"{seed} is too large: the generators of the last chain would be seeded with {last}.",
                    expected=f"{seed} plus the number of chains at most {_SEED_LIMIT}",
                    found=checked[seed],
                )
        return built

    def override(self, **changes: Any) -> SamplerSettings:
        """Return the settings with some of them changed, all checked again."""
        arguments = self.as_dict()
        if "sampling_method" in changes or "sampling_method_kwargs" in changes:
            arguments.update(sampling_method_kwargs=None, rmsprop_eps=None, rmsprop_alpha=None)
        elif changes.keys() & {"rmsprop_eps", "rmsprop_alpha"}:
            arguments["sampling_method_kwargs"] = None
        return type(self).build(**{**arguments, **changes})

    @property
    def steps(self) -> StepLayout:
        """How the draws of a chain lie among its steps."""
        return StepLayout(self.num_burnin_steps, self.num_steps_bw_draws, self.num_draws)

    @property
    def num_steps(self) -> int:
        """Steps of a chain, burn-in included."""
        return self.steps.num_steps

    @property
    def num_batches(self) -> int:
        """Micro-batches of a chain."""
        return self.num_steps * self.gradient_accumulation_steps

    @property
    def num_init_batches(self) -> int:
        """Batches that the initial loss of a chain is averaged over."""
        return self.gradient_accumulation_steps * self.num_init_loss_batches

    def chain_seed(self, chain: int) -> int:
        """Seed of the generators of `chain`; `devinterp.utils.replicate_seeds` keeps those of several runs apart."""
        return self.init_seed + chain

    def loader_seed(self, chain: int) -> int:
        """Seed of the generator that orders the sampling dataset of `chain`."""
        return self.chain_seed(0 if self.match_sampling_input_ids_across_chains else chain)

    def as_dict(self) -> dict[str, Any]:
        """Return every setting under its argument's name, as plain JSON values."""
        return {**asdict(self), "sampling_method_kwargs": dict(self.sampling_method_kwargs)}


def _method(checked: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the three ways to give RMSprop's constants; all three carry the result."""
    method = checked.get("sampling_method", "sgmcmc_sgld")
    given = dict(checked.get("sampling_method_kwargs") or {})
    short = {"eps": checked.get("rmsprop_eps"), "alpha": checked.get("rmsprop_alpha")}
    if method != "rmsprop_sgld":
        for key in [f"rmsprop_{key}" for key, value in short.items() if value is not None] + sorted(given):
            raise SettingError(
                f"{key} has no meaning for sampling_method={method!r}.",
                expected="no rmsprop_eps, rmsprop_alpha or sampling_method_kwargs",
                found=f"{key}={checked.get(key, given.get(key))!r}",
                remedy="Pass sampling_method='rmsprop_sgld', or leave it out.",
            )
        return {"sampling_method_kwargs": {}, "rmsprop_eps": None, "rmsprop_alpha": None}
    if given.pop("add_grad_correction", False):
        raise SettingError(
            "add_grad_correction is not implemented: rmsprop_sgld always leaves the correction term out.",
            remedy="Leave add_grad_correction out of sampling_method_kwargs.",
        )
    for key in given.keys() - _RMSPROP_DEFAULTS.keys():
        raise SettingError(
            f"sampling_method_kwargs has an unknown key {key!r}.", expected="'alpha' and 'eps'", found=repr(key)
        )
    values = {}
    for key, default in _RMSPROP_DEFAULTS.items():
        value = short[key]
        if value is not None and key in given and float(given[key]) != value:
            raise SettingError(
                f"rmsprop_{key} and sampling_method_kwargs[{key!r}] contradict each other.",
                expected="one of the two",
                found=f"{value!r} and {given[key]!r}",
            )
        value = given.get(key, default) if value is None else value
        values[key] = _CHECKS[f"rmsprop_{key}"](f"sampling_method_kwargs[{key!r}]", value)
    return {"sampling_method_kwargs": values, "rmsprop_eps": values["eps"], "rmsprop_alpha": values["alpha"]}


def _integer(minimum: int) -> Any:
    def check(name: str, value: object) -> int:
        expected = f"an integer, at least {minimum}"
        if isinstance(value, bool):
            raise SettingError(f"{name} must be an integer.", expected=expected, found=repr(value))
        try:
            number = operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            raise SettingError(
                f"{name} must be an integer.", expected=expected, found=f"{type(value).__name__} {value!r}"
            ) from None
        if number < minimum:
            raise SettingError(f"{name} is too small.", expected=expected, found=number)
        return number

    return check


def _number(*, above: float | None = None, minimum: float | None = None, maximum: float = math.inf) -> Any:
    bound = f"more than {above:g}" if above is not None else f"at least {minimum:g}"
    bound += "" if maximum == math.inf else f" and at most {maximum:g}"

    def check(name: str, value: object) -> float:
        expected = f"a finite number, {bound}"
        try:
            if isinstance(value, bool | str | bytes):
                raise TypeError
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise SettingError(
                f"{name} must be a number.", expected=expected, found=f"{type(value).__name__} {value!r}"
            ) from None
        low = number > above if above is not None else minimum is not None and number >= minimum
        if not (math.isfinite(number) and low and number <= maximum):
            raise SettingError(f"{name} is out of range.", expected=expected, found=number)
        return number

    return check


def _optional(check: Any) -> Any:
    return lambda name, value: None if value is None else check(name, value)


def _flag(name: str, value: object) -> bool:
    # numpy.bool_ comes from arrays of settings; 0 and 1 are more likely a slip
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        return bool(value)
    raise SettingError(f"{name} must be True or False.", expected="a bool", found=f"{type(value).__name__} {value!r}")


def _choice(*choices: str) -> Any:
    def check(name: str, value: object) -> str:
        if value not in choices:
            raise SettingError(
                f"Unknown {name.replace('_', ' ')} {value!r}.",
                expected=" or ".join(repr(choice) for choice in choices),
                found=repr(value),
            )
        return str(value)

    return check


def _mapping(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise SettingError(f"{name} must be a dict with string keys.", expected="dict or None", found=repr(value))
    return dict(value)


_CHECKS: dict[str, Any] = {
    "lr": _number(minimum=0),
    "n_beta": _number(minimum=0),
    "num_chains": _integer(1),
    "num_draws": _integer(1),
    "batch_size": _integer(1),
    "num_burnin_steps": _integer(0),
    "num_steps_bw_draws": _integer(1),
    "num_init_loss_batches": _integer(1),
    "init_seed": _integer(0),
    "batches_per_draw": _integer(1),
    "obs_seed": _integer(0),
    "gradient_accumulation_steps": _integer(1),
    "localization": _number(minimum=0),
    "noise_level": _number(minimum=0),
    "llc_weight_decay": _number(minimum=0),
    "bounding_box_size": _optional(_number(minimum=0)),
    "sampling_method": _choice(*SAMPLING_METHODS),
    "sampling_method_kwargs": _optional(_mapping),
    "rmsprop_eps": _optional(_number(minimum=0)),
    "rmsprop_alpha": _optional(_number(minimum=0, maximum=1)),
    "shuffle": _flag,
    "match_sampling_input_ids_across_chains": _flag,
    "init_noise": _optional(_number(minimum=0)),
    "save_metrics": _flag,
    "save_step_losses": _flag,
    "save_paired_losses": _flag,
    "mode": _choice(*MODES),
}
