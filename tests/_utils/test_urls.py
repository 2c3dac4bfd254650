"""The check of web URLs, and what of a URL may be shown."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from kling_async._utils.text import one_line, redact
from kling_async._utils.urls import (
    is_loopback,
    is_unencrypted,
    redact_signatures,
    redact_url,
    split_web_url,
)


@pytest.mark.parametrize(
    "url",
    [
        "http://a",
        "https://example.com:8443/x?y=1#z",
        "HTTPS://EXAMPLE.COM",
        "http://[::1]:1/",
        "http://a:65535",
    ],
)
def test_web_urls(url: str) -> None:
    """An absolute http or https URL is split into its parts."""
    parts = split_web_url(url)
    assert parts is not None
    assert parts.hostname


@pytest.mark.parametrize(
    "url",
    [
        None,
        b"http://a",
        "",
        "a.example/x",
        "ftp://a",
        "http://",
        "http://?x",
        "http://a b",
        "http://a\n",
        "http://a:0",
        "http://a:x",
        "http://a:65536",
        "http://[::1",
    ],
)
def test_other_urls(url: object) -> None:
    """Anything else is None, also of another type."""
    assert split_web_url(url) is None


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.255.255.254", True),
        ("::1", True),
        ("", False),
        ("127", False),
        ("1270.0.0.1", False),
        ("127.0.0.1.com", False),
        ("localhost.com", False),
        ("192.168.0.1", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:  # noqa: FBT001 - a fact from a table
    """Only the names that always mean this machine are loopback."""
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("url", "unencrypted"),
    [
        ("https://a", False),
        ("http://127.0.0.1:1", False),
        ("http://[::1]", False),
        ("http://a", True),
        ("HTTP://127.example.com", True),
    ],
)
def test_unencrypted(url: str, unencrypted: bool) -> None:  # noqa: FBT001 - a fact from a table
    """Plain http can be read, unless it does not leave this machine."""
    assert is_unencrypted(url) is unencrypted


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://me:word@cache:6379/1?a=word", "redis://cache:6379/1"),
        ("postgresql://me:word@[::1]/db", "postgresql://[::1]/db"),
        ("redis://:word@cache:port/1", "redis://…"),
        ("postgresql:///db", "postgresql:///db"),
        ("redis://me:12/word@cache:6379", "redis://…"),
        ("redis://me:12?word@cache", "redis://…"),
        ("redis://me:12#word@cache", "redis://…"),
        ("redis://:wo/rd@cache", "redis://…"),
    ],
)
def test_redacted_urls(url: str, shown: str) -> None:
    """A URL is shown without anything that may be secret."""
    assert redact_url(url) == shown


SIGNED = [
    "https://bucket.s3.example/a.jpg?X-Amz-Expires=60&X-Amz-Signature=SECRET0123&x=1",
    "https://bucket.s3.example/a.jpg?X-Amz-Security-Token=SECRET%2F1&X-Amz-Signature=SECRET",
    "https://storage.example/a.jpg?X-Goog-Signature=SECRET&X-Goog-Date=2026",
    "https://a.blob.example/c/a.jpg?se=2026-11-28&sig=SECRET%3D",
    "https://cdn.example/a.jpg?Signature=SECRET&Key-Pair-Id=1",
]


@pytest.mark.parametrize("url", SIGNED)
def test_signatures_are_not_shown(url: str) -> None:
    """The signature of a URL is replaced, also if the URL is quoted, escaped or in a sentence."""
    for text in (
        f"cannot fetch {url}, HTTP 403",
        f"<a href='{url.replace('&', '&amp;')}'>",
        json.dumps({"error": url}).replace("&", "\\u0026"),
        f"/proxy?url={quote(url, safe='')}",
    ):
        shown = redact_signatures(text)
        assert "SECRET" not in shown
        assert "…" in shown
        assert shown[:10] == text[:10]
    assert "SECRET" not in redact(url, "")
    assert "SECRET" not in one_line(url, "key-of-the-user")


@pytest.mark.parametrize("text", ["design=1", "?a=b&assigned=x", "sign here", "signature: mine"])
def test_other_texts_stay(text: str) -> None:
    """Other texts stay as they are."""
    assert redact_signatures(text) == text
