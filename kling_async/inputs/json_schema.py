"""The JSON schema of a class of inputs, made of the rules that validate its fields.

What the contract lists as unknown is marked with the keyword ``x-unknown``: ``"rule"`` where any
value is sent, or the keyword that is missing, such as ``"maxLength"``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from kling_async._utils.pydantic import descriptions, summary
from kling_async.inputs.registry import classes_of, required_tags

if TYPE_CHECKING:
    from kling_async.inputs.rules import Rule


def model_schema(model: str) -> dict[str, Any]:
    """Return the JSON schema of the mappings that ``parse_input`` accepts for a model."""
    choices = []
    for cls in classes_of(model).values():
        choice = class_schema(cls)
        choice["required"] = [*required_tags(cls), *choice["required"]]
        choices.append(choice)
    return {"title": model, "oneOf": choices}


def class_schema(cls: type[Any], *, written: bool = False) -> dict[str, Any]:
    """Return the JSON schema of a mapping that a class accepts, or of what ``to_dict`` returns."""
    properties: dict[str, dict[str, object]] = {
        name: {"type": "string", "const": value, "default": value}
        for name, value in fixed_tags(cls).items()
    }
    required = [*properties] if written else []
    # Required fields come first.
    for field in sorted(attrs.fields(cls), key=lambda one: one.default is not attrs.NOTHING):
        rule: Rule = cls._rules[field.name]
        if written and rule.optional:
            properties[field.alias] = {**rule.accepted}  # to_dict omits None
            continue
        properties[field.alias] = rule.schema()
        if field.default is not attrs.NOTHING:
            properties[field.alias]["default"] = field.default
        if written or field.default is attrs.NOTHING:
            required.append(field.alias)
    for name, text in descriptions(cls).items():
        if name in properties:
            properties[name]["description"] = text
    return {
        "title": cls.__name__,
        "description": summary(cls),
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def fixed_tags(cls: type[Any]) -> dict[str, str]:
    """Return the model and the mode of a class; of a raw input they may be any."""
    tags = {name: getattr(cls, name) for name in ("model", "mode")}
    return {name: tag for name, tag in tags.items() if isinstance(tag, str)}
