"""The rules that validate the fields of inputs, and the fields that the vendor has lists for.

A rule also describes in JSON Schema what it accepts, so that validation and schema agree. The
module of a model says which field has which rule.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from attrs import evolve, frozen

from kling_async._utils.numbers import is_number
from kling_async._utils.text import format_value
from kling_async._utils.urls import split_web_url
from kling_async.errors import Problem

# The vendor has lists instead of these fields.
IMAGE_FIELDS = ("image_url", "end_image_url")
VENDOR_LISTS = {"image_urls": IMAGE_FIELDS, "video_urls": ("video_url",)}

# Floats such as 0.1 + 0.2 differ from the tenth they mean by a few 1e-17.
_STEP_TOLERANCE = 1e-9

NO_UNICODE = "must be valid Unicode, without lone surrogates"

UNKNOWN = "x-unknown"
"""The keyword of a JSON schema that names what the contract lists as unknown."""


@frozen
class Rule:
    """The rule of one field.

    Attributes:
        check: Returns the rule that a value breaks, or None if it is valid.
        accepted: The JSON Schema of valid values.
        optional: None is valid, too.
    """

    check: Callable[[object], str | None]
    accepted: Mapping[str, object]
    optional: bool = False

    def __call__(self, value: object, /) -> str | None:
        """Return the rule that the value breaks, or None if it is valid."""
        return None if value is None and self.optional else self.check(value)

    def schema(self) -> dict[str, object]:
        """Return the JSON Schema of valid values."""
        if self.optional:
            return {"anyOf": [{**self.accepted}, {"type": "null"}]}
        return {**self.accepted}


def broken_rules(rules: Mapping[str, Rule], values: Mapping[str, object]) -> list[Problem]:
    """Return a problem for each value that breaks the rule of its field."""
    return [
        Problem(name, broken, format_value(value))
        for name, value in values.items()
        if (broken := rules[name](value)) is not None
    ]


def or_none(rule: Rule) -> Rule:
    """Return a rule that accepts None, too."""
    return evolve(rule, optional=True)


def text(shortest: int, longest: int | None) -> Rule:
    """Return the rule of text with a number of characters (code points, not bytes).

    ``longest`` is None if the contract names no greatest number.
    """
    most = sys.maxsize if longest is None else longest
    number = f"at least {shortest}" if longest is None else f"{shortest} to {longest}"
    end: dict[str, object] = {UNKNOWN: "maxLength"} if longest is None else {"maxLength": longest}

    def check(value: object) -> str | None:
        if not isinstance(value, str) or not shortest <= len(value) <= most:
            return f"must be text of {number} characters"
        return None if is_encodable(value) else NO_UNICODE

    return Rule(check, {"type": "string", "minLength": shortest, **end})


def is_encodable(value: str) -> bool:
    """Return whether text is valid Unicode, so that it can be sent."""
    return value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)


def one_of(*allowed: str | int) -> Rule:
    """Return the rule of a few values of exactly their type: True is not 1, and 5.0 is not 5."""

    def check(value: object) -> str | None:
        if any(type(value) is type(one) and value == one for one in allowed):
            return None
        return f"must be one of {', '.join(map(repr, allowed))}"

    kind = "string" if isinstance(allowed[0], str) else "integer"
    return Rule(check, {"type": kind, "enum": [*allowed]})


def tenths(low: float, high: float) -> Rule:
    """Return the rule of numbers in a range, in steps of 0.1."""

    def check(value: object) -> str | None:
        number = to_tenth(value) if is_number(value) else None
        if number is not None and low <= number <= high and _is_tenth(number):
            return None
        return f"must be a number from {low:g} to {high:g} in steps of 0.1"

    return Rule(check, {"type": "number", "minimum": low, "maximum": high, "multipleOf": 0.1})


def to_tenth(value: float | None) -> float | None:
    """Round a number that means a tenth, such as 0.1 + 0.2; return any other value unchanged."""
    if is_number(value) and _is_tenth(value):
        return round(float(value), 1) + 0.0  # which turns -0.0 into 0.0
    return value


def _is_tenth(value: float) -> bool:
    return abs(value - round(value, 1)) <= _STEP_TOLERANCE


def _check_web_url(value: object) -> str | None:
    return None if split_web_url(value) else "must be one absolute http(s) URL"


def _check_image(value: object) -> str | None:
    if split_web_url(value):
        return None
    from kling_async.inputs.local_image import broken_rule

    return broken_rule(value)


# The service fetches these URLs. The pattern describes how they begin, "uri" the rest.
WEB_URL = Rule(
    _check_web_url,
    {"type": "string", "format": "uri", "pattern": "^[Hh][Tt][Tt][Pp][Ss]?://[^/?#]"},
)

# A schema describes what comes from elsewhere, which may not name files of this machine.
IMAGE_SOURCE = Rule(_check_image, WEB_URL.accepted)
