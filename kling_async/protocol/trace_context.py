"""The trace context of a submit, as its callback carries it: behind the random part of the nonce.

The token of a callback URL is signed, so that a stranger cannot add a context. It is not secret.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode

# Characters of a nonce that are random, and of the context that may follow them.
_RANDOM = 16
_PACKED = 34

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


def pack_traceparent(traceparent: str) -> str:
    """Return a W3C trace context as characters to be appended to a nonce; "" if it is invalid."""
    if (match := _TRACEPARENT.fullmatch(traceparent)) is None:
        return ""
    return urlsafe_b64encode(bytes.fromhex("".join(match.groups()))).decode().rstrip("=")


def unpack_traceparent(nonce: str) -> str:
    """Return the trace context that a nonce carries, or "" if it carries no trace context."""
    if len(nonce) != _RANDOM + _PACKED:
        return ""
    text = urlsafe_b64decode(f"{nonce[_RANDOM:]}==").hex()
    return f"00-{text[:32]}-{text[32:48]}-{text[48:]}"
