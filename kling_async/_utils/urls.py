"""URLs: the check of web URLs, and what of a URL may be shown."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

_LOOPBACK = ("localhost", "127.0.0.1", "::1")

# The parameters that make a URL of an object store valid, also in a URL that was quoted once more.
_SIGNATURE = (
    r"((?:(?<![a-z])|(?<=%3f))(?:x-(?:amz|goog)-(?:signature|security-token)|signature|sig)(?:=|%3d))"
    r"[^&\s\"'<>\\]+"
)


def split_web_url(url: object) -> SplitResult | None:
    """Split an absolute http or https URL; return None if ``url`` is anything else."""
    # urlsplit removes line breaks and tabs, so what it accepts is not what would be sent.
    if not isinstance(url, str) or not url.isprintable() or " " in url:
        return None
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a malformed port or IPv6 address
        return None
    return parts if valid else None


def is_loopback(host: str) -> bool:
    """Return whether a host name can only mean this machine."""
    return host in _LOOPBACK or (host.startswith("127.") and host.replace(".", "").isdigit())


def is_unencrypted(url: str) -> bool:
    """Return whether requests to a valid web URL can be read on their way to another machine."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def redact_url(url: str) -> str:
    """Return the URL of a server without user, password and query, to be shown in messages."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
        if "@" in f"{parts.path}{parts.query}{parts.fragment}":
            raise ValueError  # noqa: TRY301 - what precedes it may belong to a password
    except ValueError:
        return f"{url.partition('://')[0]}://…"
    return f"{parts.scheme}://{host}{port}{parts.path}"


def redact_signatures(text: str) -> str:
    """Replace the signatures of URLs in a text: with a signed URL, anyone can fetch its object."""
    # Compiled when it is needed first, since that takes a millisecond.
    return re.sub(_SIGNATURE, r"\1…", text, flags=re.IGNORECASE)
