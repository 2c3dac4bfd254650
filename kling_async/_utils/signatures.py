"""URLs that an object store has signed: with one, anyone can fetch the object until it expires."""

from __future__ import annotations

import re

# The parameters that make such a URL valid, also in a URL that was quoted once more.
_SIGNATURE = re.compile(
    r"((?:(?<![a-z])|(?<=%3f))(?:x-(?:amz|goog)-(?:signature|security-token)|signature|sig)(?:=|%3d))"
    r"[^&\s\"'<>\\]+",
    re.IGNORECASE,
)


def redact_signatures(text: str) -> str:
    """Replace the signatures in the URLs of a text: without one, such a URL is of no use."""
    return _SIGNATURE.sub(r"\1…", text)
