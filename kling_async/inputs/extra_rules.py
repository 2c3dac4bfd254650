"""Rules that only some models need: integers, booleans, and fields without a known rule."""

from __future__ import annotations

import sys
from typing import TypeAlias

from kling_async.inputs.rules import NO_UNICODE, UNKNOWN, Rule, is_encodable

Unchecked: TypeAlias = str | float | bool
"""The value of a field that the contract names without a rule."""


def integers(low: int, high: int) -> Rule:
    """Return the rule of integers in a range; neither True nor 5.0 is one."""

    def check(value: object) -> str | None:
        if type(value) is int and low <= value <= high:
            return None
        return f"must be an integer from {low} to {high}"

    return Rule(check, {"type": "integer", "minimum": low, "maximum": high})


def _check_boolean(value: object) -> str | None:
    return None if isinstance(value, bool) else "must be True or False"


BOOLEAN = Rule(_check_boolean, {"type": "boolean"})


def _check_scalar(value: object) -> str | None:
    match value:
        case str():
            return None if is_encodable(value) else NO_UNICODE
        case int() | float() if abs(value) <= sys.float_info.max:  # false for NaN
            return None
        case _:
            return "must be text, a finite number, True or False"


# What JSON can express is sent unchecked.
UNCHECKED = Rule(_check_scalar, {"type": ["string", "number", "boolean"], UNKNOWN: "rule"})
