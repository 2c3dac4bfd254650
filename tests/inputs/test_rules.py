import math
from collections.abc import Iterator
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kling_async.inputs.rules import OneOf, OrNone, Tenths, Text, WebUrl, to_tenth

# No property depends on how fast the machine is, or on luck.
FREELY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

HUGE = 10**5000  # more digits than Python agrees to write

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.text(st.characters()),
    st.binary(),
    st.lists(st.integers()),
    st.complex_numbers(),
    st.decimals(),
    st.just(HUGE),
    st.just(-HUGE),
)


@pytest.mark.parametrize("character", ["a", "é", "語", "👩", "\n"])
def test_text_counts_characters(character: str) -> None:
    """Lengths count characters, however many bytes each of them takes."""
    rule = Text(2, 4)
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
    """What is no text breaks a text's rule, whatever its length."""
    assert Text(0, 5)(value) == "must be text of 0 to 5 characters"


@pytest.mark.parametrize("value", ["\ud800", "a\udfffb", "語\udc00"])
def test_lone_surrogates_are_no_text(value: str) -> None:
    """Half a character cannot be sent, and is said to be the fault."""
    assert Text(0, 5)(value) == "must be valid Unicode, without lone surrogates"


def test_whole_surrogate_pairs_are_characters() -> None:
    """The characters just below and above the surrogates, and far beyond, are text."""
    assert Text(3, 3)("\ud7ff\ue000\U00010000") is None


class Word(StrEnum):
    FIVE = "5"


@pytest.mark.parametrize("value", [True, 5.0, "5", None, Decimal(5), 7, [5], math.nan])
def test_one_of_minds_the_type(value: object) -> None:
    """Only the very value counts: True is not 1, 5.0 and "5" are not 5."""
    assert OneOf((1, 5))(value) == "must be one of 1, 5"


def test_one_of_takes_no_absurd_number() -> None:
    """An integer too large to be written is not one of a few either."""
    assert OneOf((1, 5))(HUGE) is not None


def test_one_of_minds_subclasses() -> None:
    """An enum member that equals an allowed text is not that text."""
    assert OneOf(("5", "10"))("5") is None
    assert OneOf(("5", "10"))(Word.FIVE) == "must be one of '5', '10'"


def as_written() -> Iterator[float]:
    """Give tenths as people reach them, by literals, sums, products and quotients."""
    yield from (0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.0)
    yield from (0.1 + 0.2, 0.1 * 3, 1 - 0.9, 0.1 * 7, 0.7 + 0.1 + 0.2, 1.1 - 0.1)
    yield from (step / 10 for step in range(11))
    yield from (step * 0.1 for step in range(11))
    yield sum([0.1] * 10)
    yield math.nextafter(1.0, 2.0)
    yield math.nextafter(0.0, -1.0)


@pytest.mark.parametrize("value", list(as_written()))
def test_tenths_as_python_writes_them(value: float) -> None:
    """A tenth is a tenth, whatever binary fractions make of it, also at the ends."""
    assert Tenths(0, 1)(value) is None
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
    """Anything else breaks the rule, and nothing makes the check stumble."""
    assert Tenths(0, 1)(value) == "must be a number from 0 to 1 in steps of 0.1"


@pytest.mark.parametrize("value", [0.55, math.inf, 10**400, True, "0.5", None])
def test_what_is_no_tenth_stays(value: float | None) -> None:
    """A value that means no tenth is left for the rule to judge."""
    assert to_tenth(value) is value


def test_nan_stays() -> None:
    """A number that is none is left as well."""
    meant = to_tenth(math.nan)
    assert meant is not None
    assert math.isnan(meant)


def test_zero_has_no_sign() -> None:
    """Minus zero is sent as zero."""
    assert str(to_tenth(-0.0)) == "0.0"


@FREELY
@given(st.integers(0, 10), st.floats(-0.04, 0.04))
def test_steps(step: int, off: float) -> None:
    """What lies beside a step by more than rounding may is no step."""
    rule = Tenths(0, 1)
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
    """Absolute http and https URLs hold."""
    assert WebUrl()(url) is None


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
    """Anything else does not: other schemes, relative ones, broken ones, several."""
    assert WebUrl()(url) == "must be one absolute http(s) URL"


@FREELY
@given(ANYTHING | st.text(st.sampled_from("htps:/[]@.%?#0x\\ ")).map("http".__add__))
def test_rules_never_stumble(value: object) -> None:
    """Every rule gives words or None for every value there is."""
    rules = (Text(1, 5), OneOf((5, 10)), OneOf(("a",)), Tenths(0, 1), WebUrl(), OrNone(WebUrl()))
    for rule in rules:
        broken = rule(value)
        assert broken is None or broken.startswith("must be ")


def test_optional() -> None:
    """An optional rule holds for None too, and else for what the rule holds."""
    rule = OrNone(OneOf(("a",)))
    assert rule(None) is None
    assert rule("a") is None
    assert rule("b") == "must be one of 'a'"
    assert OneOf(("a",))(None) is not None
