"""Text from outside: a file, stdin or a pipe, in the encodings that programs write.

Anything but a regular file is copied first, without blocking the event loop, so that Ctrl-C and
SIGTERM end a command that waits for a pipe.
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

from kling_async._utils.files import format_os_error
from kling_async.errors import InputError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

STDIN = Path("-")

# Bytes that are read at once: the capacity of a pipe on Linux.
_CHUNK = 65_536

# How binary files begin, and what the user can do.
_BINARY = {
    b"PK\x03\x04": "a workbook or a zip archive: save the sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "a workbook: save the sheet as CSV UTF-8",
    b"\x1f\x8b": "compressed: decompress it first, such as with gunzip",
}
_SAVE_AS = "save the file as UTF-8, in a spreadsheet as CSV UTF-8"
_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"\0": "utf-16-be",  # no mark: the first character of CSV and JSON is ASCII
}


def temporary_file() -> IO[bytes]:
    """Return a temporary file, or one in memory if no folder can be written."""
    try:
        return TemporaryFile()
    except OSError:  # a container without a writable folder
        return io.BytesIO()


def is_regular_file(path: Path) -> bool:
    """Return whether a path names a file that the next run will find: no stdin, pipe or device."""
    if path == STDIN:
        return False
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise InputError(f"{path}: {format_os_error(error)}") from None
    if stat.S_ISDIR(mode):
        raise InputError(f"{path} is a folder: name a file of rows in it")
    # /dev/stdin may be a regular file this time.
    parts = path.parent.resolve().parts
    return stat.S_ISREG(mode) and parts[:2] not in {("/", "dev"), ("/", "proc")}


@asynccontextmanager
async def open_input(path: Path) -> AsyncIterator[IO[bytes]]:
    """Open a file for reading, at its start; ``-`` is stdin. `InputError` if that fails."""
    try:
        file = _open_regular(path) or await _copy(path)
    except OSError as error:
        raise InputError(f"{path}: {format_os_error(error)}") from None
    with file:
        yield file


async def read_stdin() -> str:
    """Return the text of stdin, without the line break at its end."""
    async with open_input(STDIN) as file:
        text = "".join(line for _, line in read_lines(STDIN, file))
    return text.removesuffix("\n").removesuffix("\r")


def read_lines(path: Path, file: IO[bytes]) -> Iterator[tuple[int, str]]:
    r"""Yield the numbers and the lines of an open file, with their line ends.

    Lines end with ``\n``, ``\r\n`` or ``\r``; U+2028 in a prompt does not end a line.

    Raises:
        InputError: The file cannot be read, or is neither UTF-8 nor UTF-16.
    """
    text, number = None, 0
    try:
        encoding = _detect_encoding(path, file)
        # Invalid bytes become lone surrogates, so that the message can name their line.
        text = io.TextIOWrapper(file, encoding, errors="surrogateescape", newline="")
        for number, line in enumerate(text, 1):
            line.encode()
            yield number, line
    except UnicodeEncodeError:
        raise InputError(f"{path}: row {number} is not UTF-8: {_SAVE_AS}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-16: {_SAVE_AS}") from None
    except OSError as error:
        raise InputError(f"{path}: {format_os_error(error)}") from None
    finally:
        if text is not None:
            with suppress(ValueError):  # the file has been closed before its last line
                text.detach()


def _detect_encoding(path: Path, file: IO[bytes]) -> str:
    """Return the encoding that the first bytes of a file announce, and rewind the file."""
    start = file.read(4)
    file.seek(0)
    for magic, text in _BINARY.items():
        if start.startswith(magic):
            raise InputError(f"{path} is {text}")
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            return encoding
    return "utf-16-le" if start[1:2] == b"\0" else "utf-8"


def _open_regular(path: Path) -> IO[bytes] | None:
    return path.open("rb") if path != STDIN and path.is_file() else None


async def _copy(path: Path) -> IO[bytes]:
    """Return a copy of stdin or of a pipe, once it has ended."""
    if path == STDIN and sys.stdin is None:
        raise InputError("stdin is closed: nothing can be read from it")
    # Without O_NONBLOCK, opening a fifo waits for a writer.
    nonblocking = getattr(os, "O_NONBLOCK", 0)
    descriptor = sys.stdin.fileno() if path == STDIN else os.open(path, os.O_RDONLY | nonblocking)
    copy = temporary_file()
    try:
        while chunk := await _read_chunk(descriptor):
            copy.write(chunk)
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    finally:
        if path != STDIN:
            os.close(descriptor)
    return copy


async def _read_chunk(descriptor: int) -> bytes:
    """Read what is available, as soon as something is; no bytes mean the end."""
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
