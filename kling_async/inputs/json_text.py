"""Values of users as JSON text, or the reason why they are not JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

from kling_async._utils.text import format_value
from kling_async.errors import InputError, Problem
from kling_async.inputs.rules import NO_UNICODE, is_encodable

LONGEST = 1_000_000
DEEPEST = 32


class JSONText(str):
    """Text that :func:`to_json_text` has returned."""

    __slots__ = ()


def to_json_text(value: object, name: str = "fields") -> JSONText:
    """Return a mapping as JSON text with sorted keys: equal values as equal text.

    Args:
        value: The mapping, or text that this function has returned.
        name: What it is called in errors.

    Raises:
        InputError: It is not a JSON object, or too large; the error names the place.
    """
    if isinstance(value, JSONText):  # of `attrs.evolve`
        return value
    if not isinstance(value, Mapping):
        raise _error(name, "must be a mapping such as a JSON object", value)
    plain = _Copier().copy_plain(value, name, 0)
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    if len(text) > LONGEST:
        raise _size_error(name)
    return JSONText(text)


class _Copier:
    """Copies values with bounded work: a value may contain itself, or another many times."""

    def __init__(self) -> None:
        self._size = 0

    def copy_plain(self, value: object, place: str, depth: int) -> object:
        """Return a copy of dictionaries, lists and scalars, or raise InputError."""
        # At least so many characters: quotes, brackets, and a separator.
        self._size += len(value) + 3 if isinstance(value, str) else 2
        if self._size > LONGEST:
            raise _size_error(place)
        match value:
            case str():
                if not is_encodable(value):
                    raise _error(place, NO_UNICODE, value)
                return value
            case None | bool():
                return value
            case int() | float():
                if not abs(value) <= sys.float_info.max:  # true for NaN
                    raise _error(place, "must be a finite number", value)
                return value
            case Mapping() | list() | tuple() if depth == DEEPEST:
                raise _error(place, f"must not be nested deeper than {DEEPEST}", "…")
            case Mapping():
                return {
                    self._copy_key(key, place): self.copy_plain(each, f"{place}.{key}", depth + 1)
                    for key, each in value.items()
                }
            case list() | tuple():
                return [
                    self.copy_plain(each, f"{place}[{index}]", depth + 1)
                    for index, each in enumerate(value)
                ]
            case _:
                raise _error(place, "must be a value of JSON", value)

    def _copy_key(self, key: object, place: str) -> str:
        if not isinstance(key, str) or not is_encodable(key):
            raise _error(place, "must have keys that are valid text", key)
        self._size += len(key) + 3
        return key


def _size_error(place: str) -> InputError:
    return _error(place, f"must be JSON of at most {LONGEST:,} characters", "more")


def _error(place: str, rule: str, value: object) -> InputError:
    return InputError(problems=[Problem(place, rule, format_value(value))])
