"""The check of web URLs, and what of a URL may be shown."""

from __future__ import annotations

import pytest

from kling_async._utils.urls import is_loopback, is_unencrypted, redact_url, split_web_url


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
