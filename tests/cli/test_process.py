"""What becomes of the work when stdout or stderr cannot be written."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import shlex
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from kling_async.cli.output import Output, write_line
from kling_async.cli.process import GuardedStream, failure_of, guarded_streams
from kling_async.results import TaskRef
from tests.cli.conftest import COMMAND, Ended, start_emulator
from tests.patience import HANGS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Execute

ROW = {"mode": "master-text-to-video", "prompt": "a fox"}
KEY = "лиса 🦊"


def shell(line: str, env: dict[str, str], folder: Path) -> Ended:
    """Run a shell's line in which ``kling`` is the command; stderr goes to a file that is read."""
    script = f'kling() {{ {shlex.join(COMMAND)} "$@"; }}\n{line}'
    errors = folder / "err"
    errors.touch()
    done = subprocess.run(
        ("/bin/sh", "-c", script),
        env={**env, "ERR": str(errors)},
        cwd=folder,
        capture_output=True,
        check=False,
        timeout=HANGS,
    )
    assert b"Traceback" not in done.stderr
    return Ended(done.returncode, done.stdout.decode(), errors.read_text("utf-8"))


def rows(folder: Path, *keys: str) -> None:
    """Write a file of rows with these keys."""
    text = "".join(json.dumps({"key": key, **ROW}) + "\n" for key in keys)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def env() -> Iterator[dict[str, str]]:
    """Start a quick emulator for all tests; give the environment for its clients."""
    with ExitStack() as stack:
        yield start_emulator(stack, "--speed", "1000")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirection", "reason"),
    [
        (">&-", "it is closed"),
        (">/dev/full", "No space left on device"),
        ("| :", "Broken pipe"),
        (">&- <&-", "it is closed"),
    ],
)
def test_batch_without_stdout(
    env: dict[str, str], tmp_path: Path, redirection: str, reason: str
) -> None:
    """A paid batch is done to its end; then one line says what is lost, and the code is 7."""
    rows(tmp_path, "a", "b", "c")
    (tmp_path / "code").write_text("", encoding="utf-8")
    command = 'kling batch rows.jsonl --in-flight 1 --first-poll 0.1 2>"$ERR"'
    ended = shell(f"{{ {command}; echo $? >code; }} {redirection}", env, tmp_path)
    assert (tmp_path / "code").read_text(encoding="utf-8") == "7\n"
    assert "finished           3" in ended.err
    assert ended.err.splitlines()[-1] == (
        f"kling-async: the results cannot be written to stdout: {reason}"
    )
    assert "Traceback" not in ended.err


@pytest.mark.slow
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_batch_without_stderr(env: dict[str, str], tmp_path: Path, redirection: str) -> None:
    """Progress that cannot be written is no failure: the results are on stdout, the code is 0."""
    rows(tmp_path, "a", "b", "c")
    ended = shell(f"kling batch rows.jsonl --first-poll 0.1 {redirection}", env, tmp_path)
    assert ended.code == 0
    assert sorted(line.split("\t")[0] for line in ended.out.splitlines()) == ["a", "b", "c"]


@pytest.mark.slow
@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
def test_reference_goes_to_stderr(env: dict[str, str], tmp_path: Path, redirection: str) -> None:
    """The reference of a paid task that stdout does not take is on stderr, in words or as JSON."""
    words = shell(f'kling submit "a fox" {redirection} 2>"$ERR"', env, tmp_path)
    assert words.code == 7
    assert "To continue: kling-async wait kling-2-1/task_" in words.err
    (tmp_path / "err").write_text("", encoding="utf-8")
    out = shell(f'kling submit "a fox" --json {redirection} 2>"$ERR"', env, tmp_path)
    assert out.code == 7
    first, last = out.errors
    assert first["ref"].startswith("kling-2-1/task_")
    assert (last["error"], last["exit_code"], last["ref"]) == ("OutputError", 7, None)


@pytest.mark.slow
def test_help_that_cannot_be_written(env: dict[str, str], tmp_path: Path) -> None:
    """Help that cannot be written ends with its code, too; wrong usage stays wrong usage."""
    ended = shell('kling --help >/dev/full 2>"$ERR"', env, tmp_path)
    assert (ended.code, len(ended.err.splitlines())) == (7, 1)
    assert shell('kling nonsense >/dev/full 2>"$ERR"', env, tmp_path).code == 2


@pytest.mark.slow
def test_code_of_the_work_comes_first(env: dict[str, str], tmp_path: Path) -> None:
    """What went wrong with the work is worse than a lost stdout."""
    ended = shell('kling status kling-2-1/task_0 >/dev/full 2>"$ERR"', env, tmp_path)
    assert ended.code == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "cp1252"},
        {"PYTHONIOENCODING": "latin-1:strict"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_key_that_the_encoding_does_not_have(
    env: dict[str, str], tmp_path: Path, variables: dict[str, str]
) -> None:
    """A batch with any key ends well for any encoding, and so does its report."""
    rows(tmp_path, KEY)
    env = {**env, **variables}
    command = "kling batch rows.jsonl --first-poll 0.1"
    batch = shell(f'{command} 2>"$ERR"', env, tmp_path)
    assert (batch.code, batch.out.isascii()) == (0, True)
    assert batch.out.startswith(r"\u043b\u0438\u0441\u0430 \U0001f98a" + "\t")
    batch = shell(f'{command} --journal second.sqlite --json 2>"$ERR"', env, tmp_path)
    assert (batch.code, batch.out.isascii()) == (0, True)
    assert batch.objects[0]["key"] == KEY
    report = "kling report rows.jsonl.journal.sqlite --format"
    assert shell(f"{report} table", env, tmp_path).code == 0
    (row,) = shell(f"{report} json", env, tmp_path).objects
    assert row["key"] == KEY
    table = shell(f"{report} csv", env, tmp_path)
    assert list(csv.reader(io.StringIO(table.out)))[1][0] == KEY


@pytest.mark.slow
def test_report_ends_with_its_reader(env: dict[str, str], tmp_path: Path) -> None:
    """A report of very many rows is not read to its end for a stdout that is lost."""
    rows(tmp_path, "a", "b")
    shell("kling batch rows.jsonl --first-poll 0.1", env, tmp_path)
    for kind in ("csv", "json"):
        (tmp_path / "err").write_text("", encoding="utf-8")
        line = f'kling report rows.jsonl.journal.sqlite --format {kind} >&- 2>"$ERR"'
        ended = shell(line, env, tmp_path)
        assert (ended.code, len(ended.err.splitlines())) == (7, 1)


@pytest.mark.slow
def test_listen_ends_with_its_reader(execute: Execute, tmp_path: Path) -> None:
    """A command that only prints ends when its output is lost."""
    env = dict(os.environ)
    script = 'kling listen --port 0 --json >/dev/full 2>"$ERR"'
    assert shell(script, env, tmp_path).code == 7


class Full(io.StringIO):
    def write(self, text: str, /) -> int:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        raise ValueError("I/O operation on closed file")


def test_what_is_left_to_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A reference that neither stdout nor stderr takes is in the log."""
    monkeypatch.setattr(sys, "stdout", GuardedStream(None))
    monkeypatch.setattr(sys, "stderr", GuardedStream(Full()))
    with caplog.at_level(logging.ERROR, logger="kling_async"):
        Output(json=False).print_result(["x"], {}, new=TaskRef("kling-2-1", "task_1"))
    assert "kling-async wait kling-2-1/task_1" in caplog.text


def test_guarded_stream_raises_nothing() -> None:
    """A stream that is missing, full or closed takes everything, and says what is wrong with it."""
    missing, full, closed = GuardedStream(None), GuardedStream(Full()), io.StringIO()
    assert (missing.write("x"), missing.failure) == (1, "it is closed")
    missing.flush()
    assert not missing.isatty()
    with pytest.raises(OSError, match="fileno"):
        missing.fileno()
    assert full.failure is None
    full.flush()
    assert full.failure == "it is closed"
    assert not full.isatty()
    guarded = GuardedStream(closed)
    assert guarded.writable()
    assert not guarded.isatty()
    closed.close()
    assert not guarded.isatty()
    guarded.write("x")
    assert guarded.failure == "it is closed"


def test_streams_are_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    """Afterwards the process has its own streams again, with all that was written to them."""
    before = sys.stdout, sys.stderr
    with guarded_streams():
        assert write_line(sys.stdout, "out")
        sys.stderr.write("err")
        assert failure_of(sys.stderr) is None
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr() == ("out\n", "err")
