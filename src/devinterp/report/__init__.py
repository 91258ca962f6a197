"""The report on a store: one HTML file with everything in it, that asks the network for nothing."""

from __future__ import annotations

from devinterp.report.build import build_report, write_report

__all__ = ["build_report", "write_report"]
