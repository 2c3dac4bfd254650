"""The commands that know journals, with one on PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import shlex
from typing import TYPE_CHECKING

from kling_async.cli import arguments
from tests.engines.postgres import PASSWORD
from tests.engines.redis import PASSWORD as REDIS_PASSWORD

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Command, Serve

TEXT = {"mode": "master-text-to-video", "prompt": "a fox"}


def _rows(folder: Path, keys: str) -> Path:
    path = folder / "clips.jsonl"
    path.write_text("\n".join(json.dumps({**TEXT, "key": key}) for key in keys), encoding="utf-8")
    return path


async def test_a_batch(serve: Serve, command: Command, tmp_path: Path, batch_url: str) -> None:
    """A batch is done once, printed again, and resumed as one with a file; no password is shown."""
    emulator = await serve("task:2=fail:MODEL_UNAVAILABLE")
    shown = batch_url.replace(f":{PASSWORD}", "")
    rows = _rows(tmp_path, "ab")
    argv = ("batch", rows, "--journal", batch_url, "--in-flight", "1")
    plan = await command(*argv, "--dry-run", "--max-tasks", "1")
    assert "  1 would be submitted\n  1 would not: --max-tasks\n" in plan.out
    first = await command(*argv)
    assert first.code == 1
    assert first.out.startswith("a\thttp")
    assert f"\nJournal: {shown}\n" in first.err
    assert f"kling-async report {shlex.quote(shown)}\n" in first.err
    again = shlex.split(first.err.splitlines()[-1])
    assert arguments.parse(again[1:]).journal == shown
    second = await command(*argv)
    assert second.out == first.out
    assert second.err.startswith(f"resuming {shown}: 1 finished, 1 failed\n")
    refused = await command(*argv, "--no-resume")
    assert refused.code == 2
    assert f"there is a journal at {shown} already" in refused.err
    plan = await command(*argv, "--dry-run", "--resubmit-failed", "1", "--max-tasks", "2")
    assert "  0 would be submitted\n" in plan.out
    assert len(emulator.ledger) == 2
    for ended in (first, second, refused):
        assert PASSWORD not in ended.out + ended.err


async def test_two_machines(serve: Serve, command: Command, tmp_path: Path, batch_url: str) -> None:
    """Of two that do the same rows each prints what it has done, and counts all."""
    emulator = await serve()
    keys = "abcdefghijklmnop"
    argv = ("batch", _rows(tmp_path, keys), "--journal", batch_url, "--in-flight", "3")
    one, two = await asyncio.gather(command(*argv), command(*argv))
    assert (one.code, two.code) == (0, 0)
    out, err = one.out + two.out, one.err + two.err  # they write to the same streams
    assert sorted(line[0] for line in out.splitlines()) == sorted(keys)
    assert err.count(f"finished          {len(keys)}\n") == 2
    others = [int(line.split()[0]) for line in err.splitlines() if "by other workers" in line]
    assert sum(others) == len(keys)
    assert len(emulator.ledger) == len(keys)


async def test_what_is_being_sent(
    serve: Serve, command: Command, tmp_path: Path, batch_url: str
) -> None:
    """A dry run beside a running batch reports what that one is submitting."""
    await serve("submit:1=slow:30")
    argv = ("batch", _rows(tmp_path, "ab"), "--journal", batch_url, "--in-flight", "1")
    running = asyncio.create_task(command(*argv))
    await asyncio.sleep(10)
    plan = await command(*argv, "--dry-run", "--json")
    (fields,) = [one for one in plan.objects if "stay" in one]
    assert fields["stay"] == {"submitting": 1}
    await running


async def test_a_report(serve: Serve, command: Command, tmp_path: Path, batch_url: str) -> None:
    """All formats of the report can be had of a database; a page is written where it is said."""
    await serve()
    shown = batch_url.replace(f":{PASSWORD}", "")
    videos = tmp_path / "videos"
    argv = ("--journal", batch_url, "--download-to", videos)
    await command("batch", _rows(tmp_path, "ab"), *argv)
    table = await command("report", batch_url)
    assert table.out.startswith("saved              2\n")
    lines = (await command("report", batch_url, "--format", "json")).objects
    assert [line["key"] for line in lines] == ["a", "b"]
    page = videos / "index.html"
    ended = await command("report", batch_url, "--format", "html", "--videos", videos)
    assert ended.out == f"{page.resolve()}\n"
    assert f"Made from {shown}" in page.read_text()


async def test_no_such_journal(command: Command, batch_url: str) -> None:
    """A report of a batch that is not there is one sentence, without the password."""
    ended = await command("report", batch_url)
    assert ended.code == 6
    assert "there is no journal postgresql://postgres@127.0.0.1" in ended.err
    assert PASSWORD not in ended.err


async def test_another_engine(serve: Serve, command: Command, tmp_path: Path) -> None:
    """What is neither a file nor PostgreSQL is refused before anything is sent."""
    emulator = await serve()
    ended = await command("batch", _rows(tmp_path, "a"), "--journal", "redis://h/0")
    assert ended.code == 2
    assert "a database at postgresql://, not at redis://" in ended.err
    assert not emulator.ledger


async def test_a_limiter(serve: Serve, command: Command, tmp_path: Path, redis_url: str) -> None:
    """The command that continues names the engine of the limits, and no password."""
    await serve("task:1=fail:MODEL_UNAVAILABLE")
    ended = await command("batch", _rows(tmp_path, "a"), "--limiter", redis_url)
    assert ended.code == 1
    again = shlex.split(ended.err.splitlines()[-1])
    limiter = arguments.parse(again[1:]).limiter
    assert limiter.startswith("redis://127.0.0.1:")
    assert REDIS_PASSWORD not in ended.out + ended.err
