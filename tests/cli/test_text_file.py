from __future__ import annotations

import asyncio
import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kling_async.cli.text_file import (
    STDIN,
    is_regular_file,
    open_input,
    read_lines,
    read_stdin,
    temporary_file,
)
from kling_async.errors import InputError
from tests.cli.conftest import COMMAND, Ended, read_file
from tests.patience import HANGS

if TYPE_CHECKING:
    from tests.cli.conftest import Emulate, Start

ROW = json.dumps({"key": "a", "mode": "master-text-to-video", "prompt": "a fox"})


def fed(text: str, *argv: str, env: dict[str, str] | None = None) -> Ended:
    """Run a command to its end with a text on its stdin, through a pipe."""
    done = subprocess.run(
        (*COMMAND, *argv), input=text, env=env, capture_output=True, text=True, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def file(folder: Path, content: bytes) -> Path:
    """Write a file."""
    path = folder / "rows"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"a\nb\xc3\xa9\n",
        b"\xef\xbb\xbfa\r\nb\xc3\xa9\r\n",
        b"a\rb\xc3\xa9",
        "a\nb\xe9\n".encode("utf-16"),
        "\ufeffa\r\nb\xe9\r\n".encode("utf-16-be"),
        "a\nb\xe9".encode("utf-16-le"),
        "a\nb\xe9".encode("utf-16-be"),
    ],
)
def test_encodings_and_line_ends(content: bytes, tmp_path: Path) -> None:
    """UTF-8 and UTF-16 are read, with a mark or without, and lines with any of the three ends."""
    read = [
        (number, line.rstrip("\r\n"))
        for number, line in read_file(read_lines, file(tmp_path, content))
    ]
    assert read == [(1, "a"), (2, "b\xe9")]


def test_only_line_ends_end_a_line(tmp_path: Path) -> None:
    """U+2028, a form feed and NEL in a prompt end no line."""
    content = "a\u2028b\x0cc\x85d\n"
    assert read_file(read_lines, file(tmp_path, content.encode())) == [(1, content)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a\nb\xe9\n", "row 2 is not UTF-8: save the file as UTF-8"),
        (b"\xff\xfea\x00\n\x00b", "rows is not UTF-16: save the file as UTF-8"),
        (b"PK\x03\x04rest", "a workbook or a zip archive: save the sheet as CSV UTF-8"),
        (b"\xd0\xcf\x11\xe0rest", "a workbook: save the sheet as CSV UTF-8"),
        (b"\x1f\x8brest", "compressed: decompress it first"),
    ],
)
def test_what_is_not_text(content: bytes, said: str, tmp_path: Path) -> None:
    """What cannot be read is refused with words that say what to do."""
    with pytest.raises(InputError, match=said):
        read_file(read_lines, file(tmp_path, content))


class Unreadable(io.BytesIO):
    def read(self, _size: int | None = -1) -> bytes:
        raise IsADirectoryError(21, "Is a directory")


def test_lines_of_what_cannot_be_read() -> None:
    """An error of the operating system names the file."""
    with pytest.raises(InputError, match="rows: Is a directory"):
        list(read_lines(Path("rows"), Unreadable()))


@pytest.mark.real_time
async def test_file_that_cannot_be_opened(tmp_path: Path) -> None:
    """A missing file raises, and so does a folder."""
    for path, reason in ((tmp_path / "none", "No such file"), (tmp_path, "directory")):
        with pytest.raises(InputError, match=reason):
            async with open_input(path):
                pass


def test_file_that_is_closed_early() -> None:
    """A reader that stops may close the file first."""
    opened = io.BytesIO(b"a\nb\n")
    reading = read_lines(Path("rows"), opened)
    next(reading)
    opened.close()
    reading.close()  # type: ignore[attr-defined]  # it is a generator


def test_what_lasts(tmp_path: Path) -> None:
    """Only a regular file that is not among the devices can be found again."""
    rows = file(tmp_path, b"x")
    os.mkfifo(tmp_path / "fifo")
    assert is_regular_file(rows)
    assert not is_regular_file(tmp_path / "fifo")
    assert not is_regular_file(STDIN)
    with pytest.raises(InputError, match="is a folder"):
        is_regular_file(tmp_path)
    with pytest.raises(InputError, match="File name too long"):
        is_regular_file(Path("x" * 300))
    with rows.open() as opened:
        assert not is_regular_file(Path(f"/dev/fd/{opened.fileno()}"))


@pytest.mark.real_time
async def test_fifo_is_copied(tmp_path: Path) -> None:
    """A pipe is read to its end, whenever its writer comes and goes; others run meanwhile."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def read() -> bytes:
        async with open_input(fifo) as opened:
            return opened.read()

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    assert not reading.done()
    descriptor = os.open(fifo, os.O_WRONLY)
    os.write(descriptor, b"one\n")
    await asyncio.sleep(0.05)
    os.write(descriptor, b"two\n")
    os.close(descriptor)
    assert await reading == b"one\ntwo\n"


@pytest.mark.real_time
async def test_waiting_for_a_pipe_can_be_cancelled(tmp_path: Path) -> None:
    """A command that waits for a pipe ends at once."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def read() -> None:
        async with open_input(fifo):
            pass

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_no_file_to_open(tmp_path: Path) -> None:
    """A file that cannot be opened is an error that names it."""
    with pytest.raises(InputError, match="none: No such file"):
        async with open_input(tmp_path / "none"):
            pass


async def test_closed_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without stdin says so."""
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="stdin is closed"):
        await read_stdin()


def test_no_temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without any folder for temporary files, memory takes their place."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with temporary_file() as copy:
        copy.write(b"x")
        copy.seek(0)
        assert copy.read() == b"x"


@pytest.mark.slow
def test_rows_from_stdin(emulate: Emulate, tmp_path: Path) -> None:
    """`batch -` reads rows from a pipe, and a second run with the same journal repeats nothing."""
    env = emulate("--speed", "1000")
    journal = str(tmp_path / "j.sqlite")
    argv = ("batch", "-", "--journal", journal, "--first-poll", "0.1")
    first = fed(ROW, *argv, env=env)
    assert (first.code, first.out[:2]) == (0, "a\t")
    assert f"{journal}" in first.err
    again = fed(ROW, *argv, env=env)
    assert (again.code, again.out) == (0, first.out)
    assert "Tasks that may have cost money, all runs together: 1\n" in again.err
    assert fed("key;mode;prompt\nb;pro;", "batch", "-", "--format", "csv", "--dry-run").code == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_rows_from_a_pipe_need_a_journal(name: str) -> None:
    """Without --journal nothing is sent, and no journal lands in /dev; a dry run needs none."""
    env = {**os.environ, "APIXO_API_KEY": "a-key", "APIXO_BASE_URL": "http://127.0.0.1:9"}
    ended = fed(ROW, "batch", name, env=env)
    assert ended.code == 2
    assert "--journal" in ended.err
    assert not list(Path("/dev").glob("*journal*"))
    dry = fed(ROW, "batch", name, "--dry-run", env=env)
    assert (dry.code, dry.out.splitlines()[0]) == (0, f"{name}: 1 row; nothing was sent")


@pytest.mark.slow
def test_file_on_stdin(tmp_path: Path) -> None:
    """A regular file may be on stdin, too; its journal is to be named all the same."""
    rows = file(tmp_path, ROW.encode())
    for argv, code in (((), 2), (("--dry-run",), 0)):
        with rows.open() as opened:
            done = subprocess.run(
                (*COMMAND, "batch", "/dev/stdin", *argv),
                stdin=opened,
                capture_output=True,
                check=False,
            )
        assert done.returncode == code
        with rows.open() as opened:
            done = subprocess.run(
                (*COMMAND, "batch", "-", *argv), stdin=opened, capture_output=True, check=False
            )
        assert done.returncode == code


@pytest.mark.slow
def test_prompt_from_stdin(emulate: Emulate) -> None:
    """`generate -` and `submit -` read the prompt from stdin, without the line break at its end."""
    env = emulate("--speed", "1000", "--fault", "task:2-=stuck")
    assert fed("a fox\n", "generate", "-", "--first-poll", "0.1", env=env).out.startswith("http")
    assert fed("a fox,\nby night\n", "submit", "-", env=env).out.startswith("kling-2-1/task_")
    empty = fed("\n", "submit", "-", env=env)
    assert empty.code == 2
    assert "prompt" in empty.err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_waiting_for_stdin(start: Start, number: int, tmp_path: Path) -> None:
    """Ctrl-C and SIGTERM end a command that waits for its stdin."""
    argv = ("batch", "-", "--journal", str(tmp_path / "j"), "--dry-run")
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONDEVMODE": "0"}
    process = start(*argv, env=env, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(ROW)
    process.stdin.flush()
    _wait_until_read(process)
    process.send_signal(number)
    assert process.wait(timeout=HANGS) == 130
    process.stdin.close()


def _wait_until_read(process: subprocess.Popen[str]) -> None:
    """Wait until a process has taken what is in its stdin."""
    assert process.stdin is not None
    end = time.monotonic() + 30
    while time.monotonic() < end:
        left = fcntl.ioctl(process.stdin.fileno(), termios.FIONREAD, b"\0\0\0\0")
        if left == b"\0\0\0\0":
            return
        time.sleep(0.02)
    raise AssertionError("it reads nothing")
