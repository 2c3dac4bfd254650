from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from kling_async.testing.emulator.checks import (
    Refusal,
    check_boolean,
    check_scalar,
    check_strings,
    integer,
    one_of,
    text,
)

if TYPE_CHECKING:
    from kling_async.testing.emulator.checks import Check


def refused(check: Check, *values: object) -> list[object]:
    """Return the values that a check refuses."""
    found = []
    for value in values:
        try:
            check("input.x", value)
        except Refusal:
            found.append(value)
    return found


@pytest.mark.parametrize(
    ("check", "taken", "wrong"),
    [
        (one_of(("a", "b")), ["a", "b"], ["c", 1, None, ["a"]]),
        (text(1, 3), ["a", "abc"], ["", "abcd", 5, None]),
        (text(1), ["a", "a" * 10_000], ["", None]),
        (integer((5, 10)), [5, 10], [7, 5.0, True, "5", None]),
        (integer(range(3, 16)), [3, 4, 15], [2, 16, 3.0, None]),
        (check_boolean, [True, False], [0, 1, "true", None]),
        (check_strings, [[], ["a"]], ["a", [""], [1], None]),
        (check_scalar, ["", 1, 0.5, True, -(10**300)], [None, [], {}, math.inf, 10**400]),
    ],
)
def test_checks(check: Check, taken: list[object], wrong: list[object]) -> None:
    """A check accepts and refuses values."""
    assert refused(check, *taken) == []
    assert refused(check, *wrong) == wrong


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        (integer((5, 10)), "the integer 5 or 10"),
        (integer(range(3, 16)), "the integer from 3 to 15"),
        (text(1), "expected at least 1"),
        (text(1, 3), "expected 1 to 3"),
    ],
)
def test_messages(check: Check, expected: str) -> None:
    """A message names the field, and what is expected."""
    with pytest.raises(Refusal) as caught:
        check("input.x", "" if "expected" in expected else 0)
    assert expected in str(caught.value.error)
    assert "input.x" in str(caught.value.error)
