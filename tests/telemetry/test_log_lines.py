from __future__ import annotations

import logging
from typing import get_args

import pytest

from kling_async import MasterTextToVideo, events
from kling_async.errors import ServerError
from kling_async.protocol.callbacks import write_token
from kling_async.results import Snapshot, TaskState
from kling_async.telemetry.log_lines import describe_error, describe_event, hide_secrets
from tests.telemetry.events import EVENTS, FAILED, REF, SECRET


class Error(ServerError):
    """An error with a short name."""


LINES = {
    "submit 7 of kling-2-1 master-text-to-video waits for a slot": "DEBUG",
    "submit 7 has a slot after 1.500 s": "DEBUG",
    "POST /generateTask/kling-2-1: 503 (ServerError: no answer of https://host/a.mp4?…) in 500 ms"
    " (submit, attempt 2), waited 0.250 s for a permit": "DEBUG",
    "retrying the submit request in 0.5 s, after attempt 2: ServerError: no answer of"
    " https://host/a.mp4?…": "INFO",
    "paused all requests for 2.0 s: the service answered 429": "INFO",
    "POST /generateTask/kling-2-1: 200 in 500 ms (submit, attempt 2), waited 0.250 s for a"
    " permit": "DEBUG",
    "submitted kling-2-1/task_1 (kling-2-1 master-text-to-video)": "INFO",
    "GET /statusTask/kling-2-1 task_1: 200 in 500 ms (status, attempt 2), waited 0.250 s for a"
    " permit": "DEBUG",
    "GET /statusTask/kling-2-1 task_1: ServerError: no answer of https://host/a.mp4?… in 500 ms"
    " (status, attempt 2), waited 0.250 s for a permit": "DEBUG",
    "kling-2-1/task_1 is pending": "DEBUG",
    "a callback says that kling-2-1/task_1 is success": "DEBUG",
    "received a callback of kling-2-1/task_1: unknown": "DEBUG",
    "finished kling-2-1/task_1": "INFO",
    "failed kling-2-1/task_1 (content, NSFW)": "INFO",
    "downloaded kling-2-1/task_1 in 2.5 s: a.mp4 (1.0 MB received)": "INFO",
    "the download of kling-2-1/task_1 failed: OSError: https://host/a.mp4?… is gone": "INFO",
    "a submit of kling-2-1 master-text-to-video failed: AnswerLostError: the answer of"
    " https://host/a.mp4?… was lost; a task may have been started and charged": "WARNING",
    "a submit of kling-2-1 master-text-to-video failed: ServerError: no answer of"
    " https://host/a.mp4?…": "INFO",
    "a submit of kling-2-1 master-text-to-video was given up; nothing was charged": "INFO",
    "attached kling-2-1/task_1": "INFO",
    "kling-2-1/task_1 is not followed any more: the service does not know it": "INFO",
    "20 of 1000 tasks may run at one time": "INFO",
}


def test_the_lines() -> None:
    """Each event has a line, except abandoned tasks, which are logged where they are reported."""
    lines = [describe_event(event) for event in EVENTS]
    assert lines.pop() is None
    assert {one.text: logging.getLevelName(one.level) for one in lines if one} == LINES


def test_all_events_have_a_line() -> None:
    """No class of events is left out."""
    assert {type(event) for event in EVENTS} == set(get_args(events.DetailedEvent))


def test_no_line_has_a_secret() -> None:
    """Neither a message nor a field has a prompt or the query of a URL."""
    for event in EVENTS:
        line = describe_event(event)
        assert line is None or SECRET not in f"{line.text} {line.fields}"


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            events.Retrying("status", Error("no"), 1, 2.0, ref=REF),
            "retrying the status request of kling-2-1/task_1 in 2.0 s, after attempt 1: Error: no",
        ),
        (events.TaskEnded(Snapshot(REF, TaskState.FAILED)), "failed kling-2-1/task_1"),
        (events.Polled(Snapshot(REF, TaskState.PENDING, "a\nb")), "kling-2-1/task_1 is a\\nb"),
    ],
)
def test_other_lines(event: events.DetailedEvent, text: str) -> None:
    """A line has what is known, on one line."""
    line = describe_event(event)
    assert line is not None
    assert line.text == text


def test_the_fields() -> None:
    """The fields of a task that has failed have its reference, state, reason and code."""
    line = describe_event(events.TaskEnded(FAILED))
    assert line is not None
    assert line.fields == {
        "ref": "kling-2-1/task_1",
        "state": "failed",
        "reason": "content",
        "fail_code": "NSFW",
    }


@pytest.mark.parametrize(
    ("prompt", "text"),
    [("a cat on a mat", "Error: …: refused"), ("a", "Error: a cat on a mat: refused")],
)
def test_an_error_that_repeats_the_prompt(prompt: str, text: str) -> None:
    """The prompt is hidden, unless it is so short that any message may contain it."""
    assert describe_error(Error("a cat on a mat: refused"), MasterTextToVideo(prompt)) == text


def test_an_error_without_a_text() -> None:
    """An error without a message is described by its class."""
    assert describe_error(TimeoutError()) == "TimeoutError()"


TOKEN = write_token("kling-2-1", "n" * 16, b"a secret of the tests")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://host/a.mp4?X-Sig=abc&b=1 was not", "https://host/a.mp4?… was not"),
        ("'https://host/a.mp4?sig=abc' (403)", "'https://host/a.mp4?…' (403)"),
        ("(https://host/a.mp4#part)", "(https://host/a.mp4?…)"),
        ("redis://me:pass@cache:6379/0 is gone", "redis://…@cache:6379/0 is gone"),
        ("http://me:p?ss@host/", "http://…@host/"),
        (f"POST https://host/kling/{TOKEN}", "POST https://host/kling/kling-2-1~…"),
        (f"/kling/{TOKEN}: 404", "/kling/kling-2-1~…: 404"),
        ("what? a task, about ~5 s", "what? a task, about ~5 s"),
    ],
)
def test_hide_secrets(text: str, expected: str) -> None:
    """A message has no signature of a URL, no password and no token of a callback."""
    assert hide_secrets(text) == expected


def test_a_long_message() -> None:
    """A message has at most 2,000 characters, and no content makes it slow to read."""
    for text in ("a" * 10**6, "a.b-" * 10**5, "http://" * 10**5, "a~" * 10**5, "x://y" * 10**5):
        assert len(hide_secrets(text)) <= 2_001
