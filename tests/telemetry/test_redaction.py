from __future__ import annotations

import pytest

from kling_async.protocol.callbacks import write_token
from kling_async.telemetry.redaction import hide_secrets

TOKEN = write_token("kling-2-1", "n" * 16, b"a secret of the tests")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://host/a.mp4?X-Sig=abc&b=1 was not", "https://host/a.mp4?… was not"),
        ("'https://host/a.mp4?sig=abc' (403)", "'https://host/a.mp4?…' (403)"),
        ("(https://host/a.mp4#part)", "(https://host/a.mp4?…)"),
        ("redis://me:pass@cache:6379/0 is gone", "redis://…@cache:6379/0 is gone"),
        ("http://me:p?ss@host/", "http://…@host/"),
        (f"POST https://host/kling/{TOKEN}", "POST https://host/kling/kling-2-1~…"),
        (f"/kling/{TOKEN}: 404", "/kling/kling-2-1~…: 404"),
        ("what? a task, about ~5 s", "what? a task, about ~5 s"),
    ],
)
def test_hide_secrets(text: str, expected: str) -> None:
    """A message has no signature of a URL, no password and no token of a callback."""
    assert hide_secrets(text) == expected


def test_a_long_message() -> None:
    """A message has at most 2,000 characters, and no content makes it slow to read."""
    for text in ("a" * 10**6, "a.b-" * 10**5, "http://" * 10**5, "a~" * 10**5, "x://y" * 10**5):
        assert len(hide_secrets(text)) <= 2_001
