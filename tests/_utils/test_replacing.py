from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kling_async._utils.replacing import replacing

if TYPE_CHECKING:
    from pathlib import Path


def test_replacing(tmp_path: Path) -> None:
    """A file has its old content until the new one is complete."""
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_error(tmp_path: Path) -> None:
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


def test_no_folder(tmp_path: Path) -> None:
    """A folder that does not exist is an OSError."""
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "none" / "a.json"):
        pass
