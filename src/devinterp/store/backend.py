"""``xr.open_datatree(path, engine="devinterp")``: open and validate, registered as an entry point of xarray."""

from __future__ import annotations

from typing import Any

import xarray as xr
from xarray.backends import BackendEntrypoint

__all__ = ["DevinterpBackendEntrypoint"]


class DevinterpBackendEntrypoint(BackendEntrypoint):
    """Open a devinterp store after validating it; also registers the ``devinterp`` accessor."""

    description = "Open and validate devinterp stores (Zarr v3)"
    url = "https://pypi.org/project/devinterp/"
    supports_groups = True
    # Spelled out: xarray inspects the signature of every engine, and **kwargs breaks the look-up of them all.
    open_dataset_parameters = (
        "filename_or_obj", "drop_variables", "group", "profile", "level", "consolidated", "storage_options",
        "follow_links",
    )  # fmt: skip

    def open_datatree(  # type: ignore[override]  # fewer parameters on purpose
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | list[str] | None = None,
        group: str | None = None,
        profile: str = "strict",
        level: str | None = "structure",
        consolidated: bool | None = None,
        storage_options: dict[str, Any] | None = None,
        follow_links: bool = False,
    ) -> xr.DataTree:
        """Open the whole store, or a group with what lies below it, as a DataTree; the whole store is validated."""
        from devinterp.store.reading.open import open_store

        tree = open_store(
            filename_or_obj,
            group=group,
            profile=profile,
            level=level,  # type: ignore[arg-type]  # checked there
            consolidated=consolidated,
            storage_options=storage_options,
            follow_links=follow_links,
        )
        return (
            tree.map_over_datasets(lambda ds: ds.drop_vars(drop_variables, errors="ignore")) if drop_variables else tree
        )

    def open_dataset(  # type: ignore[override]
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | list[str] | None = None,
        group: str | None = None,
        profile: str = "strict",
        level: str | None = "structure",
        consolidated: bool | None = None,
        storage_options: dict[str, Any] | None = None,
        follow_links: bool = False,
    ) -> xr.Dataset:
        """Open the arrays on the root, or of a group, as a Dataset."""
        tree = self.open_datatree(
            filename_or_obj,
            drop_variables=drop_variables,
            group=group,
            profile=profile,
            level=level,
            consolidated=consolidated,
            storage_options=storage_options,
            follow_links=follow_links,
        )
        return tree.to_dataset()

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Never guess: a ``.zarr`` path is the Zarr engine's unless this one is asked for by name."""
        return False

    def open_groups_as_dict(self, filename_or_obj: Any, **kwargs: Any) -> dict[str, xr.Dataset]:
        """Open every group as a Dataset, by path."""
        tree = self.open_datatree(filename_or_obj, **kwargs)
        return {node.path: node.to_dataset(inherit=False) for node in tree.subtree}
