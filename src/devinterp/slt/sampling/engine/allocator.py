"""Memory that a step frees: kept for the next one, and given back where something large must stand beside it."""

from __future__ import annotations

import ctypes

import torch

__all__ = ["give_back_freed_memory", "keep_freed_memory"]

# glibc's DEFAULT_MMAP_THRESHOLD_MAX on 64-bit machines, less the room for its own header and the alignment.
_LARGEST = 32 * 2**20 - 8192


def keep_freed_memory() -> None:
    """Have the C library keep what a step frees, up to 64 MiB, where it would give it back to the system.

    glibc returns the end of its heap as soon as more than a threshold is free there, and takes it again, page by page,
    at the next step: of a small model's steps that is up to a tenth of the time, or none, as chance places one lasting
    allocation. The threshold follows the largest block ever freed (``man mallopt``, ``M_MMAP_THRESHOLD``), so that one
    block which is got, not written to, and freed, settles it for the process, as any large tensor of the caller's
    would. Other allocators take no notice.
    """
    torch.empty(_LARGEST, dtype=torch.uint8)


def give_back_freed_memory() -> None:
    """Have the C library give back what is free, where it can: glibc's ``malloc_trim``."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library
        return
    trim(0)
