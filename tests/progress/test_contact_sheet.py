from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kling_async import InputError, MasterTextToVideo, Outcome, Result, TaskFailedError, TaskRef
from kling_async.progress.contact_sheet import ContactSheet
from tests._display.page_reader import PageReader

if TYPE_CHECKING:
    from pathlib import Path

REFS = [TaskRef("kling-2-1", f"task_{number}") for number in range(150)]
RESULTS = [Result(ref, (f"https://host/{ref.task_id}.mp4",)) for ref in REFS]
FOX = MasterTextToVideo("a fox")
FAILED = Outcome(1, FOX, error=TaskFailedError("refused"))


def test_outcomes_and_results() -> None:
    """A contact sheet has a card for each outcome and each result."""
    items: list[Outcome | Result] = [Outcome(0, FOX, REFS[0], RESULTS[0]), FAILED, RESULTS[1]]
    sheet = ContactSheet(iter(items))
    page = PageReader(sheet._repr_html_())
    assert len(page.all("article")) == 3
    assert len(page.all("video")) == 2
    assert repr(sheet) == "<ContactSheet of 3, 1 failed>"


def test_few_of_many_are_shown() -> None:
    """A notebook gets the first hundred, and how many there are."""
    page = PageReader(ContactSheet(RESULTS)._repr_html_())
    assert len(page.all("article")) == 100
    assert "The first 100 of 150." in page.words


def test_downloaded_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos in the folder of `download` are played from there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "task_0.mp4").write_bytes(b"1")
    page = PageReader(ContactSheet(RESULTS[:2], folder="videos/")._repr_html_())
    assert page.links[0] == "./videos/task_0.mp4"
    assert page.all("video")[1]["src"] == RESULTS[1].url


def test_page(tmp_path: Path) -> None:
    """A page has all cards and counts them; files are relative to it."""
    file = tmp_path / "task_0.mp4"
    file.write_bytes(b"1")
    outcome = Outcome(0, FOX, REFS[0], RESULTS[0], files=(file,))
    path = ContactSheet([outcome, FAILED, *RESULTS]).save(tmp_path / "index.html")
    page = PageReader(path.read_text(encoding="utf-8"))
    assert len(page.all("article")) == 152
    assert page.links[:1] == ["./task_0.mp4"]
    assert "151 videos" in page.words
    assert "1 failed" in page.words


def test_page_of_one(tmp_path: Path) -> None:
    """One video is a video, and no failure is mentioned."""
    path = ContactSheet(RESULTS[:1]).save(tmp_path / "index.html")
    words = PageReader(path.read_text(encoding="utf-8")).words
    assert "1 video\n" in words
    assert "failed" not in words


def test_other_values() -> None:
    """What is neither an outcome nor a result is refused at once."""
    with pytest.raises(InputError, match="neither an outcome nor a result: 'task_1'"):
        ContactSheet(["task_1"])  # type: ignore[list-item]
