"""Text for people: durations, and texts without the API key."""

from __future__ import annotations

import pytest

from kling_async._utils.text import format_duration, redact


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
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
