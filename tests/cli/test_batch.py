from __future__ import annotations

import asyncio
import json
import logging
import shlex
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from kling_async.cli import arguments
from kling_async.journal.base import ItemState, Planned
from kling_async.journal.sqlite.journal import SqliteJournal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from kling_async.journal.base import Summary
    from tests.cli.conftest import Command, Ended, Serve

TEXT = {"mode": "master-text-to-video", "prompt": "a fox"}


def _rows(folder: Path, count: int = 3, **more: object) -> Path:
    """Write a file of rows with the keys a, b, c and so on."""
    path = folder / "clips.jsonl"
    rows = [{**TEXT, "key": "abcdefghijklmnopqrstuvwxyz"[n], **more} for n in range(count)]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def _keys(ended: Ended) -> list[str]:
    return _keys_of(ended.out)


def _keys_of(out: str) -> list[str]:
    return sorted(line.split("\t")[0] for line in out.splitlines())


def _counts(ended: Ended) -> Mapping[str, int]:
    """Read the table of states that the summary has."""
    pairs = [line.split() for line in ended.err.splitlines() if line.startswith("  ")]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


async def _summary(folder: Path) -> Summary:
    async with SqliteJournal(folder / "clips.jsonl.journal.sqlite", read_only=True) as journal:
        return await journal.summary()


async def test_all_rows_become_videos(serve: Serve, command: Command, tmp_path: Path) -> None:
    """Every row is submitted once; its key and file are on stdout, the summary on stderr."""
    emulator = await serve()
    videos = tmp_path / "videos"
    ended = await command("batch", _rows(tmp_path), "--download-to", videos)
    assert ended.code == 0
    assert sorted(ended.out.splitlines()) == [f"{key}\t{videos / f'{key}.mp4'}" for key in "abc"]
    assert all(path.read_bytes()[4:8] == b"ftyp" for path in videos.iterdir())
    assert len(emulator.ledger) == 3
    assert _counts(ended) == {"saved": 3}
    assert "Tasks that may have cost money, all runs together: 3\n" in ended.err
    assert f"Journal: {tmp_path / 'clips.jsonl.journal.sqlite'}\nVideos: {videos}\n" in ended.err
    assert "Next:" not in ended.err


async def test_without_a_folder_there_are_urls(
    serve: Serve, command: Command, tmp_path: Path
) -> None:
    """Without downloads, the URLs of the results are on stdout."""
    emulator = await serve()
    ended = await command("batch", _rows(tmp_path, 1))
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
        assert _keys(ended) == ["x"]
    assert [sent.input["duration"] for sent in emulator.ledger] == [10, 10]


async def test_a_second_run_repeats_nothing(serve: Serve, command: Command, tmp_path: Path) -> None:
    """A finished batch is told again whole, and nothing is submitted."""
    emulator = await serve()
    rows = _rows(tmp_path)
    first = await command("batch", rows)
    again = await command("batch", rows)
    assert again.code == 0
    assert sorted(again.out.splitlines()) == sorted(first.out.splitlines())
    journal = tmp_path / "clips.jsonl.journal.sqlite"
    assert again.err.startswith(f"resuming {journal}: 3 finished\n")
    assert "resuming" not in first.err
    assert len(emulator.ledger) == 3


async def test_no_resume_refuses_a_journal(serve: Serve, command: Command, tmp_path: Path) -> None:
    """With --no-resume a journal that is there is not touched; an empty file is none."""
    emulator = await serve()
    journal = tmp_path / "j"
    journal.touch()
    argv = ("batch", _rows(tmp_path), "--journal", journal, "--no-resume")
    assert (await command(*argv)).code == 0
    ended = await command(*argv)
    assert (ended.code, ended.out) == (2, "")
    assert f"there is a journal at {journal} already" in ended.err
    assert len(emulator.ledger) == 3


async def test_wrong_rows_start_nothing(serve: Serve, command: Command, tmp_path: Path) -> None:
    """All rows are checked first: one wrong row, named by its number, and nothing is sent."""
    emulator = await serve()
    rows = _rows(tmp_path)
    rows.write_text(f'{rows.read_text()}\n\n{{"key": "a"}}\n')
    ended = await command("batch", rows)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("kling-async: row 5: prompt: is required")
    assert emulator.requests == ()
    assert not (tmp_path / "clips.jsonl.journal.sqlite").exists()


async def test_wrong_rows_are_left_out(serve: Serve, command: Command, tmp_path: Path) -> None:
    """With --skip-invalid the good rows are made, the others are named, and the code is 1."""
    await serve()
    rows = _rows(tmp_path, 2)
    rows.write_text(f"nonsense\n{rows.read_text()}\n")
    ended = await command("batch", rows, "--skip-invalid")
    assert ended.code == 1
    assert _keys(ended) == ["a", "b"]
    assert ended.err.startswith("kling-async: row 1: not JSON")
    assert "  left out           1\n" in ended.err


@pytest.mark.parametrize(
    ("content", "said"),
    [("\n", "there are no rows in it"), ("{}\n", "there are no good rows in it")],
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
    rows = _rows(tmp_path)
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
    argv = ("batch", _rows(tmp_path, 6), "--in-flight", "1", "--timeout", "300")
    await command(*argv, "--limit", "4")
    sent = len(emulator.requests)
    options = ("--dry-run", "--download-to", tmp_path / "v", "--max-tasks", "6")
    ended = await command(*argv, *options, "--resubmit-failed", "1")
    assert ended.out.splitlines()[1:] == [
        "  2 would be submitted",
        "  1 of 3 as a new attempt, which is paid again",
        "  1 would not: --max-tasks",
        "  1 run already, and would be waited for",
        "  1 videos would be fetched",
        "  the rest stays as it is: 1 unsure",
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
    rows = _rows(tmp_path, 1)
    rows.write_text(f"nonsense\n{rows.read_text()}")
    ended = await command("batch", rows, "--dry-run", "--skip-invalid", "--max-tasks", "5")
    assert ended.code == 1
    assert "  1 would be submitted\n" in ended.out


async def test_failed_rows(serve: Serve, command: Command, tmp_path: Path) -> None:
    """Failures end a batch with 1, the first few are named, and so is what may help."""
    rules = [f"task:{number}=fail:NSFW_DETECTED" for number in range(1, 7)]
    await serve(*rules, "task:7=fail:MODEL_UNAVAILABLE")
    rows = _rows(tmp_path, 8)
    ended = await command("batch", rows, "--in-flight", "1")
    assert ended.code == 1
    assert _keys(ended) == ["h"]
    assert _counts(ended) == {"finished": 1, "failed": 7}
    lines = ended.err.splitlines()
    named = lines[lines.index("Failed:") + 1 : lines.index("Next:")]
    assert [line[:5] for line in named] == ["  a: ", "  b: ", "  c: ", "  d: ", "  e: ", "  and"]
    assert "NSFW_DETECTED" in named[0]
    assert named[-1] == "  and 2 more"
    assert lines[lines.index("Next:") + 1 :] == [
        "  # all items",
        f"  kling-async report {tmp_path / 'clips.jsonl.journal.sqlite'}",
        "  # submits again what may pass, and pays again",
        f"  kling-async batch {rows} --in-flight 1 --resubmit-failed 1",
    ]


async def test_failed_rows_are_resubmitted_on_request(
    serve: Serve, command: Command, tmp_path: Path
) -> None:
    """What may pass is submitted again if that is asked for."""
    emulator = await serve("task:1=fail:PROCESSING_TIMEOUT")
    ended = await command("batch", _rows(tmp_path, 1), "--resubmit-failed", "1")
    assert (ended.code, _keys(ended)) == (0, ["a"])
    assert len(emulator.ledger) == 2


async def test_unsure_rows(serve: Serve, command: Command, tmp_path: Path) -> None:
    """A lost answer ends a batch with 4, and is submitted again by the command that is named."""
    emulator = await serve("submit:2=lost-answer", "task:3=fail:NSFW_DETECTED")
    rows = _rows(tmp_path)
    first = await command("batch", rows, "--in-flight", "1")
    assert first.code == 4
    assert _counts(first) == {"finished": 1, "failed": 1, "unsure": 1}
    assert "Unsure:\n  b: the answer to the submit was lost" in first.err
    assert (await command("batch", rows)).code == 4
    assert len(emulator.ledger) == 3
    hint = first.err.splitlines()[-1].strip()
    assert hint == f"kling-async batch {rows} --resubmit-unsure --in-flight 1"
    again = await command(*shlex.split(hint)[1:])
    assert again.code == 1
    assert _keys(again) == ["a", "b"]
    assert len(emulator.ledger) == 4


async def test_unsure_rows_are_not_resubmitted_by_the_way(
    serve: Serve, command: Command, tmp_path: Path
) -> None:
    """The command that goes on does not submit the unsure again, even if this one did."""
    await serve("task:1=stuck")
    rows = _rows(tmp_path, 1)
    ended = await command("batch", rows, "--resubmit-unsure", "--timeout", "100.5")
    assert f"  kling-async batch {rows} --timeout 100.5\n" in ended.err


async def test_tasks_that_do_not_end(serve: Serve, command: Command, tmp_path: Path) -> None:
    """What has not ended in time ends a batch with 3, and the next run waits for it again."""
    emulator = await serve(duration=(400.0, 400.0))
    rows = _rows(tmp_path)
    argv = ("batch", rows, "--timeout", "100")
    ended = await command(*argv)
    assert ended.code == 3
    assert _counts(ended) == {"running": 3}
    assert "Not ended:\n  " in ended.err
    assert f"  # goes on\n  kling-async batch {rows} --timeout 100\n" in ended.err
    assert (await command("batch", rows)).code == 0
    assert len(emulator.ledger) == 3


async def test_failed_downloads(serve: Serve, command: Command, tmp_path: Path) -> None:
    """If nothing but downloads has failed, the code is 5, and the next run fetches them."""
    emulator = await serve("file:1=410")
    rows = _rows(tmp_path)
    argv = ("batch", rows, "--download-to", tmp_path / "videos", "--downloads", "1")
    ended = await command(*argv)
    assert ended.code == 5
    assert _counts(ended) == {"saved": 2, "finished": 1}
    assert "Not saved:\n  " in ended.err
    assert f"--download-to {tmp_path / 'videos'} --downloads 1\n" in ended.err
    again = await command(*argv)
    assert (again.code, _keys(again)) == (0, ["a", "b", "c"])
    assert len(emulator.ledger) == 3


async def test_video_that_is_gone(serve: Serve, command: Command, tmp_path: Path) -> None:
    """A saved video that is gone and cannot be had again is a failed download, too."""
    await serve("file:2-=404")
    argv = ("batch", _rows(tmp_path, 1), "--download-to", tmp_path / "videos")
    assert (await command(*argv)).code == 0
    (tmp_path / "videos" / "a.mp4").unlink()
    ended = await command(*argv)
    assert (ended.code, ended.out) == (5, "")


async def test_most_tasks(serve: Serve, command: Command, tmp_path: Path) -> None:
    """A limit of tasks stops the batch: code 1, and the rest is told as queued."""
    emulator = await serve()
    ended = await command("batch", _rows(tmp_path, 5), "--max-tasks", "2", "--in-flight", "1")
    assert ended.code == 1
    assert len(emulator.ledger) == 2
    assert _counts(ended) == {"finished": 2, "queued": 3}
    assert ended.err.endswith("kling-async: max_tasks: 2 tasks have been started, in all runs\n")


async def test_what_is_left_over_comes_before_what_runs(
    serve: Serve, command: Command, tmp_path: Path
) -> None:
    """Rows that were not submitted are worse than tasks that go on: the code is 1, not 3."""
    emulator = await serve("status:1=401")
    ended = await command("batch", _rows(tmp_path), "--in-flight", "1")
    assert ended.code == 1
    assert _counts(ended) == {"running": 1, "queued": 2}
    assert len(emulator.ledger) == 1


async def test_least_balance(serve: Serve, command: Command, tmp_path: Path) -> None:
    """A balance that is too low stops the batch before anything is submitted."""
    emulator = await serve(balance=5.0)
    ended = await command("batch", _rows(tmp_path), "--min-balance", "10")
    assert ended.code == 1
    assert emulator.ledger == ()
    assert "the balance is 5.00 USD, below 10.00" in ended.err
    assert _counts(ended) == {"queued": 3}


async def test_limit_of_rows(serve: Serve, command: Command, tmp_path: Path) -> None:
    """With --limit only the first rows are done; the next run may do the others."""
    emulator = await serve()
    rows = _rows(tmp_path)
    assert _keys(await command("batch", rows, "--limit", "1")) == ["a"]
    assert len(emulator.ledger) == 1
    assert _keys(await command("batch", rows)) == ["a", "b", "c"]
    assert len(emulator.ledger) == 3


async def test_limits_of_the_account(serve: Serve, command: Command, tmp_path: Path) -> None:
    """The limits that are given are kept: an account of one task is never over it."""
    emulator = await serve(concurrent_tasks=1, requests_per_minute=30)
    ended = await command(
        *("batch", _rows(tmp_path), "--concurrent-tasks", "1", "--requests-per-minute", "30"),
        *("--first-poll", "65"),
    )
    assert ended.code == 0
    assert {request.status for request in emulator.requests} == {200}
    submitted, asked = emulator.requests[:2]
    assert asked.at - submitted.at == pytest.approx(65, abs=0.5)


async def test_batch_for_a_program(serve: Serve, command: Command, tmp_path: Path) -> None:
    """With JSON, every outcome is an object on stdout, and stderr has nothing but errors."""
    emulator = await serve("task:1=fail:NSFW_DETECTED", "file:1=410")
    rows = _rows(tmp_path)
    rows.write_text(f"nonsense\n{rows.read_text()}")
    argv = ("--in-flight", "1", "--skip-invalid", "--download-to", tmp_path / "videos")
    ended = await command("batch", rows, "--json", *argv)
    assert ended.code == 1
    failed, unsaved, saved = ended.objects
    refs = [f"kling-2-1/{sent.task_id}" for sent in emulator.ledger]
    assert [found["ref"] for found in ended.objects] == refs
    assert (failed["key"], failed["error"], failed["reason"]) == ("a", "TaskFailedError", "content")
    assert (failed["fail_code"], failed["may_have_charged"]) == ("NSFW_DETECTED", True)
    assert (unsaved["error"], unsaved["reason"]) == ("ResultExpiredError", None)
    assert unsaved["result_urls"] == [f"{emulator.origin}/files/{refs[1].split('/')[1]}.mp4"]
    assert (saved["key"], saved["files"]) == ("c", [str(tmp_path / "videos" / "c.mp4")])
    assert "error" not in saved
    (skipped,) = ended.errors
    assert (skipped["error"], skipped["exit_code"]) == ("InputError", 1)


async def test_interrupted_batch(
    serve: Serve, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interrupted batch counts what goes on and names the command, which loses nothing."""
    emulator = await serve()
    rows = _rows(tmp_path, 5)
    running = asyncio.create_task(command("batch", rows, "--in-flight", "2"))
    await asyncio.sleep(70)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    said = capsys.readouterr()
    assert _keys_of(said.out) == ["a", "b"]
    assert "kling-async: interrupted; the journal has 2 finished, 2 running, 1 queued\n" in said.err
    assert "Tasks that go on at the service: 2\n" in said.err
    assert f"To go on: kling-async batch {rows} --in-flight 2\n" in said.err
    assert "unattended" not in said.err
    ended = await command("batch", rows)
    assert (ended.code, _keys(ended)) == (0, ["a", "b", "c", "d", "e"])
    assert len(emulator.ledger) == 5


async def test_interrupted_before_anything(
    serve: Serve, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interrupted while nothing runs, nothing is said to go on."""
    await serve("balance:1=slow:20")
    running = asyncio.create_task(command("batch", _rows(tmp_path), "--min-balance", "1"))
    await asyncio.sleep(5)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    said = capsys.readouterr().err
    assert "interrupted; the journal has 3 queued" in said
    assert "go on at the service" not in said


async def test_interrupted_for_a_program(
    serve: Serve, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With JSON, an interruption is one object with the references and the lost submits."""
    emulator = await serve("submit:2=lost-answer")
    running = asyncio.create_task(command("batch", _rows(tmp_path), "--json"))
    await asyncio.sleep(30)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    said = json.loads(capsys.readouterr().err)
    assert said["error"] == "interrupted"
    assert len(said["running"]) == 2
    assert set(said["running"]) < {f"kling-2-1/{sent.task_id}" for sent in emulator.ledger}
    assert len(said["unsure"]) == 1


async def test_progress_in_a_pipe(serve: Serve, command: Command, tmp_path: Path) -> None:
    """In a pipe there is a line now and then, not one for each row."""
    await serve()
    ended = await command("batch", _rows(tmp_path, 6))
    told = [line for line in ended.err.splitlines() if " of 6 done, " in line]
    assert told[0].startswith("0 of 6 done, 6 running, 0 queued, 0 failed, 0 unsure, about 4")
    assert told[-1].startswith("6 of 6 done")
    assert 2 <= len(told) <= 4


async def test_journal_in_use(serve: Serve, command: Command, tmp_path: Path) -> None:
    """A journal that another batch has open is one sentence and code 6; nothing is sent."""
    emulator = await serve()
    rows = _rows(tmp_path)
    async with SqliteJournal(tmp_path / "clips.jsonl.journal.sqlite"):
        ended = await command("batch", rows)
    assert ended.code == 6
    assert "is in use by another batch" in ended.err
    assert emulator.requests == ()


async def test_place_where_no_journal_can_be(command: Command, tmp_path: Path) -> None:
    """A path that cannot be a journal's is one sentence and code 6."""
    ended = await command("batch", _rows(tmp_path), "--journal", "x" * 300)
    assert ended.code == 6
    assert "there cannot be a journal at xxx" in ended.err


async def test_key_with_another_input(serve: Serve, command: Command, tmp_path: Path) -> None:
    """A key that the journal has with another input is refused before anything is sent."""
    emulator = await serve()
    await command("batch", _rows(tmp_path, 1))
    ended = await command("batch", _rows(tmp_path, 2, prompt="a cat"))
    assert ended.code == 2
    assert ended.err.startswith("kling-async: row 1: the journal has key 'a' with another input")
    assert len(emulator.ledger) == 1


@contextmanager
def _full_disk() -> Iterator[None]:
    """Let no file grow."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_journal_that_breaks_on_the_way(
    serve: Serve, command: Command, tmp_path: Path
) -> None:
    """If the journal fails, the tasks that go on are named, and the one that it does not know."""
    emulator = await serve("submit:3=slow:10")
    running = asyncio.create_task(command("batch", _rows(tmp_path)))
    await asyncio.sleep(5)
    with _full_disk():
        ended = await running
    assert ended.code == 6
    unknown = f"kling-2-1/{emulator.ledger[2].task_id}"
    assert f"The journal does not know that the service has accepted {unknown}\n" in ended.err
    assert "3 tasks still run at the service" in ended.err
    assert ": kling-2-1/task_" in ended.err
    assert (await _summary(tmp_path)).counts[ItemState.SUBMITTED] == 2


async def test_journal_that_breaks_at_the_end(
    serve: Serve, command: Command, tmp_path: Path
) -> None:
    """If a result cannot be written, the journal has its task, and the next run asks again."""
    emulator = await serve()
    rows = _rows(tmp_path)
    running = asyncio.create_task(command("batch", rows))
    await asyncio.sleep(30)
    with _full_disk():
        ended = await running
    assert (ended.code, ended.out) == (6, "")
    assert "does not know" not in ended.err
    assert (await command("batch", rows)).code == 0
    assert len(emulator.ledger) == 3


async def test_other_items_of_the_journal(serve: Serve, command: Command, tmp_path: Path) -> None:
    """Items of the journal that the file does not name stay as they are."""
    emulator = await serve()
    async with SqliteJournal(tmp_path / "clips.jsonl.journal.sqlite") as journal:
        await journal.plan([Planned("mine", {**TEXT, "model": "kling-2-1"})])
    ended = await command("batch", _rows(tmp_path, 1))
    assert (ended.code, _keys(ended)) == (0, ["a"])
    assert len(emulator.ledger) == 1
    assert (await _summary(tmp_path)).counts[ItemState.PLANNED] == 1


async def test_missing_key(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a key nothing is begun, not even the journal."""
    monkeypatch.delenv("APIXO_API_KEY", raising=False)
    rows = _rows(tmp_path)
    ended = await command("batch", rows)
    assert ended.code == 2
    assert "APIXO_API_KEY" in ended.err
    assert list(tmp_path.iterdir()) == [rows]


async def test_warnings_are_as_they_were(serve: Serve, command: Command, tmp_path: Path) -> None:
    """Afterwards the client may warn again."""
    await serve()
    await command("batch", _rows(tmp_path, 1))
    assert logging.getLogger("kling_async").filters == []


def test_resuming_is_the_default() -> None:
    """A batch goes on with its journal unless told otherwise."""
    parse = arguments.parser().parse_args
    assert parse(["batch", "x"]).resume is True
    assert parse(["batch", "x", "--no-resume"]).resume is False


async def test_each_file_has_its_own_journal(
    serve: Serve, command: Command, tmp_path: Path
) -> None:
    """Files that differ in their suffix alone have two journals."""
    emulator = await serve("task:*=stuck")
    table = tmp_path / "clips.csv"
    table.write_text("key;mode;prompt\nx;master-text-to-video;a fox\n")
    for rows in (_rows(tmp_path, 1), table):
        ended = await command("batch", rows, "--timeout", "10")
        assert (ended.code, _counts(ended)) == (3, {"running": 1})
        assert rows.with_name(f"{rows.name}.journal.sqlite").exists()
    assert len(emulator.ledger) == 2


async def test_journal_of_an_earlier_version(
    serve: Serve, command: Command, tmp_path: Path
) -> None:
    """A journal by the earlier name is gone on with; what another file has running is refused."""
    emulator = await serve("task:*=stuck")
    rows = _rows(tmp_path, 1)
    earlier = tmp_path / "clips.journal.sqlite"
    await command("batch", rows, "--timeout", "10", "--journal", earlier)
    assert (await command("batch", rows, "--timeout", "10")).code == 3
    assert sorted(tmp_path.glob("*.sqlite")) == [earlier]
    table = tmp_path / "clips.csv"
    table.write_text("key;mode;prompt\nx;master-text-to-video;a fox\n")
    ended = await command("batch", table)
    assert ended.code == 2
    assert f"the journal {earlier} has 1 running tasks of other rows" in ended.err
    assert "--journal" in ended.err
    assert len(emulator.ledger) == 1


async def test_other_items_are_reported_first(
    serve: Serve, command: Command, tmp_path: Path
) -> None:
    """Items of the journal that are not in the file are reported, in a dry run, too."""
    await serve()
    rows = _rows(tmp_path, 2)
    await command("batch", rows)
    _rows(tmp_path, 1)
    dry = await command("batch", rows, "--dry-run")
    assert "  1 items of the journal are not in the file\n" in dry.out
    assert (await command("batch", rows, "--dry-run", "--json")).objects[0]["not_in_file"] == 1
    assert "\n1 items of the journal are not in the file\n" in (await command("batch", rows)).err


async def test_folder_that_cannot_be_made(serve: Serve, command: Command, tmp_path: Path) -> None:
    """A folder for videos that cannot be made is code 2, before anything is sent or written."""
    emulator = await serve()
    (tmp_path / "file").touch()
    to = ("--download-to", tmp_path / "file" / "videos")
    for argv in (("batch", _rows(tmp_path)), ("generate", "a fox")):
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
    rows = _rows(tmp_path)
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
    ended = await command("batch", _rows(tmp_path), "--journal", place)
    assert ended.code == 2
    assert "would be lost" in ended.err


async def test_names_that_begin_with_a_dash(
    serve: Serve, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that goes on with a file of any name can be run as it is printed."""
    await serve("task:*=stuck")
    monkeypatch.chdir(tmp_path)
    _rows(tmp_path, 1).rename(tmp_path / "-x.jsonl")
    ended = await command("batch", "--timeout", "10", "--", "-x.jsonl")
    assert "  kling-async batch ./-x.jsonl --timeout 10\n" in ended.err


async def test_dry_run_needs_no_temporary_folder(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows can be checked where nothing can be written."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert (await command("batch", _rows(tmp_path), "--dry-run")).code == 0


async def test_rejected_rows_are_submitted_again_on_request(
    serve: Serve, command: Command, tmp_path: Path
) -> None:
    """What was rejected without charge is submitted again if that is asked for, and only then."""
    emulator = await serve("submit:1=422")
    rows = _rows(tmp_path, 1)
    for options, code, paid in (((), 1, 0), ((), 1, 0), (("--resubmit-rejected",), 0, 1)):
        ended = await command("batch", rows, *options)
        assert (ended.code, len(emulator.ledger)) == (code, paid)
