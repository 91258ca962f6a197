"""Torch's settings of a process, which a worker process takes over from its coordinator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from devinterp.errors import SettingError

__all__ = ["DEFAULTS", "TorchSettings", "check_settings_travel"]


@dataclass(frozen=True)
class TorchSettings:
    """Torch's settings of one process on which the bytes of a chain depend; a worker is given its coordinator's.

    Attributes
    ----------
    values : mapping of str to value
        By name, as they are recorded.
    """

    values: Mapping[str, Any]

    @classmethod
    def of_this_process(cls) -> TorchSettings:
        """Return the settings of this process and thread."""
        return cls({name: read() for name, (read, _) in _SETTINGS.items()})

    def as_dict(self) -> dict[str, Any]:
        """Return the settings that are recorded: the matmul precision, and what is not torch's default."""
        values = dict(self.values)
        precision = values.pop("matmul_precision")
        own = {name: value for name, value in values.items() if value != DEFAULTS[name]}
        return {"matmul_precision": precision, "torch_settings": own}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Have these settings inside, and the process's own again afterwards."""
        before = TorchSettings.of_this_process()
        try:
            self._set()
            yield
        finally:
            before._set()

    def _set(self) -> None:
        for name, value in self.values.items():
            read, write = _SETTINGS[name]
            if read() != value:
                write(value)


def check_settings_travel() -> None:
    """Raise `SettingError` where torch is in a mode that another process cannot be put into."""
    modes = [type(mode).__name__ for mode in _get_current_function_mode_stack()]  # type: ignore[no-untyped-call]
    modes += [type(mode).__name__ for mode in _get_current_dispatch_mode_stack()]
    foreign = [mode for mode in modes if mode != "DeviceContext"]
    if foreign:
        raise SettingError(
            f"Chains in other processes cannot be sampled under {foreign[0]}, a mode of torch in this one.",
            expected="no TorchFunctionMode or TorchDispatchMode around a parallel run",
            found=", ".join(foreign),
            remedy="Leave the mode, or use chain_method='sequential'.",
        )


def _attribute(owner: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    return (lambda: getattr(owner, name)), (lambda value: setattr(owner, name, value))


def _read_autocast() -> dict[str, str]:
    """The devices that autocast is on for, with the dtype that it casts to."""
    found = {}
    for kind in ("cpu", "cuda", "mps"):
        with suppress(RuntimeError):  # torch 2.4 knows of no autocast on mps
            if torch.is_autocast_enabled(kind):
                found[kind] = str(torch.get_autocast_dtype(kind)).removeprefix("torch.")
    return found


def _write_autocast(wanted: Mapping[str, str]) -> None:
    for kind in {*_read_autocast(), *wanted}:
        torch.set_autocast_enabled(kind, kind in wanted)
        if kind in wanted:
            torch.set_autocast_dtype(kind, getattr(torch, wanted[kind]))
    torch.clear_autocast_cache()


def _read_deterministic() -> str:
    if not torch.are_deterministic_algorithms_enabled():
        return "off"
    return "warn" if torch.is_deterministic_algorithms_warn_only_enabled() else "on"


def _read_flush() -> bool:
    return not bool(torch.tensor(1e-39, dtype=torch.float32, device="cpu") * 1.0)


_cuda, _cudnn, _mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "matmul_precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "default_dtype": (
        lambda: str(torch.get_default_dtype()).removeprefix("torch."),
        lambda name: torch.set_default_dtype(getattr(torch, name)),
    ),
    "default_device": (
        lambda: str(torch.empty(0).device),  # torch 2.4's own answer breaks once a default was taken back
        lambda name: torch.set_default_device(None if name == "cpu" else name),
    ),
    "autocast": (_read_autocast, _write_autocast),
    "autocast_cache": (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    "deterministic_algorithms": (
        _read_deterministic,
        lambda value: torch.use_deterministic_algorithms(value != "off", warn_only=value == "warn"),
    ),
    "fill_uninitialized_memory": _attribute(torch.utils.deterministic, "fill_uninitialized_memory"),
    "flush_denormal": (_read_flush, torch.set_flush_denormal),
    "sdpa_flash": (_cuda.flash_sdp_enabled, _cuda.enable_flash_sdp),
    "sdpa_mem_efficient": (_cuda.mem_efficient_sdp_enabled, _cuda.enable_mem_efficient_sdp),
    "sdpa_math": (_cuda.math_sdp_enabled, _cuda.enable_math_sdp),
    "sdpa_cudnn": (_cuda.cudnn_sdp_enabled, _cuda.enable_cudnn_sdp),
    "fp16_reduced_precision_reduction": _attribute(_cuda.matmul, "allow_fp16_reduced_precision_reduction"),
    "bf16_reduced_precision_reduction": _attribute(_cuda.matmul, "allow_bf16_reduced_precision_reduction"),
    "cudnn_enabled": _attribute(_cudnn, "enabled"),
    "cudnn_benchmark": _attribute(_cudnn, "benchmark"),
    "cudnn_deterministic": _attribute(_cudnn, "deterministic"),
    "cudnn_tf32": _attribute(_cudnn, "allow_tf32"),
    "mkldnn": _attribute(_mkldnn, "enabled"),
}
if hasattr(_mkldnn, "deterministic"):  # torch 2.4 has none
    _SETTINGS["mkldnn_deterministic"] = _attribute(_mkldnn, "deterministic")
DEFAULTS: dict[str, Any] = {
    "default_dtype": "float32",
    "default_device": "cpu",
    "autocast": {},
    "autocast_cache": True,
    "deterministic_algorithms": "off",
    "fill_uninitialized_memory": True,
    "flush_denormal": False,
    "sdpa_flash": True,
    "sdpa_mem_efficient": True,
    "sdpa_math": True,
    "sdpa_cudnn": True,
    "fp16_reduced_precision_reduction": True,
    "bf16_reduced_precision_reduction": True,
    "cudnn_enabled": True,
    "cudnn_benchmark": False,
    "cudnn_deterministic": False,
    "cudnn_tf32": True,
    "mkldnn": True,
    "mkldnn_deterministic": False,
}
