"""The schemas of inputs for pydantic and FastAPI, made of the rules that validate them."""

from __future__ import annotations

from collections.abc import Mapping
from operator import methodcaller
from typing import TYPE_CHECKING, Any, TypeVar

from kling_async._utils.pydantic import core_schema, refusal, showable, summary
from kling_async._utils.text import format_value
from kling_async.errors import InputError
from kling_async.inputs import registry
from kling_async.inputs.json_schema import class_schema, fixed_tags
from kling_async.inputs.local_image import FOR_PROGRAMS

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

_T = TypeVar("_T")


def input_core_schema(
    cls: type[_T],
    build: Callable[[type[_T], dict[str, object]], _T],
    handler: GetCoreSchemaHandler,
) -> CoreSchema:
    """Return the core schema of one class of inputs, or of the union of all.

    Args:
        cls: The class.
        build: Returns the input of a class that a JSON object describes, or raises InputError.
        handler: Generates the schemas of the members.
    """
    from pydantic_core import core_schema as make

    inner: CoreSchema
    if is_union := _is_union(cls):
        choices = {one: handler.generate_schema(one) for one in registry.all_classes()}
        # Two properties select the class. No function is called: inputs are parsed below.
        inner = make.tagged_union_schema(choices, discriminator=str)
    else:
        # So that either property can discriminate a union.
        inner = make.typed_dict_schema(
            {
                name: make.typed_dict_field(make.literal_schema([tag]))
                for name, tag in fixed_tags(cls).items()
            }
        )

    def read(value: object, _: object) -> _T:
        if not isinstance(value, Mapping):
            seen = showable(value, format_value(value))
            raise refusal(cls, [(None, "must be a JSON object", seen)])
        try:
            body = {key: _to_integer(one) for key, one in value.items()}
            return build(registry.find_class(body) if is_union else cls, body)
        except InputError as error:
            faults = [
                (
                    problem.field,
                    problem.rule.removesuffix(FOR_PROGRAMS),
                    showable(value.get(problem.field), problem.seen),
                )
                for problem in error.problems
            ]
        raise refusal(cls, faults)

    return core_schema(cls, read, methodcaller("to_dict"), inner)


def input_json_schema(
    cls: type[Any], core: CoreSchema, handler: GetJsonSchemaHandler
) -> JsonSchemaValue:
    """Return the JSON schema of one class of inputs, or of the union of all."""
    if not _is_union(cls):
        return class_schema(cls, written=handler.mode == "serialization")
    reference = handler(core)
    schema = handler.resolve_ref_schema(reference)
    schema |= {"title": cls.__name__, "description": summary(cls)}
    if handler.mode == "validation":
        for one, choice in zip(registry.all_classes(), schema["oneOf"], strict=True):
            # A body without them has the default model and mode, and matches no other class.
            if tags := registry.required_tags(one):
                choice["required"] = tags
    return reference


def _is_union(cls: type[Any]) -> bool:
    return not hasattr(cls, "mode")


def _to_integer(value: object) -> object:
    """Return 5 for 5.0, which is the same number in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
