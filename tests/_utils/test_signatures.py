from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from kling_async._utils.signatures import redact_signatures
from kling_async._utils.text import one_line, redact

URLS = [
    "https://bucket.s3.example/a.jpg?X-Amz-Expires=60&X-Amz-Signature=SECRET0123&x=1",
    "https://bucket.s3.example/a.jpg?X-Amz-Security-Token=SECRET%2F1&X-Amz-Signature=SECRET",
    "https://storage.example/a.jpg?X-Goog-Signature=SECRET&X-Goog-Date=2026",
    "https://a.blob.example/c/a.jpg?se=2026-11-28&sig=SECRET%3D",
    "https://cdn.example/a.jpg?Signature=SECRET&Key-Pair-Id=1",
]


@pytest.mark.parametrize("url", URLS)
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
