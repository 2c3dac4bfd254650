"""Files that other programs never see in part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kling_async._utils.files import replaced_file

if TYPE_CHECKING:
    from pathlib import Path


def test_replaced(tmp_path: Path) -> None:
    """The target has its old content until the new one is complete, and usual permissions."""
    target = tmp_path / "a.txt"
    target.write_text("old")
    mode = target.stat().st_mode
    with replaced_file(target) as part:
        part.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert target.stat().st_mode == mode
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("begun", [False, True])
def test_failed(*, begun: bool, tmp_path: Path) -> None:
    """After an error the target is as it was, and nothing else remains."""
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail() -> None:
        with replaced_file(target) as part:
            if begun:
                part.write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
