"""Inputs as pydantic and FastAPI see them: read by their rules, described by the same rules.

A body is taken more strictly than a line of a file is: the vendor's ``image_urls`` is an unknown
key, so that the schema says everything that is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import methodcaller
from typing import TYPE_CHECKING

import attrs

from kling_async._utils.pydantic import core_schema, descriptions, refusal, showable, summary
from kling_async.errors import InputError
from kling_async.inputs import parse as inputs
from kling_async.inputs.base import Input, build
from kling_async.inputs.rules import OrNone, seen

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema


def input_core_schema(cls: type[Input], handler: GetCoreSchemaHandler) -> CoreSchema:
    """Return what pydantic does with one class, or with any input where ``cls`` names no mode."""
    from pydantic_core import core_schema as make

    inner: CoreSchema
    if _is_one(cls):
        mode = make.typed_dict_field(make.literal_schema([cls.mode]))
        inner = make.typed_dict_schema({"mode": mode})  # for a union with "mode" to tell them by
    else:
        choices = {one.mode: handler.generate_schema(one) for one in inputs.CLASSES.values()}
        inner = make.tagged_union_schema(choices, discriminator="mode")

    def read(value: object, _: object) -> Input:
        if not isinstance(value, Mapping):
            fault = (None, "must be a JSON object", showable(value, seen(value)))
            raise refusal(cls, [fault])
        try:
            chosen = cls if _is_one(cls) else inputs.pick(value)
            return build(chosen, {key: _number(one) for key, one in value.items()}, [])
        except InputError as error:
            faults = [
                (problem.field, problem.rule, showable(value.get(problem.field), problem.seen))
                for problem in error.problems
            ]
        raise refusal(cls, faults)

    return core_schema(cls, read, methodcaller("to_dict"), inner)


def input_json_schema(
    cls: type[Input], core: CoreSchema, handler: GetJsonSchemaHandler
) -> JsonSchemaValue:
    """Return what is told of one class, or of any input where ``cls`` names no mode."""
    about = {"title": cls.__name__, "description": summary(cls)}
    if _is_one(cls):
        return {**about, **_object(cls, told=handler.mode == "serialization")}
    reference = handler(core)
    schema = handler.resolve_ref_schema(reference)
    schema |= about
    if handler.mode == "validation":
        for one, choice in zip(inputs.CLASSES.values(), schema["oneOf"], strict=True):
            # A body without a mode is one of the default mode, and of no other.
            if one.mode != inputs.DEFAULT_MODES[one.model]:
                choice["required"] = ["mode"]
    return reference


def _object(cls: type[Input], *, told: bool) -> JsonSchemaValue:
    """Return the schema of a class's mapping: as it is told by us, or else as it is taken."""
    properties: dict[str, JsonSchemaValue] = {
        name: {"type": "string", "const": own, "default": own}
        for name, own in (("model", cls.model), ("mode", cls.mode))
    }
    required = [*properties] if told else []
    # What must be given comes first.
    for field in sorted(attrs.fields(cls), key=lambda one: one.default is not attrs.NOTHING):
        rule = cls._rules[field.name]
        if told and isinstance(rule, OrNone):
            properties[field.name] = rule.rule.schema()  # to_dict leaves out what is not set
            continue
        properties[field.name] = rule.schema()
        if field.default is not attrs.NOTHING:
            properties[field.name]["default"] = field.default
        if told or field.default is attrs.NOTHING:
            required.append(field.name)
    words = descriptions(cls)
    for name in properties.keys() & words.keys():
        properties[name]["description"] = words[name]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _is_one(cls: type[Input]) -> bool:
    return hasattr(cls, "mode")


def _number(value: object) -> object:
    """Take 5.0 for 5, as JSON does."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
