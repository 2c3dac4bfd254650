"""Shared slots: their lifetimes, what becomes of those of the dead, and the learned cap."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kling_async import TaskRef
from kling_async.errors import ConfigurationError
from kling_async.limits.base import Limits
from kling_async.limits.shared.limiter import SharedLimiter
from kling_async.limits.shared.memory import MemoryLimitsBackend
from kling_async.limits.shared.slot_leases import SUBMIT_LEASE
from kling_async.testing.clock import VirtualLoop

if TYPE_CHECKING:
    from kling_async.limits.base import Limiter, Slot
    from tests.limits.conftest import Share

pytestmark = pytest.mark.virtual_time

REF = TaskRef("kling-2-1", "task_1")
ONE = Limits(60_000, 1)


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


def kill(limiter: SharedLimiter) -> None:
    """Let a limiter say nothing any more, as if its process had been killed."""
    state = limiter._state  # noqa: SLF001 - nothing else ends a process without a call
    assert state is not None
    state.requests.stop()
    state.slots.stop()


async def test_a_slot_has_a_lifetime_of_its_own(share: Share) -> None:
    """It expires so long after it was last confirmed, here and elsewhere, and says so once."""
    engine, expired = MemoryLimitsBackend(), []
    one, other = share(engine, ONE), share(engine, ONE)
    slot = await one.slot()

    def callback() -> None:
        expired.append(now())

    slot.confirm(REF, 300.0, callback)
    await asyncio.sleep(50)
    slot.confirm(REF, 100.0, callback)  # sooner than it was said before
    one.adopt(REF, 100.0, lambda: expired.append(-now()))
    await other.slot()
    assert now() == pytest.approx(150, abs=0.2)
    assert sorted(map(abs, expired)) == pytest.approx([150, 150], abs=0.1)
    assert min(expired) < 0
    assert one.slots_in_use == 0


async def test_no_lifetime_is_longer_than_the_presumed_one(share: Share) -> None:
    """However long the lifetime is said to be, presumed_lifetime is the longest."""
    limiter = share(MemoryLimitsBackend(), Limits(60_000, 1, 20.0))
    (await limiter.slot()).confirm(REF, 1_000.0)
    await limiter.slot()
    assert now() == pytest.approx(20, abs=0.2)


async def test_a_submit_whose_answer_was_lost(share: Share) -> None:
    """Its slot is free after the time that was said, though its process lives."""
    engine = MemoryLimitsBackend()
    one, other = share(engine, ONE), share(engine, ONE)
    slot = await one.slot()
    await asyncio.sleep(5)
    slot.expire_in(90.0)
    await other.slot()
    assert now() == pytest.approx(95, abs=0.2)
    slot.release()
    slot.expire_in(5.0)  # too late
    assert other.slots_in_use == 1


@pytest.mark.slow
async def test_a_submit_under_way_keeps_its_slot(share: Share) -> None:
    """As long as its process lives, and has not given it up."""
    engine = MemoryLimitsBackend()
    one, other = share(engine, ONE), share(engine, ONE)
    slot = await one.slot()
    waiting = asyncio.create_task(other.slot())
    asking = asyncio.create_task(_ask(one))  # what else it hears of the engine does not matter
    await asyncio.sleep(200)
    assert not waiting.done()
    slot.release()
    await waiting
    asking.cancel()


async def _ask(limiter: Limiter) -> None:
    while True:
        (await limiter.request()).answered()
        await asyncio.sleep(0.1)


async def test_a_submit_whose_process_was_killed(share: Share) -> None:
    """A slot whose task is not known is free soon after its process has died."""
    engine = MemoryLimitsBackend()
    dead, other = share(engine, ONE), share(engine, ONE)
    await dead.slot()
    await asyncio.sleep(100)
    kill(dead)
    await other.slot()
    assert 100 < now() <= 100 + SUBMIT_LEASE + 0.2


@pytest.mark.parametrize("lifetime", [-1.0, float("nan")])
async def test_lifetimes_that_make_no_sense(share: Share, lifetime: float) -> None:
    """They are refused."""
    slot = await share(MemoryLimitsBackend(), ONE).slot()
    with pytest.raises(ConfigurationError, match="0 s or more"):
        slot.expire_in(lifetime)
    with pytest.raises(ConfigurationError, match="0 s or more"):
        slot.confirm(REF, lifetime)


async def test_who_goes_first(share: Share) -> None:
    """A submit that was refused waits before those of its process that wait already."""
    limiter, order = share(MemoryLimitsBackend(), ONE), list[str]()
    held = await limiter.slot()

    async def one(name: str, *, first: bool) -> None:
        slot = await limiter.slot(first=first)
        order.append(name)
        slot.release()

    waiting = [asyncio.create_task(one(name, first=name == "c")) for name in "abc"]
    await asyncio.sleep(0.01)
    held.release()
    await asyncio.wait(waiting)
    assert order == ["c", "a", "b"]


class Account:
    """A service that runs fewer tasks than the limits say."""

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks
        self.running = 0
        self.refused = 0
        self.done = 0

    async def generate(self, limiter: SharedLimiter, seconds: float) -> None:
        """Submit until it is accepted, and wait for the task."""
        first = False
        while True:
            slot = await limiter.slot(first=first)
            await asyncio.sleep(0.1)
            if self.running < self.tasks:
                break
            self.refused += 1
            limiter.refused(slot)
            first = True
        self.running += 1
        slot.confirm(TaskRef("kling-2-1", f"task_{id(slot)}_{now()}"))
        await asyncio.sleep(seconds)
        self.running -= 1
        self.done += 1
        slot.release()


@pytest.mark.slow
async def test_what_one_process_learns_holds_for_all(share: Share) -> None:
    """An account of 3 tasks under limits of 1,000: few refusals, and hardly any time is lost."""
    engine, account = MemoryLimitsBackend(round_trip=0.002), Account(3)
    limiters = [share(engine, Limits()) for _ in range(4)]
    await asyncio.gather(*(account.generate(limiters[i % 4], 30.0) for i in range(60)))
    assert account.done == 60
    assert account.refused < 60
    assert now() < 1.15 * 20 * 30.0
    assert min(limiter.effective_tasks for limiter in limiters) <= 4
    usage = await engine.peek()
    assert (usage.concurrent_tasks, usage.effective_tasks < 10) == (1_000, True)


@pytest.mark.slow
async def test_a_cap_that_rises_again(share: Share) -> None:
    """A cap that was lowered by mistake is back within two minutes, in all processes."""
    engine, account = MemoryLimitsBackend(), Account(1_000)
    one, other = share(engine, Limits()), share(engine, Limits())
    one.refused(await one.slot())
    assert one.effective_tasks == 1
    await asyncio.gather(
        *(account.generate(limiter, 20.0) for limiter in (one, other) for _ in range(2_000))
    )
    assert account.refused == 0
    assert now() < 120 + 4_000 / 1_000 * 20 + 30
    assert (one.effective_tasks, other.effective_tasks) == (1_000, 1_000)


async def test_leases_when_the_clock_is_set_back(share: Share) -> None:
    """They end when they would have."""
    skew = 5_000.0
    engine = MemoryLimitsBackend(lambda: now() + skew)
    one, other = share(engine, Limits(60_000, 1, 100.0)), share(engine, ONE)
    (await one.slot()).confirm(REF)
    await asyncio.sleep(50)
    skew = 0.0
    await other.slot()
    assert now() == pytest.approx(100, abs=2.2)


async def test_a_cap_that_the_engine_forgets(share: Share) -> None:
    """An engine that has lost what was learned is told again."""
    engine = MemoryLimitsBackend()
    one, other = share(engine, Limits()), share(engine, Limits())
    held = await one.slot()
    held.confirm(REF)
    one.refused(await one.slot())
    await asyncio.sleep(1)
    engine.lose_state()
    await asyncio.sleep(3)
    waiting = asyncio.create_task(other.slot())
    await asyncio.sleep(1)
    assert (one.effective_tasks, other.effective_tasks) == (1, 1)
    waiting.cancel()


async def test_a_refusal_without_the_engine(share: Share) -> None:
    """A process that keeps to its own share learns, too, and does not ask again at once."""
    engine, account = MemoryLimitsBackend(), Account(2)
    limiter = share(engine, Limits(600, 40), on_unavailable="local", share=0.5)
    engine.unreachable = True
    await asyncio.gather(*(account.generate(limiter, 10.0) for _ in range(20)))
    assert account.refused < 40


async def test_whose_slots_can_be_refused(share: Share) -> None:
    """A slot of another limiter is refused, and one that has ended changes nothing."""
    engine = MemoryLimitsBackend()
    one, other = share(engine, Limits()), share(engine, Limits())
    slot = await one.slot()
    with pytest.raises(ConfigurationError, match="a slot of this limiter"):
        other.refused(slot)
    slot.release()
    one.refused(slot)
    assert one.effective_tasks == 1_000


def test_one_limiter_on_two_running_loops() -> None:
    """It is refused where it is not used first, in words that say what to do."""
    limiter = SharedLimiter(MemoryLimitsBackend(), limits=ONE, recovery_delay=0)
    used, done = threading.Event(), threading.Event()

    async def first() -> None:
        await limiter.request()
        used.set()
        await asyncio.to_thread(done.wait)
        await limiter.close()

    thread = threading.Thread(target=asyncio.run, args=(first(),))
    thread.start()
    used.wait()
    try:
        for call in (limiter.request, limiter.slot, limiter.peek, limiter.close):

            async def use(call: object = call) -> None:
                await call()  # type: ignore[operator]

            with pytest.raises(ConfigurationError, match="make one for each loop"):
                asyncio.run(use())
    finally:
        done.set()
        thread.join()


@given(
    changes=st.lists(
        st.tuples(
            st.integers(0, 1),
            st.sampled_from(["accept", "refuse", "release", "wait"]),
            st.floats(0, 15),
        ),
        max_size=30,
    )
)
@settings(max_examples=40, deadline=None)
def test_processes_agree_on_the_cap(changes: list[tuple[int, str, float]]) -> None:
    """Whatever happens to submits of two processes, they agree on the cap soon after."""

    async def main() -> None:
        engine = MemoryLimitsBackend()
        limiters = [
            SharedLimiter(engine, limits=Limits(600, 8), recovery_delay=0) for _ in range(2)
        ]
        held: list[Slot] = []
        for which, what, wait in changes:
            if what == "release" and held:
                held.pop().release()
            elif what in ("accept", "refuse") and len(held) < 4:
                try:
                    async with asyncio.timeout(10):
                        slot = await limiters[which].slot()
                except TimeoutError:
                    continue
                if what == "refuse":
                    limiters[which].refused(slot)
                else:
                    held.append(slot)
                    slot.confirm(TaskRef("kling-2-1", f"task_{id(slot)}"))
            await asyncio.sleep(wait)
        for limiter in limiters:
            limiter.adopt(REF)  # so that both call
        await asyncio.sleep(5)
        one, other = (limiter.effective_tasks for limiter in limiters)
        assert one == other
        for limiter in limiters:
            await limiter.close()

    with asyncio.Runner(debug=False, loop_factory=VirtualLoop) as runner:
        runner.run(main())
