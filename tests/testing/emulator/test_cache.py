from __future__ import annotations

import asyncio

import pytest

from kling_async.testing.emulator.cache import SharedCache


class Maker:
    def __init__(self, value: bytes = b"1234", error: Exception | None = None) -> None:
        self.calls = 0
        self.value = value
        self.error = error

    async def __call__(self) -> bytes:
        self.calls += 1
        await asyncio.sleep(1)
        if self.error is not None:
            raise self.error
        return self.value


async def test_one_making_for_all_who_wait() -> None:
    """Who asks while a value is being made gets that value, and so does who asks after."""
    cache, make = SharedCache(100), Maker()
    assert set(await asyncio.gather(*(cache.get("k", make) for _ in range(9)))) == {b"1234"}
    assert await cache.get("k", make) == b"1234"
    assert make.calls == 1


async def test_cancelling_one_does_not_disturb_others() -> None:
    """A waiter that is cancelled leaves the making to those who stay."""
    cache, make = SharedCache(100), Maker()
    first = asyncio.create_task(cache.get("k", make))
    second = asyncio.create_task(cache.get("k", make))
    await asyncio.sleep(0.5)
    first.cancel()
    assert await second == b"1234"
    assert make.calls == 1


async def test_failures_are_shared_but_not_kept() -> None:
    """All callers that wait get the failure, and the next one tries again."""
    cache, make = SharedCache(100), Maker(error=ValueError("no"))
    found = await asyncio.gather(*(cache.get("k", make) for _ in range(3)), return_exceptions=True)
    assert [str(error) for error in found] == ["no"] * 3
    with pytest.raises(ValueError, match="no"):
        await cache.get("k", make)
    assert make.calls == 2


async def test_old_values_are_made_again() -> None:
    """A value older than wanted is made again, and counted once."""
    cache, make = SharedCache(7), Maker()
    await cache.get("k", make)
    await asyncio.sleep(10)
    await cache.get("k", make)
    assert make.calls == 1
    await cache.get("k", make, max_age=5)
    assert make.calls == 2
    await cache.get("k", make, max_age=5)
    assert make.calls == 2


async def test_the_least_used_goes_first() -> None:
    """Beyond the size, the value that was not asked for the longest is dropped."""
    cache = SharedCache(8)
    makers = {key: Maker() for key in "abc"}
    for key in "abac":
        await cache.get(key, makers[key])
    await cache.get("a", makers["a"])
    await cache.get("b", makers["b"])
    assert [maker.calls for maker in makers.values()] == [1, 2, 1]


async def test_a_value_too_large_is_given_and_dropped() -> None:
    """What does not fit at all is made each time."""
    cache, make = SharedCache(3), Maker()
    assert await cache.get("k", make) == b"1234"
    assert await cache.get("k", make) == b"1234"
    assert make.calls == 2


async def test_close_ends_what_is_being_made() -> None:
    """After closing nothing is being made; those who wait are cancelled."""
    cache = SharedCache(100)
    waiter = asyncio.create_task(cache.get("k", Maker()))
    await asyncio.sleep(0.5)
    await cache.close()
    assert (await asyncio.gather(waiter, return_exceptions=True))[0].__class__ is (
        asyncio.CancelledError
    )
    assert asyncio.get_running_loop().time() < 1


async def test_a_failure_without_callers_is_not_reported() -> None:
    """If all waiters have gone, a failure is not reported as overlooked."""
    reports: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    cache = SharedCache(100)
    waiter = asyncio.create_task(cache.get("k", Maker(error=ValueError("no"))))
    await asyncio.sleep(0.5)
    waiter.cancel()
    await asyncio.sleep(2)
    del waiter
    assert reports == []
