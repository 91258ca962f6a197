"""Codes of the structure of a tree: DI1xx."""

from __future__ import annotations

from devinterp.schema.code_texts.text import CodeText

__all__ = ["TEXTS"]

TEXTS: dict[str, CodeText] = {
    "DI101": CodeText(
        "structure",
        "error",
        "a variable is missing",
        "The schema requires the variable (under the store's own settings) and the group does not have it.",
        "Where the finding suggests a misspelt name, rename that array. Otherwise write the variable, or sample again.",
    ),
    "DI102": CodeText(
        "structure",
        "error",
        "a variable that is not declared",
        "The group has an array that the schema does not declare; under the profile `open` this is a warning.",
        "Rename it where it is misspelt, remove it, or declare it in a schema of your own that extends this one.",
    ),
    "DI103": CodeText(
        "structure",
        "error",
        "wrong dimensions",
        "The variable's dimensions, by name and in order, are not those that the schema declares.",
        "Rename or transpose: ds[name].rename(...).transpose(...), and write the variable again.",
    ),
    "DI104": CodeText(
        "structure",
        "error",
        "wrong data type",
        "The variable's data type is not the declared one. int64 ids read as float64 usually carry a _FillValue.",
        "Write the variable again with the declared type: ds[name].astype(...).",
    ),
    "DI105": CodeText(
        "structure",
        "error",
        "coordinate or data variable",
        "The schema declares a coordinate and the store has a data variable of that name, or the other way round. In "
        "Zarr a variable is a coordinate if it is named like its dimension or stands in a `coordinates` attribute.",
        "Use ds.set_coords(name) or ds.reset_coords(name), and write the group again.",
    ),
    "DI106": CodeText(
        "structure",
        "error",
        "a group is missing",
        "The schema requires a group that the tree does not have.",
        "Write the group, or copy the whole store again.",
    ),
    "DI107": CodeText(
        "structure",
        "error",
        "a group that is not declared",
        "The tree has a group that the schema does not declare; under the profile `open` this is a warning.",
        "Remove it, or declare it in a schema of your own that extends this one.",
    ),
    "DI108": CodeText(
        "structure",
        "error",
        "wrong size",
        "A dimension's size does not follow from the settings in the attributes, or from another dimension, as the "
        "schema says.",
        "Either the array or the settings in metadata.config were changed afterwards: restore what was changed.",
    ),
    "DI109": CodeText(
        "structure",
        "error",
        "a dimension with two sizes",
        "Two variables of a group disagree about the size of a dimension, so xarray cannot open the group.",
        "Write the variable that differs again.",
    ),
    "DI110": CodeText(
        "structure",
        "error",
        "an attribute is missing or wrong",
        "The attributes break the JSON Schema that the schema declares for them.",
        "Mend the attribute: zarr.open_group(path, mode='r+').attrs.update(...), then consolidate again.",
    ),
    "DI111": CodeText(
        "structure",
        "error",
        "wrong unit",
        "The attribute units of a variable is not the declared unit.",
        "Set units as declared; if the values are in another unit, convert them.",
    ),
    "DI112": CodeText(
        "structure",
        "error",
        "a variable that must not be there",
        "The schema knows the variable and forbids it here: the store's own settings say that it was not kept, or the "
        "profile's writer never wrote it.",
        "Remove it, mend the setting, or validate under the profile of the writer.",
    ),
    "DI113": CodeText(
        "structure",
        "error",
        "a group where an array belongs",
        "There is a group where the schema declares an array, or an array where it declares a group.",
        "Write the node again as what it should be.",
    ),
}
