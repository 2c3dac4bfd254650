from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kling_async import Batch, Item, KlingClient, MasterTextToVideo
from kling_async.journal.sqlite.journal import SqliteJournal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Command, Serve


async def generate(path: Path, *keys: str) -> None:
    """Run a batch that saves no videos."""
    items = [Item(key, MasterTextToVideo(f"fox {key}")) for key in keys]
    async with KlingClient() as kling, Batch(kling, journal=path) as batch:
        assert [outcome.error async for outcome in batch.run(items)] == [None] * len(keys)


async def test_several_journals(serve: Serve, command: Command, tmp_path: Path) -> None:
    """The videos of all journals are saved once; a second call finds nothing more, and pays not."""
    emulator = await serve()
    one, two, videos = tmp_path / "one.sqlite", tmp_path / "two.sqlite", tmp_path / "videos"
    await generate(one, "a", "b")
    await generate(two, "c")
    ended = await command("rescue", one, two, "--download-to", videos)
    assert ended.code == 0
    assert {path.name for path in videos.glob("*.mp4")} == {"a.mp4", "b.mp4", "c.mp4"}
    assert sorted(ended.out.splitlines()) == [f"{key}\t{videos / key}.mp4" for key in "abc"]
    assert ended.err == "kling-async: 3 videos saved, 0 not saved this time, 0 lost\n"
    again = await command("rescue", one, two, "--download-to", videos, "--json")
    assert again.objects == [{"counts": {"saved": 0, "not_saved": 0, "lost": 0}}]
    assert len(emulator.ledger) == 3


async def test_lost_and_not_saved(serve: Serve, command: Command, tmp_path: Path) -> None:
    """What is lost, and what was not saved this time, is said with its key; the exit code is 5."""
    emulator = await serve()
    journal, folder = tmp_path / "run.sqlite", tmp_path / "videos"
    await generate(journal, "a", "b")
    emulator.add_fault("file", 1, "410")
    emulator.add_fault("file", range(2, 100), "503")
    ended = await command("rescue", journal, "--download-to", folder, "--json")
    assert ended.code == 5
    *outcomes, counts = ended.objects
    assert counts == {"counts": {"saved": 0, "not_saved": 1, "lost": 1}}
    assert {outcome["error"] for outcome in outcomes} == {"ResultExpiredError", "DownloadError"}
    plain = await command("rescue", journal, "--download-to", folder)
    assert "kling-async: a: " in plain.err


async def test_journal_in_use(serve: Serve, command: Command, tmp_path: Path) -> None:
    """A journal that a running batch uses is left to it: the call may come from cron."""
    await serve()
    busy, other = tmp_path / "busy.sqlite", tmp_path / "other.sqlite"
    await generate(busy, "a")
    await generate(other, "b")
    async with SqliteJournal(busy):
        ended = await command("rescue", busy, other, "--download-to", tmp_path / "v")
    assert ended.code == 0
    assert "left out" in ended.err
    assert [path.name for path in (tmp_path / "v").glob("*.mp4")] == ["b.mp4"]


@pytest.mark.parametrize("options", [(), ("--download-to", "videos")])
async def test_wrong_arguments(
    options: tuple[str, ...], serve: Serve, command: Command, tmp_path: Path
) -> None:
    """A missing folder or journal is an error of the command line; no journal is created."""
    await serve()
    ended = await command("rescue", tmp_path / "none.sqlite", *options)
    assert ended.code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("other", "code", "message"),
    [
        ("none.sqlite", 2, "there is no journal at "),
        ("postgresql://127.0.0.1:1/x?batch=a", 6, "left out: the journal postgresql://127.0.0.1:1"),
    ],
    ids=["missing", "out of reach"],
)
async def test_a_journal_beside_others(
    other: str, code: int, message: str, serve: Serve, command: Command, tmp_path: Path
) -> None:
    """A journal that is missing or out of reach is reported, and does not prevent others."""
    await serve()
    await generate(tmp_path / "good.sqlite", "a")
    place = other if "://" in other else str(tmp_path / other)
    argv = ("rescue", place, tmp_path / "good.sqlite", "--download-to", tmp_path / "videos")
    ended = await command(*argv)
    assert ended.code == code
    assert message in ended.err
    assert [path.name for path in (tmp_path / "videos").glob("*.mp4")] == ["a.mp4"]


async def test_damaged_journal(serve: Serve, command: Command, tmp_path: Path) -> None:
    """A journal that cannot be read is reported, and the videos of the others are saved."""
    await serve()
    damaged, good = tmp_path / "damaged.sqlite", tmp_path / "good.sqlite"
    damaged.write_text("no journal" * 100, encoding="utf-8")
    await generate(good, "a")
    argv = ("rescue", damaged, good, "--download-to", tmp_path / "videos")
    ended = await command(*argv)
    assert ended.code == 6
    assert f"left out: the journal {damaged} is not a journal" in ended.err
    assert [path.name for path in (tmp_path / "videos").glob("*.mp4")] == ["a.mp4"]
    again = await command(*argv, "--json")
    assert again.objects == [{"counts": {"saved": 0, "not_saved": 0, "lost": 0, "unusable": 1}}]
