from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest

from kling_async._utils.files import format_os_error, open_regular, replacing

if TYPE_CHECKING:
    from pathlib import Path


def test_reason_of_an_os_error() -> None:
    """The reason is the system's, or the error's text where it has none."""
    listening = OSError(errno.EADDRINUSE, "error while attempting to bind on address ('::1', 5)")
    assert format_os_error(listening) == os.strerror(errno.EADDRINUSE)
    assert format_os_error(socket.gaierror(-2, "unknown name")) == "unknown name"
    assert format_os_error(OSError("odd")) == "odd"
    assert format_os_error(ValueError("embedded null byte")) == "embedded null byte"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_what_is_opened(tmp_path: Path) -> None:
    """A file is opened; a pipe and a folder are errors at once."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"content")
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"content"
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(tmp_path / "pipe")
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)


def test_replacing(tmp_path: Path) -> None:
    """A file has its old content until the new one is complete."""
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_error_while_replacing(tmp_path: Path) -> None:
    """After an error the old content is still there, and no temporary file."""
    path = tmp_path / "a.json"
    path.write_bytes(b"old")

    def write_half() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_without_a_folder(tmp_path: Path) -> None:
    """A folder that does not exist is an OSError."""
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "none" / "a.json"):
        pass
