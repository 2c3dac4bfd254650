from __future__ import annotations

from decimal import Decimal

import pytest

from kling_async._utils.numbers import is_number


@pytest.mark.parametrize("value", [0, -1, 1.5, 10**300, 1.7e308])
def test_numbers(value: object) -> None:
    """Finite numbers are numbers."""
    assert is_number(value)


@pytest.mark.parametrize(
    "value", [True, None, "5", Decimal(5), float("inf"), float("nan"), 10**400, -(10**400)]
)
def test_what_is_no_number(value: object) -> None:
    """A value that no finite float equals is no number, and neither is a bool."""
    assert not is_number(value)
