"""Rows that are images: finding those of the observed rows, and drawing one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from devinterp.errors import DataError, MissingVariableError
from devinterp.slt.runs.run import Tree
from devinterp.wording import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

__all__ = ["as_pictures", "show_picture"]

CHANNELS = (1, 3, 4)


def as_pictures(
    images: Any, run: Tree, observables: Sequence[str] | None, sizes: Sequence[int] | None
) -> npt.NDArray[Any]:
    """Return an image for each of the concatenated rows of observables, (row, height, width) or with channels last.

    Parameters
    ----------
    images : mapping of str to array or tensor, or array or tensor
        Of every observable's whole dataset, or one for each row.
    run : DataTree or Dataset
        What says which rows of a dataset were observed (``row_{obs}``), where ``images`` is a mapping.
    observables, sizes : sequences, optional
        Ids of the observables and how many rows each has, in the order of the rows.

    Raises
    ------
    MissingVariableError
        An observable has no images, or the rows that were observed are not known.
    DataError
        The arrays are not images, or there are too few of them.
    """
    if isinstance(images, Mapping):
        names = [str(name) for name in observables or ()]
        lacking = [name for name in names if name not in images]
        unknown = [name for name in names if f"row_{name}" not in run]
        if lacking or unknown or not names:
            raise MissingVariableError(
                "There are no images of some observed rows."
                if lacking
                else "It is not known which rows of their datasets were observed.",
                expected=f"images of {shown(names)}" if lacking else "row_{observable}, which a run has",
                found=f"images of {shown(list(images))}" if lacking else f"none of {shown(unknown)}",
                remedy="Name them by observable." if lacking else "Pass the run, or an array of images.",
            )
        parts = []
        for name in names:
            rows, whole = np.asarray(run[f"row_{name}"].values), _as_images(images[name])
            if len(whole) <= rows.max(initial=-1):
                raise DataError(
                    f"There are too few images of {name!r}.",
                    expected=f"one for each row of its dataset, {int(rows.max()) + 1} or more",
                    found=f"{len(whole)}",
                )
            parts.append(whole[rows])
        return np.concatenate(parts)
    found = _as_images(images)
    count = sum(map(int, sizes)) if sizes else len(found)
    if len(found) != count:
        raise DataError("There must be an image for each row.", expected=f"{count} images", found=f"{len(found)}")
    return found


def _as_images(images: Any) -> npt.NDArray[Any]:
    array = images.detach().cpu().numpy() if hasattr(images, "detach") else np.asarray(images)
    if array.ndim == 4 and array.shape[-1] not in CHANNELS and array.shape[1] in CHANNELS:
        array = np.moveaxis(array, 1, -1)
    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[-1] not in CHANNELS):
        raise DataError(
            "These are not images.",
            expected="(row, height, width), or that with 1, 3 or 4 channels, first or last",
            found=f"shape {shown(array.shape)}",
        )
    return array


def show_picture(ax: Axes, image: npt.NDArray[Any], ends: tuple[float, float]) -> AxesImage:
    """Draw one image, a grey one between two ends, a coloured one brought to 0 to 1 where it is not made of bytes."""
    if image.ndim == 3 and image.dtype != np.uint8:
        image = np.clip((image - ends[0]) / ((ends[1] - ends[0]) or 1.0), 0, 1)
    return ax.imshow(image, cmap="gray_r", vmin=ends[0], vmax=ends[1], interpolation="nearest")
