from __future__ import annotations

import os
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from kling_async.download import check_folder
from kling_async.download.files import (
    RESERVE_BYTES,
    DiskSpace,
    NoSpaceError,
    checksum,
    find_complete,
    is_beginning,
    is_media,
    is_spoiled,
    lock_folder,
    non_media_kind,
    rename_exclusively,
)
from kling_async.errors import ConfigurationError

MP4 = b"\0\0\0\x18ftypmp42"
VIDEO = MP4 + bytes(3 * 1024**2)


def test_a_file_that_is_complete(tmp_path: Path) -> None:
    """Size and checksum of a file are those of all its bytes."""
    path = tmp_path / "x.mp4"
    path.write_bytes(VIDEO)
    assert find_complete(path) == (len(VIDEO), sha256(VIDEO).hexdigest())
    assert checksum(path) == sha256(VIDEO).hexdigest()
    assert is_media(path)
    assert not is_spoiled(path)


@pytest.mark.parametrize("content", [b"", b"<html>", b'{"code": 1}', b"\n<?xml?>"])
def test_a_file_that_is_none(content: bytes, tmp_path: Path) -> None:
    """An empty file, or a page, counts as missing."""
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    assert find_complete(path) is None
    assert is_spoiled(path)
    assert not is_media(path)


@pytest.mark.parametrize(
    ("other", "begins"),
    [(b"", True), (VIDEO, True), (VIDEO[:-1], True), (VIDEO + b"x", False), (b"\0\1", False)],
)
def test_beginnings(other: bytes, begins: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """A file that was cut off is the beginning of the whole; so is the same file."""
    (tmp_path / "whole").write_bytes(VIDEO)
    (tmp_path / "other").write_bytes(other)
    assert is_beginning(tmp_path / "other", tmp_path / "whole") is begins


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe(tmp_path: Path) -> None:
    """A pipe is an error at once: opening it would wait for a writer, and cannot be cancelled."""
    pipe, video = tmp_path / "pipe.mp4", tmp_path / "a.mp4"
    os.mkfifo(pipe)
    video.write_bytes(VIDEO)
    for read in (is_spoiled, is_media, checksum, find_complete):
        with pytest.raises(OSError, match="not a regular file"):
            read(pipe)
    assert not is_beginning(pipe, video)


def test_the_beginnings_of_other_things(tmp_path: Path) -> None:
    """A link that leads nowhere can be replaced; a folder cannot."""
    (tmp_path / "whole").write_bytes(VIDEO)
    (tmp_path / "link").symlink_to("nowhere")
    assert is_beginning(tmp_path / "link", tmp_path / "whole")
    assert not is_beginning(tmp_path, tmp_path / "whole")


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
    rename_exclusively(tmp_path / "a", tmp_path / "x")
    for taken in ("x", "link"):
        with pytest.raises(FileExistsError):
            rename_exclusively(tmp_path / "b", tmp_path / taken)
    assert {path.name for path in tmp_path.iterdir()} == {"b", "x", "link"}
    assert (tmp_path / "x").read_text() == "a"


def test_nothing_to_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a file cannot be given its name, nothing has the name."""
    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(FileNotFoundError):
        rename_exclusively(tmp_path / "missing", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_opened(tmp_path: Path) -> None:
    """Where folders cannot be opened, there is no lock."""
    with lock_folder(tmp_path / "missing") as folder:
        assert folder == -1


# ------------------------------------------------------------------------------------------ content


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "HTML or XML"),
        (b"\n  <html>", "HTML or XML"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>", "HTML or XML"),
        ("<html>".encode("utf-16"), "HTML or XML"),
        ("\ufeff<html>".encode("utf-16-be"), "HTML or XML"),
        (b"<Error><Code>AccessDenied</Code></Error>", "HTML or XML"),
        (b"<!-- a comment -->", "HTML or XML"),
        (b'{"code": 500}', "JSON"),
        (b"{\n  }", "JSON"),
        (b"{", "JSON"),
        (b'[{"a": 1}]', "JSON"),
        (b"[1, 2]", "JSON"),
        (b"[]", "JSON"),
    ],
)
@pytest.mark.parametrize("kind", ["video/mp4", "application/octet-stream", "", "x"])
def test_pages_and_messages(head: bytes, found: str, kind: str) -> None:
    """What begins as a page or a message is no media, whatever its type says."""
    assert non_media_kind(kind, head) == found


@pytest.mark.parametrize(
    "kind",
    [
        "text/html",
        "Text/HTML; charset=utf-8",
        "text/plain",
        "text/xml",
        "application/json",
        "application/problem+json",
        "application/xml",
        "application/xhtml+xml",
    ],
)
def test_types_of_text(kind: str) -> None:
    """What is said to be text is no video, unless it begins as one."""
    assert non_media_kind(kind, b"Access denied") == kind.partition(";")[0].lower()
    for head in (MP4, b"\x1aE\xdf\xa3", b"\x89PNG\r\n", b"GIF89a", b"RIFF\0\0\0\0WEBP"):
        assert non_media_kind(kind, head) is None


@pytest.mark.parametrize("kind", ["video/mp4", "application/octet-stream", "", "x", "binary;"])
@pytest.mark.parametrize("head", [MP4, b"v", b"mine", b"<\0\0\0", b"[\0\0\0", b"{\xff", bytes(9)])
def test_everything_else(kind: str, head: bytes) -> None:
    """Nothing else is refused: formats and types of videos are not known in advance."""
    assert non_media_kind(kind, head) is None


# ------------------------------------------------------------------------------------------ folders


def test_a_folder_is_made(tmp_path: Path) -> None:
    """A folder that does not exist is made with its parents; nothing is left in it."""
    for _ in range(2):
        check_folder(tmp_path / "a" / "b")
        assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("inside", ["file", "file/folder", "\0"])
def test_a_folder_that_cannot_be_made(inside: str, tmp_path: Path) -> None:
    """A folder whose path leads through a file, or is no path, is refused by name."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot save files to"):
        check_folder(tmp_path / inside)
    with pytest.raises(ConfigurationError, match="the folder must be a path"):
        check_folder(5)  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    """A folder that exists and may not be written to is refused."""
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ConfigurationError, match="Permission denied"):
            check_folder(tmp_path)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no folder like it")  # noqa: PTH112 - for the mark
def test_a_folder_that_takes_no_files() -> None:
    """A folder that exists and takes no new files, not even root's, is refused."""
    with pytest.raises(ConfigurationError, match="/proc/self"):
        check_folder("/proc/self")


# --------------------------------------------------------------------------------------- free space


def test_claims_add_up(tmp_path: Path) -> None:
    """What one has claimed and not written yet is not free for another."""
    space = DiskSpace()
    half = shutil.disk_usage(tmp_path).free * 6 // 10
    space.reserve("one", tmp_path, half)
    space.reserve("one", tmp_path, half)  # the same once more
    with pytest.raises(NoSpaceError, match=r"\d+.* more are needed, \d+.* are free"):
        space.reserve("two", tmp_path, half)
    space.written("one", half)
    space.reserve("two", tmp_path, half)
    space.release("two")
    space.release("two")
    space.reserve("three", tmp_path, half)


def test_the_reserve_stays_free(tmp_path: Path) -> None:
    """The last of the free space cannot be reserved."""
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(NoSpaceError):
        DiskSpace().reserve("one", tmp_path, free - RESERVE_BYTES + 4 * 1024**2)


def test_other_disks(tmp_path: Path) -> None:
    """What is claimed on one disk is free on another."""
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one disk only")
    space = DiskSpace()
    space.reserve("one", tmp_path, shutil.disk_usage(tmp_path).free * 9 // 10)
    space.reserve("two", other, 1000)
