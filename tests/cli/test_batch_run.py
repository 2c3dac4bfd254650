from __future__ import annotations

import asyncio
import json
import shlex
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from kling_async.journal.base import ItemState
from kling_async.testing.emulator import PRICES
from tests.cli.batches import counts_of, keys_in, keys_of, summary_of, write_rows
from tests.engines.object_stores import forward, s3_server, s3_url  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aiohttp import web

    from tests.cli.conftest import Command, Serve
    from tests.conftest import ServeApp


async def test_failed_rows(serve: Serve, command: Command, tmp_path: Path) -> None:
    """Failures end a batch with 1, the first few are named, and so is what may help."""
    rules = [f"task:{number}=fail:NSFW_DETECTED" for number in range(1, 7)]
    await serve(*rules, "task:7=fail:MODEL_UNAVAILABLE")
    rows = write_rows(tmp_path, 8)
    ended = await command("batch", rows, "--in-flight", "1")
    assert ended.code == 1
    assert keys_of(ended) == ["h"]
    assert counts_of(ended) == {"finished": 1, "failed": 7}
    lines = ended.err.splitlines()
    named = lines[lines.index("Failed:") + 1 : lines.index("Next:")]
    assert [line[:5] for line in named] == ["  a: ", "  b: ", "  c: ", "  d: ", "  e: ", "  and"]
    assert "NSFW_DETECTED" in named[0]
    assert named[-1] == "  and 2 more"
    assert lines[lines.index("Next:") + 1 :] == [
        "  # all items",
        f"  kling-async report {tmp_path / 'clips.jsonl.journal.sqlite'}",
        "  # resubmits what failed for a temporary reason, and pays again",
        f"  kling-async batch {rows} --resubmit-failed 1 --in-flight 1",
    ]


async def test_failed_rows_are_resubmitted_on_request(
    serve: Serve, command: Command, tmp_path: Path
) -> None:
    """What may pass is submitted again if that is asked for."""
    emulator = await serve("task:1=fail:PROCESSING_TIMEOUT")
    ended = await command("batch", write_rows(tmp_path, 1), "--resubmit-failed", "1")
    assert (ended.code, keys_of(ended)) == (0, ["a"])
    assert len(emulator.ledger) == 2


async def test_unsure_rows(serve: Serve, command: Command, tmp_path: Path) -> None:
    """A lost answer ends a batch with 4, and is submitted again by the command that is named."""
    emulator = await serve("submit:2=lost-answer", "task:3=fail:NSFW_DETECTED")
    rows = write_rows(tmp_path)
    first = await command("batch", rows, "--in-flight", "1")
    assert first.code == 4
    assert counts_of(first) == {"finished": 1, "failed": 1, "unsure": 1}
    assert "Unsure:\n  b: the answer to the submit was lost" in first.err
    assert (await command("batch", rows)).code == 4
    assert len(emulator.ledger) == 3
    hint = first.err.splitlines()[-1].strip()
    assert hint == f"kling-async batch {rows} --resubmit-unsure --in-flight 1"
    again = await command(*shlex.split(hint)[1:])
    assert again.code == 1
    assert keys_of(again) == ["a", "b"]
    assert len(emulator.ledger) == 4


async def test_unsure_rows_are_not_resubmitted_by_the_way(
    serve: Serve, command: Command, tmp_path: Path
) -> None:
    """The command that continues does not submit the unsure again, even if this one did."""
    await serve("task:1=stuck")
    rows = write_rows(tmp_path, 1)
    ended = await command("batch", rows, "--resubmit-unsure", "--timeout", "100.5")
    assert f"  kling-async batch {rows} --timeout 100.5\n" in ended.err


@pytest.mark.slow
async def test_tasks_that_do_not_end(serve: Serve, command: Command, tmp_path: Path) -> None:
    """What has not ended in time ends a batch with 3, and the next run waits for it again."""
    emulator = await serve(duration=(400.0, 400.0))
    rows = write_rows(tmp_path)
    argv = ("batch", rows, "--timeout", "100")
    ended = await command(*argv)
    assert ended.code == 3
    assert counts_of(ended) == {"running": 3}
    assert "Not ended:\n  " in ended.err
    assert f"  # continues\n  kling-async batch {rows} --timeout 100\n" in ended.err
    assert (await command("batch", rows)).code == 0
    assert len(emulator.ledger) == 3


async def test_failed_downloads(serve: Serve, command: Command, tmp_path: Path) -> None:
    """If nothing but downloads has failed, the code is 5, and the next run fetches them."""
    emulator = await serve("file:1=410")
    rows = write_rows(tmp_path)
    argv = ("batch", rows, "--download-to", tmp_path / "videos", "--downloads", "1")
    ended = await command(*argv)
    assert ended.code == 5
    assert counts_of(ended) == {"saved": 2, "finished": 1}
    assert "Not saved:\n  " in ended.err
    assert f"--download-to {tmp_path / 'videos'} --downloads 1\n" in ended.err
    again = await command(*argv)
    assert (again.code, keys_of(again)) == (0, ["a", "b", "c"])
    assert len(emulator.ledger) == 3


async def test_video_that_is_gone(serve: Serve, command: Command, tmp_path: Path) -> None:
    """A saved video that is gone and cannot be had again is a failed download, too."""
    await serve("file:2-=404")
    argv = ("batch", write_rows(tmp_path, 1), "--download-to", tmp_path / "videos")
    assert (await command(*argv)).code == 0
    (tmp_path / "videos" / "a.mp4").unlink()
    ended = await command(*argv)
    assert (ended.code, ended.out) == (5, "")


async def test_most_tasks(serve: Serve, command: Command, tmp_path: Path) -> None:
    """A limit of tasks stops the batch: code 1, and the rest is reported as queued."""
    emulator = await serve()
    ended = await command("batch", write_rows(tmp_path, 5), "--max-tasks", "2", "--in-flight", "1")
    assert ended.code == 1
    assert len(emulator.ledger) == 2
    assert counts_of(ended) == {"finished": 2, "queued": 3}
    assert ended.err.endswith("kling-async: max_tasks: 2 tasks started, in all runs together\n")


async def test_what_is_left_over_comes_before_what_runs(
    serve: Serve, command: Command, tmp_path: Path
) -> None:
    """Rows that were not submitted are worse than tasks that are running: the code is 1, not 3."""
    emulator = await serve("status:1=401")
    ended = await command("batch", write_rows(tmp_path), "--in-flight", "1")
    assert ended.code == 1
    assert counts_of(ended) == {"running": 1, "queued": 2}
    assert len(emulator.ledger) == 1


async def test_least_balance(serve: Serve, command: Command, tmp_path: Path) -> None:
    """A balance that is too low stops the batch before anything is submitted."""
    emulator = await serve(balance=5.0)
    ended = await command("batch", write_rows(tmp_path), "--min-balance", "10")
    assert ended.code == 1
    assert emulator.ledger == ()
    assert "the balance is 5.00 USD, below 10.00" in ended.err
    assert counts_of(ended) == {"queued": 3}


async def test_limits_of_the_account(serve: Serve, command: Command, tmp_path: Path) -> None:
    """The limits that are given are kept: an account of one task is never over it."""
    emulator = await serve(concurrent_tasks=1, requests_per_minute=30)
    ended = await command(
        *("batch", write_rows(tmp_path), "--concurrent-tasks", "1", "--requests-per-minute", "30"),
        *("--first-poll", "65"),
    )
    assert ended.code == 0
    assert {request.status for request in emulator.requests} == {200}
    _balance, submitted, asked, *_ = emulator.requests
    assert asked.at - submitted.at == pytest.approx(65, abs=0.5)


async def test_batch_for_a_program(serve: Serve, command: Command, tmp_path: Path) -> None:
    """With JSON, every outcome is an object on stdout, and stderr has nothing but errors."""
    emulator = await serve("task:1=fail:NSFW_DETECTED", "file:1=410")
    rows = write_rows(tmp_path)
    rows.write_text(f"nonsense\n{rows.read_text()}")
    argv = ("--in-flight", "1", "--skip-invalid", "--download-to", tmp_path / "videos")
    ended = await command("batch", rows, "--json", *argv)
    assert ended.code == 1
    failed, unsaved, saved, summary = ended.objects
    refs = [f"kling-2-1/{sent.task_id}" for sent in emulator.ledger]
    assert [found["ref"] for found in (failed, unsaved, saved)] == refs
    assert (failed["key"], failed["error"], failed["reason"]) == ("a", "TaskFailedError", "content")
    assert (failed["fail_code"], failed["may_have_charged"]) == ("NSFW_DETECTED", True)
    assert (unsaved["error"], unsaved["reason"]) == ("ResultExpiredError", None)
    assert unsaved["result_urls"] == [f"{emulator.origin}/files/{refs[1].split('/')[1]}.mp4"]
    assert (saved["key"], saved["files"]) == ("c", [str(tmp_path / "videos" / "c.mp4")])
    assert "error" not in saved
    assert summary["counts"] == {"failed": 1, "finished": 1, "saved": 1}
    assert (summary["attempts"], summary["seconds"] > 150) == (3, True)
    spent = summary["balance_before"] - summary["balance_after"]
    assert (summary["balance_before"], spent) == (
        1000.0,
        pytest.approx(3 * PRICES["master-text-to-video"]),
    )
    (skipped,) = ended.errors
    assert (skipped["error"], skipped["exit_code"]) == ("InputError", 1)


async def test_balance_before_and_after(serve: Serve, command: Command, tmp_path: Path) -> None:
    """The summary has the balance before and after the run; one that does not come is unknown."""
    await serve("balance:2-=hang", balance=100.0)
    ended = await command("batch", write_rows(tmp_path))
    assert ended.code == 0
    assert "Tasks that may have cost money, all runs together: 3\n" in ended.err
    assert "Balance in USD: 100.00 before, unknown after\n" in ended.err


async def test_interrupted_batch(
    serve: Serve, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interrupted batch counts running tasks and prints the command that continues."""
    emulator = await serve()
    rows = write_rows(tmp_path, 5)
    running = asyncio.create_task(command("batch", rows, "--in-flight", "2"))
    await asyncio.sleep(70)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    said = capsys.readouterr()
    assert keys_in(said.out) == ["a", "b"]
    assert "kling-async: interrupted; the journal has 2 finished, 2 running, 1 queued\n" in said.err
    assert "Tasks still running at the service: 2\n" in said.err
    assert f"To continue: kling-async batch {rows} --in-flight 2\n" in said.err
    assert "unattended" not in said.err
    ended = await command("batch", rows)
    assert (ended.code, keys_of(ended)) == (0, ["a", "b", "c", "d", "e"])
    assert len(emulator.ledger) == 5


async def test_interrupted_before_anything(
    serve: Serve, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interrupted while nothing runs, no task is reported as running."""
    await serve("balance:2=slow:20")
    running = asyncio.create_task(command("batch", write_rows(tmp_path), "--min-balance", "1"))
    await asyncio.sleep(5)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    said = capsys.readouterr().err
    assert "interrupted; the journal has 3 queued" in said
    assert "at the service" not in said


async def test_interrupted_after_everything(
    serve: Serve, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interrupted while the last balance is read, a batch reports the state of its journal."""
    await serve("balance:2=hang")
    running = asyncio.create_task(command("batch", write_rows(tmp_path, 1)))
    await asyncio.sleep(65)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert "interrupted; the journal has 1 finished" in capsys.readouterr().err


async def test_interrupted_for_a_program(
    serve: Serve, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With JSON, an interruption is one object with the references and the lost submits."""
    emulator = await serve("submit:2=lost-answer")
    running = asyncio.create_task(command("batch", write_rows(tmp_path), "--json"))
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
    ended = await command("batch", write_rows(tmp_path, 6))
    lines = [line for line in ended.err.splitlines() if " of 6 done, " in line]
    assert lines[0].startswith("0 of 6 done, 6 running, 0 queued, 0 failed, 0 unsure, about 4")
    assert lines[-1].startswith("6 of 6 done")
    assert 2 <= len(lines) <= 4


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
    """If the journal fails, running tasks are named, and the one that it does not know."""
    emulator = await serve("submit:3=slow:10")
    running = asyncio.create_task(command("batch", write_rows(tmp_path)))
    await asyncio.sleep(5)
    with _full_disk():
        ended = await running
    assert ended.code == 6
    unknown = f"kling-2-1/{emulator.ledger[2].task_id}"
    assert f"The journal does not know that the service has accepted {unknown}\n" in ended.err
    assert "3 tasks still run at the service" in ended.err
    assert ": kling-2-1/task_" in ended.err
    assert (await summary_of(tmp_path)).counts[ItemState.SUBMITTED] == 2


async def test_journal_that_breaks_at_the_end(
    serve: Serve, command: Command, tmp_path: Path
) -> None:
    """If a result cannot be written, the journal has its task, and the next run asks again."""
    emulator = await serve()
    rows = write_rows(tmp_path)
    running = asyncio.create_task(command("batch", rows))
    await asyncio.sleep(30)
    with _full_disk():
        ended = await running
    assert (ended.code, ended.out) == (6, "")
    assert "does not know" not in ended.err
    assert (await command("batch", rows)).code == 0
    assert len(emulator.ledger) == 3


async def test_names_that_begin_with_a_dash(
    serve: Serve, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that continues with a file of any name can be run as it is printed."""
    await serve("task:*=stuck")
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path, 1).rename(tmp_path / "-x.jsonl")
    ended = await command("batch", "--timeout", "10", "--", "-x.jsonl")
    assert "  kling-async batch ./-x.jsonl --timeout 10\n" in ended.err


async def test_rejected_rows_are_submitted_again_on_request(
    serve: Serve, command: Command, tmp_path: Path
) -> None:
    """What was rejected without charge is submitted again if that is asked for, and only then."""
    emulator = await serve("submit:1=422")
    rows = write_rows(tmp_path, 1)
    for options, code, paid in (((), 1, 0), ((), 1, 0), (("--resubmit-rejected",), 0, 1)):
        ended = await command("batch", rows, *options)
        assert (ended.code, len(emulator.ledger)) == (code, paid)


@pytest.mark.slow
@pytest.mark.real_time
async def test_archive_is_probed_once(
    serve: Serve,
    command: Command,
    tmp_path: Path,
    s3_server: str,  # noqa: F811 - the fixture
    s3_url: str,  # noqa: F811 - the fixture
    serve_app: ServeApp,
) -> None:
    """An archive is probed once; with one that cannot be used, nothing is sent, in one line."""
    emulator = await serve(duration=(0.1, 0.1))
    probes: list[str] = []

    async def count_probes(request: web.Request) -> web.StreamResponse:
        if request.method == "PUT" and "/.uploads/" in request.path:
            probes.append(request.path)
        return await forward(request, s3_server)

    place = s3_url.replace(s3_server, await serve_app(count_probes))
    argv = ("batch", write_rows(tmp_path, 1), "--first-poll", "0.1", "--download-to")
    denied = await command(*argv, place.replace("//bucket", "//other"))
    assert (denied.code, denied.out, len(emulator.ledger)) == (1, "", 0)
    assert denied.err.count("kling-async: ") == 1
    assert "Journal:" not in denied.err
    probes.clear()
    assert (await command(*argv, place)).code == 0
    assert (len(probes), len(emulator.ledger)) == (1, 1)
