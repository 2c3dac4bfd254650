"""Callbacks: the token in the URL that only we can have written, and what a body says.

The service signs nothing and names no secret, so all that tells its callback from a stranger's
is the URL (the contract). Each submit has one of its own. Its last segment is a token::

    kling-2-1~dGhpcyBpcyBvbmU~q83vEjRWeJASNFZ4kKvN7w...
    model     nonce           HMAC-SHA256 over both

The model stands in it since a callback does not name it, and no status can be asked without.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Sequence

from attrs import frozen

from kling_async.errors import ContractError, InputError
from kling_async.protocol.converter import read_json
from kling_async.protocol.responses import snapshot, task_data
from kling_async.results import Snapshot, TaskRef

# The parts are of letters that a URL carries as they are; the tilde is in none of them.
_TOKEN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,99})~([A-Za-z0-9_-]{16,64})~([A-Za-z0-9_-]{32})")

# What a secret signs here means nothing anywhere else, should it be used there, too.
_PURPOSE = b"kling_async callback 1"

_MAC_BYTES = 24


@frozen
class Callback:
    """What one callback said.

    Attributes:
        snapshot: How it says that the task stands. Nobody has confirmed that.
        nonce: Which submit's URL it came to.
        trusted: The inbox takes such a callback at its word.
        relayed: It came to another process, which has passed it on.
    """

    snapshot: Snapshot
    nonce: str
    trusted: bool = False
    relayed: bool = False


def write_token(model: str, nonce: str, secret: bytes) -> str:
    """Write the token of one submit.

    Args:
        model: The model's name.
        nonce: 16 to 64 letters, digits, ``-`` or ``_``, of at least 96 random bits.
        secret: What proves that it is ours.
    """
    return f"{model}~{nonce}~{_mac(model, nonce, secret)}"


def read_token(token: str, secrets: Sequence[bytes]) -> tuple[str, str] | None:
    """Return the model and the nonce of a token, or None if none of the secrets wrote it."""
    parts = _TOKEN.fullmatch(token)
    if parts is None:
        return None
    model, nonce, mac = parts.groups()
    # Each is compared, and each in constant time: how long it takes tells nothing of any.
    ours = [hmac.compare_digest(mac, _mac(model, nonce, secret)) for secret in secrets]
    return (model, nonce) if any(ours) else None


def read(body: bytes, model: str) -> Snapshot:
    """Read a callback's body: the same envelope and ``data`` as a status answer.

    Its ``code`` is not looked at: what became of the task stands in ``data``.

    Raises:
        ContractError: It cannot be understood.
    """
    try:
        envelope = read_json(body)
        if not isinstance(envelope, dict):
            raise ValueError("it is not a JSON object")  # noqa: TRY004, TRY301 - said below
        data = task_data(envelope.get("data"))
        return snapshot(TaskRef(model, data.task_id), data)
    except InputError:
        why = "it names no task"
    except RecursionError:
        why = "it is nested too deeply"
    except ValueError as error:
        why = str(error) or "it is not JSON"
    told = body[:800].decode("utf-8", "replace")
    raise ContractError(f"a callback against the contract: {why}", body=told)


def _mac(model: str, nonce: str, secret: bytes) -> str:
    signed = b"\0".join((_PURPOSE, model.encode(), nonce.encode()))
    return urlsafe_b64encode(hmac.digest(secret, signed, "sha256")[:_MAC_BYTES]).decode()
