"""Numbers for people: as many digits as their error supports."""

from __future__ import annotations

import math

__all__ = ["rounded", "with_error"]

_MOST_DIGITS = 7


def rounded(value: float, error: float | None) -> tuple[str, str | None]:
    """Round a value and its error to the first digit of the error.

    Parameters
    ----------
    value : float
        What was measured.
    error : float or None
        Its standard error; without one, or where it is 0 or not finite, the value gets three significant digits.

    Returns
    -------
    value, error : str, str or None
    """
    if error is None or not error > 0 or not math.isfinite(error) or not math.isfinite(value):
        return f"{value:.3g}", None
    digits = max(0, -math.floor(math.log10(error)))
    if digits > _MOST_DIGITS:
        return f"{value:.2e}", f"{error:.0e}"
    # Adding 0.0 makes a plain zero of the negative one that rounding leaves.
    return f"{round(value, digits) + 0.0:.{digits}f}", f"{error:.{digits}f}"


def with_error(value: float | None, error: float | None) -> str:
    """Return ``value ± error``, a dash where there is no value."""
    if value is None or not math.isfinite(value):
        return "–"
    shown, spread = rounded(float(value), error)
    return shown if spread is None else f"{shown} ± {spread}"
