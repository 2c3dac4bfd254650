"""The checks that inputs are made of.

A rule is a function from a value to what it breaks, in words, or None where it holds. Which
field has which rule stands with the model, in its own module.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeGuard
from urllib.parse import urlsplit

Rule = Callable[[object], str | None]

# Floats such as 0.1 + 0.2 lie within a few 1e-17 of the tenth they mean.
_STEP_TOLERANCE = 1e-9

_SEEN_LENGTH = 80
_LARGEST_FLOAT = sys.float_info.max


def seen(value: object) -> str:
    """Show a value in a message, shortened."""
    if isinstance(value, str):
        start = repr(value[:_SEEN_LENGTH])
        return start if len(value) <= _SEEN_LENGTH else f"{start}… ({len(value)} characters)"
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = f"{type(value).__name__} too large to show"
    return text if len(text) <= _SEEN_LENGTH else f"{text[:_SEEN_LENGTH]}…"


def text(shortest: int, longest: int) -> Rule:
    """Text of so many characters (Unicode code points, not bytes)."""
    words = f"must be text of {shortest} to {longest} characters"

    def rule(value: object) -> str | None:
        if not isinstance(value, str) or not shortest <= len(value) <= longest:
            return words
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            return "must be valid Unicode, without lone surrogates"
        return None

    return rule


def one_of(*allowed: str | int) -> Rule:
    """One of a few values, of exactly their type: ``True`` is not 1, and 5.0 is not 5."""
    words = f"must be one of {', '.join(repr(value) for value in allowed)}"

    def rule(value: object) -> str | None:
        held = any(type(value) is type(one) and value == one for one in allowed)
        return None if held else words

    return rule


def tenths(low: float, high: float) -> Rule:
    """A number from ``low`` to ``high`` in steps of 0.1."""
    words = f"must be a number from {low:g} to {high:g} in steps of 0.1"

    def rule(value: object) -> str | None:
        number = to_tenth(value) if _is_number(value) else None
        # The chained comparison is false for NaN as well.
        held = number is not None and low <= number <= high and _is_tenth(number)
        return None if held else words

    return rule


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


def web_url(value: object) -> str | None:
    """Check for an absolute ``http`` or ``https`` URL: the service fetches it from outside."""
    words = "must be one absolute http(s) URL"
    if not isinstance(value, str) or not value.isprintable() or " " in value:
        return words
    try:
        parts = urlsplit(value)
        held = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a malformed port or IPv6 address
        held = False
    return None if held else words


def optional(rule: Rule) -> Rule:
    """Hold for None, else for what ``rule`` holds."""
    return lambda value: None if value is None else rule(value)
