"""Text for people: durations, values, and texts without the API key."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings

from kling_async._utils.text import (
    format_count,
    format_duration,
    format_size,
    format_value,
    one_line,
    printable,
    redact,
)
from tests.anything import ANYTHING, HUGE

# No property depends on how fast the machine is, or on luck.
FREELY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (0.04, "0 s"),
        (0.25, "0.2 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h"),
        (7260, "2 h 1 min"),
        (5_400_000, "1,500 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    """A duration has at most two units, without those that are 0."""
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("secret", "shown"), [("", "abcdefgh"), ("abcdefg", "abcdefgh"), ("abcdefgh", "[API key]")]
)
def test_short_secrets(secret: str, shown: str) -> None:
    """A secret of fewer than 8 characters is not a key: replacing it would garble the text."""
    assert redact("abcdefgh", secret) == shown


def test_one_line() -> None:
    """Line breaks, escape sequences and lone surrogates become spaces; the key is replaced."""
    assert one_line("a\nb\x1b[0m\ud800 sk-12345678 ä", "sk-12345678") == "a b [0m  [API key] ä"
    assert one_line("as it is", "") == "as it is"


@pytest.mark.parametrize(
    "value",
    ["", "a", "a" * 79, "a" * 80, "\n" * 80, 5, True, None, 1.5, math.nan, ["x"], {"a": 1}, b"x"],
)
def test_short_values_are_shown_as_they_are(value: object) -> None:
    """A short value is shown as Python writes it."""
    assert format_value(value) == repr(value)


def test_long_text_is_shown_by_its_beginning_and_length() -> None:
    """Of a long text, the first 80 characters and the count are shown."""
    assert format_value("ä" * 5001) == f"'{'ä' * 80}'… (5001 characters)"


def test_long_values_are_cut() -> None:
    """Of anything else that is long, the first 80 characters are shown."""
    assert format_value(list(range(100))) == repr(list(range(100)))[:80] + "…"


def test_values_that_python_will_not_write() -> None:
    """An integer of thousands of digits is named, not written out."""
    assert format_value(HUGE) == "int too large to show"


def test_nests_deeper_than_python_goes() -> None:
    """A nest that Python cannot write is named, not written out."""
    nest: list[object] = []
    for _ in range(100_000):
        nest = [nest]
    assert format_value(nest) == "list too large to show"


@pytest.mark.repeating
@FREELY
@given(ANYTHING)
def test_anything_can_be_shown(value: object) -> None:
    """Whatever a value is, it is shown briefly and in characters that can be printed."""
    shown = format_value(value)
    assert len(shown) <= 850  # each of 80 characters may be written as an escape of ten
    assert shown.isprintable()


def test_printable_keeps_letters() -> None:
    """Letters of every script stay as they are."""
    assert printable("Besançon 東京\n") == "Besançon 東京\\n"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1_000, "1 kB"),
        (80_490, "80 kB"),
        (999_600, "1.0 MB"),
        (2_300_000, "2.3 MB"),
        (999_960_000, "1.0 GB"),
        (10_737_418_240, "10.7 GB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    """Sizes are in kilobytes, from a megabyte on in megabytes."""
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("count", "plural", "text"),
    [(1, "", "1 try"), (2, "tries", "2 tries"), (0, "", "0 trys"), (1_200, "tries", "1,200 tries")],
)
def test_counts(count: int, plural: str, text: str) -> None:
    """One thing has the singular; other numbers have the plural that is given, or an s."""
    assert format_count(count, "try", plural) == text
