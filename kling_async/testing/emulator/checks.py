"""The checks of the fields of a submit; one that fails raises `Refusal`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from typing import Final, NoReturn, TypeAlias

Check: TypeAlias = Callable[[str, object], None]
"""Raises `Refusal` if the named field has a wrong value."""


class Refusal(Exception):  # noqa: N818 - a value that is raised, not an error of ours
    """A request that is answered with `status` and `message`; `error` goes into ``data.error``."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        error: str | None = None,
        has_data: bool = True,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.error = error
        self.has_data = has_data
        self.retry_after = retry_after

    def envelope(self) -> dict[str, object]:
        """Return the body of the answer."""
        body: dict[str, object] = {"code": self.status, "message": self.message}
        if self.has_data:
            body["data"] = None if self.error is None else {"error": self.error}
        return body


# 0.1 + 0.2 is one of the steps; 0.3001 is not.
_CFG_TOLERANCE: Final = 1e-9


def one_of(allowed: Collection[str]) -> Check:
    """Return the check of one of a few texts."""

    def check(name: str, value: object) -> None:
        if not isinstance(value, str) or value not in allowed:
            reject_value(name, value, f"one of {', '.join(allowed)}")

    return check


def text(shortest: int = 0, longest: int | None = None) -> Check:
    """Return the check of text with a number of characters."""
    expected = f"at least {shortest}" if longest is None else f"{shortest} to {longest}"

    def check(name: str, value: object) -> None:
        if not isinstance(value, str):
            reject_value(name, value, "a string")
        if not shortest <= len(value) <= (len(value) if longest is None else longest):
            reject(f"Invalid value for {name}: {len(value)} characters (expected {expected})")

    return check


def check_object(name: str, value: object) -> None:
    """Check a JSON object."""
    if not isinstance(value, dict):
        reject_value(name, value, "an object")


def integer(allowed: Collection[int]) -> Check:
    """Return the check of an integer."""
    expected = " or ".join(map(str, allowed))
    if isinstance(allowed, range):
        expected = f"from {allowed[0]} to {allowed[-1]}"

    def check(name: str, value: object) -> None:
        # True and 5.0 are equal to allowed numbers, but are not integers in JSON.
        if type(value) is not int or value not in allowed:
            reject_value(name, value, f"the integer {expected}")

    return check


def check_boolean(name: str, value: object) -> None:
    """Check a boolean."""
    if not isinstance(value, bool):
        reject_value(name, value, "true or false")


def check_cfg_scale(name: str, value: object) -> None:
    """Check a number from 0 to 1 in steps of 0.1."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        reject_value(name, value, "a number")
    # Infinity (1e999 is JSON) and integers too large for a float fail the first comparison.
    in_range = -_CFG_TOLERANCE <= value <= 1 + _CFG_TOLERANCE
    if not in_range or abs(value - round(value * 10) / 10) > _CFG_TOLERANCE:
        reject_value(name, value, "0 to 1 in steps of 0.1")


def check_strings(name: str, value: object) -> None:
    """Check an array of strings that are not empty."""
    if not isinstance(value, list) or not all(isinstance(url, str) and url for url in value):
        reject_value(name, value, "an array of strings")


def check_scalar(name: str, value: object) -> None:
    """Check a field of which the contract names no rule: it has one finite value."""
    finite = isinstance(value, str | bool) or (
        isinstance(value, int | float) and abs(value) <= sys.float_info.max
    )
    if not finite:
        reject_value(name, value, "text, a finite number or a boolean")


def reject_missing(name: str) -> NoReturn:
    """Refuse a submit without a field."""
    reject(f"Missing required field: {name}")


def reject_value(name: str, value: object, expected: str) -> NoReturn:
    """Refuse a value of a field."""
    shown = repr(value)
    if len(shown) > 80:  # noqa: PLR2004 - the number is the rule
        shown = f"{shown[:77]}..."
    reject(f"Invalid value for {name}: {shown} (expected {expected})")


def reject(error: str) -> NoReturn:
    """Refuse a submit (400)."""
    raise Refusal(400, "Invalid request", error=error)
