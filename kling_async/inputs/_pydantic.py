"""The schemas of inputs for pydantic and FastAPI, made of the rules that validate them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import methodcaller
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from kling_async._utils.pydantic import core_schema, descriptions, refusal, showable, summary
from kling_async._utils.text import format_value
from kling_async.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

    from kling_async.inputs.rules import Rule

_T = TypeVar("_T")


def input_core_schema(
    cls: type[_T],
    classes: Sequence[type[Any]],
    parse: Callable[[Mapping[str, object]], _T],
    handler: GetCoreSchemaHandler,
) -> CoreSchema:
    """Return the core schema of one class of inputs, or of the union of all.

    Args:
        cls: The class.
        classes: The classes of its instances: itself, or the members of the union.
        parse: Returns the input that a JSON object describes, or raises InputError.
        handler: Generates the schemas of the members.
    """
    from pydantic_core import core_schema as make

    inner: CoreSchema
    if classes == [cls]:
        mode = make.typed_dict_field(make.literal_schema([cls.mode]))  # type: ignore[attr-defined]
        inner = make.typed_dict_schema({"mode": mode})  # so that "mode" can discriminate a union
    else:
        choices = {one.mode: handler.generate_schema(one) for one in classes}
        inner = make.tagged_union_schema(choices, discriminator="mode")

    def read(value: object, _: object) -> _T:
        if not isinstance(value, Mapping):
            seen = showable(value, format_value(value))
            raise refusal(cls, [(None, "must be a JSON object", seen)])
        try:
            return parse({key: _to_integer(one) for key, one in value.items()})
        except InputError as error:
            faults = [
                (problem.field, problem.rule, showable(value.get(problem.field), problem.seen))
                for problem in error.problems
            ]
        raise refusal(cls, faults)

    return core_schema(cls, read, methodcaller("to_dict"), inner)


def union_json_schema(
    cls: type[Any],
    classes: Sequence[type[Any]],
    default_modes: Mapping[str, str],
    core: CoreSchema,
    handler: GetJsonSchemaHandler,
) -> JsonSchemaValue:
    """Return the JSON schema of the union of all classes of inputs."""
    reference = handler(core)
    schema = handler.resolve_ref_schema(reference)
    schema |= {"title": cls.__name__, "description": summary(cls)}
    if handler.mode == "validation":
        for one, choice in zip(classes, schema["oneOf"], strict=True):
            # A body without a mode has the default mode, and matches no other class.
            if one.mode != default_modes[one.model]:
                choice["required"] = ["mode"]
    return reference


def class_json_schema(
    cls: type[Any], rules: Mapping[str, Rule], handler: GetJsonSchemaHandler
) -> JsonSchemaValue:
    """Return the JSON schema of one class: of a body, or of what ``to_dict`` returns."""
    written = handler.mode == "serialization"
    properties: dict[str, JsonSchemaValue] = {
        name: {"type": "string", "const": value, "default": value}
        for name, value in (("model", cls.model), ("mode", cls.mode))
    }
    required = [*properties] if written else []
    # Required fields come first.
    for field in sorted(attrs.fields(cls), key=lambda one: one.default is not attrs.NOTHING):
        rule = rules[field.name]
        if written and rule.optional:
            properties[field.name] = {**rule.accepted}  # to_dict omits None
            continue
        properties[field.name] = rule.schema()
        if field.default is not attrs.NOTHING:
            properties[field.name]["default"] = field.default
        if written or field.default is attrs.NOTHING:
            required.append(field.name)
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


def _to_integer(value: object) -> object:
    """Return 5 for 5.0, which is the same number in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
