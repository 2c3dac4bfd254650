from __future__ import annotations

import pytest

from kling_async.download.content import not_media

MP4 = b"\0\0\0\x18ftypmp42"


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "HTML or XML"),
        (b"\n  <html>", "HTML or XML"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>", "HTML or XML"),
        ("<html>".encode("utf-16"), "HTML or XML"),
        ("\ufeff<html>".encode("utf-16-be"), "HTML or XML"),
        (b"<Error><Code>AccessDenied</Code></Error>", "HTML or XML"),
        (b"<!-- a comment -->", "HTML or XML"),
        (b'{"code": 500}', "JSON"),
        (b"{\n  }", "JSON"),
        (b"{", "JSON"),
        (b'[{"a": 1}]', "JSON"),
        (b"[1, 2]", "JSON"),
        (b"[]", "JSON"),
    ],
)
@pytest.mark.parametrize("kind", ["video/mp4", "application/octet-stream", "", "x"])
def test_pages_and_messages(head: bytes, found: str, kind: str) -> None:
    """What begins as a page or a message is none, whatever its type says."""
    assert not_media(kind, head) == found


@pytest.mark.parametrize(
    "kind",
    [
        "text/html",
        "Text/HTML; charset=utf-8",
        "text/plain",
        "text/xml",
        "application/json",
        "application/problem+json",
        "application/xml",
        "application/xhtml+xml",
    ],
)
def test_types_of_text(kind: str) -> None:
    """What is said to be text is no video, unless it begins as one."""
    assert not_media(kind, b"Access denied") == kind.partition(";")[0].lower()
    for head in (MP4, b"\x1aE\xdf\xa3", b"\x89PNG\r\n", b"GIF89a", b"RIFF\0\0\0\0WEBP"):
        assert not_media(kind, head) is None


@pytest.mark.parametrize("kind", ["video/mp4", "application/octet-stream", "", "x", "binary;"])
@pytest.mark.parametrize("head", [MP4, b"v", b"mine", b"<\0\0\0", b"[\0\0\0", b"{\xff", bytes(9)])
def test_everything_else(kind: str, head: bytes) -> None:
    """Nothing else is refused: formats and types of videos are not known in advance."""
    assert not_media(kind, head) is None
