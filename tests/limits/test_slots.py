from __future__ import annotations

import asyncio
import gc
import weakref
from functools import partial
from typing import TYPE_CHECKING

import pytest

from kling_async import ConfigurationError, TaskRef
from kling_async.limits.base import Limits
from kling_async.limits.local import LocalLimiter
from tests.limits.conftest import REF

if TYPE_CHECKING:
    from kling_async.limits.base import Slot

virtual = pytest.mark.virtual_time


@virtual
async def test_releasing_twice() -> None:
    """The second release of a slot does nothing."""
    limiter = LocalLimiter(Limits(concurrent_tasks=3))
    first = await limiter.slot()
    await limiter.slot()
    first.release()
    first.release()
    assert limiter.slots_in_use == 1


@virtual
async def test_a_released_slot_leaves_nothing_behind() -> None:
    """After its release the loop does not remember a slot until its presumed end."""
    limiter = LocalLimiter()
    slot = await limiter.slot()
    trace = weakref.ref(slot)
    slot.release()
    del slot
    gc.collect()
    assert trace() is None


@virtual
async def test_presumed_lifetime() -> None:
    """A slot that is never released expires after the presumed lifetime."""
    limiter = LocalLimiter(Limits(concurrent_tasks=1, presumed_lifetime=100.0))
    slot = await limiter.slot()
    await asyncio.sleep(40)
    await limiter.slot()
    assert asyncio.get_running_loop().time() == pytest.approx(100, abs=0.01)
    slot.release()  # too late to matter
    assert limiter.slots_in_use == 1


@virtual
async def test_adopting_beyond_the_limit() -> None:
    """A task found running is counted even over the limit, and its end then frees no slot."""
    limiter = LocalLimiter(Limits(concurrent_tasks=1))
    first = await limiter.slot()
    adopted = limiter.adopt(REF)
    assert limiter.slots_in_use == 2
    waiter = asyncio.create_task(limiter.slot())
    first.release()
    await asyncio.sleep(1)
    assert not waiter.done()
    adopted.release()
    await waiter
    assert limiter.slots_in_use == 1


@virtual
async def test_adopted_slots_have_a_presumed_end_too() -> None:
    """An adopted slot is free again after the presumed lifetime."""
    limiter = LocalLimiter(Limits(presumed_lifetime=10.0))
    limiter.adopt(REF)
    await asyncio.sleep(9.9)
    assert limiter.slots_in_use == 1
    await asyncio.sleep(0.2)
    assert limiter.slots_in_use == 0


@virtual
async def test_lifetimes_of_their_own() -> None:
    """Each slot expires after its own lifetime, however they were confirmed, and reports it."""
    limiter, expired = LocalLimiter(Limits(presumed_lifetime=100.0)), list[tuple[float, int]]()
    clock = asyncio.get_running_loop().time

    def note(number: int) -> None:
        expired.append((round(clock()), number))

    for number, lifetime in enumerate((30.0, 10.0, None, 1e9, 20.0)):
        slot = await limiter.slot()
        slot.confirm(TaskRef("kling-2-1", f"{number}"), lifetime, partial(note, number))
    (await limiter.slot()).expire_in(5.0)
    await asyncio.sleep(7)
    assert limiter.slots_in_use == 5
    limiter.adopt(TaskRef("kling-2-1", "1"), 50.0)  # it is confirmed again
    await asyncio.sleep(200)
    assert sorted(expired) == [(20, 4), (30, 0), (57, 1), (100, 2), (100, 3)]
    assert limiter.slots_in_use == 0


@virtual
async def test_a_released_slot_does_not_expire() -> None:
    """What is released, or refused, reports no expiry."""
    limiter, expired = LocalLimiter(), list[str]()
    limiter.adopt(REF, 10.0, lambda: expired.append("released")).release()
    slot = limiter.adopt(REF, 10.0, lambda: expired.append("refused"))
    limiter.refused(slot)
    slot.confirm(REF, 1.0)
    slot.expire_in(1.0)
    await asyncio.sleep(100)
    assert expired == []
    assert limiter.slots_in_use == 0


@virtual
async def test_several_clients_of_one_slot() -> None:
    """Each client that shares a slot has its expiry reported, once."""
    limiter, expired = LocalLimiter(), list[str]()

    def one() -> None:
        expired.append("one")

    def two() -> None:
        expired.append("two")

    slot = limiter.adopt(REF, 10.0, one)
    assert limiter.adopt(REF, 10.0, two) is slot
    slot.confirm(REF, 10.0, one)
    other = await limiter.slot()
    other.confirm(REF, 10.0, two)  # takes the place of the other slot
    await asyncio.sleep(11)
    assert sorted(expired) == ["one", "two"]
    assert limiter.slots_in_use == 0


@virtual
async def test_one_of_several_clients_releases_the_slot() -> None:
    """A slot that one client releases is as good as expired to the others, a minute later."""
    limiter, expired = LocalLimiter(), list[str]()
    slot = limiter.adopt(REF, 900.0, lambda: expired.append("one"))
    limiter.adopt(REF, 900.0, lambda: expired.append("two"))
    slot.release()
    slot.release()
    assert limiter.slots_in_use == 0
    await asyncio.sleep(59)
    assert expired == []
    await asyncio.sleep(2)
    assert expired == ["one", "two"]
    await asyncio.sleep(1000)
    assert expired == ["one", "two"]


def test_a_shared_slot_that_is_released_after_its_event_loop() -> None:
    """When the event loop has ended, no client is left to be called."""
    limiter, expired = LocalLimiter(), list[str]()

    async def main() -> Slot:
        limiter.adopt(REF, 900.0, lambda: expired.append("one"))
        return limiter.adopt(REF, 900.0, lambda: expired.append("two"))

    asyncio.run(main()).release()
    assert (expired, limiter.slots_in_use) == ([], 0)


@virtual
async def test_a_callback_that_raises() -> None:
    """A callback that raises does not keep others from being called, or the slot in use."""
    limiter, expired, reported = LocalLimiter(), list[str](), list[object]()
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reported.append(context["exception"])
    )
    wrong = ValueError("wrong")

    def fail() -> None:
        raise wrong

    limiter.adopt(REF, 1.0, fail).confirm(REF, 1.0, lambda: expired.append("the next"))
    await asyncio.sleep(2)
    assert (expired, reported, limiter.slots_in_use) == (["the next"], [wrong], 0)


@virtual
async def test_a_slot_of_another_task() -> None:
    """A slot that grants out to be another task's is that one's, and no more the first one's."""
    limiter = LocalLimiter()
    slot, other = limiter.adopt(REF), TaskRef("kling-2-1", "task_2")
    slot.confirm(other)
    assert limiter.adopt(other) is slot
    assert limiter.adopt(REF) is not slot
    assert limiter.slots_in_use == 2


@virtual
@pytest.mark.parametrize("lifetime", [-1.0, float("nan")])
async def test_wrong_lifetimes(lifetime: float) -> None:
    """A lifetime below zero is a ConfigurationError, and the slot stays as it was."""
    limiter = LocalLimiter(Limits(presumed_lifetime=10.0))
    slot = await limiter.slot()
    for call in (slot.expire_in, lambda lifetime: slot.confirm(REF, lifetime)):
        with pytest.raises(ConfigurationError, match="a slot needs a lifetime of 0 s or more"):
            call(lifetime)
    await asyncio.sleep(9.9)
    assert limiter.slots_in_use == 1
