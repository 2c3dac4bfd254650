from __future__ import annotations

import logging
import tempfile
from typing import TYPE_CHECKING

import pytest

from kling_async.cli import arguments
from kling_async.journal.base import ItemState, Planned
from kling_async.journal.sqlite.journal import SqliteJournal
from tests.cli.batches import TEXT, counts_of, keys_of, summary_of, write_rows

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Command, Serve


async def test_all_rows_become_videos(serve: Serve, command: Command, tmp_path: Path) -> None:
    """Every row is submitted once; its key and file are on stdout, the summary on stderr."""
    emulator = await serve()
    videos = tmp_path / "videos"
    ended = await command("batch", write_rows(tmp_path), "--download-to", videos)
    assert ended.code == 0
    assert sorted(ended.out.splitlines()) == [f"{key}\t{videos / f'{key}.mp4'}" for key in "abc"]
    assert all(path.read_bytes()[4:8] == b"ftyp" for path in videos.glob("*.mp4"))
    assert len(emulator.ledger) == 3
    assert counts_of(ended) == {"saved": 3}
    assert "Tasks that may have cost money, all runs together: 3\n" in ended.err
    assert f"Journal: {tmp_path / 'clips.jsonl.journal.sqlite'}\nVideos: {videos}\n" in ended.err
    assert "Next:" not in ended.err


async def test_without_a_folder_there_are_urls(
    serve: Serve, command: Command, tmp_path: Path
) -> None:
    """Without downloads, the URLs of the results are on stdout."""
    emulator = await serve()
    ended = await command("batch", write_rows(tmp_path, 1))
    assert ended.out.startswith(f"a\t{emulator.origin}/files/task_")
    assert "Videos:" not in ended.err


async def test_spreadsheets_are_known_by_their_names(
    serve: Serve, command: Command, tmp_path: Path
) -> None:
    """A file that ends with .csv is a table, and so is any with the format given."""
    emulator = await serve()
    for name, options in (("a.CSV", ()), ("b.txt", ("--format", "csv"))):
        path = tmp_path / name
        path.write_text("key;mode;prompt;duration\nx;master-text-to-video;a fox;10\n")
        ended = await command("batch", path, *options)
        assert keys_of(ended) == ["x"]
    assert [sent.input["duration"] for sent in emulator.ledger] == [10, 10]


async def test_a_second_run_repeats_nothing(serve: Serve, command: Command, tmp_path: Path) -> None:
    """A finished batch is printed again whole, and nothing is submitted."""
    emulator = await serve()
    rows = write_rows(tmp_path)
    first = await command("batch", rows)
    again = await command("batch", rows)
    assert again.code == 0
    assert sorted(again.out.splitlines()) == sorted(first.out.splitlines())
    journal = tmp_path / "clips.jsonl.journal.sqlite"
    assert again.err.startswith(f"resuming {journal}: 3 finished\n")
    assert "resuming" not in first.err
    assert len(emulator.ledger) == 3


async def test_no_resume_refuses_a_journal(serve: Serve, command: Command, tmp_path: Path) -> None:
    """With --no-resume a journal that is there is not touched; an empty file does not count."""
    emulator = await serve()
    journal = tmp_path / "j"
    journal.touch()
    argv = ("batch", write_rows(tmp_path), "--journal", journal, "--no-resume")
    assert (await command(*argv)).code == 0
    ended = await command(*argv)
    assert (ended.code, ended.out) == (2, "")
    assert f"there is a journal at {journal} already" in ended.err
    assert len(emulator.ledger) == 3


async def test_wrong_rows_start_nothing(serve: Serve, command: Command, tmp_path: Path) -> None:
    """All rows are checked first: one wrong row, named by its number, and nothing is sent."""
    emulator = await serve()
    rows = write_rows(tmp_path)
    rows.write_text(f'{rows.read_text()}\n\n{{"key": "a"}}\n')
    ended = await command("batch", rows)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("kling-async: row 5: prompt: is required")
    assert emulator.requests == ()
    assert not (tmp_path / "clips.jsonl.journal.sqlite").exists()


async def test_wrong_rows_are_left_out(serve: Serve, command: Command, tmp_path: Path) -> None:
    """With --skip-invalid the good rows are made, the others are named, and the code is 1."""
    await serve()
    rows = write_rows(tmp_path, 2)
    rows.write_text(f"nonsense\n{rows.read_text()}\n")
    ended = await command("batch", rows, "--skip-invalid")
    assert ended.code == 1
    assert keys_of(ended) == ["a", "b"]
    assert ended.err.startswith("kling-async: row 1: not JSON")
    assert "  left out           1\n" in ended.err


@pytest.mark.parametrize(
    ("content", "said"),
    [("\n", "there are no rows in it"), ("{}\n", "there are no valid rows in it")],
)
async def test_file_without_rows(command: Command, tmp_path: Path, content: str, said: str) -> None:
    """A file with nothing to do is refused."""
    (tmp_path / "none.jsonl").write_text(content)
    ended = await command("batch", tmp_path / "none.jsonl", "--skip-invalid")
    assert ended.code == 2
    assert said in ended.err


async def test_dry_run_sends_and_writes_nothing(
    serve: Serve, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run says what would be done, without a key, a request or a file."""
    emulator = await serve()
    monkeypatch.delenv("APIXO_API_KEY")
    rows = write_rows(tmp_path)
    ended = await command("batch", rows, "--dry-run", "--concurrent-tasks", "1")
    assert ended.code == 0
    assert ended.out == (
        f"{rows}: 3 rows; nothing was sent\n"
        "  3 would be submitted\n"
        "  about 5 min, by the vendor's figures\n"
    )
    assert emulator.requests == ()
    assert list(tmp_path.iterdir()) == [rows]


async def test_dry_run_beside_a_journal(serve: Serve, command: Command, tmp_path: Path) -> None:
    """A dry run reads the journal: what runs, what is to be fetched, what stays, and the rest."""
    emulator = await serve("task:2=stuck", "task:3=fail:PROCESSING_TIMEOUT", "submit:4=lost-answer")
    argv = ("batch", write_rows(tmp_path, 6), "--in-flight", "1", "--timeout", "300")
    await command(*argv, "--limit", "4")
    sent = len(emulator.requests)
    options = ("--dry-run", "--download-to", tmp_path / "v", "--max-tasks", "6")
    ended = await command(*argv, *options, "--resubmit-failed", "1")
    assert ended.out.splitlines()[1:] == [
        "  2 would be submitted",
        "  1 of 3 as a new attempt, which is charged again",
        "  1 would not: --max-tasks",
        "  1 running already, to be waited for",
        "  1 video would be downloaded",
        "  the rest would not change: 1 unsure",
        "  about 6 min 15 s, by the vendor's figures",
    ]
    (fields,) = (await command(*argv, *options, "--json")).objects
    assert fields == {
        "rows": 6,
        "submit": 2,
        "submit_again": 0,
        "beyond_max_tasks": 0,
        "attach": 1,
        "save": 1,
        "stay": {"failed": 1, "unsure": 1},
        "invalid": 0,
        "seconds": 300.0,
    }
    assert len(emulator.requests) == sent


async def test_dry_run_of_wrong_rows(command: Command, tmp_path: Path) -> None:
    """A dry run without the wrong rows ends with 1, as the run would."""
    rows = write_rows(tmp_path, 1)
    rows.write_text(f"nonsense\n{rows.read_text()}")
    ended = await command("batch", rows, "--dry-run", "--skip-invalid", "--max-tasks", "5")
    assert ended.code == 1
    assert "  1 would be submitted\n" in ended.out


async def test_limit_of_rows(serve: Serve, command: Command, tmp_path: Path) -> None:
    """With --limit only the first rows are done; the next run may do the others."""
    emulator = await serve()
    rows = write_rows(tmp_path)
    assert keys_of(await command("batch", rows, "--limit", "1")) == ["a"]
    assert len(emulator.ledger) == 1
    assert keys_of(await command("batch", rows)) == ["a", "b", "c"]
    assert len(emulator.ledger) == 3


async def test_journal_in_use(serve: Serve, command: Command, tmp_path: Path) -> None:
    """A journal that another batch has open is one sentence and code 6; nothing is sent."""
    emulator = await serve()
    rows = write_rows(tmp_path)
    async with SqliteJournal(tmp_path / "clips.jsonl.journal.sqlite"):
        ended = await command("batch", rows)
    assert ended.code == 6
    assert "is in use by another batch" in ended.err
    assert emulator.requests == ()


async def test_place_where_no_journal_can_be(command: Command, tmp_path: Path) -> None:
    """A path that cannot be a journal's is one sentence and code 6."""
    ended = await command("batch", write_rows(tmp_path), "--journal", "x" * 300)
    assert ended.code == 6
    assert "there cannot be a journal at xxx" in ended.err


async def test_key_with_another_input(serve: Serve, command: Command, tmp_path: Path) -> None:
    """A key that the journal has with another input is refused before anything is sent."""
    emulator = await serve()
    await command("batch", write_rows(tmp_path, 1))
    ended = await command("batch", write_rows(tmp_path, 2, prompt="a cat"))
    assert ended.code == 2
    assert ended.err.startswith("kling-async: row 1: the journal has key 'a' with another input")
    assert len(emulator.ledger) == 1


async def test_other_items_of_the_journal(serve: Serve, command: Command, tmp_path: Path) -> None:
    """Items of the journal that the file does not name stay as they are."""
    emulator = await serve()
    async with SqliteJournal(tmp_path / "clips.jsonl.journal.sqlite") as journal:
        await journal.plan([Planned("mine", {**TEXT, "model": "kling-2-1"})])
    ended = await command("batch", write_rows(tmp_path, 1))
    assert (ended.code, keys_of(ended)) == (0, ["a"])
    assert len(emulator.ledger) == 1
    assert (await summary_of(tmp_path)).counts[ItemState.PLANNED] == 1


async def test_missing_key(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a key nothing is begun, not even the journal."""
    monkeypatch.delenv("APIXO_API_KEY", raising=False)
    rows = write_rows(tmp_path)
    ended = await command("batch", rows)
    assert ended.code == 2
    assert "APIXO_API_KEY" in ended.err
    assert list(tmp_path.iterdir()) == [rows]


async def test_warnings_are_as_they_were(serve: Serve, command: Command, tmp_path: Path) -> None:
    """Afterwards the client may warn again."""
    await serve()
    await command("batch", write_rows(tmp_path, 1))
    assert logging.getLogger("kling_async").filters == []


def test_resuming_is_the_default() -> None:
    """A batch continues with its journal by default."""
    assert arguments.parse(["batch", "x"]).resume is True
    assert arguments.parse(["batch", "x", "--no-resume"]).resume is False


async def test_each_file_has_its_own_journal(
    serve: Serve, command: Command, tmp_path: Path
) -> None:
    """Files that differ in their suffix alone have two journals."""
    emulator = await serve("task:*=stuck")
    table = tmp_path / "clips.csv"
    table.write_text("key;mode;prompt\nx;master-text-to-video;a fox\n")
    for rows in (write_rows(tmp_path, 1), table):
        ended = await command("batch", rows, "--timeout", "10")
        assert (ended.code, counts_of(ended)) == (3, {"running": 1})
        assert rows.with_name(f"{rows.name}.journal.sqlite").exists()
    assert len(emulator.ledger) == 2


async def test_journal_of_an_earlier_version(
    serve: Serve, command: Command, tmp_path: Path
) -> None:
    """A journal by the earlier name is gone on with; what another file has running is refused."""
    emulator = await serve("task:*=stuck")
    rows = write_rows(tmp_path, 1)
    earlier = tmp_path / "clips.journal.sqlite"
    await command("batch", rows, "--timeout", "10", "--journal", earlier)
    assert (await command("batch", rows, "--timeout", "10")).code == 3
    assert sorted(tmp_path.glob("*.sqlite")) == [earlier]
    table = tmp_path / "clips.csv"
    table.write_text("key;mode;prompt\nx;master-text-to-video;a fox\n")
    ended = await command("batch", table)
    assert ended.code == 2
    assert f"the journal {earlier} has 1 running task of other rows" in ended.err
    assert "--journal" in ended.err
    assert len(emulator.ledger) == 1


async def test_other_items_are_reported_first(
    serve: Serve, command: Command, tmp_path: Path
) -> None:
    """Items of the journal that are not in the file are reported, in a dry run, too."""
    await serve()
    rows = write_rows(tmp_path, 2)
    await command("batch", rows)
    write_rows(tmp_path, 1)
    dry = await command("batch", rows, "--dry-run")
    assert "  1 item of the journal not in the file\n" in dry.out
    assert (await command("batch", rows, "--dry-run", "--json")).objects[0]["not_in_file"] == 1
    assert "\n1 item of the journal not in the file\n" in (await command("batch", rows)).err


async def test_folder_that_cannot_be_made(serve: Serve, command: Command, tmp_path: Path) -> None:
    """A folder for videos that cannot be made is code 2, before anything is sent or written."""
    emulator = await serve()
    (tmp_path / "file").touch()
    to = ("--download-to", tmp_path / "file" / "videos")
    for argv in (("batch", write_rows(tmp_path)), ("generate", "a fox")):
        ended = await command(*argv, *to)
        assert (ended.code, ended.err.count("\n")) == (2, 1)
        assert "Not a directory" in ended.err
    ended = await command("download", "kling-2-1/task_1", "--to", to[1])
    assert ended.code == 2
    assert emulator.requests == ()
    assert not list(tmp_path.glob("*.sqlite"))


@pytest.mark.parametrize("name", [".", "/"])
async def test_folder_of_rows(command: Command, name: str) -> None:
    """A folder is no file of rows, and is one line."""
    ended = await command("batch", name)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "is a folder" in ended.err


async def test_place_that_cannot_be_written(serve: Serve, command: Command, tmp_path: Path) -> None:
    """If no journal can be beside the rows, the error names the option that helps."""
    emulator = await serve()
    rows = write_rows(tmp_path)
    (tmp_path / "clips.jsonl.journal.sqlite").mkdir()
    ended = await command("batch", rows)
    assert ended.code == 6
    assert "; or name another place with --journal" in ended.err
    ended = await command("batch", rows, "--journal", rows / "j")
    assert ended.code == 6
    assert "or name another" not in ended.err
    assert emulator.requests == ()


@pytest.mark.parametrize("place", ["/dev/j.sqlite", "/proc/self/j.sqlite"])
async def test_journal_among_devices(command: Command, tmp_path: Path, place: str) -> None:
    """A journal that the next start of the machine would lose is refused."""
    ended = await command("batch", write_rows(tmp_path), "--journal", place)
    assert ended.code == 2
    assert "would be lost" in ended.err


async def test_dry_run_needs_no_temporary_folder(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows can be checked where nothing can be written."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert (await command("batch", write_rows(tmp_path), "--dry-run")).code == 0
