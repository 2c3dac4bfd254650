from __future__ import annotations

import asyncio
import pickle
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from kling_async import KlingClient, Limits, MasterTextToVideo, Polling, Snapshot, TaskRef
from kling_async.errors import (
    AnswerLostError,
    AuthenticationError,
    ClientClosedError,
    ConfigurationError,
    ContractError,
    KlingError,
    NotFoundError,
    TaskFailedError,
    TaskTimeoutError,
)
from kling_async.policy.durations import Kind
from kling_async.results import TaskState
from kling_async.tasks.arguments import DEFAULT_TIMEOUT
from kling_async.tasks.poll_scheduler import PollScheduler
from kling_async.tasks.task import Task
from kling_async.testing import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kling_async import Result
    from tests.conftest import Connect, Emulate

pytestmark = pytest.mark.virtual_time

REF = TaskRef("kling-2-1", "task_1")
KIND = Kind("kling-2-1", "master-text-to-video", 5)
FIVE = Polling(first=0.0, shortest=5.0, longest=5.0)
URLS = ("https://example.com/a.mp4",)
LOST = AnswerLostError("lost", retryable=True, ref=REF)


def now() -> float:
    """Give the loop's time."""
    return asyncio.get_running_loop().time()


class Service:
    """Answers status calls from a table of seconds to states or errors, and counts them.

    It is the registry of its tasks, and notes which of them are abandoned.
    """

    def __init__(self, *plan: tuple[float, str | KlingError], delay: float = 0.0) -> None:
        self.plan = plan
        self.delay = delay
        self.asked: list[float] = []
        self.abandoned: list[tuple[TaskRef, BaseException | None]] = []

    def abandon(self, task: Task, error: BaseException | None = None) -> None:
        self.abandoned.append((task.ref, error))

    async def read_status(self, ref: TaskRef) -> Snapshot:
        self.asked.append(now())
        await asyncio.sleep(self.delay)
        said = [what for at, what in self.plan if at <= now()][-1]
        if isinstance(said, KlingError):
            raise said
        if said == "success without urls":
            return Snapshot(ref, TaskState.SUCCESS, "success")
        state = TaskState(said) if said in set(TaskState) else TaskState.PROCESSING
        return Snapshot(ref, state, said, result_urls=URLS if said == "success" else ())

    def task(self, polling: Polling = FIVE, *, age: float | None = 0.0) -> Task:
        self.scheduler = scheduler = PollScheduler(polling, Limits())
        return Task(REF, scheduler.track(KIND, age), self, scheduler)


async def test_await_is_wait() -> None:
    """Awaiting a task gives its result."""
    service = Service((0, "processing"), (20, "success"))
    task = service.task()
    result = await task
    assert result.result_urls == URLS
    assert result.ref == task.ref == REF
    assert now() == pytest.approx(20, abs=0.1)


async def test_the_schedule() -> None:
    """The first poll comes when the first usually end; after the last usually have, waits grow."""
    service = Service((0, "processing"), (200, "success"))
    await service.task(Polling(shortest=1.0, longest=8.0))
    gaps = [round(b - a, 3) for a, b in pairwise(service.asked)]
    assert service.asked[0] == pytest.approx(60, abs=0.01)
    assert gaps[:29] == pytest.approx([1.0] * 29, abs=0.01)
    assert gaps == sorted(gaps)
    assert gaps[-1] == pytest.approx(8.0, abs=0.01)


async def test_a_known_age() -> None:
    """A task of a known age is first asked after when tasks of its kind usually end."""
    service = Service((0, "processing"), (30, "success"))
    await service.task(Polling(), age=40.0)
    assert service.asked[:2] == pytest.approx([20, 21], abs=0.01)


async def test_an_unknown_age() -> None:
    """A task of unknown age is asked after at once."""
    service = Service((0, "processing"), (10, "success"))
    await service.task(Polling(first=500.0), age=None)
    assert service.asked[:2] == pytest.approx([0, 1], abs=0.01)


async def test_tasks_that_are_awaited_one_after_another() -> None:
    """A task without waiters grows older: once it is awaited, it is asked after."""
    service = Service((0, "processing"), (70, "success"))
    tasks = [service.task(Polling()) for _ in range(3)]
    for task in tasks:
        await task
    assert now() == pytest.approx(70, abs=1.1)


async def test_snapshot_and_repr() -> None:
    """A task shows the last status, in the service's own words."""
    service = Service((0, "processing_r2"))
    task = service.task()
    assert task.snapshot is None
    assert repr(task) == "<Task kling-2-1/task_1 not polled yet>"
    snapshot = await task.status()
    assert task.snapshot is snapshot
    assert repr(task) == "<Task kling-2-1/task_1 processing_r2>"


async def test_status_asks_once() -> None:
    """A status call is one question, whatever the schedule says."""
    service = Service((0, "pending"))
    task = service.task(Polling())
    await task.status()
    assert service.asked == pytest.approx([0], abs=0.01)


async def test_waiting_for_what_has_ended() -> None:
    """A task that is known to have ended is not asked after again."""
    service = Service((0, "success"))
    task = service.task()
    assert await task == await task
    assert len(service.asked) == 1


async def test_watch_yields_changes() -> None:
    """Watching gives each change once, the last when the task has ended."""
    service = Service((0, "pending"), (12, "processing"), (31, "processing_r2"), (50, "success"))
    seen = [(round(now()), snapshot.vendor_state) async for snapshot in service.task().watch()]
    assert seen == [(0, "pending"), (15, "processing"), (35, "processing_r2"), (50, "success")]
    assert len(service.asked) == 11


async def test_watch_ends_with_a_failure_as_a_snapshot() -> None:
    """Watching yields a failed task's last snapshot; waiting raises it."""
    service = Service((0, "failed"))
    task = service.task()
    assert [snapshot.state async for snapshot in task.watch()] == [TaskState.FAILED]
    with pytest.raises(TaskFailedError) as caught:
        await task
    assert caught.value.ref == REF
    assert caught.value.snapshot == task.snapshot


async def test_the_watchers_own_time_is_not_cut() -> None:
    """What a caller does between two changes is never interrupted by the deadline."""
    service = Service((0, "pending"), (10, "processing"))
    seen = []

    async def watch() -> None:
        async for snapshot in service.task().watch(timeout=30):
            seen.append(snapshot)
            await asyncio.sleep(100)

    with pytest.raises(TaskTimeoutError):
        await watch()
    assert now() == pytest.approx(100, abs=0.1)
    assert len(seen) == 1


async def test_unknown_states_are_still_running() -> None:
    """An unknown state does not end the wait."""
    service = Service((0, "whatever"), (20, "success"))
    await service.task()
    assert now() == pytest.approx(20, abs=0.1)


# --------------------------------------------------------------------------------- several waiters


async def test_waiters_poll_once_between_them() -> None:
    """However many wait for a task, it is polled as often as for one."""
    service = Service((0, "processing"), (60, "success"), delay=0.5)
    task = service.task()
    results = await asyncio.gather(*(task.wait() for _ in range(10)))
    assert len(set(results)) == 1
    assert len(service.asked) == 13


async def test_a_late_waiter_joins() -> None:
    """Who comes later waits for the next poll that is due, and asks no extra question."""
    service = Service((0, "processing"), (20, "success"))
    task = service.task()
    first = asyncio.create_task(task.wait())
    await asyncio.sleep(7)
    await task.wait()
    await first
    assert service.asked == pytest.approx([0, 5, 10, 15, 20], abs=0.1)


@pytest.mark.parametrize("at", [0.2, 3.0, 5.2, 9.9])
async def test_cancelling_a_waiter(at: float) -> None:
    """A cancelled waiter, sleeping or in the middle of a poll, does not disturb the others."""
    service = Service((0, "processing"), (20, "success"), delay=0.5)
    task = service.task()
    waiters = [asyncio.create_task(task.wait()) for _ in range(3)]
    await asyncio.sleep(at)
    waiters[0].cancel()
    for waiter in waiters[1:]:
        assert (await waiter).result_urls == URLS
    assert waiters[0].cancelled()
    # Found no later than it would have been, give or take one poll that was cut short.
    assert now() <= 23


async def test_one_waiters_deadline_is_not_anothers() -> None:
    """A waiter whose time is up leaves the others waiting."""
    service = Service((0, "processing"), (60, "success"), delay=0.5)
    task = service.task()
    short = asyncio.create_task(task.wait(timeout=10.8))
    result = await task.wait(timeout=100)
    assert result.result_urls == URLS
    with pytest.raises(TaskTimeoutError):
        await short


async def test_a_status_call_beside_a_waiter() -> None:
    """A status call shows a watcher a change at its next turn."""
    service = Service((0, "processing"), (2, "success"))
    task = service.task()
    waiter = asyncio.create_task(task.wait())
    await asyncio.sleep(3)
    assert (await task.status()).state is TaskState.SUCCESS
    assert (await waiter).result_urls == URLS


# ------------------------------------------------------------------------------------------- hints


async def begun(task: Task) -> asyncio.Task[Result]:
    """Begin to wait for a task, for seven seconds."""
    wait = asyncio.create_task(task.wait())
    await asyncio.sleep(7)
    return wait


async def test_a_hint() -> None:
    """A hint has the waiters poll at once, once for all of them."""
    service = Service((0, "processing"), (7, "success"))
    task = service.task(Polling())
    waits = [asyncio.create_task(task.wait()) for _ in range(3)]
    await asyncio.sleep(7)
    assert not service.asked
    assert task.notify_ended() is True
    for wait in waits:
        assert (await wait).result_urls == URLS
    assert service.asked == pytest.approx([7], abs=0.01)


async def test_a_hint_that_is_not_true() -> None:
    """If the task runs on, it is asked after at the usual times from there on."""
    service = Service((0, "processing"), (80, "success"))
    task = service.task(Polling())
    wait = await begun(task)
    task.notify_ended()
    await wait
    assert service.asked[0] == pytest.approx(7, abs=0.01)
    gaps = [b - a for a, b in pairwise(service.asked)]
    assert gaps[0] == pytest.approx(1, abs=0.01)
    assert max(gaps) < 3.1
    assert now() < 81.1


async def test_a_hint_while_it_is_asked_after() -> None:
    """A hint that comes during a poll has another follow at once, and no more than one."""
    service = Service((0, "processing"), (13, "success"), delay=5.0)
    task = service.task(Polling())
    wait = await begun(task)
    task.notify_ended()
    await asyncio.sleep(4)
    for _ in range(5):
        assert task.notify_ended() is True
    await wait
    assert service.asked == pytest.approx([7, 12], abs=0.01)


async def test_a_hint_without_a_waiter() -> None:
    """If there is no waiter, that is returned, and the first one polls at once."""
    service = Service((0, "processing"), (7, "success"))
    task = service.task(Polling())
    assert task.notify_ended() is False
    await asyncio.sleep(20)
    assert not service.asked
    await task
    assert service.asked == pytest.approx([20], abs=0.01)


async def test_a_hint_while_a_watcher_is_busy() -> None:
    """A watcher who is doing something else is not waiting, and asks at once when he is back."""
    service = Service((0, "processing"), (5, "success"))
    task = service.task(Polling(first=1.0, shortest=100, longest=100))
    seen: list[float] = []
    async for _ in task.watch():
        seen.append(now())
        await asyncio.sleep(10)
        if len(seen) == 1:
            assert task.notify_ended() is False
    assert seen == pytest.approx([1, 11], abs=0.01)


async def test_a_hint_about_a_task_of_unknown_age() -> None:
    """An attached task may be hinted at before there is a waiter."""
    service = Service((0, "success"))
    task = service.task(Polling(), age=None)
    assert task.notify_ended() is False
    await task
    assert len(service.asked) == 1


@pytest.mark.parametrize("at", ["asked", "asking", "waiting"])
async def test_a_hint_and_a_waiter_who_gives_up(at: str) -> None:
    """If the waiter who was to ask gives up, the next in line asks at once."""
    service = Service((0, "processing"), (7, "success"), delay=2.0)
    task = service.task(Polling())
    first = asyncio.create_task(task.wait())
    second = await begun(task)
    if at == "waiting":
        first.cancel()
    task.notify_ended()
    if at == "asking":
        await asyncio.sleep(1)
    first.cancel()
    await second
    assert now() < 10.1
    assert first.cancelled()


@pytest.mark.parametrize("waits", [True, False])
async def test_an_end_beyond_doubt(waits: bool) -> None:  # noqa: FBT001
    """A hint that brings the end itself is believed without a status call."""
    service = Service((0, "processing"))
    task = service.task(Polling())
    ended = Snapshot(REF, TaskState.SUCCESS, "success", result_urls=URLS)
    if waits:
        wait = await begun(task)
        assert task.notify_ended(ended) is True
        assert (await wait).result_urls == URLS
    else:
        assert task.notify_ended(ended) is False
        assert task.notify_ended() is False  # which takes nothing back
        assert (await task).result_urls == URLS
    assert not service.asked
    assert task.snapshot is ended
    assert now() < 8


async def test_an_end_beyond_doubt_while_it_is_asked_after() -> None:
    """An end that is brought during a poll is believed, whatever that poll says."""
    service = Service((0, "processing"), delay=5.0)
    task = service.task(Polling())
    wait = await begun(task)
    task.notify_ended()
    await asyncio.sleep(1)
    task.notify_ended(Snapshot(REF, TaskState.FAILED, "failed", fail_code="NSFW"))
    with pytest.raises(TaskFailedError, match="NSFW"):
        await wait
    assert len(service.asked) == 1


async def test_a_watcher_and_an_end_beyond_doubt() -> None:
    """Who watches is shown the end that was brought, and that it is the last."""
    service = Service((0, "processing"))
    task = service.task(Polling(first=1.0))
    ended = Snapshot(REF, TaskState.SUCCESS, "success", result_urls=URLS)
    asyncio.get_running_loop().call_later(7, task.notify_ended, ended)
    states = [(one.vendor_state, round(now())) async for one in task.watch()]
    assert states == [("processing", 1), ("success", 7)]


async def test_hints_that_it_runs() -> None:
    """A hint that the task still runs has it polled at once, five times and no more."""
    service = Service((0, "processing"))
    task = service.task(Polling())
    wait = asyncio.create_task(task.wait())
    for number in range(8):
        await asyncio.sleep(2.5)
        assert task.notify_running() is True
        await asyncio.sleep(0.1)
        assert sum(at >= now() - 0.2 for at in service.asked) == (number < 5)
    wait.cancel()
    await asyncio.wait([wait])


async def test_hints_that_it_runs_while_nothing_waits() -> None:
    """If nothing waits for the task, that is returned for the first five."""
    task = Service((0, "processing")).task(Polling())
    assert [task.notify_running() for _ in range(7)] == [False] * 5 + [True] * 2


def test_a_hint_on_another_loop() -> None:
    """Waiters of a loop that was left are not waiting here; who comes to wait here asks at once."""
    service = Service((0, "processing"))
    tasks: list[Task] = []

    async def leave() -> asyncio.Task[Result]:
        tasks.append(service.task(Polling()))
        return await begun(tasks[0])

    async def resume() -> None:
        assert tasks[0].notify_ended() is False
        service.plan = ((0, "success"),)
        await tasks[0]
        assert now() < 0.1

    left = asyncio.Runner(loop_factory=VirtualLoop)
    wait = left.run(leave())
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(resume())
    left.close()
    assert wait.cancelled()


# ----------------------------------------------------------------------------------------- trouble


async def test_passing_trouble_does_not_end_the_wait() -> None:
    """Trouble on the way is waited out, for as long as the deadline allows."""
    service = Service((0, LOST), (40, "success"))
    await service.task()
    assert len(service.asked) == 9


async def test_polls_are_put_off_after_trouble() -> None:
    """A poll that failed is as good as one that was answered: the next keeps its distance."""
    service = Service((0, LOST), (61, "processing"), (80, "success"))
    await service.task(Polling())
    assert service.asked == pytest.approx([60 + n for n in range(21)], abs=0.1)


async def test_trouble_until_the_deadline() -> None:
    """If trouble lasts until the deadline, the error says so and has it as its cause."""
    service = Service((0, "pending"), (4, LOST))
    with pytest.raises(
        TaskTimeoutError, match=r"last status was pending; the last poll failed: lost"
    ) as caught:
        await service.task().wait(timeout=50)
    assert caught.value.__cause__ is LOST


async def test_trouble_that_has_passed_is_forgotten() -> None:
    """Trouble that was over before the deadline is not blamed for it."""
    service = Service((0, LOST), (20, "processing"))
    with pytest.raises(TaskTimeoutError) as caught:
        await service.task().wait(timeout=50)
    assert "failed" not in str(caught.value)
    assert caught.value.__cause__ is None


GONE = NotFoundError("no such task", status=404, ref=REF)


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationError("bad key", status=401, ref=REF),
        ContractError("nonsense", ref=REF),
        ClientClosedError("closed", ref=REF),
    ],
)
async def test_what_is_raised_at_once(error: KlingError) -> None:
    """An error that is not repeatable, and the closing of the client, end the wait."""
    service = Service((0, "processing"), (10, error))
    with pytest.raises(type(error)) as caught:
        await service.task()
    assert caught.value is error
    assert now() == pytest.approx(10, abs=0.1)


async def test_pages_of_a_gateway_are_waited_out() -> None:
    """An answer that is not the service's does not end the wait."""
    page = ContractError("nonsense", retryable=True, ref=REF)
    service = Service((0, "processing"), (10, page), (40, "success"))
    assert (await service.task()).result_urls == URLS
    assert now() == pytest.approx(40, abs=0.1)


async def test_a_404_after_the_acceptance() -> None:
    """A 404 within 60 s of the acceptance is waited out, by a status call every two seconds."""
    service = Service((0, GONE), (20.5, "success"))
    assert (await service.task()).result_urls == URLS
    assert service.asked == pytest.approx([2 * n for n in range(12)], abs=0.1)


async def test_a_404_that_lasts() -> None:
    """A 404 more than 60 s after the acceptance is raised."""
    service = Service((0, GONE))
    with pytest.raises(NotFoundError) as caught:
        await service.task()
    assert caught.value is GONE
    assert now() == pytest.approx(60, abs=0.1)


@pytest.mark.parametrize("age", [None, 60.0, 1000.0])
async def test_a_404_of_another_task(age: float | None) -> None:
    """A 404 for a task that is older, or whose age is not known, is raised at once."""
    service = Service((0, GONE))
    with pytest.raises(NotFoundError):
        await service.task(age=age)
    assert len(service.asked) == 1


async def test_success_without_urls() -> None:
    """A success without result URLs is asked again every two seconds, and has them soon."""
    service = Service((0, "success without urls"), (15, "success"))
    task = service.task()
    assert (await task).result_urls == URLS
    assert service.asked == pytest.approx([2 * n for n in range(9)], abs=0.1)


async def test_success_that_stays_without_urls() -> None:
    """A success whose result URLs are not there after 60 s is an error that says so."""
    service = Service((0, "success without urls"))
    with pytest.raises(ContractError, match="no result URLs") as caught:
        await service.task()
    assert caught.value.ref == REF
    assert now() == pytest.approx(60, abs=0.1)
    assert len(service.asked) == 31


async def test_the_deadline_while_urls_are_missing() -> None:
    """A deadline in that time says what is missing."""
    service = Service((0, "success without urls"))
    with pytest.raises(TaskTimeoutError, match="result URLs are not there yet"):
        await service.task().wait(timeout=10)


async def test_a_status_call_before_the_urls() -> None:
    """A status call that sees a success without URLs does not end the wait for them."""
    service = Service((0, "processing"), (3, "success without urls"), (10, "success"))
    task = service.task()
    waiter = asyncio.create_task(task.wait())
    await asyncio.sleep(3.5)
    assert (await task.status()).state is TaskState.SUCCESS
    assert (await waiter).result_urls == URLS
    assert now() == pytest.approx(11.5, abs=0.1)
    assert (await task).result_urls == URLS


# ---------------------------------------------------------------------------------------- deadline


async def test_the_deadline() -> None:
    """At the deadline the error carries the reference and the last snapshot."""
    service = Service((0, "pending"), (10, "processing"))
    task = service.task()
    with pytest.raises(TimeoutError) as caught:
        await task.wait(timeout=33)
    error = caught.value
    assert isinstance(error, TaskTimeoutError)
    assert now() == pytest.approx(33, abs=0.01)
    assert error.ref == REF
    assert error.snapshot == task.snapshot
    assert error.snapshot is not None
    assert error.snapshot.state is TaskState.PROCESSING
    assert "33 s" in str(error)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (copy.ref, copy.snapshot, str(copy)) == (error.ref, error.snapshot, str(error))


async def test_a_deadline_before_the_first_poll() -> None:
    """If the deadline comes first, the error says that it was not polled."""
    service = Service((0, "pending"))
    with pytest.raises(TaskTimeoutError, match="not polled yet") as caught:
        await service.task(Polling()).wait(timeout=30)
    assert caught.value.snapshot is None
    assert not service.asked


async def test_a_deadline_in_the_middle_of_a_poll() -> None:
    """A poll that hangs does not hold up the deadline, and a later wait finds the result."""
    service = Service((0, "success"), delay=1000.0)
    task = service.task()
    with pytest.raises(TaskTimeoutError):
        await task.wait(timeout=10)
    assert now() == pytest.approx(10, abs=0.01)
    service.delay = 0.0
    assert (await task).result_urls == URLS


async def test_the_default_deadline() -> None:
    """Without a timeout the wait ends after half an hour."""
    assert DEFAULT_TIMEOUT == 1800
    with pytest.raises(TaskTimeoutError):
        await Service((0, "pending")).task()
    assert now() == pytest.approx(1800, abs=0.1)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), True, "60", None])
async def test_a_timeout_that_is_none(timeout: object) -> None:
    """There is always a deadline: a timeout must be a positive and finite number."""
    service = Service((0, "success"))
    with pytest.raises(ConfigurationError, match="timeout"):
        await service.task().wait(timeout=timeout)  # type: ignore[arg-type] # wrong on purpose
    assert not service.asked
    assert not service.abandoned


# ------------------------------------------------------------------------------------ cancellation


async def watch(task: Task) -> None:
    """Watch a task to its end."""
    async for _ in task.watch():
        pass


@pytest.mark.parametrize("how", [Task.wait, watch])
@pytest.mark.parametrize("delay", [0.0, 10.0])
async def test_a_cancelled_wait(how: Callable[[Task], Awaitable[object]], delay: float) -> None:
    """A task whose only waiter is cancelled, between two polls or during one, is abandoned."""
    service = Service((0, "processing"), delay=delay)
    task = service.task()
    waiter = asyncio.ensure_future(how(task))
    await asyncio.sleep(3)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await waiter
    assert service.abandoned == [(REF, caught.value)]


async def test_a_watcher_that_is_busy() -> None:
    """A watcher that is cancelled outside of the watching has not abandoned the task."""
    service = Service((0, "processing"))

    async def look() -> None:
        async for _ in service.task().watch():
            await asyncio.sleep(100)

    waiter = asyncio.create_task(look())
    await asyncio.sleep(3)
    waiter.cancel()
    await asyncio.wait([waiter])
    assert not service.abandoned


async def test_the_last_of_several_waiters() -> None:
    """While another waiter still waits, no cancelled one has abandoned the task."""
    service = Service((0, "processing"), delay=1.0)
    task = service.task()
    waiters = [asyncio.create_task(task.wait()) for _ in range(3)]
    for number, waiter in enumerate(waiters):
        await asyncio.sleep(3)
        assert not service.abandoned
        waiter.cancel()
        await asyncio.wait([waiter])
        assert len(service.abandoned) == (number == 2)


async def test_cancelled_all_at_once() -> None:
    """Waiters that are cancelled together abandon the task once."""
    service = Service((0, "processing"))
    task = service.task()
    waiters = [asyncio.create_task(task.wait()) for _ in range(3)]
    await asyncio.sleep(3)
    for waiter in waiters:
        waiter.cancel()
    await asyncio.wait(waiters)
    assert len(service.abandoned) == 1


async def test_cancelled_before_it_is_given_the_end() -> None:
    """A waiter that is cancelled when a status call has shown the end has abandoned the task."""
    service = Service((0, "processing"))
    task = service.task()
    waiter = asyncio.create_task(task.wait())
    await asyncio.sleep(3)
    service.plan = ((0, "success"),)
    await task.status()
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await waiter
    assert service.abandoned == [(REF, caught.value)]


async def test_cancelled_when_another_is_given_the_end() -> None:
    """A task is not abandoned if one of its waiters is given the end, and others are cancelled."""
    service = Service((0, "success"))
    task = service.task()

    async def wait_and_cancel() -> Result:
        result = await task.wait()
        other.cancel()
        return result

    first = asyncio.create_task(wait_and_cancel())
    other = asyncio.create_task(task.wait())
    await asyncio.wait([first, other])
    assert first.result().result_urls == URLS
    assert other.cancelled()
    assert not service.abandoned


async def test_a_cancelled_wait_without_report() -> None:
    """Those that report abandoned tasks themselves wait without a report."""
    service = Service((0, "processing"))
    waiter = asyncio.create_task(service.task().wait(report=False))
    await asyncio.sleep(3)
    waiter.cancel()
    await asyncio.wait([waiter])
    assert not service.abandoned


def test_waiters_of_a_loop_that_was_left_are_not_counted() -> None:
    """Waiters of an earlier loop that end late do not hide that the last one here was cancelled."""
    service = Service((0, "processing"))
    tasks: list[Task] = []

    async def leave() -> list[asyncio.Task[Result]]:
        tasks.append(service.task(Polling()))
        waits = [asyncio.create_task(tasks[0].wait()) for _ in range(3)]
        await asyncio.sleep(10)
        return waits

    async def begin() -> asyncio.Task[Result]:
        return await begun(tasks[0])

    async def cancel(waits: list[asyncio.Task[Result]]) -> None:
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)

    left = asyncio.Runner(loop_factory=VirtualLoop)
    waits = left.run(leave())
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        wait = runner.run(begin())
        left.run(cancel(waits))
        assert not service.abandoned
        runner.run(cancel([wait]))
        assert len(service.abandoned) == 1
    left.close()


async def test_closing_ends_the_waits() -> None:
    """When the client is closed each waiter is raised an error with the reference, at once."""
    service = Service((0, "processing"), delay=1.0)
    task = service.task()
    waiters = [asyncio.create_task(task.wait()) for _ in range(3)]
    await asyncio.sleep(3)
    service.scheduler.deadlines.close()
    await asyncio.wait(waiters)
    for waiter in waiters:
        error = waiter.exception()
        assert isinstance(error, ClientClosedError)
        assert (error.ref, error.may_have_charged, error.retryable) == (REF, True, True)
    assert not service.abandoned  # the client does that
    assert now() < 3.1
    service.plan = ((0, "success"),)
    assert (await task).result_urls == URLS


# ------------------------------------------------------------------------------------------- loops


def test_waiting_on_two_loops() -> None:
    """A second loop continues where the first one stopped: the task is as old as it is."""
    service = Service((0, "processing"))
    tasks: list[Task] = []

    async def give_up() -> None:
        tasks.append(service.task(Polling()))
        with pytest.raises(TaskTimeoutError):
            await tasks[0].wait(timeout=99.5)

    async def wait() -> None:
        service.plan += ((20, "success"),)
        await tasks[0]

    for main in (give_up, wait):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(main())
    polls = [at for at in service.asked if at < 60]  # those of the second loop
    assert 0 < polls[0] < 3
    # A tenth of the 10 s and more that it is late by then.
    assert polls[1] - polls[0] == pytest.approx(1 + (polls[0] + 9.5) * 0.1, abs=0.01)


def test_waiters_on_a_loop_that_was_left() -> None:
    """No waiter queues behind those whose loop is not run any more."""
    service = Service((0, "processing"), (80, "success"))
    tasks: list[Task] = []

    async def leave() -> list[asyncio.Task[Result]]:
        tasks.append(service.task(Polling()))
        waits = [asyncio.create_task(tasks[0].wait()) for _ in range(3)]
        await asyncio.sleep(10)
        return waits

    async def wait() -> None:
        assert (await tasks[0]).result_urls == URLS

    left = asyncio.Runner(loop_factory=VirtualLoop)
    waits = left.run(leave())
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(wait())
    left.close()
    assert all(one.cancelled() for one in waits)


# ------------------------------------------------------------------------------- with real sockets


async def test_trouble_with_a_real_service(emulate: Emulate, connect: Connect) -> None:
    """A wait continues through a minute of gateway errors and dropped connections."""
    emulator = await emulate("status:1-6=502", "status:7-12=reset", "status:13-18=cut")
    kling: KlingClient = await connect(emulator)
    task = await kling.submit(MasterTextToVideo("a fox"))
    assert (await task).ref == task.ref


async def test_an_unknown_task(emulate: Emulate, connect: Connect) -> None:
    """Waiting for a task that does not exist raises an error with its reference."""
    kling: KlingClient = await connect(await emulate())
    with pytest.raises(NotFoundError) as caught:
        await kling.attach(REF)
    assert caught.value.ref == REF


async def test_attaching_what_is_running(emulate: Emulate, connect: Connect) -> None:
    """Attaching a task that the client has submitted gives the same task, polled once for all."""
    emulator = await emulate(duration=(70.0, 70.0))
    kling: KlingClient = await connect(emulator)
    task = await kling.submit(MasterTextToVideo("a fox"))
    assert kling.attach(task.ref) is kling.attach(str(task.ref)) is task
    await asyncio.gather(task, *(kling.attach(task.ref).wait() for _ in range(5)))
    polls = [arrival for arrival in emulator.requests if arrival.kind == "status"]
    assert len(polls) in {11, 12}


async def test_attaching_another_programs_task(emulate: Emulate, connect: Connect) -> None:
    """A task of another program is asked after at once, and found when it ends."""
    emulator = await emulate(duration=(70.0, 70.0))
    ref = (await (await connect(emulator)).submit(MasterTextToVideo("a fox"))).ref
    await asyncio.sleep(50)
    result = await (await connect(emulator)).attach(ref)
    assert result.ref == ref
    assert now() < 75
    polls = [arrival.at for arrival in emulator.requests if arrival.kind == "status"]
    assert polls[0] == pytest.approx(50, abs=0.5)
    assert len(polls) < 25
