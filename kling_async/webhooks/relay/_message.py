"""A callback as one line of text, for other processes: what it said, and never its token.

A line that an engine hands out may have been written by anybody. It is read as strictly as a
callback's body, by the same reader.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from secrets import token_hex

from attrs import frozen

from kling_async.errors import ContractError
from kling_async.protocol import callbacks
from kling_async.results import Snapshot

LARGEST = 65_536
"""Characters of a line, all of them ASCII. One of the service's callbacks takes a few hundred."""

_ID_BYTES = 12

# Its id, the model, the nonce, and a body after the contract.
_LINE = re.compile(
    r"([0-9a-f]{24}) ([A-Za-z0-9][A-Za-z0-9._-]{0,99}) ([A-Za-z0-9_-]{16,64}) (\{.*\})"
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


@frozen
class Message:
    """What a line says.

    Attributes:
        id: Another one for each; one that comes twice is the same.
        snapshot: How somebody says that the task stands.
        nonce: Which submit's URL it is said to have come to.
    """

    id: str
    snapshot: Snapshot
    nonce: str


def write(callback: callbacks.Callback) -> str:
    """Write a callback as a line.

    Without what proves a URL to be ours: who reads it cannot post callbacks.
    """
    said = callback.snapshot
    data = {
        "taskId": said.ref.task_id,
        "state": said.vendor_state,
        "createTime": _milliseconds(said.created_at),
        "completeTime": _milliseconds(said.completed_at),
        "costTime": said.cost_time and said.cost_time * 1000,
        "resultJson": {"resultUrls": said.result_urls},
        "failCode": said.fail_code,
        "failMsg": said.fail_message,
    }
    body = json.dumps({"data": data}, separators=(",", ":"))  # ASCII, which any engine can keep
    return f"{token_hex(_ID_BYTES)} {said.ref.model} {callback.nonce} {body}"


def read(line: str) -> Message | None:
    """Read a line; None if it is none of ours, or says nothing about a task."""
    parts = _LINE.fullmatch(line) if len(line) <= LARGEST else None
    if parts is None:
        return None
    named, model, nonce, body = parts.groups()
    try:
        return Message(named, callbacks.parse_callback(body.encode("ascii"), model), nonce)
    except (ContractError, UnicodeError):
        return None


def _milliseconds(moment: datetime | None) -> float | None:
    return None if moment is None else (moment - _EPOCH) / _MILLISECOND
