from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from kling_async import Batch, Item, KlingClient, Limits, MasterTextToVideo, Retry
from kling_async.errors import (
    AnswerLostError,
    AuthenticationError,
    BalanceError,
    ConfigurationError,
    ContractError,
    DownloadError,
    JournalError,
    RefusedError,
    ResultExpiredError,
    ServerError,
    TaskFailedError,
)
from kling_async.journal.base import ConflictError, Failure, ItemState, Transition
from kling_async.journal.sqlite.journal import SqliteJournal
from kling_async.results import FailReason, TaskRef
from kling_async.testing import ScriptedTransport
from kling_async.testing.transport import answer
from kling_async.webhooks.inbox import Inbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kling_async import Outcome
    from kling_async.testing import Emulator
    from kling_async.testing.transport import Request, Response
    from tests.batch.conftest import ReadHistories, RunBatch
    from tests.conftest import Connect, Emulate, ServeApp

pytestmark = pytest.mark.virtual_time

S = ItemState
DONE = [S.PLANNED, S.SUBMITTING, S.SUBMITTED, S.FINISHED]
FAILED = [*DONE[:3], S.FAILED]
ONCE = Retry(attempts=1)
URLS = json.dumps({"resultUrls": ["https://example.com/a.mp4"]})


def items(number: int | None = None) -> Iterator[Item]:
    """Yield this number of items, or items without end."""
    for index in itertools.count() if number is None else range(number):
        yield Item(f"key {index}", MasterTextToVideo(f"{index}"))


def paid(emulator: Emulator) -> Counter[str]:
    """Count how often each item was paid for."""
    return Counter(f"key {one.input['prompt']}" for one in emulator.ledger)


def posts(emulator: Emulator) -> int:
    """Count the submits that arrived."""
    return sum(arrival.kind == "submit" for arrival in emulator.requests)


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


# --------------------------------------------------------------------------------- failed items


async def test_a_failed_item(
    emulate: Emulate, connect: Connect, run: RunBatch, histories: ReadHistories
) -> None:
    """A failed item has its error, and in the next run the same one, without charge."""
    emulator = await emulate("task:1=fail:MODEL_UNAVAILABLE")
    for _ in range(2):
        (outcome,) = await run(await connect(emulator), items(1))
        assert isinstance(outcome.error, TaskFailedError)
        assert outcome.error.reason is FailReason.UNAVAILABLE
        assert outcome.error.fail_code == "MODEL_UNAVAILABLE"
        assert outcome.error.ref == outcome.task_ref
        assert outcome.error.may_have_charged
    assert (await histories())["key 0"] == FAILED
    assert len(emulator.ledger) == 1


async def test_a_failed_item_is_resubmitted(
    emulate: Emulate, connect: Connect, run: RunBatch, histories: ReadHistories
) -> None:
    """If the caller allows it, an item that failed for a transient reason is submitted again."""
    emulator = await emulate("task:1-2=fail:PROCESSING_TIMEOUT")
    (outcome,) = await run(await connect(emulator), items(1), resubmit_failed=2)
    assert outcome.error is None
    assert outcome.result is not None
    assert outcome.result.ref == outcome.task_ref
    assert (await histories())["key 0"] == [*FAILED, *FAILED, *DONE]
    gaps = [b.at - a.at - 60 for a, b in itertools.pairwise(emulator.ledger)]
    assert 15 <= gaps[0] < 35
    assert 30 <= gaps[1] < 65


@pytest.mark.parametrize(
    ("code", "paid_for"),
    [("MODEL_UNAVAILABLE", 3), ("NSFW_DETECTED", 1), ("GENERATION_FAILED", 1), ("NEVER_SEEN", 1)],
)
async def test_what_is_resubmitted(
    code: str, paid_for: int, emulate: Emulate, connect: Connect, run: RunBatch
) -> None:
    """It is resubmitted as often as is allowed, in all runs, and never for its content."""
    emulator = await emulate(f"task:*=fail:{code}")
    for _ in range(2):
        (outcome,) = await run(await connect(emulator), items(1), resubmit_failed=2)
        assert isinstance(outcome.error, TaskFailedError)
        assert len(emulator.ledger) == paid_for


async def test_reasons_of_ones_own(emulate: Emulate, connect: Connect, run: RunBatch) -> None:
    """Another reason than the usual ones may be named."""
    emulator = await emulate("task:1=fail:GENERATION_FAILED")
    reasons = {FailReason.GENERATION}
    (outcome,) = await run(
        await connect(emulator), items(1), resubmit_failed=1, resubmit_reasons=reasons
    )
    assert outcome.error is None
    assert len(emulator.ledger) == 2


@pytest.mark.slow
async def test_failed_items_do_not_delay_others(
    emulate: Emulate, connect: Connect, run: RunBatch
) -> None:
    """While failed items wait for their next attempt, the others are submitted."""
    emulator = await emulate("task:1-30=fail:MODEL_UNAVAILABLE")
    small = Limits(requests_per_minute=400)
    await run(await connect(emulator, limits=small), items(30))
    begun = now()
    await run(await connect(emulator, limits=small), items(31), resubmit_failed=1)
    at = [one.at for one in emulator.ledger if one.input["prompt"] == "30"]
    assert at[0] - begun < 10
    assert len(emulator.ledger) == 61


@pytest.mark.parametrize(("fault", "kind"), [("403", RefusedError), ("code:400", Exception)])
async def test_a_rejected_item(
    fault: str,
    kind: type[Exception],
    emulate: Emulate,
    connect: Connect,
    run: RunBatch,
    histories: ReadHistories,
) -> None:
    """An input that is rejected has failed, for nothing, and is not sent again."""
    emulator = await emulate(f"submit:1={fault}")
    for _ in range(2):
        (outcome,) = await run(await connect(emulator), items(1), resubmit_failed=3)
        assert isinstance(outcome.error, kind)
        assert not outcome.error.may_have_charged
        assert outcome.task_ref is None
    assert posts(emulator) == 1
    assert (await histories())["key 0"] == [S.PLANNED, S.SUBMITTING, S.PLANNED, S.FAILED]


async def test_an_item_that_could_not_be_sent(
    emulate: Emulate, connect: Connect, run: RunBatch, histories: ReadHistories
) -> None:
    """A transient error is reported, and the item stays planned for the next run."""
    emulator = await emulate("submit:1=503")
    (outcome,) = await run(await connect(emulator, retry=ONCE), items(1))
    assert isinstance(outcome.error, ServerError)
    assert (await histories())["key 0"] == [S.PLANNED, S.SUBMITTING, S.PLANNED]
    (outcome,) = await run(await connect(emulator), items(1))
    assert outcome.error is None
    assert len(emulator.ledger) == 1


async def test_an_answer_without_a_task(
    emulate: Emulate, connect: Connect, run: RunBatch, histories: ReadHistories
) -> None:
    """An answer to a submit that makes no sense leaves the item unsure."""
    emulator = await emulate("submit:1=garbage")
    (outcome,) = await run(await connect(emulator), items(1))
    assert isinstance(outcome.error, ContractError)
    assert (await histories())["key 0"][-1] is S.UNSURE


async def test_a_transport_that_breaks(run: RunBatch, histories: ReadHistories) -> None:
    """An error that is not ours ends the batch; what was being sent is unsure."""

    def script(_: Request) -> Response:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run(KlingClient("sk", transport=ScriptedTransport(script)), items(1))
    assert (await histories())["key 0"] == [S.PLANNED, S.SUBMITTING, S.UNSURE]


async def test_an_answer_that_is_lost_after_the_loop_was_left(
    emulate: Emulate, connect: Connect, path: Path
) -> None:
    """An item that was being sent when the loop was left is unsure in the next run."""
    emulator = await emulate("submit:1=slow:60")

    async def all_of(batch: Batch) -> list[Outcome]:
        return [outcome async for outcome in batch.run(items(1))]

    kling = await connect(emulator, retry=Retry(request_timeout=5.0))
    async with Batch(kling, journal=path) as batch:
        leaving = asyncio.create_task(all_of(batch))
        while not emulator.requests:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        (outcome,) = await all_of(batch)
    assert isinstance(outcome.error, AnswerLostError)
    assert outcome.error.may_have_charged
    assert len(emulator.ledger) == 1


@pytest.mark.parametrize("answer", ["401", "404"])
async def test_a_running_task_whose_status_is_refused(
    emulate: Emulate, connect: Connect, path: Path, answer: str
) -> None:
    """Whatever error ends the wait, it has the reference of the task."""
    emulator = await emulate(f"status:*={answer}")
    outcomes: list[Outcome] = []
    with suppress(AuthenticationError):
        async with Batch(await connect(emulator), journal=path) as batch:
            async for one in batch.run(items(1)):
                outcomes.append(one)  # noqa: PERF401 - what came before the error counts
    (outcome,) = outcomes
    assert outcome.error is not None
    assert outcome.error.may_have_charged
    assert outcome.error.ref == outcome.task_ref
    assert outcome.task_ref is not None


# --------------------------------------------------------------------------------------- the money


async def test_max_tasks(
    emulate: Emulate, connect: Connect, path: Path, histories: ReadHistories
) -> None:
    """No more tasks are started than is allowed, all runs together; the rest stays planned."""
    emulator = await emulate()
    for most, number in ((3, 3), (3, 3), (5, 5)):
        async with Batch(await connect(emulator), journal=path, max_tasks=most) as batch:
            outcomes = [outcome async for outcome in batch.run(items(9))]
            assert batch.stopped is not None
            assert f"max_tasks: {most}" in batch.stopped
        assert len(outcomes) == number
        assert len(emulator.ledger) == most
    states = [states[-1] for states in (await histories()).values()]
    assert Counter(states) == {S.FINISHED: 5, S.PLANNED: 4}


async def test_what_was_refused_is_no_task(
    emulate: Emulate, connect: Connect, run: RunBatch
) -> None:
    """What was not accepted does not count as a task; what may have been does."""
    emulator = await emulate("submit:1=403", "submit:3=lost-answer")
    outcomes = await run(await connect(emulator), items(9), max_tasks=3, in_flight=1)
    assert len(outcomes) == 4
    assert len(emulator.ledger) == 3


@pytest.mark.parametrize("rule", ["task:1=fail:MODEL_UNAVAILABLE", "submit:1=lost-answer"])
async def test_max_tasks_and_another_attempt(
    rule: str, emulate: Emulate, connect: Connect, run: RunBatch, histories: ReadHistories
) -> None:
    """An item that max_tasks forbids to submit again is reported as it is, at once."""
    emulator = await emulate(rule)
    for _ in range(3):
        kling = await connect(emulator)
        outcomes = await run(kling, items(1), resubmit_failed=1, resubmit_unsure=True, max_tasks=1)
        assert [one.error is not None for one in outcomes] == [True]
        assert len(emulator.ledger) == 1
    assert (await histories())["key 0"][-1] in (S.FAILED, S.UNSURE)


async def test_min_balance(emulate: Emulate, connect: Connect, path: Path) -> None:
    """The batch stops before it falls below; what runs is finished, and then the error raised."""
    emulator = await emulate(balance=100.0)  # 60 tasks cost 72
    outcomes: list[Outcome] = []
    async with Batch(await connect(emulator), journal=path, min_balance=50) as batch:

        async def consume() -> None:
            async for outcome in batch.run(items()):
                outcomes.append(outcome)  # noqa: PERF401 - it is to be kept when it raises

        with pytest.raises(BalanceError, match=r"below 50\.00"):
            await consume()
        assert batch.stopped is not None
    assert len(emulator.ledger) == 41  # 50.80 USD are left, and a task costs 1.20
    assert [one.error for one in outcomes] == [None] * 41
    assert sum(arrival.kind == "balance" for arrival in emulator.requests) < 12


async def test_too_poor_from_the_start(emulate: Emulate, connect: Connect, run: RunBatch) -> None:
    """With too low a balance at the start nothing is submitted."""
    emulator = await emulate(balance=4.99)
    with pytest.raises(BalanceError, match=r"4\.99 USD"):
        await run(await connect(emulator), items(), min_balance=5)
    assert posts(emulator) == 0


async def test_a_key_that_may_not_ask(emulate: Emulate, connect: Connect, run: RunBatch) -> None:
    """If the key is refused when the balance is asked for, nothing is submitted."""
    emulator = await emulate("balance:*=401")
    with pytest.raises(AuthenticationError):
        await run(await connect(emulator), items(9), min_balance=5)
    assert len(emulator.requests) == 1


async def test_a_balance_that_is_not_known(
    emulate: Emulate, connect: Connect, run: RunBatch
) -> None:
    """An item whose balance check fails has that error and stays planned."""
    emulator = await emulate("balance:1=503")
    kling = await connect(emulator, retry=ONCE)
    outcomes = await run(kling, items(3), min_balance=5, in_flight=1)
    assert [type(one.error) for one in outcomes] == [ServerError, type(None), type(None)]
    assert len(emulator.ledger) == 2


@pytest.mark.parametrize(("fault", "kind"), [("401", AuthenticationError), ("402", BalanceError)])
async def test_what_would_stop_every_submit(
    fault: str,
    kind: type[Exception],
    emulate: Emulate,
    connect: Connect,
    path: Path,
    histories: ReadHistories,
) -> None:
    """A refused key or an empty account stops the submits; what runs is finished first."""
    emulator = await emulate(f"submit:6-={fault}")
    outcomes: list[Outcome] = []

    async def consume(batch: Batch) -> None:
        async for outcome in batch.run(items()):
            outcomes.append(outcome)  # noqa: PERF401 - it is to be kept when it raises

    async with Batch(await connect(emulator), journal=path, in_flight=50) as batch:
        with pytest.raises(kind):
            await consume(batch)
    assert len(outcomes) == 5
    assert all(one.result for one in outcomes)
    assert posts(emulator) <= 50
    states = {states[-1] for states in (await histories()).values()}
    assert states == {S.FINISHED, S.PLANNED}


async def test_a_key_that_is_refused_later(
    emulate: Emulate, connect: Connect, path: Path, run: RunBatch, histories: ReadHistories
) -> None:
    """A key that is refused by a status call stops the batch; the tasks stay submitted."""
    emulator = await emulate("status:1-3=401")
    with pytest.raises(AuthenticationError):
        await run(await connect(emulator), items(), in_flight=3)
    states = Counter(states[-1] for states in (await histories()).values())
    assert states[S.SUBMITTED] == 3
    assert len(emulator.ledger) == 3
    await run(await connect(emulator), [])
    assert S.SUBMITTED not in {states[-1] for states in (await histories()).values()}


# -------------------------------------------------------------------------------------- downloads


def files(emulator: Emulator) -> int:
    """Count the downloads that arrived."""
    return sum(arrival.kind == "file" for arrival in emulator.requests)


async def test_downloads(
    emulate: Emulate, connect: Connect, tmp_path: Path, run: RunBatch, histories: ReadHistories
) -> None:
    """Videos are saved under the items' keys, once, with their checksums in the journal."""
    emulator = await emulate()
    folder = tmp_path / "videos"
    given = [Item(key, MasterTextToVideo(key)) for key in ("a", "b-c", "ä/ö")]
    outcomes = await run(await connect(emulator), given, download_to=folder)
    paths = {one.key: one.files for one in outcomes}
    assert paths["a"] == (folder / "a.mp4",)
    assert paths["b-c"] == (folder / "b-c.mp4",)
    assert len(list(folder.glob("*.mp4"))) == 3
    assert all(path.read_bytes()[4:8] == b"ftyp" for (path,) in paths.values())
    assert (await histories())["a"] == [*DONE, S.SAVED]
    before = len(emulator.requests)
    again = await run(await connect(emulator), given, download_to=str(folder))
    assert {one.key: one.files for one in again} == paths
    assert len(emulator.requests) == before
    async with SqliteJournal(tmp_path / "run.sqlite") as journal:
        (file, *_), *_ = [entry.files async for entry in journal.entries()]
    assert file.size_bytes == (folder / "a.mp4").stat().st_size


async def test_downloads_at_a_time(
    emulate: Emulate, connect: Connect, tmp_path: Path, run: RunBatch
) -> None:
    """So many downloads run at a time, while further tasks are submitted."""
    emulator = await emulate("file:*=slow:40")
    await run(await connect(emulator), items(8), download_to=tmp_path, downloads=2, in_flight=4)
    starts = [arrival.at for arrival in emulator.requests if arrival.kind == "file"]
    assert len(starts) == 8
    for first, third in zip(starts, starts[2:], strict=False):
        assert third - first >= 39
    assert emulator.ledger[4].at < starts[0] + 5  # in the place of those that are being saved


async def test_a_result_comes_before_its_download(
    emulate: Emulate, connect: Connect, tmp_path: Path, run: RunBatch, histories: ReadHistories
) -> None:
    """The result is in the journal when its download begins, so that only this is repeated."""
    emulator = await emulate("file:1=slow:100")
    running = asyncio.create_task(run(await connect(emulator), items(1), download_to=tmp_path))
    await asyncio.sleep(100)
    assert files(emulator) == 1
    assert (await histories())["key 0"] == DONE
    running.cancel()
    await asyncio.wait([running])
    (outcome,) = await run(await connect(emulator), items(1), download_to=tmp_path)
    assert [path.name.startswith("key_0") for path in outcome.files] == [True]
    assert len(emulator.ledger) == 1


async def test_a_url_that_is_dead(
    emulate: Emulate, connect: Connect, tmp_path: Path, run: RunBatch, histories: ReadHistories
) -> None:
    """A dead URL is an error beside the result, which is kept, in this run and the next."""
    emulator = await emulate("file:1-2=410")
    for _ in range(2):
        (outcome,) = await run(await connect(emulator), items(1), download_to=tmp_path)
        assert isinstance(outcome.error, ResultExpiredError)
        assert outcome.result is not None
        assert outcome.files == ()
    assert (await histories())["key 0"] == DONE
    (outcome,) = await run(await connect(emulator), items(1), download_to=tmp_path)
    assert outcome.error is None
    assert len(emulator.ledger) == 1


async def test_files_that_are_gone(
    emulate: Emulate, connect: Connect, tmp_path: Path, run: RunBatch, histories: ReadHistories
) -> None:
    """Files that are gone, or not whole any more, are fetched again, without a new task."""
    emulator = await emulate()
    (outcome,) = await run(await connect(emulator), items(1), download_to=tmp_path / "a")
    (path,) = outcome.files
    content = path.read_bytes()
    damage: list[Callable[[], object]] = [path.unlink, lambda: path.write_bytes(b"half")]
    for number, spoil in enumerate(damage, 2):
        spoil()
        (outcome,) = await run(await connect(emulator), items(1), download_to=tmp_path / "a")
        assert outcome.files == (path,)
        assert path.read_bytes() == content
        assert files(emulator) == number
    (outcome,) = await run(await connect(emulator), items(1), download_to=tmp_path / "b")
    assert outcome.files == (tmp_path / "b" / path.name,)
    assert (await histories())["key 0"] == [*DONE, *[S.SAVED] * 4]
    assert len(emulator.ledger) == 1
    (outcome,) = await run(await connect(emulator), items(1))
    assert outcome.result is not None
    assert outcome.files == ()


VIDEO = b"\0\0\0\x18ftypmp42 of another batch"


@pytest.mark.parametrize("mine", [VIDEO, b"my own cut, three days of work"])
async def test_a_file_of_another_batch(
    mine: bytes, emulate: Emulate, connect: Connect, tmp_path: Path, run: RunBatch
) -> None:
    """A file that this journal has not saved keeps its name; the video gets another, for good."""
    emulator = await emulate()
    (tmp_path / "fox.mp4").write_bytes(mine)
    given = [Item("fox", MasterTextToVideo("a fox"))]
    for _ in range(2):
        (outcome,) = await run(await connect(emulator), given, download_to=tmp_path)
        (path,) = outcome.files
        assert path.parent == tmp_path
        assert path.name.startswith("fox+")
        assert path.read_bytes()[4:8] == b"ftyp"
        assert (tmp_path / "fox.mp4").read_bytes() == mine
    assert files(emulator) == 1


async def test_two_batches_one_folder(
    emulate: Emulate, connect: Connect, tmp_path: Path, run: RunBatch
) -> None:
    """Two batches whose keys are the same save beside each other, also if a file was removed."""
    emulator = await emulate()
    kling = await connect(emulator)
    videos = tmp_path / "videos"

    async def saved(name: str) -> Path:
        given = [Item("fox", MasterTextToVideo(name))]
        (outcome,) = await run(kling, given, tmp_path / f"{name}.sqlite", download_to=videos)
        (path,) = outcome.files
        return path

    first = await saved("a")
    first.unlink()
    second = await saved("b")
    assert second == first == videos / "fox.mp4"
    second.write_bytes(VIDEO)  # all videos of this emulator are one
    third = await saved("a")
    assert third not in {first, second}
    assert second.read_bytes() == VIDEO


async def test_links_that_have_expired(
    serve_app: ServeApp, tmp_path: Path, path: Path, run: RunBatch, histories: ReadHistories
) -> None:
    """A dead URL is replaced, in the journal too, by one status call; also when a file is gone."""
    day, asked, up = 1, [], False

    async def serve(request: web.Request) -> web.Response:
        if "generateTask" in request.path:
            return web.json_response({"code": 200, "data": {"taskId": "task_1"}})
        if "statusTask" in request.path:
            asked.append(day)
            urls = json.dumps({"resultUrls": [f"{origin}/x.mp4?day={day}"]})
            data = {"taskId": "task_1", "state": "success", "completeTime": 1, "resultJson": urls}
            return web.json_response({"code": 200, "data": data})
        if request.query["day"] != str(day):
            return web.Response(status=403)
        return web.Response(body=VIDEO) if up else web.Response(status=503)

    origin = await serve_app(serve)

    async def outcome() -> Outcome:
        async with KlingClient("k" * 20, base_url=origin, retry=ONCE) as kling:
            (outcome,) = await run(kling, items(1), download_to=tmp_path / "v")
        return outcome

    assert isinstance((await outcome()).error, DownloadError)
    day = 2
    failed = await outcome()  # the fresh URL is written before it is used
    assert isinstance(failed.error, DownloadError)
    assert failed.result is not None
    assert failed.result.result_urls == (f"{origin}/x.mp4?day=2",)
    up = True
    saved = await outcome()
    assert saved.error is None
    assert asked == [1, 2]
    saved.files[0].unlink()
    day = 3
    again = await outcome()
    assert again.files == saved.files
    assert again.files[0].read_bytes() == VIDEO
    assert asked == [1, 2, 3]
    assert (await histories())["key 0"] == [*DONE, S.FINISHED, *[S.SAVED] * 3]
    async with SqliteJournal(path, read_only=True) as journal:
        (entry,) = [one async for one in journal.entries()]
    assert entry.result is not None
    assert entry.result.result_urls == (f"{origin}/x.mp4?day=3",)
    assert [file.url for file in entry.files] == [f"{origin}/x.mp4?day=3"]


@pytest.mark.parametrize("spoilt", [b"", b"<html>not found</html>", b"cut off"])
async def test_a_spoilt_file_is_fetched_again(
    spoilt: bytes, emulate: Emulate, connect: Connect, tmp_path: Path, run: RunBatch
) -> None:
    """A saved file that is empty or a page, of whatever size, is fetched again in its place."""
    emulator = await emulate()
    (outcome,) = await run(await connect(emulator), items(1), download_to=tmp_path)
    (path,) = outcome.files
    content = path.read_bytes()
    path.write_bytes(spoilt.ljust(len(content)) if spoilt.startswith(b"<") else spoilt)
    (outcome,) = await run(await connect(emulator), items(1), download_to=tmp_path)
    assert outcome.files == (path,)
    assert path.read_bytes() == content


async def test_a_folder_that_cannot_be_made(
    emulate: Emulate, connect: Connect, tmp_path: Path, run: RunBatch
) -> None:
    """A folder that cannot be made ends the run before anything is sent."""
    emulator = await emulate()
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigurationError, match="cannot save files to"):
        await run(await connect(emulator), items(2), download_to=tmp_path / "file" / "x")
    assert not emulator.requests


async def test_an_illegal_transition(
    emulate: Emulate, connect: Connect, path: Path, run: RunBatch
) -> None:
    """A journal that refuses a transition ends the run, and nothing is paid."""
    emulator = await emulate()

    class Meddled(SqliteJournal):
        async def record(self, *moves: object) -> None:
            raise JournalError("item is finished, and cannot become submitting")

    with pytest.raises(JournalError, match="cannot become"):
        await run(await connect(emulator), items(3), Meddled(path))
    assert posts(emulator) == 0


class FullJournal(SqliteJournal):
    """Refuses the first transitions to a state, as if the disk were full meanwhile."""

    def __init__(self, path: Path, state: ItemState, times: int) -> None:
        super().__init__(path)
        self.state, self.times = state, times

    async def record(self, *moves: Transition) -> None:
        if self.times and moves[0].state is self.state:
            self.times -= 1
            raise JournalError("the disk is full")
        await super().record(*moves)


@pytest.mark.parametrize(
    ("fault", "state", "then"),
    [
        ("submit:9=reset", S.SUBMITTED, S.FINISHED),
        ("submit:1=503", S.PLANNED, S.FINISHED),
        ("submit:1=422", S.PLANNED, S.FINISHED),
        ("submit:1=lost-answer", S.UNSURE, S.UNSURE),
    ],
)
async def test_an_answer_that_could_not_be_recorded(
    fault: str, state: ItemState, then: ItemState, emulate: Emulate, connect: Connect, path: Path
) -> None:
    """What the answer to a submit has shown is recorded at the end of the run, if not before."""
    emulator = await emulate(fault)
    journal = FullJournal(path, state, times=1)
    for ended in (False, True):
        async with Batch(await connect(emulator), journal=journal) as batch:
            if not ended:
                with pytest.raises(JournalError, match="disk is full"):
                    await anext(batch.run(items(1)))
            else:
                (entry,) = [entry async for entry in journal.entries()]
                assert entry.state is state
                (outcome,) = [outcome async for outcome in batch.run(items(1))]
                assert (outcome.result is not None) is (then is S.FINISHED)
    assert paid(emulator) == {"key 0": 1}


async def test_a_reference_that_is_recorded_nowhere(
    emulate: Emulate, connect: Connect, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If the journal cannot be written at the end either, a warning names the task."""
    emulator = await emulate()
    journal = FullJournal(path, S.SUBMITTED, times=2)
    async with Batch(await connect(emulator), journal=journal) as batch:
        with pytest.raises(JournalError) as caught:
            await anext(batch.run(items(1)))
    ref = TaskRef("kling-2-1", emulator.ledger[0].task_id)
    assert caught.value.ref == ref
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [str(ref) in record.getMessage() for record in warnings] == [True]


# --------------------------------------------------------------------------------- two at a time


async def test_two_runs_at_once(emulate: Emulate, connect: Connect, path: Path) -> None:
    """While a run of a batch has not ended, another is refused: nothing is paid twice."""
    emulator = await emulate()

    async with Batch(await connect(emulator), journal=path) as batch:

        async def run() -> list[Outcome]:
            return [outcome async for outcome in batch.run(items(5))]

        done, refused = sorted(
            await asyncio.gather(run(), run(), return_exceptions=True),
            key=lambda answer: isinstance(answer, ConfigurationError),
        )
    assert isinstance(done, list)
    assert [outcome.error for outcome in done] == [None] * 5
    assert isinstance(refused, ConfigurationError)
    assert set(paid(emulator).values()) == {1}
    assert len(paid(emulator)) == 5


async def test_answers_that_are_lost_beside_one_that_came(
    emulate: Emulate, connect: Connect, path: Path
) -> None:
    """When a run is left, what has no answer is unsure, though another item was moved meanwhile."""
    emulator = await emulate("submit:1-=hang")
    journal = SqliteJournal(path)
    async with Batch(await connect(emulator), journal=journal) as batch:
        running = asyncio.create_task(anext(batch.run(items(3))))
        while batch.counts.get(S.SUBMITTING) != 3:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        moment = datetime.now(UTC)
        await journal.record(Transition("key 1", S.SUBMITTED, moment, ref=TaskRef("m", "t")))
        running.cancel()
        await asyncio.wait([running])
        states = [entry.state async for entry in journal.entries()]
    assert states == [S.UNSURE, S.SUBMITTED, S.UNSURE]


# ---------------------------------------------------------------------- what leads to no task


async def test_rejected_rows_have_a_way_back(
    emulate: Emulate, connect: Connect, run: RunBatch, histories: ReadHistories
) -> None:
    """What was rejected at no charge is submitted again if the caller asks for that, once a run."""
    emulator = await emulate("submit:1=403", "submit:3=403")
    kling = await connect(emulator)
    (first, *_) = await run(kling, items(1))
    assert isinstance(first.error, RefusedError)
    (same,) = await run(kling, items(1))
    assert isinstance(same.error, RefusedError)
    assert posts(emulator) == 1
    (second,) = await run(kling, items(1), resubmit_rejected=True)
    assert second.result is not None
    assert (await histories())["key 0"] == [*DONE[:2], S.PLANNED, S.FAILED, *DONE]
    (again,) = await run(kling, itertools.islice(items(), 1, 2), resubmit_rejected=True)
    assert isinstance(again.error, RefusedError)
    assert posts(emulator) == 3


async def test_a_failed_task_is_no_rejection(
    emulate: Emulate, connect: Connect, run: RunBatch
) -> None:
    """A task that has failed may have cost money, and is not submitted again as a rejection."""
    emulator = await emulate("task:1=fail:NSFW_DETECTED")
    kling = await connect(emulator)
    for _ in range(2):
        await run(kling, items(1), resubmit_rejected=True)
    assert len(emulator.ledger) == 1


@pytest.mark.parametrize("page", ["page:403", "page:404", "page:405"])
async def test_a_gateway_rejects_nothing(
    page: str, emulate: Emulate, connect: Connect, run: RunBatch, histories: ReadHistories
) -> None:
    """A gateway's page of a few minutes costs no row: all of them get their results."""
    emulator = await emulate(f"submit:1-8={page}")
    outcomes = await run(await connect(emulator), items(6))
    assert [outcome.error for outcome in outcomes] == [None] * 6
    assert set(map(tuple, (await histories()).values())) <= {
        (S.PLANNED, *[S.SUBMITTING, S.PLANNED] * times, *DONE[1:]) for times in range(9)
    }


async def test_rejections_without_end(emulate: Emulate, connect: Connect, path: Path) -> None:
    """A batch whose submits are all rejected stops by itself; the rest stays planned."""
    emulator = await emulate("submit:*=403")
    kling = await connect(emulator, limits=Limits(400, 4))
    async with Batch(kling, journal=path, max_rejections=10) as batch:
        outcomes = [outcome async for outcome in batch.run(items(300))]
        summary = await batch.summary()
        assert batch.stopped is not None
        assert "10 submits in a row led to no task" in batch.stopped
    assert 10 <= posts(emulator) < 20
    assert summary.counts[S.FAILED] == len([one for one in outcomes if one.error])
    assert summary.counts[S.PLANNED] + summary.counts[S.FAILED] == sum(summary.counts.values())


@pytest.mark.slow
async def test_rejections_between_acceptances(
    emulate: Emulate, connect: Connect, run: RunBatch
) -> None:
    """Rejections that are not in a row stop nothing."""
    emulator = await emulate("submit:*2=403")
    outcomes = await run(await connect(emulator), items(30), in_flight=1, max_rejections=2)
    assert len(outcomes) == 30
    assert len(emulator.ledger) == 15


@pytest.mark.parametrize("confirm", [True, False])
async def test_a_task_that_ends_within_its_submit(confirm: bool, run: RunBatch) -> None:  # noqa: FBT001
    """Items whose callbacks overtake the answers to their submits end at once."""
    inbox = Inbox("https://example.com/kling", secret="s" * 32, confirm=confirm)

    def script(request: Request) -> Response:
        said: dict[str, object] = {"state": "success", "resultJson": URLS}
        if request.kind == "status":
            assert request.ref is not None
            return answer({**said, "taskId": request.ref.task_id})
        said["taskId"] = f"t{len(transport.requests)}"
        url = json.loads(request.body or b"")["callback_url"]
        inbox.handle(
            "POST", urlsplit(url).path, "", json.dumps({"code": 200, "data": said}).encode()
        )
        return answer({"taskId": said["taskId"]})

    transport = ScriptedTransport(script)
    async with KlingClient("a-key", transport=transport, inbox=inbox) as kling:
        outcomes = await run(kling, items(20), in_flight=2)
    assert [outcome.error for outcome in outcomes] == [None] * 20
    assert now() < 5


async def test_an_unsure_item_whose_callback_comes(
    path: Path, histories: ReadHistories, caplog: pytest.LogCaptureFixture
) -> None:
    """A reference that a callback names later takes the place of unsure, and is waited for."""
    inbox = Inbox("https://example.com/kling", secret="s" * 32)
    urls: list[str] = []

    def script(request: Request) -> Response:
        if request.kind == "submit":
            urls.append(json.loads(request.body or b"")["callback_url"])
            raise AnswerLostError("lost", may_have_charged=True)
        return answer({"taskId": "found", "state": "success", "resultJson": URLS})

    async with KlingClient("a-key", transport=ScriptedTransport(script), inbox=inbox) as kling:
        async with Batch(kling, journal=path) as batch:
            (unsure,) = [outcome async for outcome in batch.run(items(1))]
            assert isinstance(unsure.error, AnswerLostError)
            body = {"code": 200, "data": {"taskId": "found", "state": "processing"}}
            inbox.handle("POST", urlsplit(urls[0]).path, "", json.dumps(body).encode())
            await asyncio.sleep(1)
            (found,) = [outcome async for outcome in batch.run(items(1))]
        assert found.result is not None
        assert str(found.task_ref) == "kling-2-1/found"
    assert len(urls) == 1
    assert (await histories())["key 0"] == [*DONE[:2], S.UNSURE, *DONE[2:]]


async def test_a_model_that_the_key_may_not_use(run: RunBatch, histories: ReadHistories) -> None:
    """After a refusal that names the model, its other items are not sent; all stay planned."""
    words = "the key has no permission for the requested model"
    transport = ScriptedTransport(lambda _: answer(None, status=401, message=words))
    async with KlingClient("a-key", transport=transport) as kling:
        outcomes = await run(kling, items(5), in_flight=1)
    assert [type(one.error) for one in outcomes] == [AuthenticationError] * 5
    assert not any(one.error and one.error.may_have_charged for one in outcomes)
    assert len(transport.requests) == 1
    assert {states[-1] for states in (await histories()).values()} == {S.PLANNED}


@pytest.mark.parametrize("moved", ["to unsure", "by another run"])
async def test_an_item_that_was_moved_during_its_submit(
    moved: str, path: Path, emulate: Emulate, connect: Connect
) -> None:
    """Of an item that was moved meanwhile, the reference is written down or in the outcome."""

    class Meddled(SqliteJournal):
        async def record(self, *moves: Transition) -> None:
            if moves[0].state is S.SUBMITTED and not meddled:
                meddled.append(moves[0])
                other = S.UNSURE if moved == "to unsure" else S.PLANNED
                now = datetime.now(UTC)
                failure = Failure("AnswerLostError", "left", may_have_charged=True)
                await super().record(Transition(moves[0].key, other, now, failure=failure))
            await super().record(*moves)

    meddled: list[Transition] = []
    emulator = await emulate()
    async with Batch(await connect(emulator), journal=Meddled(path)) as batch:
        (outcome,) = [one async for one in batch.run(items(1))]
    assert outcome.task_ref == TaskRef("kling-2-1", emulator.ledger[0].task_id)
    if moved == "to unsure":
        assert outcome.result is not None
    else:
        assert isinstance(outcome.error, ConflictError)
        assert outcome.error.may_have_charged
