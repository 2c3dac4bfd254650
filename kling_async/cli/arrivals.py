"""What arrived where callbacks are expected, and how that is told: as columns or as JSON.

Nothing here does input or output. Whatever came from outside is made printable, and tokens of
ours are shortened: whoever has a whole one can have a task's status asked.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from datetime import datetime
from typing import TYPE_CHECKING

from attrs import frozen

from kling_async.cli.output import printable
from kling_async.protocol import callbacks
from kling_async.results import Snapshot, TaskState

if TYPE_CHECKING:
    from kling_async.errors import ContractError

# A token, or what is left of one: the model, a tilde, and what nobody else should see.
_TOKEN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,99})~([A-Za-z0-9_-]{0,4})[A-Za-z0-9._~%-]*")

# What stands for a model that the path does not name; it is not shown.
_UNKNOWN = "unknown"

_LONGEST = 1_000  # characters of one column
_EXCERPT = 60
_REMEMBERED = 10_000


@frozen
class Arrival:
    """One request, or what was none.

    Attributes:
        at: When it was understood, or given up.
        method: The HTTP method, if it had one.
        path: The path of the URL, tokens and all.
        size_bytes: How much of a body came, or was announced.
        status: The HTTP status of our answer; None: it got none.
        snapshot: What the callback said.
        problem: Why it is no callback.
        times: How often this task has been called back, with this time.
    """

    at: datetime
    method: str = ""
    path: str = ""
    size_bytes: int = 0
    status: int | None = None
    snapshot: Snapshot | None = None
    problem: str = ""
    times: int = 1


class Seen:
    """Counts the callbacks of each of the last ten thousand tasks."""

    def __init__(self, remembered: int = _REMEMBERED) -> None:
        self._remembered = remembered
        self._times: OrderedDict[str, int] = OrderedDict()

    def count(self, task_id: str) -> int:
        """Count a callback of a task; say how many that makes."""
        times = self._times[task_id] = self._times.pop(task_id, 0) + 1
        if len(self._times) > self._remembered:
            self._times.popitem(last=False)
        return times


def read(path: str, body: bytes) -> Snapshot:
    """Read a callback; its model is taken from the path, if one of our tokens is in it.

    Raises:
        ContractError: It is none.
    """
    return callbacks.parse_callback(body, _model(path) or _UNKNOWN)


def problem_of(body: bytes, error: ContractError) -> str:
    """Say why a body is no callback: what `read` has raised, or something plainer."""
    if not body.strip():
        return "the body is empty"
    begins = f"; it begins {body[:_EXCERPT].decode('utf-8', 'replace')!r}"
    try:
        json.loads(body)
    except RecursionError:
        return f"the body is nested too deeply{begins}"
    except ValueError as why:
        return f"the body is no JSON: {why}{begins}"
    return f"{error}{begins}"


def shortened(text: str) -> str:
    """Give a text with our tokens cut down to the model and a few letters."""
    return _TOKEN.sub(r"\1~\2…", text)


def columns(arrival: Arrival) -> tuple[str, ...]:
    """Tell an arrival in words: what came (a task), how it stands, what it holds, and the rest."""
    snapshot = arrival.snapshot
    if snapshot is None:
        told = ("-", "no callback", shortened(arrival.problem))
    else:
        told = (snapshot.ref.task_id, snapshot.vendor_state, _said(snapshot))
    answer = "not answered" if arrival.status is None else f"answered {arrival.status}"
    rest = [f"{arrival.size_bytes} bytes"]
    if arrival.method:
        rest.append(f"{arrival.method} {shortened(arrival.path)}")
    rest.append(answer)
    if arrival.times > 1:
        rest.append(f"{arrival.times} times so far")
    return tuple(_cut(printable(text)) for text in (*told, ", ".join(rest)))


def fields(arrival: Arrival) -> dict[str, object]:
    """Tell an arrival as plain values for JSON."""
    told: dict[str, object] = {
        "at": arrival.at.isoformat(),
        "method": arrival.method,
        "path": shortened(arrival.path),
        "size_bytes": arrival.size_bytes,
        "answered": arrival.status,
        "problem": shortened(arrival.problem) or None,
    }
    if arrival.snapshot is None:
        return told
    said = arrival.snapshot.to_dict()
    if _model(arrival.path) is None:
        said["ref"] = None
    task_id = arrival.snapshot.ref.task_id
    return {**told, "task_id": task_id, **said, "times": arrival.times}


def _model(path: str) -> str | None:
    token = _TOKEN.fullmatch(path.rpartition("/")[2])
    return token and token[1]


def _said(snapshot: Snapshot) -> str:
    if snapshot.state is TaskState.SUCCESS:
        return " ".join(snapshot.result_urls) or "no result URLs"
    if snapshot.state is TaskState.FAILED:
        return (
            ": ".join(filter(None, (snapshot.fail_code, snapshot.fail_message))) or "no fail code"
        )
    return "has not ended"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
