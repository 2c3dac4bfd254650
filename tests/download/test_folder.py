from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from kling_async.download import check_folder
from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


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
