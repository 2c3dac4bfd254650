"""What ``listen`` prints of a request, as columns or as JSON. Nothing here does I/O.

Received text is made printable. Tokens are shortened, because the holder of a whole one can cause
status requests.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING

from attrs import frozen

from kling_async._utils.text import format_size, printable
from kling_async.protocol import callbacks
from kling_async.results import Snapshot, TaskState

if TYPE_CHECKING:
    from kling_async.errors import ContractError

# A token, or the rest of one: the model, a tilde, and the secret.
_TOKEN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,99})~([A-Za-z0-9_-]{0,4})[A-Za-z0-9._~%-]*")

_MAX_COLUMN = 1_000  # characters
_EXCERPT = 60


@frozen
class LogEntry:
    """A request, or bytes that are not one."""

    at: datetime
    method: str = ""
    path: str = ""
    size_bytes: int = 0  # of the body, as read or as announced
    status: int | None = None  # of the response, if there was one
    snapshot: Snapshot | None = None  # the content of a callback
    problem: str = ""  # why it is not a callback
    times: int = 1  # callbacks of this task so far


def read_callback(path: str, body: bytes) -> Snapshot:
    """Return the content of a callback, or raise `ContractError`."""
    return callbacks.parse_callback(body, _model_in(path) or "unknown")


def describe_problem(body: bytes, error: ContractError) -> str:
    """Return why a body is not a callback: the error, or a simpler reason."""
    if not body.strip():
        return "the body is empty"
    start = f"; it begins {body[:_EXCERPT].decode('utf-8', 'replace')!r}"
    try:
        json.loads(body)
    except RecursionError:
        return f"the body is nested too deeply{start}"
    except ValueError as reason:
        return f"the body is not JSON: {reason}{start}"
    return f"{error}{start}"


def shorten_tokens(text: str) -> str:
    """Return a text in which tokens are cut to the model and four characters."""
    return _TOKEN.sub(r"\1~\2…", text)


def entry_columns(entry: LogEntry) -> tuple[str, ...]:
    """Return a request for a reader: the task, its state, its URLs or its error, and the rest."""
    snapshot = entry.snapshot
    if snapshot is None:
        columns = ("-", "no callback", shorten_tokens(entry.problem))
    else:
        columns = (snapshot.ref.task_id, snapshot.vendor_state, _describe_end(snapshot))
    rest = [format_size(entry.size_bytes)]
    if entry.method:
        rest.append(f"{entry.method} {shorten_tokens(entry.path)}")
    rest.append("not answered" if entry.status is None else f"answered {entry.status}")
    if entry.times > 1:
        rest.append(f"{entry.times} times so far")
    return tuple(_limit_length(printable(text)) for text in (*columns, ", ".join(rest)))


def entry_fields(entry: LogEntry) -> dict[str, object]:
    """Return a request as plain values for JSON."""
    fields: dict[str, object] = {
        "at": entry.at.isoformat(),
        "method": entry.method,
        "path": shorten_tokens(entry.path),
        "size_bytes": entry.size_bytes,
        "answered": entry.status,
        "problem": shorten_tokens(entry.problem) or None,
    }
    if entry.snapshot is None:
        return fields
    fields |= {"task_id": entry.snapshot.ref.task_id, **entry.snapshot.to_dict()}
    if _model_in(entry.path) is None:
        fields["ref"] = None
    return {**fields, "times": entry.times}


def _model_in(path: str) -> str | None:
    token = _TOKEN.fullmatch(path.rpartition("/")[2])
    return token and token[1]


def _describe_end(snapshot: Snapshot) -> str:
    if snapshot.state is TaskState.SUCCESS:
        return " ".join(snapshot.result_urls) or "no result URLs"
    if snapshot.state is TaskState.FAILED:
        reason = ": ".join(filter(None, (snapshot.fail_code, snapshot.fail_message)))
        return reason or "no fail code"
    return "has not ended"


def _limit_length(text: str) -> str:
    return text if len(text) <= _MAX_COLUMN else f"{text[: _MAX_COLUMN - 1]}…"
