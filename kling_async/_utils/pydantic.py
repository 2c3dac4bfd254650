"""Schemas of this package's values for pydantic, and so for FastAPI.

pydantic calls two methods of a class: one returns a core schema (how to validate and serialize a
value), the other a JSON schema (how to describe it). Only pydantic calls them, so it is imported
inside these functions and not required by the package.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from operator import methodcaller
from typing import TYPE_CHECKING, TypeVar, get_type_hints

import attrs

if TYPE_CHECKING:
    from pydantic import (
        GetCoreSchemaHandler,
        GetJsonSchemaHandler,
        SerializationInfo,
        ValidatorFunctionWrapHandler,
    )
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema, ValidationError

# The description of a field: a line of a docstring that begins with its name, and the indented
# lines below it.
_FIELD = re.compile(r"^( *)(?:- ``)?(\w+)(?:``)?: (.+(?:\n\1 +.+)*)", re.MULTILINE)

_KEY_LENGTH = 80
# Larger whole numbers are not exact in every JSON parser.
_LARGEST_NUMBER = 1e15

_T = TypeVar("_T")


def summary(cls: type) -> str:
    """Return the first paragraph of a class's docstring, for a JSON schema."""
    return _prose((cls.__doc__ or "").partition("\n\n")[0])


def descriptions(cls: type) -> dict[str, str]:
    """Return the descriptions of fields in the docstrings of a class, its bases and modules."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        for doc in (getattr(sys.modules.get(base.__module__), "__doc__", None), base.__doc__):
            found |= {name: _prose(text) for _, name, text in _FIELD.findall(doc or "")}
    return found


def _prose(text: str) -> str:
    plain = " ".join(text.split()).replace("``", "`")  # as in OpenAPI's Markdown
    return plain[:1].upper() + plain[1:]


def refusal(cls: type, faults: Iterable[tuple[str | None, str, object]]) -> ValidationError:
    """Return pydantic's error for an invalid value, with an entry for each fault.

    Args:
        cls: The class of valid values.
        faults: The field (None for the value as a whole), the broken rule, and the value seen.
    """
    from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

    return ValidationError.from_exception_data(
        cls.__name__,
        [
            InitErrorDetails(
                type=PydanticCustomError("kling_input", rule),
                loc=() if field is None else (_key(field),),
                input=seen,
            )
            for field, rule, seen in faults
        ],
    )


def showable(value: object, text: str) -> object:
    """Return a value for an error response, or ``text`` if the response must not contain it.

    NaN, lone surrogates and deep nestings cannot be written as JSON, and would turn the response
    into a server error. A long value would make the response as long.
    """
    match value:
        case None:
            return None
        case int() | float() if abs(value) <= _LARGEST_NUMBER:  # false for NaN
            return value
        case str() if _key(value) == value:
            return value
        case _:
            return text


def _key(text: str) -> str:
    """Return a key, shortened and without characters that cannot be encoded."""
    short = text if len(text) <= _KEY_LENGTH else f"{text[:_KEY_LENGTH]}…"
    return short.encode(errors="backslashreplace").decode()


def core_schema(
    cls: type[_T],
    read: Callable[[object, ValidatorFunctionWrapHandler], _T],
    write: Callable[[_T], object],
    inner: CoreSchema,
) -> CoreSchema:
    """Return a core schema that accepts instances, and converts other values.

    Args:
        cls: The class of the values.
        read: Converts another value, perhaps after validation by ``inner``.
        write: Returns plain values for JSON. Values whose JSON is text are kept in Python mode.
        inner: The schema of values that are not instances: text, fields or a tagged union.
    """
    from pydantic_core import PydanticSerializationUnexpectedValue
    from pydantic_core import core_schema as make

    def validate(value: object, handler: ValidatorFunctionWrapHandler) -> _T:
        return value if isinstance(value, cls) else read(value, handler)

    def serialize(value: object, info: SerializationInfo) -> object:
        if not isinstance(value, cls):  # of another member of a union
            raise PydanticSerializationUnexpectedValue(f"Expected `{cls.__name__}`")
        return value if is_text and info.mode == "python" else write(value)

    validate.__name__ = cls.__name__  # the name of a union's member in errors
    is_text = inner["type"] == "str"
    return make.no_info_wrap_validator_function(
        validate,
        inner,
        # With a reference, a schema document describes the class once.
        ref=None if is_text else f"{cls.__module__}.{cls.__qualname__}:{id(cls)}",
        serialization=make.plain_serializer_function_ser_schema(serialize, info_arg=True),
    )


def text_core_schema(cls: type[_T], parse: Callable[[str], _T], rule: str) -> CoreSchema:
    """Return the core schema of a class that is text in JSON; ``parse`` may raise ValueError."""
    from pydantic_core import core_schema as make

    def read(value: object, _: object) -> _T:
        shown = type(value).__name__  # a nested value may be too deep for repr
        if isinstance(value, str):
            shown = repr(value[:_KEY_LENGTH])
            with suppress(ValueError):
                return parse(value)
        raise refusal(cls, [(None, rule, showable(value, shown))])

    return core_schema(cls, read, str, make.str_schema())


def text_json_schema(cls: type, pattern: str, *, example: str) -> JsonSchemaValue:
    """Return the JSON schema of a class that is text in JSON."""
    words = {"description": summary(cls), "examples": [example]}
    return {"type": "string", "pattern": pattern} | words


def value_core_schema(cls: type[_T], handler: GetCoreSchemaHandler) -> CoreSchema:
    """Return the core schema of a class of values that have a method ``to_dict``."""
    from pydantic_core import core_schema as make

    hints = get_type_hints(cls)
    fields = {}
    for field in _fields(cls):
        schema = handler.generate_schema(hints[field.name])
        required = field.default is attrs.NOTHING
        if not required:
            schema = make.with_default_schema(schema, default=field.default)
        fields[field.name] = make.typed_dict_field(schema, required=required)

    def read(value: object, inside: ValidatorFunctionWrapHandler) -> _T:
        return cls(**inside(value))

    return core_schema(cls, read, methodcaller("to_dict"), make.typed_dict_schema(fields))


def value_json_schema(
    cls: type, core: CoreSchema, handler: GetJsonSchemaHandler, key: str
) -> JsonSchemaValue:
    """Return the JSON schema of a class of values; fields have keywords in their metadata."""
    reference = handler(core)
    schema = handler.resolve_ref_schema(reference)
    words = descriptions(cls)
    for field in _fields(cls):
        schema["properties"][field.name] |= field.metadata.get(key, {})
        if field.name in words:  # python -OO removes docstrings
            schema["properties"][field.name]["description"] = words[field.name]
    schema |= {"title": cls.__name__, "description": summary(cls)}
    if handler.mode == "serialization":
        schema["required"] = list(schema["properties"])  # to_dict returns all fields
    return reference


def _fields(cls: type) -> tuple[attrs.Attribute[object], ...]:
    fields: tuple[attrs.Attribute[object], ...] = attrs.fields(cls)
    return fields
