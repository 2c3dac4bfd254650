"""The base class of values that the service returns: plain for JSON, with schemas for pydantic.

What makes the schemas is imported when pydantic asks for them.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING

import attrs
from attrs import frozen

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

# The key of a field's JSON schema in its attrs metadata.
_SCHEMA = "kling_async.schema"


def in_schema(**keywords: object) -> dict[str, object]:
    """Return the attrs metadata that adds keywords to a field's JSON schema."""
    return {_SCHEMA: keywords}


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
        from kling_async._utils.pydantic import value_core_schema

        return value_core_schema(cls, handler)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        from kling_async._utils.pydantic import value_json_schema

        return value_json_schema(cls, core, handler, _SCHEMA)


def _plain(value: object) -> object:
    match value:
        case tuple():
            return [_plain(item) for item in value]
        case Value():
            return value.to_dict()
        case Enum():
            return value.value
        case datetime():
            return value.isoformat()
        case None | str() | int() | float():
            return value
        case _:
            return str(value)
