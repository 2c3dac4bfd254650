"""Texts without secrets, for logs and spans."""

from __future__ import annotations

import re

# What follows the path of a URL: the signature of a result URL, for example. A URL in a message
# ends at white space, a quotation mark or a bracket.
_QUERY = re.compile(r"(\bhttps?://[^\s?#'\"<>]*)[?#][^\s'\"<>)\]]*")
# A user and a password.
_USER = re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://)[^\s/@'\"]*@", re.IGNORECASE)
# The token of a callback URL: the model, a tilde, and the secret.
_TOKEN = re.compile(r"(?<![A-Za-z0-9])([A-Za-z0-9][A-Za-z0-9._-]{0,99})~[A-Za-z0-9._~%-]+")

# Characters of a message that are shown: it may have a URL of any length.
_LONGEST = 2_000


def hide_secrets(text: str) -> str:
    """Return a message without the queries and passwords of its URLs, and without tokens."""
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return _TOKEN.sub(r"\1~…", _QUERY.sub(r"\1?…", _USER.sub(r"\1…@", shown)))
