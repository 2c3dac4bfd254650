import math

import pytest

from kling_async.inputs.extra_rules import BOOLEAN, UNCHECKED, integers


@pytest.mark.parametrize("value", [2, 16, 5.0, True, "5", None, math.nan, 10**400])
def test_integers(value: object) -> None:
    """An integer in the range, of exactly that type."""
    rule = integers(3, 15)
    assert [rule(number) for number in (3, 9, 15)] == [None] * 3
    assert rule(value) == "must be an integer from 3 to 15"
    assert rule.schema() == {"type": "integer", "minimum": 3, "maximum": 15}


@pytest.mark.parametrize("value", [0, 1, "true", None])
def test_booleans(value: object) -> None:
    """True and False, and not 1."""
    assert BOOLEAN(True) is None  # noqa: FBT003 - the value that is checked
    assert BOOLEAN(False) is None  # noqa: FBT003 - the same
    assert BOOLEAN(value) == "must be True or False"


def test_unchecked() -> None:
    """What JSON can express as one value is valid."""
    for value in ("", "é" * 9000, 0, -5, 10**300, 0.55, 1e308, True, False):
        assert UNCHECKED(value) is None
    wrong: list[object] = [None, b"x", ["x"], {}, math.nan, math.inf, 10**400, 1j]
    for one in wrong:
        assert UNCHECKED(one) == "must be text, a finite number, True or False"
    assert UNCHECKED("\ud800") == "must be valid Unicode, without lone surrogates"
