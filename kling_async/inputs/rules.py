"""The checks that inputs are made of.

A rule is called with a value and returns what it breaks, in words, or None where it holds. It
also says in the words of JSON Schema what it admits, so that the two cannot differ. Which field
has which rule stands with the model, in its own module.
"""

from __future__ import annotations

import sys
from typing import Protocol, TypeGuard

from attrs import frozen

from kling_async._utils.urls import split_web_url

# Floats such as 0.1 + 0.2 lie within a few 1e-17 of the tenth they mean.
_STEP_TOLERANCE = 1e-9

_LARGEST_FLOAT = sys.float_info.max


class Rule(Protocol):
    """What a field's value must hold."""

    def __call__(self, value: object, /) -> str | None:
        """Return what the value breaks, or None."""
        ...

    def schema(self) -> dict[str, object]:
        """Return what it admits, as a JSON Schema."""
        ...


@frozen
class Text:
    """Text of so many characters (Unicode code points, not bytes)."""

    shortest: int
    longest: int

    def __call__(self, value: object, /) -> str | None:
        """Return what is wrong with a value, or None."""
        if not isinstance(value, str) or not self.shortest <= len(value) <= self.longest:
            return f"must be text of {self.shortest} to {self.longest} characters"
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            return "must be valid Unicode, without lone surrogates"
        return None

    def schema(self) -> dict[str, object]:
        """Return the JSON Schema of the rule."""
        return {"type": "string", "minLength": self.shortest, "maxLength": self.longest}


@frozen
class OneOf:
    """One of a few values, of exactly their type: ``True`` is not 1, and 5.0 is not 5."""

    allowed: tuple[str, ...] | tuple[int, ...]

    def __call__(self, value: object, /) -> str | None:
        """Return what is wrong with a value, or None."""
        for one in self.allowed:
            if type(value) is type(one) and value == one:
                return None
        return f"must be one of {', '.join(map(repr, self.allowed))}"

    def schema(self) -> dict[str, object]:
        """Return the JSON Schema of the rule."""
        kind = "string" if isinstance(self.allowed[0], str) else "integer"
        return {"type": kind, "enum": list(self.allowed)}


@frozen
class Tenths:
    """A number from ``low`` to ``high`` in steps of 0.1."""

    low: float
    high: float

    def __call__(self, value: object, /) -> str | None:
        """Return what is wrong with a value, or None."""
        number = to_tenth(value) if _is_number(value) else None
        # The chained comparison is false for NaN as well.
        if number is not None and self.low <= number <= self.high and _is_tenth(number):
            return None
        return f"must be a number from {self.low:g} to {self.high:g} in steps of 0.1"

    def schema(self) -> dict[str, object]:
        """Return the JSON Schema of the rule."""
        limits = {"minimum": self.low, "maximum": self.high, "multipleOf": 0.1}
        return {"type": "number", **limits}


def to_tenth(value: float | None) -> float | None:
    """Write a number that means a tenth as that tenth; leave anything else to the rule.

    0.1 + 0.2 is 0.30000000000000004 in Python; the service is sent 0.3.
    """
    # An integer may be larger than any float; NaN fails the comparison.
    if _is_number(value) and abs(value) <= _LARGEST_FLOAT and _is_tenth(value):
        return round(float(value), 1) + 0.0  # which turns -0.0 into 0.0
    return value


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_tenth(value: float) -> bool:
    return abs(value - round(value, 1)) <= _STEP_TOLERANCE


@frozen
class WebUrl:
    """An absolute ``http`` or ``https`` URL: the service fetches it from outside."""

    def __call__(self, value: object, /) -> str | None:
        """Return what is wrong with a value, or None."""
        return None if split_web_url(value) else "must be one absolute http(s) URL"

    def schema(self) -> dict[str, object]:
        # A pattern can say how it begins; the rest is left to the word "uri".
        """Return the JSON Schema of the rule."""
        return {"type": "string", "format": "uri", "pattern": "^[Hh][Tt][Tt][Pp][Ss]?://[^/?#]"}


@frozen
class OrNone:
    """None, or what another rule admits."""

    rule: Rule

    def __call__(self, value: object, /) -> str | None:
        """Return what is wrong with a value, or None."""
        return None if value is None else self.rule(value)

    def schema(self) -> dict[str, object]:
        """Return the JSON Schema of the rule."""
        return {"anyOf": [self.rule.schema(), {"type": "null"}]}
