from __future__ import annotations

import asyncio
import gc
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVarTuple
from weakref import WeakSet

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kling_async import Limits, Polling, Snapshot
from kling_async.results import TaskState
from kling_async.tasks.poll_scheduler import PollScheduler
from kling_async.testing import VirtualLoop
from tests.tasks.polling import (
    ALONE,
    ATTACHED,
    FAILED,
    FIVE,
    NEW,
    REF,
    RUNNING,
    SUCCESS,
    TEN,
    about,
    fullest,
    gap,
    live,
    now,
    poll,
    together,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from contextvars import Context

    from kling_async.tasks.poll_scheduler import TrackedTask

pytestmark = pytest.mark.virtual_time

_Ts = TypeVarTuple("_Ts")


# Three polls at one time, as with all limits up to 599: three quarters of four connections.
FEW = Limits(requests_per_minute=400)


# --------------------------------------------------------------------------------- whose turn it is


async def test_the_order_of_due_times() -> None:
    """Each is let through when its own time has come, in whatever order they began to wait."""
    scheduler = PollScheduler(Polling(), Limits())
    tasks = [scheduler.track(TEN), scheduler.track(FIVE), scheduler.track(NEW)]
    tasks += [
        scheduler.track(ATTACHED, None),
        scheduler.track(FIVE, 40.0),
        scheduler.track(FIVE, 99.0),
    ]
    moments = await together(*(poll(scheduler, tracked) for tracked in tasks))
    assert moments == about(90, 60, 15, 0, 20, 0)


async def test_the_first_come_are_served_first() -> None:
    """Those whose time has come together are let through in the order in which they came."""
    scheduler = PollScheduler(Polling(), FEW)
    order: list[int] = []

    async def ask(number: int) -> None:
        await poll(scheduler, scheduler.track(ATTACHED, None), takes=1)
        order.append(number)

    await together(*(ask(number) for number in range(20)))
    assert order == list(range(20))


@pytest.mark.repeating
def test_timers_without_a_time() -> None:
    """As with uvloop, a timer that is due at once may be a handle that does not know its time."""

    class Loop(VirtualLoop):
        def call_at(
            self,
            when: float,
            callback: Callable[[*_Ts], object],
            *args: *_Ts,
            context: Context | None = None,
        ) -> asyncio.TimerHandle:
            if when - self.time() < 0.0005:
                return self.call_soon(  # type: ignore[return-value]  # that is the point
                    callback, *args, context=context
                )
            return super().call_at(when, callback, *args, context=context)

    async def run() -> list[float]:
        scheduler = PollScheduler(Polling(), Limits())
        ages = (59.9997, 59.9998, 30.0)
        return await together(*(poll(scheduler, scheduler.track(FIVE, age)) for age in ages))

    with asyncio.Runner(loop_factory=Loop) as runner:
        assert runner.run(run()) == about(0.0003, 0.0002, 30)


async def test_age_counts_from_the_submit() -> None:
    """A task without waiters grows older all the same: its first poll is not put off."""
    scheduler = PollScheduler(Polling(), Limits())
    early, late = scheduler.track(FIVE), scheduler.track(FIVE)
    await asyncio.sleep(50)
    assert [await poll(scheduler, early)] == about(60)
    await asyncio.sleep(70)
    assert [await poll(scheduler, late)] == about(130)
    assert [await poll(scheduler, late)] == about(130 + 1 + (130 - 90) * 0.1)


@pytest.mark.parametrize("limits", [Limits(), FEW, Limits(3000, 100)])
async def test_the_room(limits: Limits) -> None:
    """No more than three quarters of the connections serve polls at one time."""
    scheduler = PollScheduler(Polling(), limits)
    room = limits.connections * 3 // 4
    assert await fullest(scheduler, room) == room
    began = now()
    assert await fullest(scheduler, 3 * room) == room
    assert [now() - began] == about(3)


class Watched(VirtualLoop):
    """A loop that counts how many timers are set, and which futures are still known to anyone."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[asyncio.TimerHandle] = []
        self.futures: WeakSet[asyncio.Future[object]] = WeakSet()

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = super().call_at(when, callback, *args, context=context)
        self.timers.append(timer)
        return timer

    def create_future(self) -> asyncio.Future[object]:
        future = super().create_future()
        self.futures.add(future)
        return future

    @property
    def waiting(self) -> int:
        """How many timers will go off."""
        return sum(not one.cancelled() and one.when() > self.time() for one in self.timers)


def watched(main: Callable[[Watched], Coroutine[object, object, None]]) -> None:
    """Run on a watched loop."""
    with asyncio.Runner(loop_factory=Watched) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, Watched)
        runner.run(main(loop))


@pytest.mark.repeating
def test_one_timer() -> None:
    """However many wait, and whenever each of them began, one timer is set."""

    async def main(loop: Watched) -> None:
        scheduler = PollScheduler(Polling(), Limits())
        tasks = [scheduler.track(FIVE, 10 + (n * 7919 % 1000) / 25) for n in range(1000)]
        waits = [asyncio.create_task(poll(scheduler, tracked)) for tracked in tasks]
        for _ in range(13):
            await asyncio.sleep(4)
            assert loop.waiting == (not all(wait.done() for wait in waits))
        assert all(wait.done() for wait in waits)
        assert not loop.waiting

    watched(main)


# ------------------------------------------------------------------------------------- who gives up


@pytest.mark.parametrize("at", ["waiting", "let through", "asking"])
async def test_cancellation(at: str) -> None:
    """A waiter who is cancelled at any point makes room for the next, and wishes for nothing."""
    scheduler = PollScheduler(Polling(), FEW)
    tasks = [scheduler.track(ATTACHED, None) for _ in range(3)]
    asking = [asyncio.create_task(poll(scheduler, tracked, takes=5)) for tracked in tasks]
    # Both have been asked after once, so polls are due again.
    one, other = scheduler.track(ATTACHED, None), scheduler.track(ATTACHED, None)
    await asyncio.gather(poll(scheduler, one), poll(scheduler, other), *asking)

    blockers = [scheduler.track(ATTACHED, None) for _ in range(3)]
    held = [asyncio.create_task(poll(scheduler, tracked, takes=9)) for tracked in blockers]
    await asyncio.sleep(5)
    first = asyncio.create_task(poll(scheduler, one, takes=30))
    second = asyncio.create_task(poll(scheduler, other, takes=5))
    await asyncio.sleep(1)
    if at == "let through":
        held[0].cancel()  # which lets it through in this very turn of the loop
        await asyncio.sleep(0)
    elif at == "asking":
        held[0].cancel()
        await asyncio.sleep(1)
    before = now()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    began = await second
    assert [began] == about(before if at != "waiting" else before + 3)
    await asyncio.gather(*held, return_exceptions=True)
    assert await fullest(scheduler, 10) == 3
    assert [await gap(scheduler)] == about(ALONE)


async def test_wishes_of_those_who_have_gone() -> None:
    """Hundreds who give up, before or after they were let through, leave no wish behind."""
    scheduler = PollScheduler(Polling(), FEW)
    tasks = [scheduler.track(ATTACHED, None) for _ in range(400)]
    await together(*(poll(scheduler, tracked) for tracked in tasks))
    waits = [asyncio.create_task(poll(scheduler, tracked, takes=50)) for tracked in tasks]
    await asyncio.sleep(20)  # some are asking by now, and the others stand in line
    assert await gap_of(scheduler, waits) == about(ALONE)


async def gap_of(scheduler: PollScheduler, waits: Sequence[asyncio.Task[float]]) -> list[float]:
    """Cancel all these, then measure the gap of a task that waits alone."""
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    return [await gap(scheduler)]


@pytest.mark.slow
def test_those_who_have_gone_are_swept() -> None:
    """Waiters who give up are forgotten before their time comes; the others keep theirs."""

    async def main(loop: Watched) -> None:
        scheduler = PollScheduler(Polling(), Limits(100_000))  # polls need not be rare
        ages = [(n * 7919 % 1000) / 20 for n in range(1000)]
        waits = [asyncio.create_task(poll(scheduler, scheduler.track(FIVE, age))) for age in ages]
        await asyncio.sleep(1)
        before = len(loop.futures)
        for number, wait in enumerate(waits):
            if number % 20:
                wait.cancel()
        await asyncio.wait(waits[1:20])
        del wait
        waits = waits[::20]
        gc.collect()
        assert before >= 1000
        assert len(loop.futures) < 300
        moments = [await wait for wait in waits]
        assert moments == about(*(60 - age for age in ages[::20]))

    watched(main)


async def test_a_few_who_have_gone_do_no_harm() -> None:
    """A waiter who has gone is passed over when its time comes."""
    scheduler = PollScheduler(Polling(), Limits())
    gone = asyncio.create_task(poll(scheduler, scheduler.track(FIVE, 30.0)))
    stays = asyncio.create_task(poll(scheduler, scheduler.track(FIVE, 20.0)))
    await asyncio.sleep(1)
    gone.cancel()
    assert [await stays] == about(40)


# ---------------------------------------------------------------------------------- wake requests


@pytest.mark.parametrize("called_back", [True, False])
async def test_hastened(called_back: bool) -> None:  # noqa: FBT001
    """The waiter of a task that is woken is let through at once, the others in their time."""
    scheduler = PollScheduler(Polling(), Limits())
    one, other = (scheduler.track(FIVE, expects_callback=called_back) for _ in range(2))
    waits = [asyncio.create_task(poll(scheduler, tracked)) for tracked in (one, other)]
    await asyncio.sleep(10)
    scheduler.poll_now(one)
    assert await asyncio.gather(*waits) == about(10, 99 if called_back else 60)


async def test_woken_before_the_first_wait() -> None:
    """A later waiter of a task that was woken is let through at once."""
    scheduler = PollScheduler(Polling(), Limits())
    tasks = [
        scheduler.track(FIVE),
        scheduler.track(FIVE, None),
        scheduler.track(FIVE, expects_callback=True),
    ]
    await asyncio.sleep(5)
    for tracked in tasks:
        scheduler.poll_now(tracked)
    await asyncio.sleep(2)
    assert await together(*(poll(scheduler, tracked) for tracked in tasks)) == about(7, 7, 7)


async def test_hastened_without_room() -> None:
    """Without room, a woken task is polled in its turn among those that are due, and once."""
    scheduler = PollScheduler(Polling(), FEW)
    held = [
        asyncio.create_task(poll(scheduler, scheduler.track(FIVE, None), takes=10))
        for _ in range(3)
    ]
    tracked = scheduler.track(FIVE)
    wait = asyncio.create_task(poll(scheduler, tracked))
    await asyncio.sleep(1)
    before = asyncio.create_task(poll(scheduler, scheduler.track(FIVE, None), takes=1))
    await asyncio.sleep(1)
    for _ in range(10):
        scheduler.poll_now(tracked)
    after = asyncio.create_task(poll(scheduler, scheduler.track(FIVE, None)))
    await asyncio.wait(held)
    assert await asyncio.gather(before, wait, after) == about(10, 10, 10)
    assert await fullest(scheduler, 20) == 3


async def test_hastened_while_asking() -> None:
    """A task that is woken while it is asked after, and runs, is asked after again at once."""
    scheduler = PollScheduler(Polling(), Limits())
    tracked = scheduler.track(FIVE)
    asyncio.get_running_loop().call_later(62, scheduler.poll_now, tracked)
    moments = [await poll(scheduler, tracked, takes=5) for _ in range(3)]
    assert moments == about(60, 65, 70 + 0.5)


async def test_a_task_that_was_hastened_for_nothing() -> None:
    """A task that runs on after its callback is asked after as one that has none to come."""
    scheduler = PollScheduler(Polling(), Limits())
    tracked = scheduler.track(FIVE, expects_callback=True)
    asyncio.get_running_loop().call_later(75, scheduler.poll_now, tracked)
    assert [await poll(scheduler, tracked) for _ in range(3)] == about(75, 76, 77)


@pytest.mark.parametrize("at", ["waiting", "let through", "asking"])
async def test_hastened_and_cancelled(at: str) -> None:
    """A woken waiter that gives up, at any point, leaves neither a place nor a wish behind."""
    scheduler = PollScheduler(Polling(), FEW)
    tracked = scheduler.track(ATTACHED, None)
    await poll(scheduler, tracked)
    held = [
        asyncio.create_task(poll(scheduler, scheduler.track(ATTACHED, None), takes=9))
        for _ in range(3)
    ]
    await asyncio.sleep(0.5)
    if at != "waiting":
        held[0].cancel()
        await asyncio.sleep(0)
    wait = asyncio.create_task(poll(scheduler, tracked, takes=30))
    await asyncio.sleep(0)
    scheduler.poll_now(tracked)
    if at == "asking":
        await asyncio.sleep(0.1)
    wait.cancel()
    await asyncio.gather(wait, *held, return_exceptions=True)
    assert await fullest(scheduler, 10) == 3
    assert [await gap(scheduler)] == about(ALONE)


def test_woken_on_the_next_loop() -> None:
    """Waiters of a loop that ends late take nothing from the one who waits on the next."""
    scheduler = Counted(Polling(), FEW)
    made: list[TrackedTask] = []

    async def leave() -> asyncio.Task[float]:
        made.extend(scheduler.track(FIVE, None) for _ in range(4))  # one without room
        waits = [asyncio.create_task(poll(scheduler, tracked, takes=99)) for tracked in made]
        await asyncio.sleep(10)
        return waits[3]

    async def begin() -> asyncio.Task[float]:
        del made[:3]
        for at in (0, 1):
            assert [await poll(scheduler, made[0], takes=1)] == about(at)
            scheduler.poll_now(made[0])  # while there is no waiter here
        assert [await poll(scheduler, made[0], takes=1)] == about(2)
        wait = asyncio.create_task(poll(scheduler, made[0]))
        await asyncio.sleep(0.1)
        return wait

    async def resume(wait: asyncio.Task[float]) -> None:
        at = now()
        scheduler.poll_now(made[0])
        assert [await wait] == about(at)
        assert scheduler.rest == (0, 0, 0, 0.0)

    left = asyncio.Runner(loop_factory=VirtualLoop)
    first = left.run(leave())
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        second = runner.run(begin())
        left.close()
        runner.run(resume(second))
    assert first.cancelled()


@pytest.mark.parametrize("asking", [True, False])
def test_one_task_on_two_loops(asking: bool) -> None:  # noqa: FBT001
    """Who was let through on a loop that was left takes nothing from who waits on the next."""
    scheduler = Counted(Polling(), Limits())
    tracked: list[TrackedTask] = []

    async def leave() -> asyncio.Task[float]:
        tracked.append(scheduler.track(FIVE, expects_callback=True))
        wait = asyncio.create_task(poll(scheduler, tracked[0], takes=1))
        await asyncio.sleep(10)
        # In the very last turn of the loop, or half a second before that.
        asyncio.get_running_loop().call_soon(scheduler.poll_now, tracked[0])
        if asking:
            await asyncio.sleep(0.5)
        return wait

    async def begin() -> asyncio.Task[float]:
        await poll(scheduler, tracked[0])
        wait = asyncio.create_task(poll(scheduler, tracked[0]))
        await asyncio.sleep(0)
        return wait

    async def resume(wait: asyncio.Task[float]) -> None:
        scheduler.check()
        scheduler.poll_now(tracked[0], certain=True)
        await asyncio.sleep(1e-3)
        assert wait.done()
        await asyncio.sleep(100)
        assert scheduler.rest == (0, 0, 0, 0.0)

    left = asyncio.Runner(loop_factory=VirtualLoop)
    with asyncio.Runner(loop_factory=VirtualLoop) as runner, left:
        first = left.run(leave())
        second = runner.run(begin())
        left.run(asyncio.sleep(5))
        assert first.done()
        runner.run(resume(second))


class Counted(PollScheduler):
    """Shows what it counts, of which a fault would show hours later."""

    def check(self) -> None:
        """Compare the counters with what is there."""
        queue = self.queues.get()
        futures = [future for _, _, future, _ in queue.entries]
        waiting = {id(future) for future in futures if not future.done()}
        assert queue.cancelled == len(futures) - len(waiting)
        assert 0 <= queue.polling <= queue._room  # noqa: SLF001
        assert min(queue.weights, queue.ends) > -1e-9

    @property
    def rest(self) -> tuple[int, int, int, float]:
        """What is counted; nothing, once everybody has gone."""
        queue = self.queues.get()
        sums = round(queue.weights + queue.ends, 6)
        return len(queue.entries), queue.cancelled, queue.polling, sums


async def follow(
    scheduler: PollScheduler, tracked: TrackedTask, says: Snapshot | None, takes: float
) -> None:
    """Wait for a task of which the service says this or, while it is None, nothing."""
    while True:
        await scheduler.wait_until_due(tracked)
        said = None
        try:
            await asyncio.sleep(takes)
            said = says
        finally:
            scheduler.record(tracked, said)
        if said is None:
            scheduler.reschedule(tracked)
        elif said.state.ended:
            return


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["wait", "wait", "cancel", "wake", "wake", "yield", "sleep"]),
        st.integers(0, 7),
        st.sampled_from([0.0, 0.5, 3.0, 70.0]),
    ),
    max_size=60,
)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(STEPS, st.sampled_from([None, RUNNING, SUCCESS]))
def test_nothing_is_left_over(steps: list[tuple[str, int, float]], says: Snapshot | None) -> None:
    """Waiters come, are woken and give up in any order: in the end all counts are zero."""

    async def main() -> None:
        scheduler = Counted(Polling(), FEW)
        tasks = [
            scheduler.track(
                FIVE if number % 2 else NEW, None if number > 5 else 50.0, expects_callback=flag
            )
            for number, flag in enumerate([True, True, True, False] * 2)
        ]
        waits: dict[int, asyncio.Task[None]] = {}
        for what, number, seconds in steps:
            wait = waits.get(number)
            if what == "wait" and (wait is None or wait.done()):
                waits[number] = asyncio.create_task(follow(scheduler, tasks[number], says, seconds))
            elif what == "cancel" and wait is not None:
                wait.cancel()
            elif what == "wake":
                scheduler.poll_now(tasks[number])
            elif what == "sleep":  # else the next step comes in the same turn of the loop
                await asyncio.sleep(seconds)
                await asyncio.sleep(1e-4)
                scheduler.check()
            elif what == "yield":
                await asyncio.sleep(0)
        for wait in waits.values():
            wait.cancel()
        await asyncio.gather(*waits.values(), return_exceptions=True)
        scheduler.check()
        await asyncio.sleep(1e6)
        assert scheduler.rest == (0, 0, 0, 0.0)

    with asyncio.Runner(debug=False, loop_factory=VirtualLoop) as runner:
        runner.run(main())


async def test_woken_waiters_are_swept() -> None:
    """The sweeping forgets waiters that have gone, and none of those that stay, woken or not."""
    scheduler = Counted(Polling(first=60.0), Limits())
    held = [
        asyncio.create_task(poll(scheduler, scheduler.track(FIVE, None), takes=30))
        for _ in range(75)
    ]
    tasks = [scheduler.track(FIVE, n / 100) for n in range(600)]
    waits = [asyncio.create_task(poll(scheduler, tracked)) for tracked in tasks]
    await asyncio.sleep(1)
    for tracked in tasks[::2]:
        for _ in range(3):
            scheduler.poll_now(tracked)
    assert scheduler.rest[:2] == (900, 300)
    for number, wait in enumerate(waits):
        if number % 5:
            wait.cancel()
    await asyncio.sleep(1)
    scheduler.check()
    assert scheduler.rest[0] <= 120 + 60 + 100
    await asyncio.wait(held)
    moments = await asyncio.gather(*waits[::5])
    assert moments[::2] == about(*[30.0] * 60)
    assert moments[1::2] == about(*(60 - n / 100 for n in range(5, 600, 10)))
    await asyncio.sleep(1000)
    assert scheduler.rest == (0, 0, 0, 0.0)


# ---------------------------------------------------------------------------------- where they come


async def first_poll(scheduler: PollScheduler) -> float:
    """Give the age at which the next task with a callback is first asked after, and has ended."""
    return (await live(scheduler, FIVE, 75.0, called_back=True))[0]


async def test_called_back() -> None:
    """Before a callback is overdue there is no poll; then the safety net has its pace."""
    scheduler = PollScheduler(Polling(), Limits())
    ages = await live(scheduler, FIVE, 300.0, called_back=True)
    assert ages == about(99, 159, 219, 279, 339)


async def test_callbacks_that_stop() -> None:
    """After three ends without a callback tasks are polled as usual, until one comes."""
    scheduler = PollScheduler(Polling(), Limits())
    firsts = [await first_poll(scheduler) for _ in range(5)]
    assert min(firsts[:3]) > 75 + 5
    assert max(firsts[3:]) < 75
    scheduler.record_callback()
    assert await first_poll(scheduler) > 75 + 5
    assert await first_poll(scheduler) > 75 + 5
    scheduler.record_callback()
    assert await first_poll(scheduler) > 75 + 5


async def test_those_who_wait_when_callbacks_stop() -> None:
    """A task that runs when callbacks stop is polled as usual from its next poll on."""
    scheduler = PollScheduler(Polling(), Limits())
    slow = asyncio.create_task(live(scheduler, FIVE, 200.0, called_back=True))
    lost = [scheduler.track(FIVE, expects_callback=True) for _ in range(3)]
    await together(*(poll(scheduler, tracked, FAILED) for tracked in lost))
    ages = await slow
    assert ages[0] == pytest.approx(99, abs=0.1)
    assert len(ages) > 10


async def test_a_failure_that_was_not_called_back() -> None:
    """A failed task that ended before the latest callback is one that was lost, not the third."""
    scheduler = PollScheduler(Polling(), Limits())
    tasks = [scheduler.track(FIVE, expects_callback=True) for _ in range(5)]
    await asyncio.sleep(90)
    scheduler.record_callback()
    zero = datetime.now(UTC)
    said = Snapshot(
        REF, TaskState.FAILED, created_at=zero, completed_at=zero + timedelta(seconds=80)
    )
    await together(*(poll(scheduler, tracked, said) for tracked in tasks))
    assert await first_poll(scheduler) == pytest.approx(99, abs=0.1)


async def test_what_a_callback_leads_to_is_no_miss() -> None:
    """An end that is found because of a callback does not count as one without."""
    scheduler = PollScheduler(Polling(), Limits())
    for _ in range(5):
        tracked = scheduler.track(FIVE, expects_callback=True)
        await asyncio.sleep(60)
        scheduler.poll_now(tracked)
        await poll(scheduler, tracked, SUCCESS)
    assert await first_poll(scheduler) > 75


def test_trust_is_not_kept_for_the_next_loop() -> None:
    """On the next event loop callbacks are presumed to come again."""
    scheduler = PollScheduler(Polling(), Limits())

    async def stop() -> None:
        for _ in range(3):
            await first_poll(scheduler)
        assert await first_poll(scheduler) < 75

    async def resume() -> None:
        assert await first_poll(scheduler) > 75

    for main in (stop(), resume()):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(main)


def test_the_loop() -> None:
    """The loop is that on which tasks were waited for last, until it is closed."""
    scheduler = PollScheduler(Polling(), Limits())
    assert scheduler.queues.loop is None

    async def wait() -> None:
        await poll(scheduler, scheduler.track(FIVE, None))
        assert scheduler.queues.loop is asyncio.get_running_loop()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(wait())
        assert scheduler.queues.loop is runner.get_loop()
    assert scheduler.queues.loop is None


# -------------------------------------------------------------------------------------------- loops


def test_loops_one_after_another() -> None:
    """On the next loop the wait continues: the time that a task has waited is not lost."""
    scheduler = PollScheduler(Polling(), Limits())
    made: list[TrackedTask] = []

    async def submit() -> None:
        await asyncio.sleep(1000)
        made.append(scheduler.track(FIVE))
        await asyncio.sleep(30)

    async def wait(*moments: float) -> None:
        for moment in moments:
            assert [await poll(scheduler, made[0])] == about(moment)

    # 30 s old when the first loop ended, 60 s at the first poll, 160 s at the second loop's end.
    for main in (submit(), wait(30), wait(1, 2)):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(main)


def test_a_loop_that_was_left_in_the_middle() -> None:
    """Those who wait or ask on a loop that is not run any more take nothing from the next one."""
    scheduler = PollScheduler(Polling(), FEW)
    left = asyncio.Runner(loop_factory=VirtualLoop)

    async def leave() -> list[asyncio.Task[float]]:
        tasks = [scheduler.track(ATTACHED, None) for _ in range(9)]
        await together(*(poll(scheduler, tracked) for tracked in tasks))
        waits = [asyncio.create_task(poll(scheduler, tracked, takes=99)) for tracked in tasks]
        await asyncio.sleep(15)
        return waits

    async def resume() -> None:
        assert [await gap(scheduler)] == about(ALONE)
        assert await fullest(scheduler, 10) == 3
        assert [await gap(scheduler)] == about(ALONE)

    kept = left.run(leave())
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(resume())
        left.close()  # which cancels them, far too late
        runner.run(resume())
    assert all(wait.cancelled() for wait in kept)


# --------------------------------------------------------------------------- what all of them share


async def test_polls_share_the_limit() -> None:
    """Where all together ask for more than the limit allows, each is polled in its turn."""
    scheduler = PollScheduler(Polling(), Limits(60, 3))
    tasks = [scheduler.track(NEW, 19.0) for _ in range(9)]
    moments: list[float] = []

    async def follow(tracked: TrackedTask) -> list[float]:
        mine = []
        while now() < 60:
            mine.append(await poll(scheduler, tracked))
        moments.extend(mine)
        return mine

    polled = await together(*map(follow, tasks))
    assert 57 <= sum(moment <= 60 for moment in moments) <= 60
    numbers = [len(mine) for mine in polled]
    assert max(numbers) - min(numbers) <= 2


async def test_submits_come_first() -> None:
    """While many are submitted, polls have a quarter of the limit, and later all that is free."""
    scheduler = PollScheduler(Polling(), Limits(60, 3))

    async def follow(tracked: TrackedTask, until: float) -> int:
        number = 0
        while now() < until:
            await poll(scheduler, tracked)
            number += 1
        return number

    async def submit() -> None:
        while now() < 100:
            scheduler.queues.get().submits.append(now())
            await asyncio.sleep(1)

    tasks = [scheduler.track(NEW, 10.0) for _ in range(3)]
    *numbers, _ = await together(*(follow(tracked, 100) for tracked in tasks), submit())
    assert 20 <= sum(value or 0 for value in numbers) <= 30
    await asyncio.sleep(60)
    number = sum(await together(*(follow(tracked, now() + 60) for tracked in tasks)))
    assert 18 <= number <= 60


async def test_the_spacing_of_many() -> None:
    """The more tasks share a limit, the later is the first poll and the longer are the waits."""
    scheduler = PollScheduler(Polling(), Limits(1000, 100))
    waits = [asyncio.create_task(poll(scheduler, scheduler.track(FIVE))) for _ in range(100)]
    await asyncio.sleep(0)
    tracked = scheduler.track(FIVE)
    first = await poll(scheduler, tracked)
    assert 62 < first < 67
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    began = now()
    assert [await poll(scheduler, scheduler.track(FIVE)) - began] == about(60)


async def test_a_poll_without_an_answer() -> None:
    """After trouble the next poll is put off as by an answer; one cut short is made up for."""
    scheduler = PollScheduler(Polling(), FEW)
    tracked = scheduler.track(ATTACHED, None)
    assert [await poll(scheduler, tracked, None)] == about(0)
    assert [await poll(scheduler, tracked, None)] == about(0)
    scheduler.reschedule(tracked)
    assert [await poll(scheduler, tracked, None)] == about(ALONE)


# ------------------------------------------------------------------------------------------- hints


async def test_hints_are_bounded() -> None:
    """Five hints about a task are acted on, no two within a second; then it is polled as usual."""
    scheduler = PollScheduler(Polling(), Limits())
    tracked = scheduler.track(FIVE)
    moments = []
    for _ in range(8):
        for _ in range(3):
            scheduler.poll_now(tracked)
        moments.append(await poll(scheduler, tracked))
    assert moments == about(0, 1, 2, 3, 4, 5, 6, 7)
    assert tracked.wakes.followed == 5


async def test_a_certain_end_is_no_hint() -> None:
    """What is known for certain is acted on at once, however many hints there were before."""
    scheduler = PollScheduler(Polling(), Limits())
    tracked = scheduler.track(FIVE)
    for _ in range(6):
        scheduler.poll_now(tracked)
        await poll(scheduler, tracked)
    wait = asyncio.create_task(poll(scheduler, tracked))
    await asyncio.sleep(0.25)
    at = now()
    scheduler.poll_now(tracked)
    await asyncio.sleep(0)
    assert not wait.done()
    scheduler.poll_now(tracked, certain=True)
    assert [await wait] == about(at)


# ------------------------------------------------------------------------------ presumed lifetimes


async def test_lifetimes() -> None:
    """How long a slot is kept without an answer follows what is known of the kind."""
    scheduler = PollScheduler(Polling(), Limits())
    assert scheduler.track(FIVE).history.lifetime == 90 + 600
    assert scheduler.unsure_lifetime(FIVE) == 90 * 1.25 + 2
    assert scheduler.track(NEW).history.lifetime == float("inf")
    assert scheduler.unsure_lifetime(NEW) == 300
    for _ in range(40):
        await live(scheduler, FIVE, 2.0)
    assert 3 < scheduler.unsure_lifetime(FIVE) < 6
    assert scheduler.track(FIVE).history.lifetime == pytest.approx(602, abs=1)
