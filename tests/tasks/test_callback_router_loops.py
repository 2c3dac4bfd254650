from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from kling_async import KlingClient, Limits, MasterTextToVideo
from kling_async.errors import (
    KlingError,
    TaskTimeoutError,
)
from kling_async.limits.local import LocalLimiter
from kling_async.testing import ScriptedTransport, VirtualLoop
from kling_async.testing.transport import answer
from kling_async.webhooks.inbox import Counts, Inbox

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from kling_async.events import (
        Event,
    )
    from kling_async.testing.transport import Request, Response


pytestmark = pytest.mark.virtual_time
FOX = MasterTextToVideo("a fox in fresh snow")
MODEL = FOX.model
SECRET = "the secret of this test"
URLS = ["https://example.com/a.mp4"]


def now() -> float:
    """Give the loop's time."""
    return asyncio.get_running_loop().time()


def data(task_id: str, state: str = "success", urls: list[str] | None = None) -> dict[str, object]:
    """Say how a task stands, as status answers and callbacks do."""
    said: dict[str, object] = {"taskId": task_id, "state": state}
    if state == "success":
        said["resultJson"] = json.dumps({"resultUrls": URLS if urls is None else urls})
    if state == "failed":
        said |= {"failCode": "NSFW", "failMsg": "no"}
    return said


class Service:
    """Carries out what a client sends, and calls back as it is instructed."""

    def __init__(self, inbox: Inbox | None = None) -> None:
        self.inbox = inbox or Inbox("https://example.com/kling", secret=SECRET)
        self.transport = ScriptedTransport(self.reply)
        self.bodies: list[dict[str, object]] = []  # of submits
        self.states: dict[str, str] = {}
        self.asked: Counter[str] = Counter()
        self.moments: list[float] = []  # of status calls
        self.takes = 0.0  # an answer to a status call
        self.submit_takes = 0.0
        self.refuses: list[KlingError] = []  # the next submits
        self.events: list[Event] = []
        self.limiter = LocalLimiter(Limits(concurrent_tasks=50))

    def client(self) -> KlingClient:
        return KlingClient(
            "sk-a-key",
            transport=self.transport,
            inbox=self.inbox,
            hooks=[self.events.append],
            limiter=self.limiter,
        )

    async def reply(self, request: Request) -> Response:
        if request.ref is None:
            assert request.body is not None
            self.bodies.append(json.loads(request.body))
            task_id = f"task_{len(self.bodies)}"
            self.states.setdefault(task_id, "processing")
            await asyncio.sleep(self.submit_takes)
            if self.refuses:
                raise self.refuses.pop(0)
            return answer({"taskId": task_id})
        task_id = request.ref.task_id
        self.asked[task_id] += 1
        self.moments.append(now())
        if task_id not in self.states:
            return answer(None, status=404, message="no such task")
        said = data(task_id, self.states[task_id])
        await asyncio.sleep(self.takes)
        return answer(said)

    def url(self, number: int = 1) -> str:
        """Give the URL that the Nth submit asked to be called at."""
        return str(self.bodies[number - 1].get("callback_url"))

    def call(
        self,
        number: int = 1,
        state: str = "success",
        *,
        task: str = "",
        urls: list[str] | None = None,
    ) -> int:
        """Post to the Nth submit's URL that a task, else the Nth, stands like this."""
        said = {
            "code": 200,
            "message": "success",
            "data": data(task or f"task_{number}", state, urls),
        }
        path = urlsplit(self.url(number)).path
        return self.inbox.handle("POST", path, "", json.dumps(said).encode())

    def end(self, number: int = 1, state: str = "success") -> int:
        """End a task, and call back."""
        self.states[f"task_{number}"] = state
        return self.call(number, state)

    def events_of(self, *kinds: type[Event]) -> list[Event]:
        """Give the events of these kinds."""
        return [event for event in self.events if isinstance(event, kinds)]


async def waiting(task: Coroutine[object, object, object]) -> asyncio.Task[object]:
    """Begin to wait; come back between two polls, if they come every second."""
    begun = asyncio.create_task(task)
    await asyncio.sleep(0.7)
    return begun


# -------------------------------------------------------------------------------- threads and loops


@pytest.mark.parametrize("waits", [True, False])
async def test_another_thread(waits: bool) -> None:  # noqa: FBT001
    """A callback that is given to the inbox on another thread wakes, too."""
    service = Service()
    async with service.client() as kling:
        task = await kling.submit(FOX)
        wait = await waiting(task.wait() if waits else asyncio.sleep(0))
        service.states["task_1"] = "success"
        assert await asyncio.to_thread(service.call) == 200
        await asyncio.sleep(0.1)
        assert wait.done()
        assert not kling.running
    assert service.asked == {"task_1": 1}
    assert service.inbox.counts == Counts(delivered=1)


def test_a_server_with_a_loop_of_its_own() -> None:
    """The loop of a server in another thread is not the one on which tasks are waited for."""
    service = Service()
    service.states["task_1"] = "processing"
    service.bodies.append({"callback_url": service.inbox.callback_url(MODEL, "n" * 16)})

    def serve() -> None:
        async def deliver() -> None:
            assert service.call() == 200

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(deliver())

    async def main() -> None:
        async with service.client() as kling:  # which submits nothing
            wait = await waiting(kling.attach(f"{MODEL}/task_1").wait())
            service.states["task_1"] = "success"
            await asyncio.to_thread(serve)
            await asyncio.sleep(0.1)
            assert wait.done()

    serve()  # before anything else
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
    serve()  # after it
    assert service.inbox.counts == Counts(delivered=1, repeated=1, unknown=1)


def test_no_loop_at_all() -> None:
    """A callback that comes while nothing runs is taken and counted, and wakes no waiter."""
    service = Service()
    kling = service.client()
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        task = runner.run(kling.submit(FOX))
    assert service.call() == 200
    assert service.inbox.counts == Counts(unknown=1)
    assert kling.running == (task.ref,)


def test_a_loop_that_is_closed_in_that_moment() -> None:
    """A loop that ends while a thread has a callback for it is no trouble for that thread."""

    class Ending(VirtualLoop):
        ending = False

        def is_closed(self) -> bool:
            closed = super().is_closed()
            if self.ending and not closed:
                self.ending = False
                self.close()
            return closed

    service = Service()
    kling = service.client()
    loop = Ending()
    loop.run_until_complete(kling.submit(FOX))
    loop.ending = True
    assert service.call() == 200
    assert loop.is_closed()
    assert service.inbox.counts == Counts(unknown=1)


@pytest.mark.parametrize("thread", [True, False])
def test_a_second_run(thread: bool) -> None:  # noqa: FBT001
    """In the next event loop a callback wakes who waits there for a task of the last one."""
    service = Service()
    kling = service.client()

    async def first() -> None:
        await kling.submit(FOX)
        wait = await waiting(kling.attach(kling.running[0]).wait())
        wait.cancel()

    async def second() -> None:
        wait = await waiting(kling.attach(kling.running[0]).wait())
        service.states["task_1"] = "success"
        before = now()
        if thread:
            await asyncio.to_thread(service.call)
        else:
            service.call()
        await wait
        assert now() - before < 0.1
        await kling.close()

    for main in (first, second):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(main())
    assert service.asked == {"task_1": 1}
    assert not kling.running


def test_between_two_runs() -> None:
    """What comes between two runs of one loop is handled in the second."""
    service = Service()
    kling = service.client()

    async def resume() -> None:
        await asyncio.sleep(1)
        assert not kling.running
        await kling.close()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(kling.submit(FOX))
        thread = threading.Thread(target=service.end)
        thread.start()
        thread.join()
        runner.run(resume())
    assert service.asked == {"task_1": 1}


# ---------------------------------------------------------------------------------- several clients


async def test_two_clients() -> None:
    """Of two clients on one inbox each is woken for its own tasks only."""
    service = Service()
    async with service.client() as one, service.client() as other:
        first = await waiting((await one.submit(FOX)).wait())
        second = await waiting((await other.submit(FOX)).wait())
        service.end(2)
        await asyncio.sleep(0.1)
        assert (first.done(), second.done()) == (False, True)
        service.end(1)
        await first
    assert service.asked == {"task_1": 1, "task_2": 1}
    assert service.inbox.counts == Counts(delivered=2)


async def test_two_clients_and_one_task() -> None:
    """A task that both wait for is confirmed by each of them."""
    service = Service()
    async with service.client() as one, service.client() as other:
        task = await one.submit(FOX)
        wait = await waiting(task.wait())
        twin = await waiting(other.attach(task.ref).wait())
        service.end()
        await asyncio.sleep(0.1)
        assert wait.done()
        assert twin.done()
    assert service.inbox.counts == Counts(delivered=1)


async def test_a_client_that_was_dropped() -> None:
    """An inbox keeps no client alive, and calls none that is gone."""
    service = Service()
    kling = service.client()
    await kling.submit(FOX)
    await kling.close()
    await asyncio.sleep(2)  # a timer of the submit's is over
    del kling
    gc.collect()
    assert service.end() == 200
    await asyncio.sleep(1)
    assert not service.asked
    assert service.inbox.counts == Counts(unknown=1)


async def test_the_deadline_stands() -> None:
    """Where neither a callback nor a poll shows an end, the deadline does."""
    service = Service()
    async with service.client() as kling:
        task = await kling.submit(FOX)
        with pytest.raises(TaskTimeoutError):
            await task.wait(timeout=500)
    assert service.moments == pytest.approx([99, 159, 219, 279, 339, 399, 459], abs=0.5)
