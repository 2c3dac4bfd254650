"""What every limiter does: the one for a process, and the shared one on each backend."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from kling_async import TaskRef
from kling_async.limits.base import Limits
from kling_async.limits.local import LocalLimiter
from kling_async.limits.shared.memory import MemoryLimitsBackend
from kling_async.testing.clock import VirtualLoop
from tests.limits.conftest import crowd, fullest

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from kling_async.limits.shared.limiter import SharedLimiter
    from tests.limits.conftest import Share

ONE, TWO = TaskRef("kling-2-1", "task_1"), TaskRef("kling-2-1", "task_2")
FAST = 60_000  # a thousand a second: real backends take real time

virtual = pytest.mark.virtual_time


class Make(Protocol):
    def __call__(self, *limits: Any, **more: Any) -> LocalLimiter | SharedLimiter: ...  # noqa: ANN401 - the numbers


@pytest.fixture(
    params=[
        pytest.param("local", marks=virtual),
        pytest.param("memory", marks=virtual),
        "redis",
        "postgres",
    ]
)
def make(request: pytest.FixtureRequest, share: Share) -> Make:
    """Make a limiter of each kind."""

    def make(*limits: Any, **more: Any) -> LocalLimiter | SharedLimiter:  # noqa: ANN401 - as above
        numbers = Limits(*limits, **more)
        if request.param == "local":
            return LocalLimiter(numbers)
        if request.param == "memory":
            return share(MemoryLimitsBackend(), numbers)
        return share(request.getfixturevalue(f"{request.param}_url"), numbers)

    if request.param not in {"local", "memory"}:
        request.getfixturevalue(f"{request.param}_url")
    return make


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


def late() -> float:
    """Return by how much things may be late: by nothing in virtual time, else a busy machine's."""
    return 0.0 if isinstance(asyncio.get_running_loop(), VirtualLoop) else 20.0


async def within(seconds: float, call: Awaitable[object]) -> bool:
    """Say whether something happens in time."""
    try:
        async with asyncio.timeout(seconds + late()):
            await call
    except TimeoutError:
        return False
    return True


async def test_its_limits(make: Make) -> None:
    """A limiter has its limits as an attribute, and in its repr."""
    limiter = make(77, 3)
    assert limiter.limits == Limits(77, 3)
    assert "requests_per_minute=77" in repr(limiter)


async def test_the_pace(make: Make) -> None:
    """In no time more is admitted than a burst and what the rate gives."""
    limiter = make(FAST)
    moments: list[float] = []
    begun = now()
    await crowd(limiter, 50, begun + 0.4, moments)
    for window in (0.05, 0.1, 0.2):
        assert fullest(moments, window) <= 101 + window * 1_000
    assert len(moments) > (1 if late() else 400)
    assert begun <= min(moments)
    assert max(moments) <= now()


async def test_first_come_first_served(make: Make) -> None:
    """Permits go out in the order in which they were asked for, newcomers included."""
    limiter, order = make(FAST), []

    async def one(number: int) -> None:
        await limiter.request()
        order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(150):
            group.create_task(one(number))
            if number % 10 == 0:
                await asyncio.sleep(0.001)
    assert order == list(range(150))


async def test_cancelled_waiters(make: Make) -> None:
    """Those who give up take no permits from those who stay."""
    limiter = make(6_000)
    await limiter.request()
    waiting = [asyncio.create_task(limiter.request()) for _ in range(100)]
    await asyncio.sleep(0.01)
    for task in waiting[:98]:
        task.cancel()
    assert await within(0.4, asyncio.gather(*waiting[98:]))


async def test_a_pause(make: Make) -> None:
    """Of the refusals of one storm the first begins a pause, and none passes before its end."""
    limiter = make(FAST)
    permits = [await limiter.request() for _ in range(3)]
    waiting = [asyncio.create_task(limiter.request()) for _ in range(200)]
    await asyncio.sleep(0.01)
    begun = now()
    assert [limiter.pause(0.3, permit) for permit in permits] == [True, False, False]
    later = [permit.granted_at for permit in await asyncio.gather(*waiting[150:])]
    assert min(later) >= begun + 0.3
    permit = await limiter.request()
    assert permit.granted_at < begun + 1.0 + late()
    assert limiter.pause(0.0, permit)


async def test_a_pause_that_grows(make: Make) -> None:
    """A later refusal of the same storm with a longer delay makes the pause longer."""
    limiter = make(FAST)
    first, second, third = [await limiter.request() for _ in range(3)]
    begun = now()
    assert limiter.pause(0.2, first)
    waiting = asyncio.create_task(limiter.request())
    await asyncio.sleep(0.05)
    assert limiter.pause(1.0, second)
    assert not limiter.pause(0.1, third)
    assert (await waiting).granted_at >= begun + 1.05


async def test_a_permit(make: Make) -> None:
    """A permit says when it was granted, and may be answered more than once."""
    limiter = make(FAST)
    begun = now()
    permit = await limiter.request()
    assert begun <= permit.granted_at <= now()
    permit.answered()
    permit.answered()


async def test_slots(make: Make) -> None:
    """As many slots as the limit are given; a released one goes to a waiting caller."""
    limiter = make(concurrent_tasks=2)
    first, second = await limiter.slot(), await limiter.slot()
    third = asyncio.create_task(limiter.slot())
    await asyncio.sleep(0.15)
    assert not third.done()
    assert limiter.slots_in_use == 2
    first.release()
    assert await within(0.5, third)
    first.release()  # does nothing
    assert limiter.slots_in_use == 2
    for slot in (second, third.result()):
        slot.release()
    assert limiter.slots_in_use == 0


async def test_slots_in_order(make: Make) -> None:
    """Slots go to the caller that waits longest; cancelled ones are skipped."""
    limiter = make(concurrent_tasks=1)
    held, order = await limiter.slot(), []

    async def one(name: str) -> None:
        slot = await limiter.slot()
        order.append(name)
        slot.release()

    waiting = [asyncio.create_task(one(name)) for name in "abcd"]
    await asyncio.sleep(0.05)
    waiting[1].cancel()
    held.release()
    await asyncio.wait(waiting)
    assert order == ["a", "c", "d"]


async def test_adopting(make: Make) -> None:
    """A task found running is counted, even beyond the limit, and never twice."""
    limiter = make(concurrent_tasks=1)
    slot = await limiter.slot()
    slot.confirm(ONE)
    assert limiter.adopt(ONE) is slot
    assert limiter.slots_in_use == 1
    other = limiter.adopt(TWO)
    assert limiter.adopt(TWO) is other
    assert limiter.slots_in_use == 2
    await asyncio.sleep(0.1)
    other.release()
    waiting = asyncio.create_task(limiter.slot())
    await asyncio.sleep(0.15)
    assert not waiting.done()
    slot.release()
    assert await within(0.5, waiting)
    slot.confirm(ONE)  # too late
    assert limiter.slots_in_use == 1


async def test_adopting_a_task_that_has_ended(make: Make) -> None:
    """The end of a task of another process says nothing about how many tasks may run."""
    limiter = make(concurrent_tasks=10)
    (await limiter.slot()).confirm(ONE)
    limiter.refused(await limiter.slot())
    assert limiter.effective_tasks == 1
    waiting = asyncio.create_task(limiter.slot())
    for _ in range(3):
        await asyncio.sleep(0)
        limiter.adopt(TWO).release()
        assert limiter.effective_tasks == 1
        assert not waiting.done()
    assert limiter.slots_in_use == 1
    waiting.cancel()
    limiter.adopt(TWO).confirm(TWO)
    assert limiter.effective_tasks == 2


async def test_two_slots_for_one_task(make: Make) -> None:
    """A slot that grants out to be that of a task which has one already takes its place."""
    limiter = make(concurrent_tasks=3)
    adopted = limiter.adopt(ONE)
    slot = await limiter.slot()
    assert limiter.slots_in_use == 2
    slot.confirm(ONE)
    assert limiter.slots_in_use == 1
    assert limiter.adopt(ONE) is slot
    slot.release()
    adopted.release()
    slot.release()
    assert limiter.slots_in_use == 0


@pytest.mark.slow
async def test_the_presumed_lifetime(make: Make) -> None:
    """A slot expires so long after it was acquired or last confirmed."""
    limiter = make(concurrent_tasks=2, presumed_lifetime=2.0)
    begun = now()
    silent, confirmed = await limiter.slot(), await limiter.slot()
    await asyncio.sleep(0.2)
    confirmed.confirm(ONE)
    await limiter.slot()
    assert 2.0 <= now() - begun <= 2.2 + late()
    # Where things may be late, the other slot's time may be over as well.
    held = (1, 2) if late() else (2,)
    assert limiter.slots_in_use in held
    silent.release()  # too late to matter
    assert limiter.slots_in_use in held
    await limiter.slot()
    assert 2.2 <= now() - begun <= 2.45 + late()


async def test_no_slot_is_lost(make: Make) -> None:
    """However those who wait and those who hold are cancelled, all slots are free at the end."""
    limiter, holding = make(concurrent_tasks=3), 0

    async def one(number: int) -> None:
        nonlocal holding
        slot = await limiter.slot()
        holding += 1
        try:
            assert holding <= 3
            await asyncio.sleep(0.01 * (number % 4))
        finally:
            holding -= 1
            slot.release()

    people = [asyncio.create_task(one(number)) for number in range(18)]
    for number, person in enumerate(people):
        if number % 3 == 0:
            await asyncio.sleep(0.005 * (number % 5))
            person.cancel()
    await asyncio.wait(people)
    assert sum(person.cancelled() for person in people) <= 6
    slots = [asyncio.create_task(limiter.slot()) for _ in range(3)]
    assert await within(0.5, asyncio.gather(*slots))
