"""Callbacks: the token in the URL, and the content of the body.

The service signs nothing and sends no secret. What distinguishes its callbacks from those of
others is the URL. Each submit has its own, whose last segment is a token::

    kling-2-1~dGhpcyBpcyBvbmU~q83vEjRWeJASNFZ4kKvN7w...
    model     nonce           HMAC-SHA256 of both

The token contains the model, since a callback does not name it and a status request needs it. If
the submit is traced, its W3C trace context follows the random part of the nonce. It is signed with
the rest, so that a stranger cannot add one, and it is not secret.
"""

from __future__ import annotations

import hmac
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence

from attrs import frozen

from kling_async.errors import ContractError
from kling_async.protocol.responses import parse_snapshot
from kling_async.results import Snapshot

# All parts consist of characters that need no quoting in a URL. None contains a tilde.
_TOKEN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,99})~([A-Za-z0-9_-]{16,64})~[A-Za-z0-9_-]{32}")

# A secret may be used elsewhere, too. This keeps the signatures apart.
_PURPOSE = b"kling_async callback 1"

_MAC_BYTES = 24

# Characters of a nonce that are random, and of the trace context that may follow them.
_RANDOM = 16
_PACKED = 34

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


@frozen
class Callback:
    """A callback that was received.

    Attributes:
        snapshot: The state of the task according to the callback, which is not confirmed.
        nonce: Identifies the submit to whose URL the callback was sent.
        trusted: The inbox does not confirm such callbacks by a status request.
        relayed: Another process received the callback and passed it on.
    """

    snapshot: Snapshot
    nonce: str
    trusted: bool = False
    relayed: bool = False


def write_token(model: str, nonce: str, secret: bytes) -> str:
    """Return the token of one submit.

    Args:
        model: The model's name.
        nonce: 16 to 64 letters, digits, ``-`` or ``_``, with at least 96 random bits.
        secret: The key of the HMAC.
    """
    signed = b"\0".join((_PURPOSE, model.encode(), nonce.encode()))
    mac = urlsafe_b64encode(hmac.digest(secret, signed, "sha256")[:_MAC_BYTES]).decode()
    return f"{model}~{nonce}~{mac}"


def verify_token(token: str, secrets: Sequence[bytes]) -> tuple[str, str] | None:
    """Return the model and the nonce of a token, or None if no secret has signed it."""
    parts = _TOKEN.fullmatch(token)
    if parts is None:
        return None
    model, nonce = parts.groups()
    valid = False
    for secret in secrets:  # all, and in constant time, so that the duration reveals nothing
        valid |= hmac.compare_digest(token, write_token(model, nonce, secret))
    return (model, nonce) if valid else None


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


def parse_callback(body: bytes, model: str) -> Snapshot:
    """Return the state of a task from a callback's body, an envelope like that of a status answer.

    The envelope's ``code`` is ignored: the state of the task is in ``data``.

    Raises:
        ContractError: The body cannot be understood.
    """
    try:
        envelope = json.loads(body)
        if not isinstance(envelope, dict):
            raise ValueError("it is not a JSON object")  # noqa: TRY004, TRY301 - reported below
        return parse_snapshot(envelope.get("data"), model)
    except RecursionError:
        reason = "it is nested too deeply"
    except ValueError as error:
        reason = str(error) or "it is not JSON"
    excerpt = body[:800].decode("utf-8", "replace")
    raise ContractError(f"a callback against the contract: {reason}", body=excerpt)
