"""Text that comes from outside: a file, stdin, a pipe, in the encodings that programs save.

What is not a regular file is copied first, without blocking the event loop, so that Ctrl-C and
SIGTERM end the command while it waits for a pipe.
"""

from __future__ import annotations

import asyncio
import io
import os
import stat
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING

from kling_async.errors import InputError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

STDIN = Path("-")
"""What stands for stdin on a command line."""

# Bytes read at once: what a pipe holds on Linux.
_CHUNK = 65_536

# How files begin that are no text, and what helps.
_BINARY = {
    b"PK\x03\x04": "a workbook or a zip archive: save the sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "a workbook: save the sheet as CSV UTF-8",
    b"\x1f\x8b": "compressed: decompress it first, such as with gunzip",
}
_SAVE_AS = "save the file as UTF-8, in a spreadsheet as CSV UTF-8"
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def spool() -> IO[bytes]:
    """Return a temporary file, or memory where no folder takes temporary files."""
    try:
        return TemporaryFile()
    except OSError:  # a container without a writable folder
        return io.BytesIO()


def is_lasting(path: Path) -> bool:
    """Whether a path names the same file tomorrow: neither stdin, nor a pipe, nor a device.

    Raises:
        InputError: There is no such file, or it is a folder.
    """
    if path == STDIN:
        return False
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    if stat.S_ISDIR(mode):
        raise InputError(f"{path} is a folder: name a file of rows in it")
    # /dev/stdin may be a regular file today.
    parts = path.parent.resolve().parts
    return stat.S_ISREG(mode) and parts[:2] not in {("/", "dev"), ("/", "proc")}


@asynccontextmanager
async def open_input(path: Path) -> AsyncIterator[IO[bytes]]:
    """Open a file for reading, from its start; ``-`` is stdin.

    Raises:
        InputError: It cannot be read.
    """
    try:
        file = _opened(path) or await _copied(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    with file:
        yield file


async def read_stdin() -> str:
    """Return all text of stdin, without the line break at its end.

    Raises:
        InputError: It is closed, or is not text.
    """
    async with open_input(STDIN) as file:
        text = "".join(line for _, line in lines(STDIN, file))
    return text.removesuffix("\n").removesuffix("\r")


def lines(path: Path, file: IO[bytes] | None = None) -> Iterator[tuple[int, str]]:
    r"""Go through the lines of a file, with their numbers and their ends.

    Lines end with ``\n``, ``\r\n`` or ``\r``. U+2028 in a prompt ends none.

    Args:
        path: The file, or what to call it.
        file: The open file; without one, the path is opened.

    Raises:
        InputError: The file cannot be read, or is neither UTF-8 nor UTF-16.
    """
    try:
        if file is not None:
            yield from _lines(path, file)
            return
        with path.open("rb") as opened:
            yield from _lines(path, opened)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None


def _lines(path: Path, file: IO[bytes]) -> Iterator[tuple[int, str]]:
    encoding = _encoding(path, file)
    # Invalid bytes become lone surrogates, so that the line that has them can be named.
    text = io.TextIOWrapper(file, encoding, errors="surrogateescape", newline="")
    number = 0
    try:
        for line in text:
            number += 1
            line.encode()
            yield number, line
    except UnicodeEncodeError:
        raise InputError(f"{path}: row {number} is not UTF-8: {_SAVE_AS}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-16: {_SAVE_AS}") from None
    finally:
        with suppress(ValueError):  # the file has been closed before its last line
            text.detach()


def _encoding(path: Path, file: IO[bytes]) -> str:
    """Return the encoding that a file's first bytes announce; leave the file at its start."""
    start = file.read(4)
    file.seek(0)
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            return encoding
    for magic, words in _BINARY.items():
        if start.startswith(magic):
            raise InputError(f"{path} is {words}")
    # The first character of CSV and JSON is ASCII.
    if start[1:2] == b"\0":
        return "utf-16-le"
    return "utf-16-be" if start[:1] == b"\0" else "utf-8"


def _opened(path: Path) -> IO[bytes] | None:
    """Open a regular file; return None for anything else."""
    return path.open("rb") if path != STDIN and path.is_file() else None


async def _copied(path: Path) -> IO[bytes]:
    """Return a copy of all that stdin or a pipe brings."""
    if path == STDIN and sys.stdin is None:
        raise InputError("stdin is closed: nothing can be read from it")
    # Without O_NONBLOCK, opening a fifo waits for a writer.
    nonblocking = getattr(os, "O_NONBLOCK", 0)
    descriptor = sys.stdin.fileno() if path == STDIN else os.open(path, os.O_RDONLY | nonblocking)
    copy = spool()
    try:
        while chunk := await _read(descriptor):
            copy.write(chunk)
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    finally:
        if path != STDIN:
            os.close(descriptor)
    return copy


async def _read(descriptor: int) -> bytes:
    """Read what there is, once there is something; nothing is the end."""
    loop = asyncio.get_running_loop()
    while True:
        ready = loop.create_future()
        try:
            loop.add_reader(descriptor, ready.set_result, None)
        except (PermissionError, NotImplementedError):  # a regular file; Windows
            return os.read(descriptor, _CHUNK)
        try:
            await ready
        finally:
            loop.remove_reader(descriptor)
        with suppress(BlockingIOError):  # another reader of the same pipe was faster
            return os.read(descriptor, _CHUNK)
