import math
from collections.abc import Iterator
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kling_async.inputs.rules import WEB_URL, one_of, or_none, tenths, text, to_tenth
from tests.anything import ANYTHING, HUGE

# No property depends on how fast the machine is, or on luck.
FREELY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("character", ["a", "é", "語", "👩", "\n"])
def test_text_counts_characters(character: str) -> None:
    """Lengths count characters, not bytes."""
    rule = text(2, 4)
    assert [rule(character * count) is None for count in range(6)] == [
        False,
        False,
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("value", [None, 5, b"abc", ["a", "b", "c"], True])
def test_text_is_text(value: object) -> None:
    """A value of another type is not text, whatever its length."""
    assert text(0, 5)(value) == "must be text of 0 to 5 characters"


@pytest.mark.parametrize("value", ["\ud800", "a\udfffb", "語\udc00"])
def test_lone_surrogates_are_no_text(value: str) -> None:
    """Lone surrogates cannot be sent. The message names them."""
    assert text(0, 5)(value) == "must be valid Unicode, without lone surrogates"


def test_whole_surrogate_pairs_are_characters() -> None:
    """The characters just below and above the surrogates, and far beyond, are text."""
    assert text(3, 3)("\ud7ff\ue000\U00010000") is None


class Word(StrEnum):
    FIVE = "5"


@pytest.mark.parametrize("value", [True, 5.0, "5", None, Decimal(5), 7, [5], math.nan])
def test_one_of_checks_the_type(value: object) -> None:
    """The type counts, too: True is not 1, 5.0 and "5" are not 5."""
    assert one_of(1, 5)(value) == "must be one of 1, 5"


def test_one_of_with_a_huge_number() -> None:
    """An integer that is too large for repr() is not one of a few values."""
    assert one_of(1, 5)(HUGE) is not None


def test_one_of_rejects_subclasses() -> None:
    """An enum member that equals an allowed text is invalid."""
    assert one_of("5", "10")("5") is None
    assert one_of("5", "10")(Word.FIVE) == "must be one of '5', '10'"


def as_written() -> Iterator[float]:
    """Yield tenths as literals, sums, products and quotients."""
    yield from (0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.0)
    yield from (0.1 + 0.2, 0.1 * 3, 1 - 0.9, 0.1 * 7, 0.7 + 0.1 + 0.2, 1.1 - 0.1)
    yield from (step / 10 for step in range(11))
    yield from (step * 0.1 for step in range(11))
    yield sum([0.1] * 10)
    yield math.nextafter(1.0, 2.0)
    yield math.nextafter(0.0, -1.0)


@pytest.mark.parametrize("value", list(as_written()))
def test_tenths_as_python_writes_them(value: float) -> None:
    """A tenth is valid in spite of the rounding of binary fractions, also at the ends."""
    assert tenths(0, 1)(value) is None
    meant = to_tenth(value)
    assert meant is not None
    assert Fraction(str(meant)).denominator in {1, 2, 5, 10}
    assert repr(meant) in {f"{step / 10}" for step in range(11)}


@pytest.mark.parametrize(
    "value",
    [
        0.55,
        0.05,
        0.3001,
        1.1,
        -0.1,
        2,
        -1,
        math.nan,
        math.inf,
        -math.inf,
        10**400,
        -(10**400),
        True,
        False,
        "0.5",
        None,
        Decimal("0.5"),
        0.5j,
    ],
)
def test_not_tenths(value: object) -> None:
    """Anything else breaks the rule and raises nothing."""
    assert tenths(0, 1)(value) == "must be a number from 0 to 1 in steps of 0.1"


@pytest.mark.parametrize("value", [0.55, math.inf, 10**400, True, "0.5", None])
def test_other_values_are_unchanged(value: float | None) -> None:
    """A value that is not a tenth is returned unchanged."""
    assert to_tenth(value) is value


def test_nan_is_unchanged() -> None:
    """NaN is returned unchanged."""
    meant = to_tenth(math.nan)
    assert meant is not None
    assert math.isnan(meant)


def test_zero_has_no_sign() -> None:
    """Minus zero is sent as zero."""
    assert str(to_tenth(-0.0)) == "0.0"


@FREELY
@given(st.integers(0, 10), st.floats(-0.04, 0.04))
def test_steps(step: int, off: float) -> None:
    """A value that differs from a step by more than rounding is invalid."""
    rule = tenths(0, 1)
    assert rule(step / 10) is None
    if abs(off) > 1e-8:
        assert rule(step / 10 + off) is not None


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "https://example.com/cat.jpg",
        "HTTPS://EXAMPLE.COM/CAT.JPG",
        "https://user:word@example.com:8443/a%20b?c=d&e=f#g",
        "https://bücher.example/katze.jpg",
        "http://127.0.0.1:8000/a.png",
        "http://[::1]:8000/a.png",
        "https://example.com:65535/",
    ],
)
def test_web_urls(url: str) -> None:
    """Absolute http and https URLs are valid."""
    assert WEB_URL(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "cat.jpg",
        "/cat.jpg",
        "//example.com/cat.jpg",
        "file:///etc/passwd",
        "file://example.com/cat.jpg",
        "ftp://example.com/cat.jpg",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "https:/example.com",
        "https:example.com",
        "https://",
        "https:///cat.jpg",
        "https://:80/cat.jpg",
        "https://user@/cat.jpg",
        "https://example.com:0/",
        "https://example.com:65536/",
        "https://example.com:port/",
        "https://[::1/",
        "https://example.com/a b",
        " https://example.com/",
        "https://example.com/\n",
        "https://exam\nple.com/",
        "https://example.com/\x00",
        "https://example.com/\ud800",
        "https://example.com/\u2028",
        b"https://example.com/",
        ["https://example.com/"],
        None,
        5,
    ],
)
def test_not_web_urls(url: object) -> None:
    """Anything else is invalid: other schemes, relative, malformed and several URLs."""
    assert WEB_URL(url) == "must be one absolute http(s) URL"


@FREELY
@given(ANYTHING | st.text(st.sampled_from("htps:/[]@.%?#0x\\ ")).map("http".__add__))
def test_rules_raise_nothing(value: object) -> None:
    """Every rule returns a message or None for any value."""
    rules = (text(1, 5), one_of(5, 10), one_of("a"), tenths(0, 1), WEB_URL, or_none(WEB_URL))
    for rule in rules:
        broken = rule(value)
        assert broken is None or broken.startswith("must be ")


def test_optional() -> None:
    """An optional rule holds for None too, and else for what the rule holds."""
    rule = or_none(one_of("a"))
    assert rule(None) is None
    assert rule("a") is None
    assert rule("b") == "must be one of 'a'"
    assert one_of("a")(None) is not None
