"""Attributes of a group against the JSON Schema that its node declares."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from devinterp.plain_json import plain_json
from devinterp.schema.definition.suggest import suggestion
from devinterp.schema.findings.codes import RuleCode
from devinterp.schema.findings.report import Collector, clip
from devinterp.wording import one_of, shown

if TYPE_CHECKING:
    from devinterp.schema.rules.bound import Bound

__all__ = ["AttributeRules"]

_MAX_PER_GROUP = 50


class AttributeRules:
    """The JSON Schema validators of one validation."""

    def __init__(self) -> None:
        self._validators: dict[int, Any] = {}

    def check(self, bound: Bound, findings: Collector) -> None:
        """Add a finding for every place where the attributes leave their schema."""
        if not bound.node.attributes:
            return
        key = id(bound.node)
        if key not in self._validators:
            self._validators[key] = _validator_class()(plain_json(bound.node.attributes, nonfinite="keep"))
        for number, error in enumerate(self._validators[key].iter_errors(bound.group.attrs)):
            if number >= _MAX_PER_GROUP:
                break
            error = _nearest(error)
            where = ".".join(str(p) for p in error.absolute_path)
            if error.validator == "required":
                _report_required(bound, error, where, findings)
                continue
            findings.add(
                RuleCode.ATTRIBUTE,
                bound.path,
                f"The attribute {clip(where, 120)!r} is wrong.",
                expected=_expected(error),
                found=clip(shown(error.instance), 120),
            )


@lru_cache(maxsize=1)
def _validator_class() -> Any:
    """JSON Schema as jsonschema has it, but for what takes it the square of a list's length."""
    import jsonschema

    extend: Any = jsonschema.validators.extend
    return extend(jsonschema.Draft202012Validator, {"uniqueItems": _unique_items})


def _unique_items(validator: Any, wanted: bool, instance: Any, schema: Any) -> Iterator[Any]:
    import jsonschema

    if not wanted or not isinstance(instance, list):
        return
    seen: set[str] = set()
    for item in instance:
        # As JSON Schema has it, 1 and 1.0 are the same and 1 and true are not.
        text = json.dumps(int(item) if isinstance(item, float) and item.is_integer() else item, sort_keys=True)
        if text in seen:
            yield jsonschema.ValidationError(f"{clip(text, 120)} is there twice", instance=item)
            return
        seen.add(text)


def _report_required(bound: Bound, error: Any, where: str, findings: Collector) -> None:
    present = list(error.instance)
    for name in error.validator_value:
        if name in error.instance:
            continue
        message = f"The attribute {'.'.join(p for p in (where, name) if p)!r} is missing."
        # jsonschema reports each missing name as an error of its own, all with the same list.
        if f"{name!r} is a required property" == error.message:
            near = suggestion(name, present) if len(present) <= 200 else None
            findings.add(RuleCode.ATTRIBUTE, bound.path, message, remedy=near)


def _nearest(error: Any) -> Any:
    """Return what is wrong by the alternative that is of the right type, where there are alternatives."""
    wrong = [e for e in error.context if e.validator != "type"] if error.validator == "anyOf" else []
    return wrong[0] if wrong else error


def _expected(error: Any) -> str:
    if error.validator == "anyOf":
        return " or ".join(_expected(e) for e in error.context)
    value = error.validator_value
    if error.validator == "pattern":
        return f"text that matches {value}"
    if error.validator == "enum":
        return one_of(value)
    if error.validator == "type":
        return f"of type {value if isinstance(value, str) else ' or '.join(value)}"
    texts = {
        "minimum": "at least {}",
        "exclusiveMinimum": "more than {}",
        "minLength": "text of at least {} characters",
        "minItems": "at least {} entries",
        "uniqueItems": "entries that differ",
        "contains": "an entry that is {}",
    }
    said_of = value.get("const", value) if error.validator == "contains" else value
    return texts.get(error.validator, f"{error.validator} {{}}").format(shown(said_of))
