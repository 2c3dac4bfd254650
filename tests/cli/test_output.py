from __future__ import annotations

import json

import pytest

from kling_async.cli.output import Output, printable
from kling_async.errors import (
    AnswerLostError,
    DownloadError,
    InputError,
    KlingError,
    NotFoundError,
    ResultExpiredError,
    ServerError,
    TaskTimeoutError,
)
from kling_async.results import TaskRef

REF = TaskRef("kling-2-1", "task_1")
Capture = pytest.CaptureFixture[str]


def test_result_for_a_reader(capsys: Capture) -> None:
    """A reader gets the lines, with control characters made visible."""
    Output(json=False).result(["one", "two\x1b[31m"], {"not": "shown"})
    assert capsys.readouterr() == ("one\ntwo\\x1b[31m\n", "")


def test_result_for_a_program(capsys: Capture) -> None:
    """A program gets the fields as one JSON object on one line, in ASCII."""
    Output(json=True).result(["not shown"], {"url": "é\n"})
    assert capsys.readouterr() == ('{"url": "\\u00e9\\n"}\n', "")


def test_error_for_a_reader(capsys: Capture) -> None:
    """An error is a sentence on stderr, and gives its exit code."""
    assert Output(json=False).error(InputError("no\x07 good")) == 2
    assert capsys.readouterr() == ("", "kling-async: no\\x07 good\n")


def test_error_with_a_code_of_its_own(capsys: Capture) -> None:
    """A command that goes on may end with another code than the error has."""
    assert Output(json=True).error(InputError("no"), 1) == 1
    assert json.loads(capsys.readouterr().err)["exit_code"] == 1


def test_error_for_a_program(capsys: Capture) -> None:
    """With JSON, an error is one object that says what may be concluded from it."""
    code = Output(json=True).error(ServerError("no", retryable=True, ref=REF))
    said = capsys.readouterr()
    assert said.out == ""
    assert json.loads(said.err) == {
        "error": "ServerError",
        "message": "no",
        "exit_code": code,
        "may_have_charged": False,
        "retryable": True,
        "ref": "kling-2-1/task_1",
    }


def test_very_many_errors_are_cut(capsys: Capture) -> None:
    """Of an error of very many lines, twenty are shown and the rest is counted."""
    Output(json=False).error(InputError("\n".join(f"row {n}" for n in range(1, 31))))
    lines = capsys.readouterr().err.splitlines()
    assert lines[19:] == ["kling-async: row 20", "kling-async: and 10 more"]


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (TaskTimeoutError("no", ref=REF), "To go on: kling-async wait kling-2-1/task_1\n"),
        (
            ServerError("no", retryable=True, ref=REF),
            "To go on: kling-async wait kling-2-1/task_1\n",
        ),
        (DownloadError("no", ref=REF), "To go on: kling-async download kling-2-1/task_1\n"),
        (ResultExpiredError("no", ref=REF), ""),
        (NotFoundError("no", ref=REF), ""),
    ],
)
def test_hint_how_to_go_on(error: KlingError, hint: str, capsys: Capture) -> None:
    """Where a task can still be had, the command for it is named."""
    Output(json=False).error(error)
    assert capsys.readouterr().err == f"kling-async: no\n{hint}"


def test_interrupted_with_tasks(capsys: Capture) -> None:
    """Tasks that go on are named, and the command that waits for them."""
    Output(json=False).interrupted([REF, TaskRef("kling-2-1", "task_2")], [])
    said = capsys.readouterr().err
    assert "  kling-2-1/task_1\n  kling-2-1/task_2\n" in said
    assert "kling-async wait kling-2-1/task_1 kling-2-1/task_2\n" in said


def test_interrupted_with_a_lost_answer(capsys: Capture) -> None:
    """A submit that may have been charged is told."""
    Output(json=False).interrupted([], [AnswerLostError("perhaps charged", may_have_charged=True)])
    assert capsys.readouterr().err == "kling-async: perhaps charged\n"


def test_interrupted_with_nothing(capsys: Capture) -> None:
    """If nothing is left behind, that is said."""
    Output(json=False).interrupted([], [])
    assert "no task is known to be running" in capsys.readouterr().err


def test_interrupted_for_a_program(capsys: Capture) -> None:
    """With JSON, what goes on is one object."""
    Output(json=True).interrupted([REF], [AnswerLostError("perhaps", may_have_charged=True)])
    assert json.loads(capsys.readouterr().err) == {
        "error": "interrupted",
        "running": ["kling-2-1/task_1"],
        "unsure": ["perhaps"],
    }


def test_printable_keeps_letters() -> None:
    """Letters of every script stay as they are."""
    assert printable("Besançon 東京\n") == "Besançon 東京\\n"
