from __future__ import annotations

import asyncio
import gc
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

import pytest

from kling_async import KlingClient, Limits, TaskRef
from kling_async.errors import (
    AnswerLostError,
    BadRequestError,
    ContractError,
    JournalError,
    KlingError,
    RateLimitError,
    ServerError,
    TaskFailedError,
)
from kling_async.events import (
    CalledBack,
    Polled,
    SubmitFailed,
    Submitted,
    TaskEnded,
    TasksAbandoned,
)
from kling_async.limits.local import LocalLimiter
from kling_async.results import TaskState
from kling_async.testing import ScriptedTransport, VirtualLoop
from kling_async.webhooks.inbox import Counts, Inbox
from tests.tasks.callbacks import FOX, MODEL, SECRET, URLS, Service, data, now, waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from kling_async.testing.transport import Request, Response

pytestmark = pytest.mark.virtual_time

Leftovers: TypeAlias = "Callable[[], set[str]]"


# ------------------------------------------------------------------------------------------ the URL


async def test_what_a_submit_asks_for() -> None:
    """Each submit asks to be called at a URL of its own below the inbox's, with the model in it."""
    service = Service()
    async with service.client() as kling:
        for _ in range(3):
            await kling.submit(FOX)
    assert [body["request_type"] for body in service.bodies] == ["callback"] * 3
    urls = [service.url(number) for number in (1, 2, 3)]
    assert len(set(urls)) == 3
    assert all(url.startswith(f"https://example.com/kling/{MODEL}~") for url in urls)
    nonces = {url.split("~")[1] for url in urls}
    assert len(nonces) == 3
    assert all(len(nonce) == 16 for nonce in nonces)  # 96 bits


async def test_an_own_callback_url() -> None:
    """A callback URL of the user's own is sent instead, and the task is polled as without inbox."""
    service = Service()
    async with service.client() as kling:
        task = await kling.submit(FOX, callback_url="https://example.com/mine")
        service.states["task_1"] = "success"
        await task
    assert service.url() == "https://example.com/mine"
    assert now() == pytest.approx(60, abs=0.1)


async def test_without_an_inbox() -> None:
    """Without an inbox nothing is called back."""
    service = Service()
    kling = KlingClient("sk-a-key", transport=service.transport)
    await kling.submit(FOX)
    assert service.bodies[0]["request_type"] == "async"
    assert "callback_url" not in service.bodies[0]


async def test_a_submit_that_is_sent_again() -> None:
    """A submit that is refused in passing is sent again with the same URL, which is called."""
    service = Service()
    busy = BadRequestError("busy", status=429, retryable=True)
    service.refuses = [busy, busy]
    async with service.client() as kling:
        task = await kling.submit(FOX)
        assert len(set(map(service.url, (1, 2, 3)))) == 1
        wait = await waiting(task.wait())
        service.end(3)
        before = now()
        await wait
        assert now() - before < 0.1
    assert service.asked == {"task_3": 1}


# ----------------------------------------------------------------------------------------- one wake


@pytest.mark.parametrize("state", ["success", "failed"])
async def test_a_callback_wakes(state: str) -> None:
    """A callback has the task asked after at once, one time, and the waiter gets its end."""
    service = Service()
    async with service.client() as kling:
        task = await kling.submit(FOX)
        wait = await waiting(task.wait())
        assert service.end(state=state) == 200
        await asyncio.sleep(0.01)
        assert wait.done()
        error = wait.exception()
        assert (error is None) is (state == "success")
        assert error is None or isinstance(error, TaskFailedError)
        assert service.asked == {"task_1": 1}
        assert not kling.running
        assert service.limiter.slots_in_use == 0
        assert [type(event) for event in service.events] == [
            Submitted,
            CalledBack,
            Polled,
            TaskEnded,
        ]
        await asyncio.sleep(1000)
    assert service.asked == {"task_1": 1}
    assert service.inbox.counts == Counts(delivered=1)


async def test_many_waiters() -> None:
    """One status call serves all waiters of a task."""
    service = Service()
    async with service.client() as kling:
        task = await kling.submit(FOX)
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(task.wait()) for _ in range(10)]
            await asyncio.sleep(5)
            service.end()
        assert len({wait.result() for wait in waits}) == 1
    assert now() < 6
    assert service.asked == {"task_1": 1}


@pytest.mark.parametrize("again_after", [0.0, 1.0, 10.0, 600.0])
async def test_a_doubled_callback(again_after: float) -> None:
    """A second callback costs no second status call, in the middle of the first or later."""
    service = Service()
    service.takes = 2.0
    async with service.client() as kling:
        wait = await waiting((await kling.submit(FOX)).wait())
        service.end()
        await asyncio.sleep(again_after)
        assert service.call() == 200
        await asyncio.sleep(1000)
        assert wait.done()
    assert service.asked == {"task_1": 1}
    assert service.inbox.counts == Counts(delivered=1, repeated=1)


async def test_a_callback_beside_an_answer() -> None:
    """If it comes while the service is answering "processing", the task is asked after again."""
    service = Service()
    service.takes = 10.0
    async with service.client() as kling:
        wait = await waiting((await kling.submit(FOX)).wait())
        service.call()  # not true yet
        await asyncio.sleep(5)
        assert service.asked == {"task_1": 1}
        service.end()
        await asyncio.sleep(4)
        service.takes = 0.5
        await wait
        assert now() == pytest.approx(11.2, abs=0.1)
    assert service.asked == {"task_1": 2}


async def test_a_callback_beside_trouble() -> None:
    """If it comes while a status call fails, the task is asked after again at once."""
    service = Service()
    lost = AnswerLostError("lost", retryable=False)
    lost.retryable = True

    async def script(request: Request) -> Response:
        if request.ref is not None and not service.asked:
            service.asked["task_1"] += 1
            await asyncio.sleep(5)
            service.end()
            raise lost
        return await service.reply(request)

    service.transport = ScriptedTransport(script)
    async with service.client() as kling:
        wait = await waiting((await kling.submit(FOX)).wait())
        service.call()
        await wait
        assert now() < 20
    assert service.asked == {"task_1": 2}


async def test_a_watcher_is_woken() -> None:
    """A watcher gets the end as soon as the callback has come."""
    service = Service()
    async with service.client() as kling:
        task = await kling.submit(FOX)

        async def watch() -> list[tuple[TaskState, float]]:
            return [(one.state, round(now(), 1)) async for one in task.watch()]

        seen = asyncio.create_task(watch())
        await asyncio.sleep(120)  # the safety net has found it running
        service.end()
        assert await seen == [(TaskState.PROCESSING, 99.0), (TaskState.SUCCESS, 120.0)]


# ---------------------------------------------------------------- callbacks that say that it runs


@pytest.mark.parametrize("waits", [True, False])
async def test_a_callback_that_says_that_it_runs(waits: bool, leftovers: Leftovers) -> None:  # noqa: FBT001
    """It leads to one status call, at once, and to no more than that if nothing waits."""
    service = Service()
    async with service.client() as kling:
        task = await kling.submit(FOX)
        wait = await waiting(task.wait()) if waits else None
        service.states["task_1"] = "success"
        asked_at = now()
        assert service.call(state="processing") == 200
        await asyncio.sleep(0.1)
        assert service.moments == pytest.approx([asked_at], abs=0.01)
        assert kling.running == ()
        assert wait is None or wait.done()
        assert service.events_of(TaskEnded)
        assert not leftovers()
    assert service.inbox.counts == Counts(still_running=1)


async def test_it_runs_indeed(leftovers: Leftovers) -> None:
    """If the task does run, nothing is left that would poll again by itself."""
    service = Service()
    async with service.client() as kling:
        await kling.submit(FOX)
        service.call(state="processing")
        await asyncio.sleep(0.1)
        assert service.asked == {"task_1": 1}
        assert not leftovers()
        await asyncio.sleep(1000)
        assert service.asked == {"task_1": 1}
        service.end()
        await asyncio.sleep(0.1)
        assert kling.running == ()


async def test_many_that_say_that_it_runs() -> None:
    """However many come, they lead to five status calls at most, and the end still wakes."""
    service = Service()
    async with service.client() as kling:
        task = await kling.submit(FOX)
        for _ in range(20):
            service.call(state="queued")
            await asyncio.sleep(1)
        assert 1 <= service.asked["task_1"] <= 5
        wait = asyncio.create_task(task.wait())
        await asyncio.sleep(0.1)
        service.end()
        await wait
        assert now() < 21
    assert service.inbox.counts == Counts(delivered=1, still_running=20)


@pytest.mark.parametrize("order", [("success", "processing"), ("processing", "success")])
async def test_it_runs_and_has_ended(order: tuple[str, ...]) -> None:
    """Of two callbacks before the answer to the submit, the one that says the end counts."""
    service = trusting()
    service.submit_takes = 5.0
    async with service.client() as kling:
        submitting = asyncio.create_task(kling.submit(FOX))
        await asyncio.sleep(1)
        for state in order:
            service.call(state=state)
        assert (await (await submitting)).result_urls == tuple(URLS)
        assert now() < 6
    assert not service.asked


async def test_a_lost_answer_and_a_task_that_runs() -> None:
    """Where the answer to a submit was lost, a callback that says that it runs names the task."""
    service = Service()
    service.refuses = [AnswerLostError("lost", may_have_charged=True)]
    async with service.client() as kling:
        with pytest.raises(AnswerLostError):
            await kling.submit(FOX)
        service.call(state="processing")
        await asyncio.sleep(0.1)
        assert kling.running == (TaskRef(MODEL, "task_1"),)
        assert service.limiter.slots_in_use == 1
        assert service.events_of(Submitted) == [Submitted(TaskRef(MODEL, "task_1"), FOX)]
    assert service.events_of(TasksAbandoned) == [TasksAbandoned((TaskRef(MODEL, "task_1"),))]


async def test_the_slot_of_a_lost_answer_has_expired() -> None:
    """A task that is named when its submit's slot has expired takes a slot of its own."""
    service = Service()
    service.refuses = [AnswerLostError("lost", may_have_charged=True)]
    async with service.client() as kling:
        with pytest.raises(AnswerLostError):
            await kling.submit(FOX)
        await asyncio.sleep(2000)
        assert service.limiter.slots_in_use == 0
        service.call(state="processing")
        await asyncio.sleep(0.1)
        assert service.limiter.slots_in_use == 1
        service.end()
        await asyncio.sleep(0.1)
        assert service.limiter.slots_in_use == 0
        assert kling.running == ()


# --------------------------------------------------------------------------------- untrue callbacks


async def test_a_forged_success() -> None:
    """A callback that speaks of an end too early wakes no waiter; polls find the end."""
    service = Service()
    async with service.client() as kling:
        wait = await waiting((await kling.submit(FOX)).wait())
        service.call()
        await asyncio.sleep(63.5)
        assert not wait.done()
        # Asked after at once, and from then on as if no callback were to come.
        assert service.moments[:2] == pytest.approx([0.7, 1.7], abs=0.1)
        assert service.asked["task_1"] > 20
        service.states["task_1"] = "success"
        await wait
        assert now() < 66


async def test_a_genuine_one_after_forged_ones() -> None:
    """After three callbacks that were not true the fourth still wakes; further ones do not ask."""
    service = Service()
    async with service.client() as kling:
        wait = await waiting((await kling.submit(FOX)).wait())
        for _ in range(3):
            service.call()
            await asyncio.sleep(1)
        assert service.asked["task_1"] == 3
        service.end()
        await asyncio.sleep(1)
        assert wait.done()
    assert service.inbox.counts == Counts(delivered=1, repeated=3)


async def test_a_flood_of_forged_ones() -> None:
    """However often a URL is called, the status is asked a few times at most, a second apart."""
    service = Service()
    async with service.client() as kling:
        wait = await waiting((await kling.submit(FOX)).wait())
        for _ in range(1000):
            assert service.call() == 200
            await asyncio.sleep(0.0001)
        await asyncio.sleep(5)
        assert 1 < service.asked["task_1"] < 10
        wait.cancel()
    assert service.inbox.counts == Counts(delivered=1, repeated=999)


async def test_the_url_of_another_task() -> None:
    """What comes to one task's URL speaks of no other that this client has submitted."""
    service = Service()
    async with service.client() as kling:
        waits = [await waiting((await kling.submit(FOX)).wait()) for _ in range(2)]
        service.states["task_2"] = "success"
        assert service.call(1, task="task_2") == 200
        await asyncio.sleep(1)
        assert not service.asked
        assert service.inbox.counts == Counts(unknown=1)
        for wait in waits:
            wait.cancel()


async def test_another_models_url() -> None:
    """A task is found only under the model that its URL names."""
    service = Service()
    async with service.client() as kling:
        wait = await waiting((await kling.submit(FOX)).wait())
        url = service.inbox.callback_url("kling-3", "n" * 16)
        said = json.dumps({"data": data("task_1")}).encode()
        assert service.inbox.handle("POST", urlsplit(url).path, "", said) == 200
        await asyncio.sleep(1)
        assert not service.asked
        wait.cancel()
    assert service.inbox.counts == Counts(unknown=1)


# ------------------------------------------------------------------- before the submit's own answer


@pytest.mark.parametrize("confirm", [True, False])
async def test_an_early_callback(confirm: bool) -> None:  # noqa: FBT001
    """A callback that overtakes the answer to its submit is kept until the task is known."""
    service = Service(Inbox("https://example.com", secret=SECRET, confirm=confirm))
    service.submit_takes = 5.0
    async with service.client() as kling:
        result = asyncio.create_task(kling.generate(FOX))
        await asyncio.sleep(1)
        assert service.end() == 200
        await asyncio.sleep(1)
        assert not service.asked
        assert not kling.running
        assert (await result).ref == TaskRef(MODEL, "task_1")
        assert now() == pytest.approx(5, abs=0.1)
        assert not kling.running
        assert service.limiter.slots_in_use == 0
    assert service.asked.total() == confirm
    assert service.inbox.counts == Counts(delivered=1)


async def test_an_early_callback_of_another_task() -> None:
    """What comes early and names another task than the answer does is dropped."""
    service = Service()
    service.submit_takes = 5.0
    async with service.client() as kling:
        result = asyncio.create_task(kling.generate(FOX))
        await asyncio.sleep(1)
        service.call(task="task_9")
        await asyncio.sleep(10)
        assert not service.asked
        assert kling.running == (TaskRef(MODEL, "task_1"),)
        service.end()
        await result
        assert now() < 12


async def test_an_observer_that_fails_after_an_early_callback() -> None:
    """What an observer raises reaches the caller, also where the callback was there already."""
    service = Service()
    service.submit_takes = 5.0

    class SubmitObserver:
        async def before_send(self) -> None: ...
        async def on_rejected(self, error: KlingError) -> None: ...
        async def on_accepted(self, ref: TaskRef) -> None:
            raise JournalError("the disk is full")

    async with service.client() as kling:
        submit = asyncio.create_task(kling.submit(FOX, observer=SubmitObserver()))
        await asyncio.sleep(1)
        service.end()
        async with asyncio.timeout(30):
            with pytest.raises(JournalError):
                await submit
        await asyncio.sleep(1)
        assert len(service.events_of(Submitted)) == 1
        assert not kling.running
        assert service.limiter.slots_in_use == 0


# ------------------------------------------------------------------------- where the answer is lost


def lost() -> AnswerLostError:
    """Make the error of a submit that may have started a task."""
    return AnswerLostError("lost", may_have_charged=True)


async def test_a_lost_answer(caplog: pytest.LogCaptureFixture) -> None:
    """Where a submit's answer was lost, the callback names its task, and its end frees the slot.

    Nothing waits for the task: it is reported as abandoned, once.
    """
    service = Service()
    service.refuses = [lost()]
    async with service.client() as kling:
        with pytest.raises(AnswerLostError):
            await kling.submit(FOX)
        await asyncio.sleep(30)
        assert service.limiter.slots_in_use == 1
        assert service.end() == 200
        await asyncio.sleep(1)
        ref = TaskRef(MODEL, "task_1")
        kinds = [SubmitFailed, Submitted, CalledBack, TasksAbandoned, Polled, TaskEnded]
        assert [type(event) for event in service.events] == kinds
        assert service.events[1] == Submitted(ref, FOX)
        assert service.events[3] == TasksAbandoned((ref,))
        assert caplog.text.count(str(ref)) == 1
        assert not kling.running
        assert service.limiter.slots_in_use == 0
    assert service.asked == {"task_1": 1}
    assert service.inbox.counts == Counts(delivered=1)


async def test_a_lost_answer_and_a_task_that_runs_on() -> None:
    """A task that was found so is one of the client's, can be attached, and is woken again."""
    service = Service()
    service.refuses = [lost()]
    async with service.client() as kling:
        with pytest.raises(AnswerLostError):
            await kling.submit(FOX)
        service.call()
        await asyncio.sleep(0.5)
        assert kling.running == (TaskRef(MODEL, "task_1"),)
        wait = await waiting(kling.attach(kling.running[0]).wait())
        service.end()
        await asyncio.sleep(0.1)
        assert wait.done()
        assert service.limiter.slots_in_use == 0


@pytest.mark.parametrize(
    "error",
    [
        lost(),
        ZeroDivisionError(),
        ServerError("unavailable", status=503, retryable=True),
        RateLimitError("busy", status=429, retryable=True),
        ContractError("a gateway's page", status=404, retryable=True),
        BadRequestError("no", status=400),
    ],
    ids=repr,
)
async def test_a_failure_whose_callback_was_first(error: Exception) -> None:
    """A callback of its task proves more than a lost answer or a refusal: nothing is sent again."""
    service = Service()
    service.refuses = [error]
    service.submit_takes = 5.0
    async with service.client() as kling:
        result = asyncio.create_task(kling.generate(FOX))
        await asyncio.sleep(1)
        service.end()
        assert (await result).ref == TaskRef(MODEL, "task_1")
    assert not service.events_of(SubmitFailed)
    assert len(service.bodies) == 1
    assert service.limiter.slots_in_use == 0
    assert service.limiter.effective_tasks == 50


async def test_a_lost_answer_and_another_submits_task() -> None:
    """What comes to a lost submit's URL takes no other task over, nor its slot."""
    service = Service()
    async with service.client() as kling:
        task = await kling.submit(FOX)
        service.refuses = [lost()]
        with pytest.raises(AnswerLostError):
            await kling.submit(FOX)
        wait = await waiting(task.wait())
        assert service.call(2, task="task_1") == 200
        await asyncio.sleep(1)
        assert not service.asked
        assert len(service.events_of(Submitted)) == 1
        service.end(1)
        await asyncio.sleep(0.1)
        assert wait.done()
        assert service.limiter.slots_in_use == 1  # the lost one's
        service.end(2)
        await asyncio.sleep(0.1)
        assert service.limiter.slots_in_use == 0


async def test_a_refusal() -> None:
    """A submit that was refused for good expects no callback any more."""
    service = Service()
    service.refuses = [BadRequestError("no", status=400)]
    async with service.client() as kling:
        with pytest.raises(BadRequestError):
            await kling.submit(FOX)
        assert service.end() == 200
        await asyncio.sleep(1)
        assert not service.asked
        assert not service.events_of(Submitted, CalledBack)
        assert service.limiter.slots_in_use == 0
    assert service.inbox.counts == Counts(unknown=1)


async def test_an_observer_that_fails_on_a_late_reference(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The reference that a callback names after a lost answer is logged if recording it fails."""

    class Observer:
        async def before_send(self) -> None: ...

        async def on_rejected(self, error: KlingError) -> None: ...

        async def on_accepted(self, ref: TaskRef) -> None:
            raise OSError(f"no disk for {ref.task_id}")

    service = Service()
    service.refuses = [lost()]
    async with service.client() as kling:
        with pytest.raises(AnswerLostError):
            await kling.submit(FOX, observer=Observer())
        service.end()
        await asyncio.sleep(1)
    assert any("kling-2-1/task_1 of a lost submit" in one.getMessage() for one in caplog.records)


async def test_lost_answers_are_not_kept_for_ever() -> None:
    """A callback may come for a lost answer as long as a task lives, as far as is presumed."""
    service = Service()
    service.limiter = LocalLimiter(Limits(presumed_lifetime=100))
    service.refuses = [lost() for _ in range(4)]
    async with service.client() as kling:
        for pause in (0, 90, 20, 0):
            await asyncio.sleep(pause)
            with pytest.raises(AnswerLostError):
                await kling.submit(FOX)
        for number in (1, 2, 3, 4):
            service.end(number)
        await asyncio.sleep(1)
    assert sorted(service.asked) == ["task_2", "task_3", "task_4"]
    assert service.inbox.counts == Counts(delivered=3, unknown=1)


def test_a_loop_that_ends_before_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    """If the loop ends during a submit whose callback has come, its task is reported."""
    service = Service()
    service.submit_takes = service.takes = 5.0

    async def leave() -> None:
        submit = asyncio.create_task(service.client().submit(FOX))
        await asyncio.sleep(1)
        service.end()
        del submit

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(leave())
    gc.collect()
    assert Submitted(TaskRef(MODEL, "task_1"), FOX) in service.events
    assert not [one for one in caplog.records if one.name == "asyncio" and one.levelno >= 30]


# ---------------------------------------------------------------------- tasks without waiters


@pytest.mark.parametrize("state", ["success", "failed"])
async def test_a_callback_without_a_waiter(state: str, leftovers: Leftovers) -> None:
    """Where no caller waits for a task, its callback has the end noticed all the same."""
    service = Service()
    async with service.client() as kling:
        task = await kling.submit(FOX)
        await asyncio.sleep(30)
        service.end(state=state)
        await asyncio.sleep(0.1)
        assert service.asked == {"task_1": 1}
        assert [type(event) for event in service.events] == [
            Submitted,
            CalledBack,
            Polled,
            TaskEnded,
        ]
        assert not kling.running
        assert service.limiter.slots_in_use == 0
        assert not leftovers()
        assert task.snapshot
        assert task.snapshot.state.value == state
    assert service.asked == {"task_1": 1}


async def test_an_untrue_callback_without_a_waiter(leftovers: Leftovers) -> None:
    """A client that is closed stops what polls tasks without waiters."""
    service = Service()
    async with service.client() as kling:
        for number in (1, 2):
            await kling.submit(FOX)
            for _ in range(3):
                service.call(number)
                await asyncio.sleep(0.1)
        await asyncio.sleep(30)
        assert leftovers() == {"poll_unattended"}
        assert len([one for one in asyncio.all_tasks() if "poll_unattended" in repr(one)]) == 2
    assert not leftovers()
    assert now() < 32
    before = service.asked.total()
    await asyncio.sleep(1000)
    assert service.asked.total() == before


async def test_callbacks_after_the_close(leftovers: Leftovers) -> None:
    """A closed client begins nothing for a callback; a later waiter gets an error at once."""
    service = Service()
    async with service.client() as kling:
        task = await kling.submit(FOX)
    assert service.end() == 200
    await asyncio.sleep(1)
    assert not leftovers()
    assert not service.asked
    assert (await task).ref == task.ref
    assert now() < 2
    async with kling:
        await kling.submit(FOX)
        service.end(2)
        await asyncio.sleep(1)
        assert service.asked["task_2"] == 1


async def test_a_task_that_cannot_be_asked_after(leftovers: Leftovers) -> None:
    """Where the status call is refused, it is not repeated, and nothing is raised."""
    service = Service()
    async with service.client() as kling:
        await kling.submit(FOX)
        del service.states["task_1"]
        await asyncio.sleep(61)
        service.call()
        await asyncio.sleep(1)
        assert not leftovers()
        assert service.asked == {"task_1": 1}
        assert kling.running == ()


async def test_who_waits_later() -> None:
    """Who comes to wait for a task whose callback has come joins those who look after it."""
    service = Service()
    service.takes = 2.0
    async with service.client() as kling:
        task = await kling.submit(FOX)
        service.end()
        await asyncio.sleep(1)
        assert (await task).ref == task.ref
        assert now() == pytest.approx(2, abs=0.1)
    assert service.asked == {"task_1": 1}


# ----------------------------------------------------------------------------------- attached tasks


async def test_an_attached_task_of_an_earlier_process() -> None:
    """A task that another process has submitted is woken by its callback once it is attached."""
    service = Service()
    await service.client().submit(FOX)
    inbox = Inbox("https://example.com/kling", secret=["a newer secret of the test", SECRET])
    service.inbox, service.limiter = inbox, LocalLimiter()
    async with service.client() as kling:
        tasks = [
            kling.attach(f"{MODEL}/task_1"),
            kling.attach(f"{MODEL}/task_2", input=FOX, submitted_at=datetime.now(UTC)),
        ]
        service.bodies *= 2  # its URL may be any that is ours
        service.states["task_2"] = "processing"
        waits = [await waiting(task.wait()) for task in tasks]
        for number in (1, 2):
            service.end(number)
        await asyncio.sleep(0.1)
        assert all(wait.done() for wait in waits)
        assert service.limiter.slots_in_use == 0
    assert inbox.counts == Counts(delivered=2)


async def test_an_attached_task_without_a_waiter() -> None:
    """The end of an attached task is noticed, too, while a caller holds it."""
    service = Service()
    await service.client().submit(FOX)
    async with service.client() as kling:
        task = kling.attach(f"{MODEL}/task_1")
        service.end()
        await asyncio.sleep(0.1)
        assert service.asked["task_1"] == 2  # that of the first client as well
        assert task.snapshot
        assert task.snapshot.state is TaskState.SUCCESS
        del task
        gc.collect()
        service.call()
        await asyncio.sleep(0.1)
        assert service.asked["task_1"] == 2


# ----------------------------------------------------------------------------- without confirmation


def trusting() -> Service:
    """Make a service whose callbacks are taken at their word."""
    return Service(Inbox("https://example.com", secret=SECRET, confirm=False))


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("state", ["success", "failed"])
async def test_without_confirmation(state: str, waits: bool, leftovers: Leftovers) -> None:  # noqa: FBT001
    """Callbacks that are taken at their word cost no status call, and free the slot."""
    service = trusting()
    async with service.client() as kling:
        task = await kling.submit(FOX)
        wait = await waiting(task.wait()) if waits else None
        service.call(state=state)
        await asyncio.sleep(0.1)
        assert not kling.running
        assert service.limiter.slots_in_use == 0
        assert wait is None or wait.done()
        if wait is None:
            wait = asyncio.create_task(task.wait())
        if state == "failed":
            with pytest.raises(TaskFailedError):
                await wait
        else:
            assert (await task).result_urls == tuple(URLS)
            await wait
        assert now() < 2
        assert not leftovers()
        service.call(state=state)
        await asyncio.sleep(1)
    assert not service.asked
    assert [type(event) for event in service.events] == [Submitted, CalledBack, TaskEnded]
    assert service.inbox.counts == Counts(delivered=1, repeated=1)


async def test_a_success_without_urls() -> None:
    """A success without result URLs is asked about, even if callbacks are trusted."""
    service = trusting()
    async with service.client() as kling:
        wait = await waiting((await kling.submit(FOX)).wait())
        service.states["task_1"] = "success"
        service.call(urls=[])
        await asyncio.sleep(0.1)
        assert wait.done()
        assert wait.exception() is None
    assert service.asked == {"task_1": 1}


@pytest.mark.parametrize("attached", [False, True])
async def test_an_older_answer_under_way(attached: bool) -> None:  # noqa: FBT001
    """An answer that was under way when the callback came does not bring the task back to life."""
    service = trusting()
    async with service.client() as kling:
        if attached:
            service.states["task_1"] = "processing"
            service.bodies.append({"callback_url": service.inbox.callback_url(MODEL, "n" * 16)})
            task = kling.attach(f"{MODEL}/task_1")
        else:
            task = await kling.submit(FOX)
        service.takes = 2.0
        asking = asyncio.create_task(task.status())
        wait = await waiting(task.wait())
        service.call()
        await asking
        await wait
        await asyncio.sleep(1)
        assert not kling.running
        assert service.limiter.slots_in_use == 0
