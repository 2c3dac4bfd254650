from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING

import pytest

from kling_async.cli.output import Output, log_to_stderr
from kling_async.errors import (
    AnswerLostError,
    ConfigurationError,
    DownloadError,
    InputError,
    KlingError,
    NotFoundError,
    ResultExpiredError,
    ServerError,
    StorageError,
    TaskTimeoutError,
)
from kling_async.results import TaskRef

if TYPE_CHECKING:
    from tests.cli.conftest import Emulate, Execute, Start

REF = TaskRef("kling-2-1", "task_1")
Capture = pytest.CaptureFixture[str]


def test_result_for_a_reader(capsys: Capture) -> None:
    """A reader gets the lines, with control characters made visible."""
    Output(json=False).print_result(["one", "two\x1b[31m"], {"not": "shown"})
    assert capsys.readouterr() == ("one\ntwo\\x1b[31m\n", "")


def test_result_for_a_program(capsys: Capture) -> None:
    """A program gets the fields as one JSON object on one line, in ASCII."""
    Output(json=True).print_result(["not shown"], {"url": "é\n"})
    assert capsys.readouterr() == ('{"url": "\\u00e9\\n"}\n', "")


def test_error_for_a_reader(capsys: Capture) -> None:
    """An error is a sentence on stderr, and gives its exit code."""
    assert Output(json=False).print_error(InputError("no\x07 good")) == 2
    assert capsys.readouterr() == ("", "kling-async: no\\x07 good\n")


def test_error_with_a_code_of_its_own(capsys: Capture) -> None:
    """A command that continues may end with another code than the error has."""
    assert Output(json=True).print_error(InputError("no"), 1) == 1
    assert json.loads(capsys.readouterr().err)["exit_code"] == 1


def test_error_for_a_program(capsys: Capture) -> None:
    """With JSON, an error is one object that says what may be concluded from it."""
    code = Output(json=True).print_error(ServerError("no", retryable=True, ref=REF))
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
    Output(json=False).print_error(InputError("\n".join(f"row {n}" for n in range(1, 31))))
    lines = capsys.readouterr().err.splitlines()
    assert lines[19:] == ["kling-async: row 20", "kling-async: and 10 more"]


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (TaskTimeoutError("no", ref=REF), "To continue: kling-async wait kling-2-1/task_1\n"),
        (
            ServerError("no", retryable=True, ref=REF),
            "To continue: kling-async wait kling-2-1/task_1\n",
        ),
        (DownloadError("no", ref=REF), "To continue: kling-async download kling-2-1/task_1\n"),
        (StorageError("no", ref=REF), "To continue: kling-async download kling-2-1/task_1\n"),
        (ResultExpiredError("no", ref=REF), ""),
        (NotFoundError("no", ref=REF), ""),
    ],
)
def test_hint_how_to_go_on(error: KlingError, hint: str, capsys: Capture) -> None:
    """Where a task can still be had, the command for it is named."""
    Output(json=False).print_error(error)
    assert capsys.readouterr().err == f"kling-async: no\n{hint}"


def test_interrupted_with_tasks(capsys: Capture) -> None:
    """Running tasks are named, and the command that waits for them."""
    Output(json=False).print_interrupted([REF, TaskRef("kling-2-1", "task_2")], [])
    said = capsys.readouterr().err
    assert "  kling-2-1/task_1\n  kling-2-1/task_2\n" in said
    assert "kling-async wait kling-2-1/task_1 kling-2-1/task_2\n" in said


def test_interrupted_with_a_lost_answer(capsys: Capture) -> None:
    """A submit that may have been charged is reported."""
    Output(json=False).print_interrupted(
        [], [AnswerLostError("perhaps charged", may_have_charged=True)]
    )
    assert capsys.readouterr().err == "kling-async: perhaps charged\n"


def test_interrupted_with_nothing(capsys: Capture) -> None:
    """If nothing is left behind, that is said."""
    Output(json=False).print_interrupted([], [])
    assert "no task is known to be running" in capsys.readouterr().err


def test_interrupted_for_a_program(capsys: Capture) -> None:
    """With JSON, running tasks are one object."""
    Output(json=True).print_interrupted([REF], [AnswerLostError("perhaps", may_have_charged=True)])
    assert json.loads(capsys.readouterr().err) == {
        "error": "interrupted",
        "running": ["kling-2-1/task_1"],
        "unsure": ["perhaps"],
    }


@pytest.mark.slow
def test_warnings_are_lines_of_stderr(execute: Execute) -> None:
    """A warning of the package is a line, or with JSON an object, as everything on stderr is."""
    env = {
        **os.environ,
        "APIXO_API_KEY": "a-key",
        "APIXO_BASE_URL": "http://127.0.0.1.nowhere.invalid:1",
        "APIXO_ALLOW_HTTP": "1",
    }
    words = execute("status", "kling-2-1/task_1", "--json", env=env).errors
    assert "unencrypted" in words[0]["warning"]
    assert words[-1]["error"] == "ConnectError"


@pytest.mark.slow
def test_tasks_are_not_reported_twice(emulate: Emulate, execute: Execute) -> None:
    """A task that `submit` leaves running is on stdout, and nothing else is said of it."""
    ended = execute("submit", "a fox", "--json", env=emulate())
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out)["ref"].startswith("kling-2-1/task_")


def test_verbose(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """-v writes INFO to stderr, -vv DEBUG, and KLING_LOG does so without an option."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    log = logging.getLogger("kling_async")

    def logged(verbose: int, *, as_json: bool = False) -> str:
        with log_to_stderr(as_json=as_json, verbose=verbose):
            log.debug("a debug")
            log.info("an info")
            log.warning("a warning")
        return capsys.readouterr().err

    words = ["kling-async: a debug\n", "kling-async: an info\n", "kling-async: a warning\n"]
    assert logged(0) == words[2]
    assert logged(1) == "".join(words[1:])
    assert logged(2) == logged(3) == "".join(words)
    assert logged(1, as_json=True) == '{"log": "an info"}\n{"warning": "a warning"}\n'
    monkeypatch.setenv("KLING_LOG", "info")
    assert logged(0) == logged(1) == "".join(words[1:])
    assert log.level == logging.NOTSET
    monkeypatch.setenv("KLING_LOG", "much")
    with pytest.raises(ConfigurationError, match="not 'much'"):
        logged(0)


@pytest.mark.slow
def test_verbose_commands(execute: Execute, start: Start) -> None:
    """-vv reports each request of a command, and `emulate -v` each one that arrives."""
    emulator = start("emulate", "--video", "small", "-v")
    assert emulator.stdout is not None
    assert emulator.stderr is not None
    names = [emulator.stdout.readline().removeprefix("export ").partition("=") for _ in range(2)]
    env = dict(os.environ) | {name: value.strip() for name, _, value in names}
    ended = execute("balance", "-vv", env=env)
    assert ended.out == "1000.00\n"
    (line,) = ended.err.splitlines()
    assert line.startswith("kling-async: GET /apikeys/current-balance: 200 in ")
    assert env["APIXO_API_KEY"] not in line
    assert emulator.stderr.readline().endswith("until Ctrl-C. In another shell:\n")
    arrived = "kling-async: GET /api/v1/apikeys/current-balance: 200\n"
    assert emulator.stderr.readline() == arrived
