"""Sweeps: the same run at every setting of a grid, what came of each cell, and which one to sample with."""

from __future__ import annotations

from devinterp.slt.sweep.summary import CONTROL, compute_sweep

__all__ = ["CONTROL", "compute_sweep"]
