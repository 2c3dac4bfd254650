"""How our values are offered to pydantic, and so to FastAPI.

pydantic asks a class for two things: a core schema (what to do with a value) and a JSON schema
(what to tell others of it). The classes answer with the functions of this module. Nobody but
pydantic calls them, so pydantic is imported inside them: the package does without it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from enum import Enum
from operator import methodcaller
from typing import TYPE_CHECKING, TypeVar, get_type_hints

import attrs
from attrs import frozen

if TYPE_CHECKING:
    from pydantic import (
        GetCoreSchemaHandler,
        GetJsonSchemaHandler,
        SerializationInfo,
        ValidatorFunctionWrapHandler,
    )
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema, ValidationError

# Where a field's part of the schema lies in its attrs metadata.
_SCHEMA = "kling_async.schema"

# What a field is: a line of a docstring that begins with its name, and the deeper lines below.
_FIELD = re.compile(r"^( *)(?:- ``)?(\w+)(?:``)?: (.+(?:\n\1 +.+)*)", re.MULTILINE)

_KEY_LENGTH = 80
# Whole numbers below it mean the same in every reader of JSON.
_LARGEST_NUMBER = 1e15

_T = TypeVar("_T")


def says(**words: object) -> dict[str, object]:
    """Return the attrs metadata that adds to a field's JSON schema."""
    return {_SCHEMA: words}


def summary(cls: type) -> str:
    """Return the first paragraph of a class's docstring, for a JSON schema."""
    return _prose((cls.__doc__ or "").partition("\n\n")[0])


def descriptions(cls: type) -> dict[str, str]:
    """Return what the docstrings of a class, its bases and their modules say of each field."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        for doc in (getattr(sys.modules.get(base.__module__), "__doc__", None), base.__doc__):
            found |= {name: _prose(words) for _, name, words in _FIELD.findall(doc or "")}
    return found


def _prose(words: str) -> str:
    plain = " ".join(words.split()).replace("``", "`")  # which is how OpenAPI writes code
    return plain[:1].upper() + plain[1:]


def refusal(cls: type, faults: Iterable[tuple[str | None, str, object]]) -> ValidationError:
    """Return what pydantic is told of a refused value: an entry for each fault.

    Args:
        cls: What the value should have become.
        faults: The field (None: the value as a whole), the rule in words, the value seen.
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


def showable(value: object, words: str) -> object:
    """Return a value as an error may show it to whoever sent it, or else our words for it.

    What cannot be written as JSON would turn the answer into an error of the server: NaN, lone
    surrogates, nests deeper than Python goes. What is long would make it a weapon.
    """
    match value:
        case None:
            return None
        case int() | float() if abs(value) <= _LARGEST_NUMBER:  # false for NaN
            return value
        case str() if _key(value) == value:
            return value
        case _:
            return words


def _key(text: str) -> str:
    """Shorten a key, and escape what could not be sent."""
    short = text if len(text) <= _KEY_LENGTH else f"{text[:_KEY_LENGTH]}…"
    return short.encode(errors="backslashreplace").decode()


def core_schema(
    cls: type[_T],
    read: Callable[[object, ValidatorFunctionWrapHandler], _T],
    write: Callable[[_T], object],
    inner: CoreSchema,
) -> CoreSchema:
    """Return a core schema: instances pass, anything else is read, all are written alike.

    Args:
        cls: The class of the values.
        read: Makes one of something else, which it may hand to ``inner`` first.
        write: Gives plain values for JSON. One that is a text stays what it is in Python.
        inner: What pydantic takes them for where it looks inside: a text, fields, a tag.
    """
    from pydantic_core import PydanticSerializationUnexpectedValue
    from pydantic_core import core_schema as make

    def validate(value: object, handler: ValidatorFunctionWrapHandler) -> _T:
        return value if isinstance(value, cls) else read(value, handler)

    def serialize(value: object, info: SerializationInfo) -> object:
        if not isinstance(value, cls):  # of another member of a union
            raise PydanticSerializationUnexpectedValue(f"Expected `{cls.__name__}`")
        return value if is_text and info.mode == "python" else write(value)

    validate.__name__ = cls.__name__  # by which the errors of a union tell its members apart
    is_text = inner["type"] == "str"
    return make.no_info_wrap_validator_function(
        validate,
        inner,
        # What has a reference is told of once, by its name.
        ref=None if is_text else f"{cls.__module__}.{cls.__qualname__}:{id(cls)}",
        serialization=make.plain_serializer_function_ser_schema(serialize, info_arg=True),
    )


@frozen
class Value:
    """Base class of values with a schema for pydantic and a form for JSON."""

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON: times in ISO 8601, references as text."""
        return {field.name: _plain(getattr(self, field.name)) for field in attrs.fields(type(self))}

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        from pydantic_core import core_schema as make

        hints = get_type_hints(cls)
        fields = {}
        for field in attrs.fields(cls):
            schema = handler.generate_schema(hints[field.name])
            required = field.default is attrs.NOTHING
            if not required:
                schema = make.with_default_schema(schema, default=field.default)
            fields[field.name] = make.typed_dict_field(schema, required=required)

        def read(value: object, inside: ValidatorFunctionWrapHandler) -> Value:
            return cls(**inside(value))

        return core_schema(cls, read, methodcaller("to_dict"), make.typed_dict_schema(fields))

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        reference = handler(core)
        schema = handler.resolve_ref_schema(reference)
        words = descriptions(cls)
        for field in attrs.fields(cls):
            schema["properties"][field.name] |= field.metadata.get(_SCHEMA, {})
            if field.name in words:  # Python leaves docstrings out on demand
                schema["properties"][field.name]["description"] = words[field.name]
        schema |= {"title": cls.__name__, "description": summary(cls)}
        if handler.mode == "serialization":
            schema["required"] = list(schema["properties"])  # to_dict leaves nothing out
        return reference


def _plain(value: object) -> object:
    match value:
        case tuple():
            return list(value)
        case Enum():
            return value.value
        case datetime():
            return value.isoformat()
        case None | str() | int() | float():
            return value
        case _:
            return str(value)
