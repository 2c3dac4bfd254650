"""Shared slots: their lifetimes, what becomes of those of the dead, and the learned cap."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kling_async import TaskRef
from kling_async.errors import ConfigurationError
from kling_async.limits.base import Limits
from kling_async.limits.shared.limiter import SharedLimiter
from kling_async.limits.shared.memory import MemoryLimitsBackend
from kling_async.testing.clock import VirtualLoop
from tests.limits.conftest import (
    FAST,
    REF,
    Canceller,
    now,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from kling_async.limits.base import Slot
    from tests.limits.conftest import Share

import threading
from typing import TYPE_CHECKING

from kling_async.limits.shared.slot_leases import SUBMIT_LEASE

if TYPE_CHECKING:
    from kling_async.limits.base import Limiter, Slot
    from tests.limits.conftest import Share

pytestmark = pytest.mark.virtual_time

ONE = Limits(60_000, 1)


def kill(limiter: SharedLimiter) -> None:
    """Let a limiter say nothing any more, as if its process had been killed."""
    state = limiter._state  # noqa: SLF001 - nothing else ends a process without a call
    assert state is not None
    state.requests.stop()
    state.slots.stop()


async def test_a_slot_has_a_lifetime_of_its_own(share: Share) -> None:
    """It expires so long after it was last confirmed, here and elsewhere, and says so once."""
    backend, expired = MemoryLimitsBackend(), []
    one, other = share(backend, ONE), share(backend, ONE)
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
    backend = MemoryLimitsBackend()
    one, other = share(backend, ONE), share(backend, ONE)
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
    backend = MemoryLimitsBackend()
    one, other = share(backend, ONE), share(backend, ONE)
    slot = await one.slot()
    waiting = asyncio.create_task(other.slot())
    asking = asyncio.create_task(_ask(one))  # other answers of the backend do not matter
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
    backend = MemoryLimitsBackend()
    dead, other = share(backend, ONE), share(backend, ONE)
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
    backend, account = MemoryLimitsBackend(round_trip=0.002), Account(3)
    limiters = [share(backend, Limits()) for _ in range(4)]
    await asyncio.gather(*(account.generate(limiters[i % 4], 30.0) for i in range(60)))
    assert account.done == 60
    assert account.refused < 60
    assert now() < 1.15 * 20 * 30.0
    assert min(limiter.effective_tasks for limiter in limiters) <= 4
    usage = await backend.peek()
    assert (usage.concurrent_tasks, usage.effective_tasks < 10) == (1_000, True)


@pytest.mark.slow
async def test_a_cap_that_rises_again(share: Share) -> None:
    """A cap that was lowered by mistake is back within two minutes, in all processes."""
    backend, account = MemoryLimitsBackend(), Account(1_000)
    one, other = share(backend, Limits()), share(backend, Limits())
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
    backend = MemoryLimitsBackend(lambda: now() + skew)
    one, other = share(backend, Limits(60_000, 1, 100.0)), share(backend, ONE)
    (await one.slot()).confirm(REF)
    await asyncio.sleep(50)
    skew = 0.0
    await other.slot()
    assert now() == pytest.approx(100, abs=2.2)


async def test_a_cap_that_the_backend_forgets(share: Share) -> None:
    """A backend that has lost the learned cap gets it again."""
    backend = MemoryLimitsBackend()
    one, other = share(backend, Limits()), share(backend, Limits())
    held = await one.slot()
    held.confirm(REF)
    one.refused(await one.slot())
    await asyncio.sleep(1)
    backend.lose_state()
    await asyncio.sleep(3)
    waiting = asyncio.create_task(other.slot())
    await asyncio.sleep(1)
    assert (one.effective_tasks, other.effective_tasks) == (1, 1)
    waiting.cancel()


async def test_a_refusal_without_the_backend(share: Share) -> None:
    """A process that keeps to its own share learns, too, and does not ask again at once."""
    backend, account = MemoryLimitsBackend(), Account(2)
    limiter = share(backend, Limits(600, 40), when_gone="local", share=0.5)
    backend.unreachable = True
    await asyncio.gather(*(account.generate(limiter, 10.0) for _ in range(20)))
    assert account.refused < 40


async def test_whose_slots_can_be_refused(share: Share) -> None:
    """A slot of another limiter is refused, and one that has ended changes nothing."""
    backend = MemoryLimitsBackend()
    one, other = share(backend, Limits()), share(backend, Limits())
    slot = await one.slot()
    with pytest.raises(ConfigurationError, match="a slot of this limiter"):
        other.refused(slot)
    slot.release()
    one.refused(slot)
    assert one.effective_tasks == 1_000


def test_one_limiter_on_two_running_loops() -> None:
    """It is refused where it is not used first, in words that say what to do."""
    limiter = SharedLimiter(MemoryLimitsBackend(), limits=ONE, settle=0)
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

            with pytest.raises(ConfigurationError, match="create one for each loop"):
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
@example(changes=[(1, "accept", 1.0), (0, "refuse", 0.0), (0, "release", 0.0), (1, "refuse", 0.0)])
@settings(max_examples=40, deadline=None)
def test_processes_agree_on_the_cap(changes: list[tuple[int, str, float]]) -> None:
    """Whatever happens to submits of two processes, they agree on the cap soon after."""

    async def main() -> None:
        backend = MemoryLimitsBackend()
        limiters = [SharedLimiter(backend, limits=Limits(600, 8), settle=0) for _ in range(2)]
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


async def test_slots_are_counted_together(share: Share) -> None:
    """So many slots as the limit says are given to all processes together."""
    backend = MemoryLimitsBackend()
    limits = Limits(concurrent_tasks=3)
    one, other = share(backend, limits), share(backend, limits)
    slots = [await one.slot(), await one.slot(), await other.slot()]
    waiting = asyncio.create_task(other.slot())
    await asyncio.sleep(5)
    assert not waiting.done()
    begun = now()
    slots[0].release()
    await waiting
    assert now() - begun < 0.15
    assert (one.slots_in_use, other.slots_in_use) == (1, 2)
    assert len((await backend.peek()).leases) == 3


@pytest.mark.slow
def test_freed_slots_go_to_all_processes_alike() -> None:
    """A process that gives slots back has no better chance of them than one that has none."""

    async def main() -> list[int]:
        backend = MemoryLimitsBackend(round_trip=0.001)
        limits = Limits(concurrent_tasks=20)
        limiters = [SharedLimiter(backend, limits=limits, settle=0) for _ in range(3)]
        counts = [0, 0, 0]
        dice = Random(1)  # noqa: S311 - durations, not secrets

        async def one(which: int) -> None:
            await asyncio.sleep(which * 1.0)  # the first has them all
            while now() < 150:
                slot = await limiters[which].slot()
                counts[which] += 1
                await asyncio.sleep(dice.uniform(3, 6))
                slot.release()

        async with asyncio.TaskGroup() as group:
            for which in range(3):
                for _ in range(30):
                    group.create_task(one(which))
        for limiter in limiters:
            await limiter.close()
        return counts

    counts = run(main())
    assert sum(counts) > 0.95 * 150 * 20 / 4.5
    assert min(counts) > 0.8 * sum(counts) / 3


@given(
    people=st.lists(
        st.tuples(st.integers(0, 2), st.floats(0, 5), st.floats(0, 10), st.floats(0, 5)),
        min_size=1,
        max_size=25,
    ),
    concurrent_tasks=st.integers(1, 4),
    round_trip=st.sampled_from([0.0, 0.05]),
)
@settings(max_examples=40, deadline=None)
def test_slots_never_leak(
    people: list[tuple[int, float, float, float]], concurrent_tasks: int, round_trip: float
) -> None:
    """However waiters and holders are cancelled, the limit holds and no slot is lost."""

    async def main() -> None:
        backend = MemoryLimitsBackend(round_trip=round_trip)
        limits = Limits(concurrent_tasks=concurrent_tasks)
        limiters = [SharedLimiter(backend, limits=limits, settle=0) for _ in range(3)]
        holding = 0

        async def one(which: int, start: float, patience: float, work: float) -> None:
            nonlocal holding
            await asyncio.sleep(start)
            slot: Slot | None = None
            try:
                async with asyncio.timeout(patience):
                    slot = await limiters[which].slot()
                    holding += 1
                    assert holding <= concurrent_tasks
                    await asyncio.sleep(work)
            except TimeoutError:
                pass
            finally:
                if slot is not None:
                    holding -= 1
                    slot.release()

        async with asyncio.TaskGroup() as group:
            for person in people:
                group.create_task(one(*person))
        await asyncio.sleep(0.5)
        assert not (await backend.peek()).leases
        assert [limiter.slots_in_use for limiter in limiters] == [0, 0, 0]
        for limiter in limiters:
            await limiter.close()

    run(main())


async def test_a_slot_given_in_the_moment_of_a_cancellation(share: Share) -> None:
    """A slot given to a caller that is cancelled at the same time goes to the next in line."""
    backend = Canceller()
    limiter = share(backend, Limits(concurrent_tasks=1))
    first, second = (asyncio.create_task(limiter.slot()) for _ in range(2))
    backend.victim = first
    await second
    assert first.cancelled()
    assert backend.calls == 1
    assert len((await backend.peek()).leases) == 1


async def test_a_slot_for_a_cancelled_caller(share: Share) -> None:
    """A slot given to a caller that is cancelled at the same time is released if no other waits."""
    backend = Canceller()
    limiter = share(backend, Limits(concurrent_tasks=1))
    first = backend.victim = asyncio.create_task(limiter.slot())
    await asyncio.wait([first])
    await asyncio.sleep(0.1)
    assert first.cancelled()
    assert limiter.slots_in_use == 0
    assert not (await backend.peek()).leases


async def test_a_lease_is_kept_under_its_task(share: Share) -> None:
    """As soon as its task is known, that is the key of a lease, and other processes adopt it."""
    backend = MemoryLimitsBackend()
    one, other = share(backend, FAST), share(backend, FAST)
    slot = await one.slot()
    slot.confirm(REF)
    await asyncio.sleep(0.1)
    (lease,) = (await backend.peek()).leases
    assert lease.key == str(REF)
    adopted = other.adopt(REF)
    await asyncio.sleep(0.1)
    (again,) = (await backend.peek()).leases
    assert again.key == str(REF)
    assert again.holder != lease.holder
    slot.release()  # the task has ended, for all processes
    await asyncio.sleep(0.1)
    assert not (await backend.peek()).leases
    adopted.release()
    await asyncio.sleep(0.1)
    assert not (await backend.peek()).leases


async def test_adopting_a_new_task(share: Share) -> None:
    """A task found running is counted even over the limit, and its end then frees no slot."""
    backend = MemoryLimitsBackend()
    limiter = share(backend, Limits(concurrent_tasks=1))
    first = await limiter.slot()
    adopted = limiter.adopt(REF)
    await asyncio.sleep(0.1)
    assert len((await backend.peek()).leases) == 2
    waiting = asyncio.create_task(limiter.slot())
    first.release()
    await asyncio.sleep(1)
    assert not waiting.done()
    adopted.release()
    await waiting


async def test_a_dead_process_frees_its_slots_after_the_lifetime(share: Share) -> None:
    """What a dead process held is free again one presumed lifetime after it was confirmed."""
    backend = MemoryLimitsBackend()
    limits = Limits(concurrent_tasks=1, presumed_lifetime=100)
    dead, other = share(backend, limits), share(backend, limits)
    slot = await dead.slot()
    await asyncio.sleep(50)
    slot.confirm(REF)
    await asyncio.sleep(1)
    await dead.close()  # which frees nothing
    await other.slot()
    assert now() == pytest.approx(150, abs=0.2)


async def test_a_task_that_is_asked_after_keeps_its_slot(share: Share) -> None:
    """As long as the service says that a task runs, its slot does not expire."""
    backend = MemoryLimitsBackend()
    limits = Limits(concurrent_tasks=1, presumed_lifetime=100)
    one, other = share(backend, limits), share(backend, limits)
    slot = await one.slot()
    waiting = asyncio.create_task(other.slot())
    calls = backend.calls
    for _ in range(300):
        slot.confirm(REF)
        await asyncio.sleep(1)
    assert not waiting.done()
    waiting.cancel()
    # Not each of them is reported: 3,000 are the other's calls for a slot, 150 our heartbeats.
    assert backend.calls - calls < 3_000 + 150 + 100  # of 300; the waits of the other are random
    await asyncio.sleep(90)
    assert one.slots_in_use == 1
    await asyncio.sleep(11)
    assert one.slots_in_use == 0
    slot.confirm(REF)  # too late
    slot.release()
    assert one.slots_in_use == 0


async def test_a_slot_that_expires_in_one_process(share: Share) -> None:
    """A slot that expires here does not end a lease that another process renews."""
    backend = MemoryLimitsBackend()
    limits = Limits(concurrent_tasks=1, presumed_lifetime=10)
    one, other, third = (share(backend, limits) for _ in range(3))
    (await one.slot()).confirm(REF)
    await asyncio.sleep(5)
    adopted = other.adopt(REF)
    waiting = asyncio.create_task(third.slot())
    for _ in range(60):
        adopted.confirm(REF)
        await asyncio.sleep(0.5)
    assert one.slots_in_use == 0
    assert not waiting.done()
    adopted.release()
    await waiting


async def test_a_heartbeat_is_one_call(share: Share) -> None:
    """A process that holds 200 slots and does nothing calls the backend every two seconds."""
    backend = MemoryLimitsBackend()
    limiter = share(backend, FAST)
    async with asyncio.TaskGroup() as group:
        for _ in range(200):
            group.create_task(limiter.slot())
    calls = backend.calls
    await asyncio.sleep(20)
    assert 8 <= backend.calls - calls <= 12


async def test_those_who_wait_ask_together(share: Share) -> None:
    """However many wait for a slot, a process asks for all of them, ten times a second."""
    backend = MemoryLimitsBackend()
    limiter = share(backend, Limits(concurrent_tasks=1))
    await limiter.slot()
    calls = backend.calls
    waiting = []
    for _ in range(100):
        waiting.append(asyncio.create_task(limiter.slot()))
        await asyncio.sleep(0.01)
    assert 8 <= backend.calls - calls <= 12
    for one in waiting:
        one.cancel()


async def test_a_process_without_slots(share: Share, leftovers: Callable[[], set[str]]) -> None:
    """A process without slots makes no calls until it wants one."""
    backend = MemoryLimitsBackend()
    limiter = share(backend, FAST)
    (await limiter.slot()).release()
    await asyncio.sleep(0.1)
    assert not leftovers()
    calls = backend.calls
    await asyncio.sleep(100)
    assert backend.calls == calls
    await limiter.slot()
    await asyncio.sleep(5)
    assert backend.calls > calls + 1


async def test_slots_are_taken_and_given_back_in_bulk(share: Share) -> None:
    """Twenty slots are taken with one call, and given back with one."""
    backend = MemoryLimitsBackend()
    limiter = share(backend, FAST)
    slots = await asyncio.gather(*(limiter.slot() for _ in range(20)))
    assert backend.calls == 1
    for slot in slots:
        slot.release()
    await asyncio.sleep(0.1)
    assert backend.calls == 2
    assert not (await backend.peek()).leases


async def test_a_backend_that_loses_its_state(share: Share) -> None:
    """After a failover to an empty one, processes report what they hold before it gives any."""
    backend = MemoryLimitsBackend()
    limits = Limits(concurrent_tasks=3, presumed_lifetime=1_000)
    one, other = (share(backend, limits, settle=None) for _ in range(2))
    await one.slot()
    (await one.slot()).confirm(REF)
    await other.slot()
    begun = now()
    waiting = asyncio.create_task(other.slot())
    await asyncio.sleep(1)
    backend.lose_state()
    await asyncio.sleep(20)
    assert not waiting.done()
    leases = (await backend.peek()).leases
    assert len(leases) == 3
    assert str(REF) in {lease.key for lease in leases}
    assert max(lease.held_for for lease in leases) == pytest.approx(now() - begun, abs=0.1)
    assert max(lease.ends_in for lease in leases) == pytest.approx(1_000 - 21, abs=0.2)
    waiting.cancel()


async def test_releases_while_the_backend_is_unavailable(share: Share) -> None:
    """A slot released while the backend was unavailable is free when it is back."""
    backend = MemoryLimitsBackend()
    limiter = share(backend, FAST)
    slot, other = await limiter.slot(), await limiter.slot()
    backend.unreachable = True
    slot.release()
    other.confirm(REF)
    await asyncio.sleep(10)
    backend.unreachable = False
    await asyncio.sleep(2)
    assert [lease.key for lease in (await backend.peek()).leases] == [str(REF)]


async def test_an_answer_that_is_lost(share: Share) -> None:
    """Slots that were given with an answer that got lost are given back."""
    backend = MemoryLimitsBackend(round_trip=0.2)
    limiter = share(backend, Limits(concurrent_tasks=1))
    waiting = asyncio.create_task(limiter.slot())
    await asyncio.sleep(0.15)  # it has been given, and the answer is under way
    assert len(backend._stored.leases) == 1  # noqa: SLF001 - no call shows it
    backend.unreachable = True
    await asyncio.sleep(1)
    backend.unreachable = False
    await waiting
    assert now() < 5  # and not after the lifetime of the one that got lost
    await asyncio.sleep(1)
    assert limiter.slots_in_use == 1
    assert len((await backend.peek()).leases) == 1


async def test_two_slots_for_one_task(share: Share) -> None:
    """A task that two clients of a process know has one slot, which ends for both at once."""
    backend = MemoryLimitsBackend()
    limiter = share(backend, FAST)
    adopted = limiter.adopt(REF)
    assert limiter.adopt(REF) is adopted
    slot = await limiter.slot()
    slot.confirm(REF)
    await asyncio.sleep(0.1)
    assert limiter.slots_in_use == 1
    assert len((await backend.peek()).leases) == 1
    adopted.release()
    slot.release()
    slot.release()
    await asyncio.sleep(0.1)
    assert limiter.slots_in_use == 0
    assert not (await backend.peek()).leases


def test_a_slot_is_confirmed_on_the_next_loop() -> None:
    """A slot of an earlier run becomes its task's on the next loop, and its lease too."""
    clock = [0.0]
    backend = MemoryLimitsBackend(lambda: clock[0] + now())
    limiter = SharedLimiter(backend, limits=FAST, settle=0)

    async def first() -> Slot:
        slot = await limiter.slot()
        clock[0] += now()
        return slot

    async def second() -> list[str]:
        held.confirm(REF, 50.0)
        held.expire_in(60.0)
        await asyncio.sleep(0.1)
        keys = [lease.key for lease in (await backend.peek()).leases]
        await limiter.close()
        return keys

    held = run(first())
    assert run(second()) == [str(REF)]
    assert limiter.slots_in_use == 1
