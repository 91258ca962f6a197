"""A result to Zarr, CSV or JSON, or to standard output."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from devinterp.errors import SettingError, StoreExistsError
from devinterp.plain_json import plain_json

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Format", "document", "emit", "need_folder", "open_input", "target_kind"]

MOST_CSV_ROWS = 20_000_000


class Format(StrEnum):
    """What standard output holds, where no file is asked for."""

    table = "table"
    json = "json"
    csv = "csv"


def open_input(path: str, profile: str, *, allow_partial: bool = False, follow_links: bool = False) -> xr.DataTree:
    """Open a store to analyse it, after a look at its structure.

    ``auto`` is ``strict`` for a store that names its schema, else ``devinterp-2.0``.
    """
    from devinterp.store import open_store

    return open_store(
        path,
        profile=choose_profile(path, profile),
        level="structure",
        allow_partial=allow_partial,
        follow_links=follow_links,
    )


def choose_profile(path: str, profile: str) -> str:
    """Return the profile that ``auto`` stands for."""
    if profile != "auto":
        return profile
    from devinterp.store import locate
    from devinterp.store.reading.open import root_document

    attributes = root_document(locate(path)).get("attributes")
    declared = isinstance(attributes, dict) and "devinterp_schema" in attributes
    return "strict" if declared else "devinterp-2.0"


def target_kind(output: str | None) -> str | None:
    """Return ``zarr``, ``csv`` or ``json`` by the end of the name; None where there is no file.

    Raises
    ------
    SettingError
        It is none of these, or its folder does not exist.
    StoreExistsError
        Something lies there already: nothing is overwritten.
    """
    from devinterp.schema.reading.target import resolve_target

    if output is None:
        return None
    for kind in ("zarr", "csv", "json"):
        if output.rstrip("/").endswith(f".{kind}"):
            path = resolve_target(output).path
            if path is not None and path.exists():
                raise StoreExistsError(
                    f"Something lies at {output}; it was left untouched.", remedy="Choose another name, or remove it."
                )
            need_folder(output)
            return kind
    raise SettingError(
        f"It is not clear what to write to {output!r}.", expected="a name that ends in .zarr, .csv or .json"
    )


def need_folder(output: str | Path) -> None:
    """Refuse, before any work, a file whose folder does not exist.

    Raises
    ------
    SettingError
        It does not.
    """
    from devinterp.schema.reading.target import resolve_target

    path = resolve_target(output).path
    if path is not None and not path.parent.is_dir():
        folder = Path(output).parent
        raise SettingError(f"There is no folder {folder} to write {path.name} to.", remedy=f"mkdir -p {folder}")


def emit(
    result: xr.Dataset | xr.DataTree,
    output: str | None,
    format: Format,
    *,
    header: Sequence[str],
    rows: Iterable[Sequence[Any]],
    show: Any,
) -> None:
    """Write a result where it is asked for.

    Parameters
    ----------
    result : Dataset or DataTree
        What the analysis returned.
    output : str or None
        File or store; None is standard output.
    format : Format
        Of standard output.
    header, rows : sequence of str, iterable of sequences
        The result as a table of records, for CSV; rows are only made where they are needed.
    show : callable
        Called without arguments, prints the result for people.
    """
    kind = target_kind(output)
    if kind == "zarr":
        from devinterp.store.writing.result import write_result

        write_result(result, str(output))
    elif kind == "json" or (kind is None and format is Format.json):
        text = json.dumps(document(result), ensure_ascii=False, allow_nan=False, indent=None if kind else 2)
        with _opened(output) as file:
            file.write(text + "\n")
    elif kind == "csv" or format is Format.csv:
        _check_rows(result)
        with _opened(output) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows([_cell(v) for v in row] for row in rows)
    else:
        show()
    if output is not None:
        from devinterp.cli.console import err

        err().print(f"written: {output}", soft_wrap=True)


def _check_rows(result: xr.Dataset | xr.DataTree) -> None:
    nodes = [result] if hasattr(result, "data_vars") and not hasattr(result, "subtree") else list(result.subtree)
    largest = max((int(v.size) for node in nodes for v in node.data_vars.values()), default=0)
    if largest > MOST_CSV_ROWS:
        raise SettingError(
            f"The result has {largest} numbers, too many for a text file.",
            expected=f"at most {MOST_CSV_ROWS}",
            remedy="Write .zarr, or narrow it by the command's options.",
        )


@contextmanager
def _opened(output: str | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
        return
    path = Path(output)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            yield file
        partial.replace(path)  # whole or not at all
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _cell(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    return value


def document(result: Any) -> dict[str, Any]:
    """Return a result as JSON types: attributes, and every variable with its dimensions and data; NaN is null."""
    import xarray as xr

    if isinstance(result, xr.Dataset):
        return {
            "attributes": plain_json(dict(result.attrs), nonfinite="null", other=str),
            "dimensions": {str(d): int(n) for d, n in result.sizes.items()},
            "coordinates": {str(n): _variable(v) for n, v in result.coords.items()},
            "variables": {str(n): _variable(v) for n, v in result.data_vars.items()},
        }
    return {
        "attributes": plain_json(dict(result.attrs), nonfinite="null", other=str),
        "groups": {str(name): document(child.to_dataset()) for name, child in result.children.items()},
    }


def _variable(array: xr.DataArray) -> dict[str, Any]:
    values = np.asarray(array.values)
    return {
        "dims": [str(d) for d in array.dims],
        "attributes": plain_json(dict(array.attrs), nonfinite="null", other=str),
        "data": plain_json(values, "data", nonfinite="null", other=str),
    }
