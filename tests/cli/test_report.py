from __future__ import annotations

import csv
import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from kling_async.inputs.kling_2_1 import MasterTextToVideo, StandardImageToVideo
from kling_async.journal.base import Failure, ItemState, Planned, Transition
from kling_async.journal.sqlite.journal import SqliteJournal
from kling_async.results import (
    FailReason,
    MediaFacts,
    MediaProblem,
    Result,
    SavedFile,
    TaskRef,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.cli.conftest import Command

NOW = datetime(2026, 1, 2, tzinfo=UTC)
URL = "https://example.com/1.mp4"
FOX = MasterTextToVideo("=a fox", cfg_scale=0.5).to_dict()
PAN = StandardImageToVideo("pan", "https://example.com/fox.jpg").to_dict()
BLACK = MediaFacts(5.0, 640, 360, 24.0, has_sound=False, problems=(MediaProblem.BLACK,))
LOST = Failure("AnswerLostError", "the answer was lost", may_have_charged=True)
REFUSED = Failure(
    "TaskFailedError", "it failed with NSFW", fail_code="NSFW", reason=FailReason.CONTENT
)


def _ref(key: str) -> TaskRef:
    return TaskRef("kling-2-1", f"task_{key}")


def _moves(
    key: str, last: ItemState, *files: SavedFile, failure: Failure | None = None
) -> list[Transition]:
    """Lead an item to a state."""
    ways = {
        ItemState.UNSURE: [ItemState.UNSURE],
        ItemState.SUBMITTED: [ItemState.SUBMITTED],
        ItemState.FAILED: [ItemState.SUBMITTED, ItemState.FAILED],
        ItemState.FINISHED: [ItemState.SUBMITTED, ItemState.FINISHED],
        ItemState.SAVED: [ItemState.SUBMITTED, ItemState.FINISHED, ItemState.SAVED],
    }
    result = Result(_ref(key), (URL, URL), cost_time=61.5)
    return [
        Transition(
            key,
            state,
            NOW,
            ref=_ref(key) if state is ItemState.SUBMITTED else None,
            result=result if state is ItemState.FINISHED else None,
            failure=failure if state is last else None,
            files=files if state is last else (),
        )
        for state in (ItemState.SUBMITTING, *ways[last])
    ]


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Path]:
    """Give a journal that is open for writing, with an item of nearly every kind."""
    path = tmp_path / "clips.jsonl.journal.sqlite"
    files = (
        SavedFile(URL, "saved.mp4", 1000, "0" * 64),
        SavedFile(URL, "saved-2.mp4", 1000, "1", BLACK),
    )
    async with SqliteJournal(path) as opened:
        await opened.plan([Planned(key, FOX) for key in ("saved", "made", "runs", "new", "bad")])
        await opened.plan([Planned("lost", PAN)])
        await opened.record(
            *_moves("saved", ItemState.SAVED, *files),
            *_moves("made", ItemState.FINISHED),
            *_moves("runs", ItemState.SUBMITTED),
            *_moves("bad", ItemState.FAILED, failure=REFUSED),
            *_moves("lost", ItemState.UNSURE, failure=LOST),
        )
        yield path


async def test_table(journal: Path, command: Command) -> None:
    """The table has the counts, then the items, those that need a look first; even while open."""
    ended = await command("report", journal)
    assert (ended.code, ended.err) == (0, "")
    assert [line.split(maxsplit=2) for line in ended.out.splitlines()] == [
        ["saved", "1"],
        ["finished", "1"],
        ["running", "1"],
        ["queued", "1"],
        ["failed", "1"],
        ["unsure", "1"],
        ["Tasks", "that", "may have cost money: 5"],
        [],
        ["lost", "unsure", "the answer was lost"],
        ["bad", "failed", "it failed with NSFW"],
        ["runs", "running", "kling-2-1/task_runs"],
        ["new", "queued"],
        ["made", "finished", f"{URL} {URL}"],
        ["saved", "saved", "saved.mp4 saved-2.mp4"],
    ]


async def test_table_of_very_many(tmp_path: Path, command: Command) -> None:
    """Of very many items the first hundred are shown, and the rest is counted."""
    async with SqliteJournal(tmp_path / "j") as journal:
        await journal.plan([Planned(f"{n:04}", FOX) for n in range(1234)])
    lines = (await command("report", tmp_path / "j")).out.splitlines()
    assert lines[-2].startswith("0099 ")
    assert lines[-1] == "and 1,134 more; --format csv has all of them"
    assert len(lines) == 3 + 100 + 1


async def test_spreadsheet(journal: Path, command: Command, tmp_path: Path) -> None:
    """The table for spreadsheets has every field of every item, in order, and no formulas."""
    place = tmp_path / "report.csv"
    ended = await command("report", journal, "--format", "csv", "--output", place)
    assert (ended.code, ended.out) == (0, "")
    assert place.read_bytes().startswith(b"\xef\xbb\xbfkey,model,mode,prompt,")
    rows = list(csv.DictReader(place.read_text(encoding="utf-8-sig").splitlines()))
    assert [row["key"] for row in rows] == ["saved", "made", "runs", "new", "bad", "lost"]
    saved, bad, lost = rows[0], rows[4], rows[5]
    assert (saved["prompt"], saved["cfg_scale"], saved["image_url"]) == ("'=a fox", "0.5", "")
    assert saved["problems"] == "black"
    assert (saved["ref"], saved["files"]) == ("kling-2-1/task_saved", "saved.mp4 saved-2.mp4")
    assert (saved["cost_time"], saved["result_urls"]) == ("61.5", f"{URL} {URL}")
    assert (saved["changed_at"], saved["attempt"]) == (NOW.isoformat(), "1")
    assert (bad["error"], bad["fail_code"]) == ("it failed with NSFW", "NSFW")
    assert bad["reason"] == "content"
    assert (lost["state"], lost["may_have_charged"]) == ("unsure", "True")
    assert lost["image_url"] == "https://example.com/fox.jpg"


async def test_spreadsheet_without_items(command: Command, tmp_path: Path) -> None:
    """The report of an empty journal has the header."""
    async with SqliteJournal(tmp_path / "j"):
        pass
    ended = await command("report", tmp_path / "j", "--format", "csv")
    assert ended.out.startswith("key,model,mode,")
    assert len(ended.out.splitlines()) == 1


async def test_spreadsheet_in_a_pipe(journal: Path, command: Command) -> None:
    """On stdout there is no mark in front of it."""
    assert (await command("report", journal, "--format", "csv")).out.startswith("key,model,")


async def test_objects(journal: Path, command: Command) -> None:
    """For programs, each item is an object on a line, with its input."""
    found = (await command("report", journal, "--json")).objects
    assert found == (await command("report", journal, "--format", "json")).objects
    assert [item["key"] for item in found] == ["saved", "made", "runs", "new", "bad", "lost"]
    assert found[0]["input"] == FOX
    assert found[3] == {
        "key": "new",
        "input": FOX,
        "state": "planned",
        "attempt": 1,
        "changed_at": found[3]["changed_at"],
        "ref": None,
        "result_urls": [],
        "cost_time": None,
        "files": [],
        "problems": [],
        "error": None,
        "fail_code": None,
        "reason": None,
        "may_have_charged": False,
    }


async def test_archived_files(tmp_path: Path, command: Command) -> None:
    """A file in an archive is shown by its URL; a page does not look for it in a folder."""
    place, url = tmp_path / "j", "s3://bucket/videos/fox.mp4"
    (tmp_path / "fox.mp4").write_bytes(b"another video")
    async with SqliteJournal(place) as journal:
        await journal.plan([Planned("fox", FOX)])
        file = SavedFile(URL, "fox.mp4", 1000, "0" * 64, archive="s3://bucket/videos")
        await journal.record(*_moves("fox", ItemState.SAVED, file))
    assert (await command("report", place)).out.splitlines()[-1].split() == ["fox", "saved", url]
    (found,) = (await command("report", place, "--json")).objects
    assert found["files"] == [url]
    page = tmp_path / "page.html"
    await command(*("report", place, "--format", "html", "--videos", tmp_path, "--output", page))
    assert url in page.read_text(encoding="utf-8")
    assert "<video" not in page.read_text(encoding="utf-8")


async def test_page(journal: Path, command: Command, tmp_path: Path) -> None:
    """The page shows videos by their paths beside it, and says how the other items stand."""
    videos = tmp_path / "my videos"
    videos.mkdir()
    (videos / "saved.mp4").write_bytes(b"a video")
    place = tmp_path / "sheets" / "sheet.html"
    place.parent.mkdir()
    ended = await command(
        *("report", journal, "--format", "html", "--videos", videos, "--output", place)
    )
    assert (ended.code, ended.out) == (0, f"{place}\n")
    page = place.read_text(encoding="utf-8")
    assert re.findall(r'<video src="([^"]+)"', page) == ["./../my%20videos/saved.mp4"]
    assert "saved (2)" in page
    assert f"saved-2.mp4 is not in {videos}: see --videos" in page
    for words in ("Unsure", "Failed", "Running", "Queued", "Finished", URL, "it failed with NSFW"):
        assert words in page
    assert page.count('<div class="stage none yet">') == 3
    assert '<b class="bad">1</b> unsure' in page
    assert "https://example.com/fox.jpg" in page
    assert "Made from clips.jsonl.journal.sqlite." in page
    assert "are shown" not in page


async def test_place_of_the_page(journal: Path, command: Command, tmp_path: Path) -> None:
    """By default the page is index.html beside the videos, or beside the journal."""
    videos = tmp_path / "videos"
    videos.mkdir()
    argv = ("report", journal, "--format", "html")
    assert (await command(*argv)).out == f"{tmp_path / 'index.html'}\n"
    assert (await command(*argv, "--json")).objects == [{"page": str(tmp_path / "index.html")}]
    assert (await command(*argv, "--videos", videos)).out == f"{videos / 'index.html'}\n"


async def test_page_of_very_many(tmp_path: Path, command: Command) -> None:
    """Of very many items, the page shows a thousand and says so."""
    async with SqliteJournal(tmp_path / "j") as journal:
        await journal.plan([Planned(f"{n:04}", FOX) for n in range(1001)])
    await command("report", tmp_path / "j", "--format", "html")
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "of 1,001 <b>1,000</b> are shown" in page
    assert page.count("<article") == 1000


async def test_folder_that_may_not_be_written(
    journal: Path, command: Command, tmp_path: Path
) -> None:
    """A report that cannot be written is one sentence and code 2."""
    ended = await command("report", journal, "--output", tmp_path / "none" / "report")
    assert ended.code == 2
    assert f"cannot write {tmp_path / 'none' / 'report'}: No such file" in ended.err


async def test_journal_that_is_none(command: Command, tmp_path: Path) -> None:
    """What is no journal is one sentence and code 6, and nothing is made."""
    ended = await command("report", tmp_path / "none.sqlite")
    assert (ended.code, ended.out) == (6, "")
    assert "there is no journal at" in ended.err
    assert list(tmp_path.iterdir()) == []


async def test_words_of_the_service_are_harmless(tmp_path: Path, command: Command) -> None:
    """Control characters in what the service has said do not reach the terminal."""
    words = Failure("AnswerLostError", "\x1b[31mred\nline", may_have_charged=True)
    async with SqliteJournal(tmp_path / "j") as journal:
        await journal.plan([Planned("a", FOX)])
        await journal.record(*_moves("a", ItemState.UNSURE, failure=words))
    ended = await command("report", tmp_path / "j")
    assert ended.out.endswith("\\x1b[31mred\\nline\n")
    (found,) = (await command("report", tmp_path / "j", "--format", "json")).objects
    assert found["error"] == "\x1b[31mred\nline"
    assert json.dumps(found)
