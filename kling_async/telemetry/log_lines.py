"""What the log has of each event: the level, the message, and the fields. Nothing is logged here.

No line has a key, a token, the query of a result URL, or a prompt.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import singledispatch
from typing import TYPE_CHECKING

from attrs import frozen

from kling_async import events
from kling_async._utils.text import format_size, printable
from kling_async.inputs.base import Input
from kling_async.results import TaskState

if TYPE_CHECKING:
    from kling_async.results import TaskRef

# What follows the path of a URL: the signature of a result URL, for example. A URL in a message
# ends at white space, a quotation mark or a bracket.
_QUERY = re.compile(r"(\bhttps?://[^\s?#'\"<>]*)[?#][^\s'\"<>)\]]*")
# A user and a password.
_USER = re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://)[^\s/@'\"]*@", re.IGNORECASE)
# The token of a callback URL: the model, a tilde, and the secret.
_TOKEN = re.compile(r"(?<![A-Za-z0-9])([A-Za-z0-9][A-Za-z0-9._-]{0,99})~[A-Za-z0-9._~%-]+")

# Characters. A shorter prompt is no secret, and may be a part of any word.
_SHORTEST_PROMPT = 6

# Characters of a message that are shown: it may have a URL of any length.
_LONGEST = 2_000


@frozen
class LogLine:
    """One record of the log.

    Attributes:
        level: Its level.
        text: The message.
        fields: The structured fields, by the names that they have in the record without the
            prefix ``kling_``.
        input: The input that the event has. Its prompt is logged only on request.
    """

    level: int
    text: str
    fields: Mapping[str, object] = {}
    input: Input | None = None


def prompts_of(sent: Input) -> list[str]:
    """Return the texts of an input that are logged only on request, its prompt first."""
    fields = getattr(sent, "fields", {})  # of a RawInput
    texts = [fields.get(name) or getattr(sent, name, "") for name in ("prompt", "negative_prompt")]
    return [str(text) for text in texts if text]


def describe_error(error: BaseException, sent: Input | None = None) -> str:
    """Return an error as one printable line without secrets, and without the input's prompts.

    The service may repeat a prompt in its message.
    """
    text = str(error)
    for prompt in () if sent is None else prompts_of(sent):
        if len(prompt) >= _SHORTEST_PROMPT:
            text = text.replace(prompt, "…")
    return hide_secrets(printable(f"{type(error).__name__}: {text}" if text else repr(error)))


def hide_secrets(text: str) -> str:
    """Return a message without the queries and passwords of its URLs, and without tokens."""
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return _TOKEN.sub(r"\1~…", _QUERY.sub(r"\1?…", _USER.sub(r"\1…@", shown)))


@singledispatch
def describe_event(event: object) -> LogLine | None:  # noqa: ARG001 - singledispatch needs it
    """Return the line of an event, or None if it has none.

    Abandoned tasks are logged where they are reported, whether or not there is a hook.
    """
    return None


@describe_event.register
def _(event: events.SubmitStarted) -> LogLine:
    text = f"submit {event.submit_id} of {_name(event.input)} waits for a slot"
    return LogLine(logging.DEBUG, text, _submit_fields(event), event.input)


@describe_event.register
def _(event: events.SlotAcquired) -> LogLine:
    text = f"submit {event.submit_id} has a slot after {event.waited:.3f} s"
    return LogLine(logging.DEBUG, text, _submit_fields(event) | {"slot_wait": event.waited})


@describe_event.register
def _(event: events.RequestAnswered) -> LogLine:
    answer = event.status if event.error is None else describe_error(event.error)
    if event.error is not None and event.status is not None:
        answer = f"{event.status} ({answer})"
    ms = round(event.seconds * 1000, 1)
    fields: dict[str, object] = {
        "submit": event.submit_id,
        "ref": _text(event.ref),
        "request": event.kind,
        "method": event.method,
        "path": event.path,
        "status": event.status,
        "ms": ms,
        "attempt": event.attempt,
        "permit_wait": event.waited,
        "error": None if event.error is None else type(event.error).__name__,
    }
    about = f" {event.ref.task_id}" if event.ref else ""
    text = (
        f"{event.method} {event.path}{about}: {answer} in {ms:g} ms"
        f" ({event.kind}, attempt {event.attempt}), waited {event.waited:.3f} s for a permit"
    )
    return LogLine(logging.DEBUG, text, fields)


@describe_event.register
def _(event: events.Submitted) -> LogLine:
    text = f"submitted {event.ref} ({_name(event.input)})"
    fields = _submit_fields(event) | {"ref": str(event.ref)}
    return LogLine(logging.INFO, text, fields, event.input)


@describe_event.register
def _(event: events.SubmitFailed) -> LogLine:
    error, charged = event.error, event.error.may_have_charged
    text = f"a submit of {_name(event.input)} failed: {describe_error(error)}"
    if charged:
        text += "; a task may have been started and charged"
    fields = {"error": type(error).__name__, "may_have_charged": charged}
    level = logging.WARNING if charged else logging.INFO
    return LogLine(level, text, _submit_fields(event) | fields, event.input)


@describe_event.register
def _(event: events.SubmitWithdrawn) -> LogLine:
    text = f"a submit of {_name(event.input)} was given up; nothing was charged"
    return LogLine(logging.INFO, text, _submit_fields(event), event.input)


@describe_event.register
def _(event: events.TaskAttached) -> LogLine:
    return LogLine(logging.INFO, f"attached {event.ref}", {"ref": str(event.ref)}, event.input)


@describe_event.register
def _(event: events.Polled) -> LogLine:
    ref, state = event.snapshot.ref, printable(event.snapshot.vendor_state)
    return LogLine(logging.DEBUG, f"{ref} is {state}", {"ref": str(ref), "state": state})


@describe_event.register
def _(event: events.CalledBack) -> LogLine:
    ref, state = event.snapshot.ref, printable(event.snapshot.vendor_state)
    fields = {"ref": str(ref), "state": state}
    return LogLine(logging.DEBUG, f"a callback says that {ref} is {state}", fields)


@describe_event.register
def _(event: events.CallbackReceived) -> LogLine:
    ref, state = event.snapshot.ref, printable(event.snapshot.vendor_state)
    fields = {"ref": str(ref), "state": state, "outcome": event.outcome}
    return LogLine(logging.DEBUG, f"received a callback of {ref}: {event.outcome}", fields)


@describe_event.register
def _(event: events.TaskEnded) -> LogLine:
    snapshot = event.snapshot
    fields: dict[str, object] = {"ref": str(snapshot.ref), "state": str(snapshot.state)}
    if snapshot.state is TaskState.SUCCESS:
        return LogLine(logging.INFO, f"finished {snapshot.ref}", fields)
    reason, code = _text(snapshot.reason), printable(snapshot.fail_code)
    why = ", ".join(filter(None, (reason, code)))
    text = f"failed {snapshot.ref}" + (f" ({why})" if why else "")
    return LogLine(logging.INFO, text, fields | {"reason": reason, "fail_code": code or None})


@describe_event.register
def _(event: events.TaskDropped) -> LogLine:
    why = {
        "not_found": "the service does not know it",
        "presumed_ended": "it is presumed to have ended",
    }[event.reason]
    fields = {"ref": str(event.ref), "reason": event.reason}
    return LogLine(logging.INFO, f"{event.ref} is not followed any more: {why}", fields)


@describe_event.register
def _(event: events.TaskLimitChanged) -> LogLine:
    text = f"{event.tasks} of {event.limit} tasks may run at one time"
    return LogLine(logging.INFO, text, {"tasks": event.tasks, "limit": event.limit})


@describe_event.register
def _(event: events.DownloadEnded) -> LogLine:
    fields: dict[str, object] = {
        "ref": str(event.ref),
        "seconds": event.seconds,
        "bytes": event.received_bytes,
        "files": [file.name for file in event.files],
    }
    if event.error is not None:
        text = f"the download of {event.ref} failed: {describe_error(event.error)}"
        return LogLine(logging.INFO, text, fields | {"error": type(event.error).__name__})
    names = ", ".join(file.name for file in event.files)
    size = format_size(event.received_bytes)
    text = f"downloaded {event.ref} in {event.seconds:.1f} s: {names} ({size} received)"
    return LogLine(logging.INFO, text, fields)


@describe_event.register
def _(event: events.Retrying) -> LogLine:
    about = f" of {event.ref}" if event.ref else ""
    text = (
        f"retrying the {event.what} request{about} in {event.delay:.1f} s, after attempt"
        f" {event.attempt}: {describe_error(event.error)}"
    )
    fields: dict[str, object] = {
        "submit": event.submit_id,
        "ref": _text(event.ref),
        "request": event.what,
        "attempt": event.attempt,
        "delay": event.delay,
        "error": type(event.error).__name__,
    }
    return LogLine(logging.INFO, text, fields)


@describe_event.register
def _(event: events.Paused) -> LogLine:
    text = f"paused all requests for {event.delay:.1f} s: the service answered 429"
    return LogLine(logging.INFO, text, {"delay": event.delay})


def _name(sent: Input) -> str:
    return f"{sent.model} {sent.mode}".rstrip()


def _text(value: TaskRef | object | None) -> str | None:
    return None if value is None else str(value)


def _submit_fields(
    event: events.SubmitStarted
    | events.SlotAcquired
    | events.Submitted
    | events.SubmitFailed
    | events.SubmitWithdrawn,
) -> dict[str, object]:
    sent = event.input
    return {"submit": event.submit_id, "model": sent.model, "mode": sent.mode or None}
