from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from kling_async.download.files import (
    alone_in,
    begins_with,
    checksum,
    give_name,
    is_known,
    is_spoiled,
    look,
)

if TYPE_CHECKING:
    from pathlib import Path

VIDEO = b"\0\0\0\x18ftypmp42" + bytes(3 * 1024**2)


def test_a_file_that_is_complete(tmp_path: Path) -> None:
    """Size and checksum of a file are those of all its bytes."""
    path = tmp_path / "x.mp4"
    path.write_bytes(VIDEO)
    assert look(path) == (len(VIDEO), sha256(VIDEO).hexdigest())
    assert checksum(path) == sha256(VIDEO).hexdigest()
    assert is_known(path)
    assert not is_spoiled(path)


@pytest.mark.parametrize("content", [b"", b"<html>", b'{"code": 1}', b"\n<?xml?>"])
def test_a_file_that_is_none(content: bytes, tmp_path: Path) -> None:
    """An empty file, or a page, counts as missing."""
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    assert look(path) is None
    assert is_spoiled(path)
    assert not is_known(path)


@pytest.mark.parametrize(
    ("other", "begins"),
    [(b"", True), (VIDEO, True), (VIDEO[:-1], True), (VIDEO + b"x", False), (b"\0\1", False)],
)
def test_beginnings(other: bytes, begins: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """A file that was cut off is the beginning of the whole; so is the same file."""
    (tmp_path / "whole").write_bytes(VIDEO)
    (tmp_path / "other").write_bytes(other)
    assert begins_with(tmp_path / "whole", tmp_path / "other") is begins


def test_the_beginnings_of_other_things(tmp_path: Path) -> None:
    """A link that leads nowhere can be replaced; a folder cannot."""
    (tmp_path / "whole").write_bytes(VIDEO)
    (tmp_path / "link").symlink_to("nowhere")
    assert begins_with(tmp_path / "whole", tmp_path / "link")
    assert not begins_with(tmp_path / "whole", tmp_path)


def no_links(*_: object) -> None:
    """Fail as a file system does that has no links."""
    raise PermissionError("Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_a_name_is_given_once(
    links: bool,  # noqa: FBT001 - a parameter
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name that a file has, or a link, is not given again; with links or without."""
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("nowhere")
    give_name(tmp_path / "a", tmp_path / "x")
    for taken in ("x", "link"):
        with pytest.raises(FileExistsError):
            give_name(tmp_path / "b", tmp_path / taken)
    assert {path.name for path in tmp_path.iterdir()} == {"b", "x", "link"}
    assert (tmp_path / "x").read_text() == "a"


def test_nothing_to_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a file cannot be given its name, nothing has the name."""
    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(FileNotFoundError):
        give_name(tmp_path / "missing", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_opened(tmp_path: Path) -> None:
    """Where folders cannot be opened, nobody waits."""
    with alone_in(tmp_path / "missing") as folder:
        assert folder == -1
