"""The meaning of a successful response, and of the data of a callback.

A response is successful if both the HTTP status and the envelope's ``code`` are. Parsing is
tolerant: a field may be missing or null, times that make no sense are ignored, and unknown states
count as running. A value that cannot have the meaning of its field raises a
:class:`ContractError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from attrs import frozen
from cattrs import Converter
from cattrs.gen import make_dict_structure_fn, override

from kling_async._utils.numbers import is_number
from kling_async._utils.text import one_line
from kling_async._utils.urls import split_web_url
from kling_async.errors import BODY_EXCERPT, ContractError, InputError, TaskFailedError
from kling_async.protocol.rejections import check_envelope, contract_error
from kling_async.protocol.verdicts import Verdict
from kling_async.results import FailReason, Result, Snapshot, TaskRef, TaskState

if TYPE_CHECKING:
    from kling_async.protocol.requests import Request, Response

_SUCCESS = 200
_STATES = {state.value: state for state in TaskState}

# The first and the last moment of the calendar, in seconds from the epoch.
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST = -62_135_596_800
_LAST = 253_402_300_799


def parse_submit(request: Request, response: Response, model: str, now: datetime) -> TaskRef:
    """Return the reference of the task that a submit has started.

    Raises:
        APIError: The service rejected the submit.
        ContractError: The response has no task id. A task may have been started and charged.
    """
    data = _parse_envelope(request, response, now)
    task_id = data.get("taskId") if isinstance(data, dict) else None
    if isinstance(task_id, int) and not isinstance(task_id, bool):
        task_id = str(task_id)
    try:
        return TaskRef(model, task_id if isinstance(task_id, str) else "")
    except InputError:
        raise contract_error(request, response, "it names no task") from None


def parse_status(request: Request, response: Response, ref: TaskRef, now: datetime) -> Snapshot:
    """Return the state of a task.

    Raises:
        APIError: The service rejected the request.
        ContractError: The response cannot be understood.
    """
    data = _parse_envelope(request, response, now)
    try:
        return parse_snapshot(data, ref.model, ref=ref, secret=response.secret)
    except ValueError as error:
        raise contract_error(request, response, str(error)) from None


def parse_balance(request: Request, response: Response, now: datetime) -> float:
    """Return the balance in US dollars.

    Raises:
        APIError: The service rejected the request.
        ContractError: The response has no number.
    """
    data = _parse_envelope(request, response, now)
    if is_number(data):
        return float(data)
    raise contract_error(request, response, "its data is not a number")


def parse_snapshot(
    data: object, model: str, *, ref: TaskRef | None = None, secret: str = ""
) -> Snapshot:
    """Return the state of a task from the ``data`` of a status answer or callback.

    Args:
        data: The ``data``.
        model: The model of the task.
        ref: The task that the status was requested of; otherwise ``data`` must name the task.
        secret: The API key, which is not shown.

    Raises:
        ValueError: The data cannot be understood.
    """
    if not isinstance(data, dict):
        raise ValueError("its data is not an object")  # noqa: TRY004 - malformed data
    read = structure_status(data, StatusData)
    if not read.state:
        raise ValueError("it names no state")
    if ref is None:
        try:
            ref = TaskRef(model, read.task_id)
        except InputError:
            raise ValueError("it names no task") from None
    if read.task_id not in ("", ref.task_id):
        raise ValueError("it is about another task")
    state, urls = _STATES.get(read.state, TaskState.PROCESSING), read.result_urls
    if state is not TaskState.SUCCESS:
        urls = ()
    for url in urls:
        if split_web_url(url.replace(" ", "%20")) is None:  # spaces are quoted for the download
            raise ValueError("a result URL is not an absolute http(s) URL")
    created, completed, reason = read.created, read.completed, None
    if state is TaskState.FAILED:
        from kling_async.protocol.failures import reason_for

        reason = reason_for(read.fail_code)
    return Snapshot(
        ref=ref,
        state=state,
        vendor_state=read.state if read.state in _STATES else one_line(read.state, secret),
        created_at=None if created is None else _EPOCH + timedelta(seconds=created),
        completed_at=None if completed is None else _EPOCH + timedelta(seconds=completed),
        cost_time=read.cost_time,
        result_urls=urls,
        fail_code=one_line(read.fail_code, secret) if read.fail_code else "",
        fail_message=one_line(read.fail_message, secret) if read.fail_message else "",
        reason=reason,
    )


@frozen
class StatusData:
    """The ``data`` of a status answer or callback. Times are in seconds, from the epoch."""

    state: str = ""
    task_id: str = ""
    result_urls: tuple[str, ...] = ()
    cost_time: float | None = None
    created: float | None = None
    completed: float | None = None
    fail_code: str = ""
    fail_message: str = ""


def _structure_text(value: object, _: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"text expected, not {type(value).__name__}")


def _structure_seconds(value: object, _: object) -> float | None:
    """Convert milliseconds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # An integer of hundreds of digits cannot be divided.
    return value / 1000 if _FIRST * 1000 <= value < _LAST * 1000 else None


def _structure_urls(value: object, _: object) -> tuple[str, ...]:
    """Convert ``resultJson``: a JSON string in the contract, an object in some answers."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except RecursionError:
            raise ValueError("resultJson is nested too deeply") from None
    if not value:
        return ()
    if not isinstance(value, dict):
        raise ValueError("resultJson is not an object")  # noqa: TRY004 - malformed data
    urls = value.get("resultUrls") or []
    if not isinstance(urls, list) or not {*map(type, urls)} <= {str}:
        raise ValueError("resultUrls is not a list of strings")
    return tuple(urls)


def _status_structure() -> Callable[[Mapping[str, object], type[StatusData]], StatusData]:
    converter = Converter(detailed_validation=False)
    converter.register_structure_hook(str, _structure_text)
    converter.register_structure_hook(float | None, _structure_seconds)
    return make_dict_structure_fn(
        StatusData,
        converter,
        task_id=override(rename="taskId"),
        result_urls=override(rename="resultJson", struct_hook=_structure_urls),
        cost_time=override(rename="costTime"),
        created=override(rename="createTime"),
        completed=override(rename="completeTime"),
        fail_code=override(rename="failCode"),
        fail_message=override(rename="failMsg"),
    )


structure_status: Callable[[Mapping[str, object], type[StatusData]], StatusData] = (
    _status_structure()
)
"""Converts a mapping to :class:`StatusData`, its second argument, or raises ValueError."""


def result_from(snapshot: Snapshot) -> Result:
    """Return the result of a task that has ended.

    Raises:
        TaskFailedError: The task failed.
        ContractError: The task succeeded, but has no result URLs.
    """
    ref = snapshot.ref
    if snapshot.state is TaskState.FAILED:
        from kling_async.protocol.failures import advice_for

        reason = snapshot.reason or FailReason.UNKNOWN
        failure = ": ".join(filter(None, (snapshot.fail_code or "no code", snapshot.fail_message)))
        raise TaskFailedError(
            f"{ref} failed with {failure[:BODY_EXCERPT]} ({advice_for(reason)})",
            fail_code=snapshot.fail_code,
            fail_message=snapshot.fail_message,
            reason=reason,
            ref=ref,
            snapshot=snapshot,
        )
    if not snapshot.result_urls:
        raise ContractError(
            f"{ref} succeeded, and the answer has no result URLs; attach it and ask again later",
            status=200,
            may_have_charged=True,
            ref=ref,
            verdict=Verdict.ANSWERED,
        )
    return Result(
        ref=ref,
        result_urls=snapshot.result_urls,
        created_at=snapshot.created_at,
        completed_at=snapshot.completed_at,
        cost_time=snapshot.cost_time,
    )


def _parse_envelope(request: Request, response: Response, now: datetime) -> object:
    """Return the ``data`` of a successful response, or raise the error for its status or code."""
    try:
        envelope = json.loads(response.body)
    except (ValueError, RecursionError):
        envelope = None
    fields = envelope if isinstance(envelope, dict) else {}
    if not response.status == _SUCCESS == fields.get("code"):
        check_envelope(request, response, fields, now)
    return fields.get("data")
