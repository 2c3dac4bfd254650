"""A callback as one line of text for other processes: its content, without its token.

Anyone with write access to the backend can write a line. So it is validated by the same function
as a callback's body.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from typing import TYPE_CHECKING

from kling_async.errors import ContractError
from kling_async.protocol import callbacks

if TYPE_CHECKING:
    from kling_async.results import Snapshot

MAX_LENGTH = 65_536
"""Characters of a line, all of them ASCII. A callback of the service takes a few hundred."""

_ID_BYTES = 12

# The id, the model, the nonce, and a body as in the contract.
_LINE = re.compile(
    r"([0-9a-f]{24}) ([A-Za-z0-9][A-Za-z0-9._-]{0,99}) ([A-Za-z0-9_-]{16,64}) (\{.*\})"
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def format_line(callback: callbacks.Callback) -> str:
    """Format a callback as a line.

    The line contains no token, so its reader cannot send callbacks.
    """
    snapshot = callback.snapshot
    data = {
        "taskId": snapshot.ref.task_id,
        "state": snapshot.vendor_state,
        "createTime": _milliseconds(snapshot.created_at),
        "completeTime": _milliseconds(snapshot.completed_at),
        "costTime": snapshot.cost_time and snapshot.cost_time * 1000,
        "resultJson": {"resultUrls": snapshot.result_urls},
        "failCode": snapshot.fail_code,
        "failMsg": snapshot.fail_message,
    }
    body = json.dumps({"data": data}, separators=(",", ":"))  # ASCII, which every backend stores
    return f"{token_hex(_ID_BYTES)} {snapshot.ref.model} {callback.nonce} {body}"


def parse_line(line: str) -> tuple[str, Snapshot, str] | None:
    """Return the id, the snapshot and the nonce of a line; None if it is invalid."""
    match = _LINE.fullmatch(line) if len(line) <= MAX_LENGTH else None
    if match is None:
        return None
    line_id, model, nonce, body = match.groups()
    try:
        return line_id, callbacks.parse_callback(body.encode("ascii"), model), nonce
    except (ContractError, UnicodeError):
        return None


def _milliseconds(moment: datetime | None) -> float | None:
    return None if moment is None else (moment - _EPOCH) / timedelta(milliseconds=1)
