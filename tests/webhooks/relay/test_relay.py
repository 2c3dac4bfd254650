from __future__ import annotations

import asyncio
import gc
import json
import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from fastapi import FastAPI

from kling_async import KlingClient, MasterTextToVideo, TaskRef
from kling_async._utils.extras import install_command
from kling_async.errors import AnswerLostError, ConfigurationError
from kling_async.events import CalledBack, Event, Polled, Submitted, TaskEnded
from kling_async.protocol.callbacks import write_token
from kling_async.testing import ScriptedTransport, VirtualLoop
from kling_async.testing.transport import answer
from kling_async.webhooks import aiohttp, asgi, fastapi
from kling_async.webhooks.inbox import Counts, Inbox
from kling_async.webhooks.relay.backends import RelayBackendError
from kling_async.webhooks.relay.relay import Relay, RelayCounts
from tests.patience import HANGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from kling_async.protocol.callbacks import Callback
    from kling_async.testing.transport import Request, Response
    from tests.webhooks.conftest import Connect, Run

pytestmark = pytest.mark.virtual_time

FOX = MasterTextToVideo("a fox in fresh snow")
MODEL = FOX.model
SECRET = "the secret of this test"
URLS = ["https://example.com/a.mp4"]

# Of tasks that take 60 to 90 s, the callbacks are overdue then, and polls begin.
OVERDUE = 99.0


def now() -> float:
    """Give the loop's time."""
    return asyncio.get_running_loop().time()


class Board(list[str]):
    """What the engines of a test have published: the place in the middle."""


class Engine:
    """Publishes on a board, and reads from there; it may be away, or hang."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.read_up_to = 0
        self.away = ""
        self.hangs = False
        self.batches: list[int] = []
        self.tries = 0
        self.closed = False

    async def publish(self, lines: Sequence[str]) -> None:
        self.tries += 1
        await self._go()
        self.batches.append(len(lines))
        self.board += lines

    async def read(self) -> Sequence[str]:
        await self._go()
        begin, self.read_up_to = self.read_up_to, len(self.board)
        return self.board[begin:]

    async def close(self) -> None:
        self.closed = True

    async def _go(self) -> None:
        await asyncio.sleep(0.01)
        if self.away:
            raise RelayBackendError(self.away)
        if self.hangs:
            await asyncio.get_running_loop().create_future()


class Listener:
    """Records callbacks, and knows all tasks, or none."""

    def __init__(self, *, knows: bool = True) -> None:
        self.knows = knows
        self.received: list[Callback] = []

    def handle(self, callback: Callback) -> bool:
        self.received.append(callback)
        return self.knows

    @property
    def tasks(self) -> list[str]:
        return [callback.snapshot.ref.task_id for callback in self.received]


class Worker:
    """A process: an inbox, its relay, and one who listens."""

    def __init__(self, board: Board, name: str | None = None, **options: object) -> None:
        defaults: dict[str, object] = {"secret": SECRET}
        self.inbox = Inbox("https://example.com/kling", **{**defaults, **options})  # type: ignore[arg-type]  # each test its own
        self.engine = Engine(board)
        self.relay = Relay(self.inbox, self.engine, name=name)
        self.listener = Listener()
        self.inbox.join(self.listener)

    def called(self, task: str = "task_1", nonce: str = "n" * 16, **more: object) -> None:
        """Take a callback of the service."""
        data = {"taskId": task, "state": "success", "resultJson": {"resultUrls": URLS}, **more}
        body = json.dumps({"code": 200, "data": data}).encode()
        path = f"/kling/{write_token(MODEL, nonce, SECRET.encode())}"
        assert self.inbox.handle("POST", path, "", body) == 200


# ---------------------------------------------------------------------------------------- the relay


@pytest.mark.parametrize(
    "more",
    [
        {"createTime": 1_700_000_000_001, "completeTime": 1_700_000_061_234.5, "costTime": 60_001},
        {"state": "failed", "failCode": "NSFW", "failMsg": "n\u00f6 \U0001f98a", "costTime": 0.25},
        {"resultJson": {"resultUrls": []}},
    ],
)
async def test_a_callback_is_relayed(more: dict[str, object]) -> None:
    """A callback is relayed to each of the other processes, once, and not back to the first."""
    board = Board()
    here, there, elsewhere = Worker(board), Worker(board), Worker(board)
    async with here.relay, there.relay, elsewhere.relay:
        here.called(**more)  # type: ignore[arg-type]  # fields of the callback
        await asyncio.sleep(1)
    (said,) = here.listener.received
    assert not said.relayed
    for other in (there, elsewhere):
        (received,) = other.listener.received
        assert received.relayed
        assert (received.snapshot, received.nonce) == (said.snapshot, said.nonce)
        assert not received.trusted
        assert other.inbox.counts == Counts(relayed=1)
        assert other.relay.counts == RelayCounts(received=1)
    assert here.inbox.counts == Counts(delivered=1)
    assert here.relay.counts == RelayCounts(published=1)
    assert len(board) == 1


async def test_callbacks_without_a_task() -> None:
    """A relayed callback whose task does not run here is not counted by the inbox."""
    board = Board()
    here, there = Worker(board), Worker(board)
    here.listener.knows = there.listener.knows = False
    async with here.relay, there.relay:
        here.called()
        await asyncio.sleep(1)
    assert here.inbox.counts == Counts(unknown=1)
    assert there.inbox.counts == Counts()
    assert there.relay.counts.received == 1


async def test_repeated_callbacks() -> None:
    """A task's callbacks are passed on four times, wherever they came to."""
    board = Board()
    here, there = Worker(board), Worker(board)
    here.listener.knows = False
    async with here.relay, there.relay:
        for number in range(6):
            here.called(nonce=f"{number:016}")
        await asyncio.sleep(1)
    assert len(there.listener.received) == 4
    assert there.inbox.counts == Counts(relayed=1, repeated=5)


async def test_a_url_that_a_stranger_knows() -> None:
    """Of one URL's callbacks four are published, whichever tasks they speak of."""
    board = Board()
    here = Worker(board)
    async with here.relay:
        for number in range(10):
            here.called(f"task_{number}")
        await asyncio.sleep(1)
    assert here.relay.counts == RelayCounts(published=4, dropped=6)
    assert len(board) == 4


async def test_only_the_nonce_is_published() -> None:
    """What is published is of no use to forge a callback: the token's proof is not in it."""
    board = Board()
    here = Worker(board)
    async with here.relay:
        here.called()
        await asyncio.sleep(1)
    model, nonce, proof = write_token(MODEL, "n" * 16, SECRET.encode()).split("~")
    (line,) = board
    assert f" {model} {nonce} " in line
    assert proof not in line
    assert proof[:8] not in line
    assert SECRET not in line


async def test_callbacks_are_published_in_bulk(caplog: pytest.LogCaptureFixture) -> None:
    """Of a burst, as many are published at once as have come meanwhile, up to 200, silently."""
    caplog.set_level(logging.INFO)
    board = Board()
    here, there = Worker(board), Worker(board)
    async with here.relay, there.relay:
        for number in range(500):
            here.called(f"task_{number}", f"{number:016}")
        await asyncio.sleep(1)
    assert here.engine.batches == [200, 200, 100]
    assert there.listener.tasks == [f"task_{number}" for number in range(500)]
    assert not caplog.records


async def test_callbacks_on_another_thread() -> None:
    """The inbox may be given callbacks on any thread."""
    board = Board()
    here, there = Worker(board), Worker(board)
    async with here.relay, there.relay:
        await asyncio.to_thread(here.called)
        await asyncio.sleep(1)
    assert there.listener.tasks == ["task_1"]


async def test_callbacks_that_are_too_large() -> None:
    """What is larger than 64 KiB is not published."""
    board = Board()
    here = Worker(board, max_body_bytes=1_000_000)
    async with here.relay:
        here.called(nonce="a" * 16, failMsg="x" * 60_000)
        here.called(nonce="b" * 16, failMsg="\u00e4" * 20_000)
        await asyncio.sleep(1)
    assert here.relay.counts == RelayCounts(published=1, dropped=1)


@pytest.mark.parametrize("knows", [True, False])
async def test_what_still_runs(*, knows: bool) -> None:
    """What says that a task still runs is relayed, too, and takes no place of what says its end."""
    board = Board()
    here, there = Worker(board), Worker(board)
    here.listener.knows, there.listener.knows = False, knows
    async with here.relay, there.relay:
        for _ in range(6):
            here.called(state="processing")
        here.called()
        await asyncio.sleep(1)
    assert [one.snapshot.state.value for one in there.listener.received] == ["processing"] * 4 + [
        "success"
    ]
    assert here.inbox.counts == Counts(still_running=6, unknown=1)
    assert there.inbox.counts == (Counts(still_running=4, relayed=1) if knows else Counts())


# ------------------------------------------------------------------ which relays exchange callbacks


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        (SECRET, SECRET, True),
        (SECRET, "another secret of a test", False),
        (("a newer secret of this test", SECRET), (SECRET,), True),
        ((SECRET, "an older secret of a test"), ("a newer secret of this test", SECRET), True),
        ((SECRET,), ("a newer secret of this test",), False),
    ],
)
def test_names(first: object, second: object, shared: bool) -> None:  # noqa: FBT001
    """Inboxes that have a secret in common have a name in common; it does not reveal the secret."""
    one, other = Worker(Board(), secret=first), Worker(Board(), secret=second)
    names = one.inbox.names, other.inbox.names
    assert bool({*names[0]} & {*names[1]}) is shared
    assert all(len(name) == 16 and SECRET not in name for name in names[0])


@pytest.mark.parametrize("name", ["", "a\nb", "\xe4", 5])
def test_wrong_names(name: object) -> None:
    """A name is plain printable text."""
    with pytest.raises(ConfigurationError, match="a relay's name"):
        Worker(Board(), name=name)  # type: ignore[arg-type]


def test_wrong_arguments() -> None:
    """What is no inbox, or no backend, is refused by its name."""
    inbox: Any = Worker(Board()).inbox
    with pytest.raises(ConfigurationError, match="inbox must be an object with callback_url"):
        Relay(inbox.names, "redis://cache")
    with pytest.raises(ConfigurationError, match="engine must be an object with publish"):
        Relay(inbox, inbox)


# ------------------------------------------------------------------------------- trouble on the way


@pytest.mark.parametrize("shown", ["no connection", ""])
async def test_an_engine_that_is_away(caplog: pytest.LogCaptureFixture, shown: str) -> None:
    """What comes while the engine is away is published afterwards; the log has a line each way."""
    board = Board()
    here, there = Worker(board), Worker(board)
    async with here.relay, there.relay:
        await asyncio.sleep(1)
        here.engine.away = there.engine.away = shown or "x"
        if not shown:
            here.engine.away = there.engine.away = ""
            here.engine.hangs = there.engine.hangs = True
        here.called()
        await asyncio.sleep(60)
        assert board == []
        here.engine.away = there.engine.away = ""
        here.engine.hangs = there.engine.hangs = False
        await asyncio.sleep(20)
    assert there.listener.tasks == ["task_1"]
    assert here.relay.counts == RelayCounts(published=1)
    why = shown or "no answer in time"
    messages = Counter(record.getMessage() for record in caplog.records)
    assert messages == {
        f"callbacks are not published at Engine: {why}; polling finds the ends of tasks": 1,
        f"callbacks are not read at Engine: {why}; polling finds the ends of tasks": 2,
        "callbacks are published again at Engine": 1,
        "callbacks are read again at Engine": 2,
    }


async def test_tries_become_rarer() -> None:
    """An engine that is away is asked often at first, and then every few seconds."""
    here = Worker(Board())
    async with here.relay:
        here.engine.away = "no connection"
        here.called()
        await asyncio.sleep(1)
        assert 3 <= here.engine.tries <= 7
        await asyncio.sleep(99)
        assert 20 <= here.engine.tries <= 50


async def test_an_engine_that_hangs() -> None:
    """An engine that gives no answer is given up after two seconds, and asked again."""
    here = Worker(Board())
    async with here.relay:
        here.engine.hangs = True
        here.called()
        await asyncio.sleep(1.9)
        assert here.engine.tries == 1
        await asyncio.sleep(0.4)
        assert here.engine.tries == 2


async def test_faults_of_a_driver() -> None:
    """Whatever a backend raises, the relay continues."""
    board = Board()
    here, there = Worker(board), Worker(board)

    class Broken(Engine):
        async def _go(self) -> None:
            if self.away:
                raise LookupError(self.away)

    there.relay = Relay(there.inbox, broken := Broken(board))
    async with here.relay, there.relay:
        broken.away = "a fault"
        here.called()
        await asyncio.sleep(10)
        broken.away = ""
        await asyncio.sleep(10)
    assert there.listener.tasks == ["task_1"]


async def test_too_many_while_it_is_away() -> None:
    """While the engine is away the newest 2,000 are kept; the others are counted."""
    board = Board()
    here, there = Worker(board), Worker(board)
    async with here.relay, there.relay:
        here.engine.away = "no connection"
        for number in range(2_500):
            here.called(f"task_{number}", f"{number:016}")
            if not number % 100:
                await asyncio.sleep(1)
        await asyncio.sleep(1)
        here.engine.away = ""
        await asyncio.sleep(20)
    assert here.relay.counts == RelayCounts(published=2_000, dropped=500)
    assert there.listener.tasks == [f"task_{number}" for number in range(500, 2_500)]


async def test_too_many_while_some_are_published() -> None:
    """A callback that is dropped while it is being published counts once."""
    board = Board()
    here = Worker(board)

    class Slow(Engine):
        async def publish(self, lines: Sequence[str]) -> None:
            await asyncio.sleep(1)
            await super().publish(lines)

    here.relay = Relay(here.inbox, Slow(board))
    async with here.relay:
        here.called()
        await asyncio.sleep(0.5)
        for number in range(2_000):
            here.called(f"task_{number}", f"{number:016}")
        await asyncio.sleep(30)
    assert here.relay.counts == RelayCounts(published=2_000, dropped=1)


async def test_memory_is_bounded() -> None:
    """Of the lines that were received, the latest 10,000 are recognised."""
    body = json.dumps({"data": {"taskId": "task_1", "state": "failed"}})
    board = Board(f"{number:024} {MODEL} {'n' * 16} {body}" for number in range(10_001))
    here = Worker(board)
    here.listener.knows = False
    async with here.relay:
        await asyncio.sleep(1)
        board += board[-10_000:]
        await asyncio.sleep(1)
        assert here.relay.counts.received == 10_001
        board += board[:1]
        await asyncio.sleep(1)
    assert here.relay.counts.received == 10_002


@pytest.mark.parametrize(
    "line",
    [
        "",
        "hello",
        "\x00",
        "\ud800",
        "{}",
        f"{'0' * 24} {MODEL} {'n' * 16} {{}}",
        f"{'0' * 24} {MODEL} {'n' * 16} {{\ud800}}",
        f"{'0' * 24} {MODEL} {'n' * 16} {{\xe4}}",
        f"{'0' * 24} {MODEL} {'n' * 16} [1, 2]",
        f"{'0' * 24} {MODEL} {'n' * 16} {{" + '"a":{' * 9_000 + "}" * 9_001,
        f"{'0' * 24} {MODEL} {'n' * 16} " + '{"data": {"taskId": "a b", "state": "success"}}',
        f"{'0' * 24} {MODEL} {'n' * 16} " + '{"data": {"taskId": "a", "state": 5.5}}',
        f"{'0' * 24} ../{MODEL} {'n' * 16} " + '{"data": {"taskId": "a", "state": "failed"}}',
        f"{'0' * 24} {MODEL} {'n' * 15} " + '{"data": {"taskId": "a", "state": "failed"}}',
        f"{'0' * 23} {MODEL} {'n' * 16} " + '{"data": {"taskId": "a", "state": "failed"}}',
        f"{'0' * 24} {MODEL} {'n' * 16} "
        + json.dumps({"data": {"taskId": "a", "state": "failed"}, "more": "x" * 65_500}),
    ],
)
async def test_garbage_at_the_engine(line: str) -> None:
    """Whatever lines the backend has, nothing is raised, and genuine ones are received."""
    board = Board([line])
    here, there = Worker(board), Worker(board)
    async with here.relay, there.relay:
        here.called()
        await asyncio.sleep(1)
    assert there.listener.tasks == ["task_1"]
    assert there.relay.counts == RelayCounts(received=1, malformed=1)


# ------------------------------------------------------------------------------ opening and closing


async def test_the_last_callbacks() -> None:
    """What came right before the end is published, and an engine that was lent is not closed."""
    board = Board()
    here = Worker(board)
    async with here.relay:
        await asyncio.sleep(1)
        here.called()
        before = now()
    assert now() - before < 0.1
    assert len(board) == 1
    assert not here.engine.closed


@pytest.mark.parametrize("how", ["away", "hangs"])
async def test_closing_without_an_engine(how: str, leftovers: Callable[[], set[str]]) -> None:
    """However the engine is, the relay closes within a second, and leaves nothing running."""
    here = Worker(Board())
    async with here.relay:
        setattr(here.engine, how, "yes")
        here.called()
        await asyncio.sleep(5)
        before = now()
    assert now() - before == pytest.approx(1, abs=0.01)
    assert not leftovers()
    assert here.relay.counts == RelayCounts(dropped=1)


async def test_closing_is_cancelled(leftovers: Callable[[], set[str]]) -> None:
    """Who is cancelled while it closes leaves nothing running either."""
    here = Worker(Board())
    await here.relay.__aenter__()
    here.engine.hangs = True
    here.called()
    await asyncio.sleep(1)
    closing = asyncio.create_task(here.relay.close())
    await asyncio.sleep(0.5)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert not leftovers()


async def test_closing_an_engine_that_does_not_listen(leftovers: Callable[[], set[str]]) -> None:
    """An engine that loses a cancellation is not called again."""

    class Deaf(Engine):
        async def read(self) -> Sequence[str]:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(3)
            return []

    relay = Relay(Worker(Board()).inbox, Deaf(Board()))
    async with relay:
        await asyncio.sleep(1)
        before = now()
    assert now() - before < 0.1
    assert not leftovers()


async def test_a_relay_that_is_closed() -> None:
    """Before it is open, and after it was closed, nothing is taken; closing again does nothing."""
    board = Board()
    here = Worker(board)
    here.inbox.join(here.relay)
    here.called(nonce="a" * 16)
    await here.relay.close()
    async with here.relay:
        here.called(nonce="b" * 16)
        await asyncio.sleep(1)
    await here.relay.close()
    here.called(nonce="c" * 16)
    await asyncio.sleep(1)
    (line,) = board
    assert "b" * 16 in line


async def test_a_relay_that_is_open_already() -> None:
    """It cannot be opened a second time before it was closed; afterwards it can."""
    here = Worker(Board())
    async with here.relay:
        with pytest.raises(ConfigurationError, match="open already"):
            await here.relay.__aenter__()
    async with here.relay:
        pass


async def test_two_loops() -> None:
    """A relay that is open on a running loop cannot be opened on another one."""
    here = Worker(Board())

    def elsewhere() -> None:
        with pytest.raises(ConfigurationError, match="create one for each event loop"):
            asyncio.run(here.relay.__aenter__())

    async with here.relay:
        await asyncio.to_thread(elsewhere)


def test_one_loop_after_another() -> None:
    """It may be used in one ``asyncio.run`` after another, even if it was not closed in between."""
    board = Board()
    here, there = Worker(board), Worker(board)

    async def use(task: str, *, close: bool) -> None:
        await here.relay.__aenter__()
        async with there.relay:
            here.called(task, task.ljust(16, "_"))
            await asyncio.sleep(1)
        if close:
            await here.relay.close()

    for number, close in enumerate([True, False, False, True]):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(use(f"task_{number}", close=close))
        here.called(f"between_{number}", f"between_{number}".ljust(16, "_"))
    assert there.listener.tasks == [f"task_{number}" for number in range(4)]


async def test_an_inbox_keeps_no_relay() -> None:
    """A relay that was closed is forgotten by its inbox."""
    here = Worker(Board())
    async with here.relay:
        pass
    inbox = here.inbox
    del here
    gc.collect()
    assert not [one for one in gc.get_objects() if type(one) is Relay and one._inbox is inbox]  # noqa: SLF001


# ------------------------------------------------------------------------------- the client's tasks


class Service:
    """Carries out what clients send; each has an inbox of its own, and one engine between them."""

    def __init__(self, **options: object) -> None:
        self.board = Board()
        self.options = options
        self.states: dict[str, str] = {}
        self.urls: list[str] = []
        self.asked: Counter[str] = Counter()
        self.loses = False
        self.events: list[Event] = []

    def worker(self) -> tuple[Worker, KlingClient]:
        worker = Worker(self.board, None, **self.options)
        worker.listener.knows = False
        transport = ScriptedTransport(self.reply)
        return worker, KlingClient(
            "key", transport=transport, inbox=worker.inbox, hooks=[self.events.append]
        )

    async def reply(self, request: Request) -> Response:
        if request.ref is not None:
            self.asked[request.ref.task_id] += 1
            return answer(self.data(request.ref.task_id))
        assert request.body is not None
        self.urls.append(json.loads(request.body)["callback_url"])
        task = f"task_{len(self.urls)}"
        self.states[task] = "processing"
        if self.loses:
            raise AnswerLostError("lost", may_have_charged=True)
        return answer({"taskId": task})

    def data(self, task: str, state: str = "") -> dict[str, object]:
        said: dict[str, object] = {"taskId": task, "state": state or self.states[task]}
        if said["state"] == "success":
            said["resultJson"] = json.dumps({"resultUrls": URLS})
        return said

    def end(self, worker: Worker, number: int = 1, *, truly: bool = True) -> None:
        """End a task, and call back at one of the workers."""
        task = f"task_{number}"
        if truly:
            self.states[task] = "success"
        path = urlsplit(self.urls[number - 1]).path
        body = json.dumps({"code": 200, "data": self.data(task, "success")}).encode()
        assert worker.inbox.handle("POST", path, "", body) == 200


async def test_a_callback_at_another_worker() -> None:
    """A task ends by a callback that came to another process, with one status call."""
    service = Service()
    (here, kling), (there, other) = service.worker(), service.worker()
    async with kling, other, here.relay, there.relay:
        task = await kling.submit(FOX)
        waiting = asyncio.create_task(task.wait())
        await asyncio.sleep(70)
        assert not service.asked
        service.end(there)
        before = now()
        result = await waiting
        assert now() - before < 0.1
        assert now() < OVERDUE
    assert list(result.result_urls) == URLS
    assert service.asked == {"task_1": 1}
    kinds = [type(event) for event in service.events]
    assert kinds == [Submitted, CalledBack, Polled, TaskEnded]
    assert (here.inbox.counts.relayed, there.inbox.counts.relayed) == (1, 0)


async def test_a_worker_that_has_attached() -> None:
    """A task that was attached is woken, too, if another process has submitted it."""
    service = Service()
    (here, kling), (there, other) = service.worker(), service.worker()
    async with kling, other, here.relay, there.relay:
        ref = (await kling.submit(FOX)).ref
        attached = other.attach(ref, input=FOX, submitted_at=datetime.now(UTC))
        waiting = asyncio.create_task(attached.wait())
        await asyncio.sleep(30)
        service.end(here)
        before = now()
        await waiting
        assert now() - before < 0.1
    assert service.asked == {"task_1": 2}  # by each of the two
    assert there.inbox.counts == Counts(relayed=1)


async def test_a_lost_answer_is_found() -> None:
    """A task whose reference was lost with the answer is found by a callback to another process."""
    service = Service()
    service.loses = True
    (here, kling), (there, other) = service.worker(), service.worker()
    async with kling, other, here.relay, there.relay:
        with pytest.raises(AnswerLostError):
            await kling.submit(FOX)
        await asyncio.sleep(70)
        service.end(there)
        await asyncio.sleep(1)
    submitted = [event for event in service.events if isinstance(event, Submitted)]
    assert [one.ref for one in submitted] == [TaskRef(MODEL, "task_1")]


async def test_without_a_relay() -> None:
    """Without a relay the same task ends by its safety net."""
    service = Service()
    (_, kling), (there, other) = service.worker(), service.worker()
    async with kling, other:
        waiting = asyncio.create_task((await kling.submit(FOX)).wait())
        await asyncio.sleep(70)
        service.end(there)
        await waiting
        assert now() == pytest.approx(OVERDUE, abs=0.1)


async def test_a_lost_engine_costs_nothing_else() -> None:
    """While the engine is away, tasks end as without a relay."""
    service = Service()
    (here, kling), (there, other) = service.worker(), service.worker()
    here.engine.away = there.engine.away = "no connection"
    async with kling, other, here.relay, there.relay:
        waiting = asyncio.create_task((await kling.submit(FOX)).wait())
        await asyncio.sleep(70)
        service.end(there)
        await waiting
        assert now() == pytest.approx(OVERDUE, abs=0.1)


@pytest.mark.parametrize("confirm", [True, False])
async def test_who_can_write_to_the_engine_ends_nothing(confirm: bool) -> None:  # noqa: FBT001
    """What is forged at the engine has a task asked after at most, with confirmation or without."""
    service = Service(confirm=confirm)
    here, kling = service.worker()
    async with kling, here.relay:
        mine = asyncio.create_task((await kling.submit(FOX)).wait())
        await asyncio.sleep(20)
        service.states["task_9"] = "processing"
        theirs = kling.attach(TaskRef(MODEL, "task_9"), input=FOX, submitted_at=datetime.now(UTC))
        attached = asyncio.create_task(theirs.wait())
        await asyncio.sleep(10)
        for number, task in enumerate(["task_1", "task_9"]):
            body = json.dumps({"data": service.data(task, "success")})
            service.board.append(f"{number:024} {MODEL} {'n' * 16} {body}")
        await asyncio.sleep(1)
        assert service.asked == {"task_9": 1}
        assert not mine.done()
        assert not attached.done()
        assert here.inbox.counts.relayed == 1
        mine.cancel()
        attached.cancel()
        await asyncio.wait([mine, attached])


async def test_without_confirmation() -> None:
    """Without confirmation a callback at another process is believed by who has submitted."""
    service = Service(confirm=False)
    (here, kling), (there, other) = service.worker(), service.worker()
    async with kling, other, here.relay, there.relay:
        task = await kling.submit(FOX)
        waiting = asyncio.create_task(task.wait())
        await asyncio.sleep(70)
        service.end(there)
        await waiting
    assert not service.asked


# ---------------------------------------------------------------------------------------- the edges


@pytest.mark.parametrize("edge", ["asgi", "fastapi", "aiohttp"])
async def test_edges(edge: str, run: Run, connect: Connect) -> None:
    """An edge opens the relay with the client, and closes it at the end."""
    board = Board()
    here, there = Worker(board), Worker(board)
    kling = KlingClient("key", base_url="http://127.0.0.1:9", inbox=here.inbox)
    app: object
    if edge == "asgi":
        app = asgi.lifespan(kling, asgi.app(here.inbox), relay=here.relay)
    elif edge == "fastapi":
        app = FastAPI(lifespan=fastapi.lifespan(kling, relay=here.relay))
        app.include_router(fastapi.router(here.inbox), prefix="/kling")
    else:
        app = web.Application()
        app.cleanup_ctx.append(aiohttp.lifespan(kling, relay=here.relay))
        app.add_routes(aiohttp.routes(here.inbox, prefix="/kling"))
    async with there.relay:
        end = await run(app)
        here.called()
        await asyncio.sleep(1)
        assert there.listener.tasks == ["task_1"]
        await end()
        here.called("task_2")
        await asyncio.sleep(1)
    assert there.listener.tasks == ["task_1"]


# ----------------------------------------------------------------------------------- URLs


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://root:pa55word@host/db", "not at mysql://"),
        ("root:pa55word@host", "not at anything else"),
        ("", "not at anything else"),
        ("redis://:pa55word@host:port/0", "invalid relay URL, redis://"),
        ("valkeys://:pa55word@host:port/0", "invalid relay URL, valkeys://"),
        ("postgresql://root:pa55@word@host/db", "invalid postgresql:// URL"),
        ("postgresql://root:pa55word@[host/db", "invalid postgresql:// URL"),
        ("postgres://root:pa55word@host/db?no_such=option", "invalid postgresql:// URL"),
    ],
)
def test_wrong_urls(url: str, message: str) -> None:
    """A wrong address is refused at once, and no password is shown."""
    inbox = Inbox("https://example.com/kling", secret=SECRET)
    with pytest.raises(ConfigurationError, match=message) as caught:
        Relay(inbox, url)
    assert "pa55" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("package", "scheme", "extra"),
    [("redis", "redis", "redis"), ("psycopg", "postgresql", "postgres")],
)
def test_missing_packages(package: str, scheme: str, extra: str) -> None:
    """Where the package is not installed, the error says how to install it."""
    script = f"""
import sys
sys.modules["{package}"] = None
from kling_async import Inbox, MissingExtraError
from kling_async.webhooks.relay.relay import Relay
try:
    Relay(Inbox("https://example.com/kling", secret="{SECRET}"), "{scheme}://host")
except MissingExtraError as error:
    print(error)
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=HANGS
    )
    assert ran.stdout == (
        f"what relays callbacks at {scheme}:// needs another package: {install_command(extra)}\n"
    )


def test_what_is_shown() -> None:
    """A relay shows where its engine is, and no password."""
    inbox = Inbox("https://example.com/kling", secret=SECRET)
    url = "redis://user:pa55word@cache:6379/3?password=pa55word"
    assert repr(Relay(inbox, url)) == "<Relay redis://cache:6379/3>"
    assert repr(Worker(Board()).relay) == "<Relay Engine>"
