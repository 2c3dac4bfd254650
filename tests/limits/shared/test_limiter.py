"""The backend-neutral part, with the backend in memory, on virtual time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from kling_async.errors import ConfigurationError, LimiterError
from kling_async.limits.base import Limits
from kling_async.limits.shared.limiter import SharedLimiter, name_of
from kling_async.limits.shared.memory import MemoryLimitsBackend
from tests.limits.conftest import (
    FAST,
    FULL,
    REF,
    granted,
    now,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from kling_async.limits.base import Slot
    from kling_async.limits.shared.backend import Reservation
    from kling_async.limits.shared.schedule import RequestSchedule
    from kling_async.limits.shared.window import Report
    from tests.limits.conftest import Share

pytestmark = pytest.mark.virtual_time


async def test_peek(share: Share) -> None:
    """`peek` returns what all processes use, and raises while the backend is unavailable."""
    backend = MemoryLimitsBackend()
    one, other = share(backend, FAST), share(backend, FAST)
    (await one.slot()).confirm(REF)
    await other.slot()
    await asyncio.sleep(0.1)
    assert str(REF) in {lease.key for lease in (await one.peek()).leases}
    assert len((await other.peek()).leases) == 2
    backend.unreachable = True
    with pytest.raises(LimiterError, match="at MemoryLimitsBackend cannot be read: the backend"):
        await one.peek()


async def test_limiters_of_one_process() -> None:
    """The limiters of one process have different names, however many there are."""
    holders = set()

    class Recorder(MemoryLimitsBackend):
        async def reserve(
            self, number: int, report: Report, schedule: RequestSchedule
        ) -> Reservation:
            holders.add(report.holder)
            return await super().reserve(number, report, schedule)

    backend = Recorder()
    for _ in range(1_000):
        limiter = SharedLimiter(backend, limits=FAST, settle=0)
        await granted(limiter)
        await limiter.close()
    assert len(holders) == 1_000


async def test_a_new_backend(share: Share) -> None:
    """A new backend grants nothing at first: for a second requests, for a few seconds slots."""
    limiter = share(MemoryLimitsBackend(), FULL, settle=None)
    assert await granted(limiter) == pytest.approx(1.16, abs=0.01)
    await limiter.slot()
    assert 3.5 < now() < 3.7


async def test_closing_with_a_local_share(share: Share, leftovers: Callable[[], set[str]]) -> None:
    """After closing, a backend that is unavailable is not called any more."""
    backend = MemoryLimitsBackend()
    limiter = share(backend, FAST, when_gone="local", share=0.5)
    backend.unreachable = True
    waiting = [asyncio.create_task(limiter.request()) for _ in range(1_000)]
    await asyncio.sleep(0.5)
    assert leftovers()
    await limiter.close()
    await asyncio.wait(waiting)
    assert not leftovers()
    backend.unreachable = False
    await asyncio.sleep(10)
    assert backend.calls == 0
    assert sum(not task.exception() for task in waiting) > 100


def test_a_second_loop() -> None:
    """Slots outlive the loop they were taken on, with what is left of their lifetime."""
    clock = [0.0]

    def backend_time() -> float:
        return clock[0] + asyncio.get_running_loop().time()

    backend = MemoryLimitsBackend(backend_time)
    limiter = SharedLimiter(
        backend, limits=Limits(concurrent_tasks=1, presumed_lifetime=100), settle=0
    )

    async def first() -> Slot:
        slot = await limiter.slot()
        limiter.pause(90.0, await limiter.request())
        await asyncio.sleep(70)
        clock[0] += now()
        return slot

    async def second() -> tuple[float, float]:
        permit = await granted(limiter)
        await limiter.slot()
        await limiter.close()
        return permit, now()

    held = run(first())
    permit, taken = run(second())
    assert permit == pytest.approx(20, abs=0.1)
    assert taken == pytest.approx(30, abs=0.2)

    async def third() -> None:
        held.release()  # it is reported when the limiter is used again
        clock[0] += 200
        await limiter.slot()
        await limiter.close()

    run(third())


async def test_closing(share: Share, leftovers: Callable[[], set[str]]) -> None:
    """Closing reports what was released, ends all tasks, and raises in waiting callers."""
    backend = MemoryLimitsBackend()
    limiter = share(backend, Limits(600, 2))
    slots = [await limiter.slot(), await limiter.slot()]
    slots[0].confirm(REF)
    limiter.pause(60.0, await limiter.request())
    waiting = [asyncio.create_task(limiter.request()), asyncio.create_task(limiter.slot())]
    await asyncio.sleep(1)
    slots[1].release()
    await limiter.close()
    assert not leftovers()
    for task in waiting:
        with pytest.raises(LimiterError, match="closed"):
            await task
    assert [lease.key for lease in (await backend.peek()).leases] == [str(REF)]
    slots[0].release()  # remembered, until it is used again
    await limiter.close()
    await limiter.slot()
    await asyncio.sleep(0.2)
    assert len((await backend.peek()).leases) == 1


async def test_calls_while_it_is_being_closed(
    share: Share, leftovers: Callable[[], set[str]]
) -> None:
    """Calls during `close` raise at once, none keeps waiting, and later calls work."""
    backend = MemoryLimitsBackend(round_trip=0.1)
    limiter = share(backend, Limits(600, 2))
    slots = [await limiter.slot(), await limiter.slot()]
    permit = await limiter.request()
    waiting = [asyncio.create_task(limiter.slot()), asyncio.create_task(limiter.request())]
    await asyncio.sleep(0)
    slots[0].release()
    closing = [asyncio.create_task(limiter.close()) for _ in range(2)]
    await asyncio.sleep(0.05)
    late = [asyncio.create_task(limiter.slot()), asyncio.create_task(limiter.request())]
    assert limiter.pause(0.5, permit)
    await asyncio.wait(closing)
    assert not leftovers()
    for one in (*waiting, *late):
        with pytest.raises(LimiterError, match="closed"):
            await one
    begun = now()
    await limiter.slot()
    await limiter.request()
    assert now() - begun < 2


def test_after_the_loop_has_begun_to_end() -> None:
    """What comes after the loop's generators have ended is refused, and begins nothing."""
    limiter = SharedLimiter(MemoryLimitsBackend(), limits=Limits(600), settle=0)

    async def main() -> None:
        permit = await limiter.request()
        await asyncio.sleep(1)
        await asyncio.get_running_loop().shutdown_asyncgens()
        permit.answered()
        for call in (limiter.request, limiter.slot):
            with pytest.raises(LimiterError, match="closed"):
                await call()

    run(main())


def test_closing_on_another_loop() -> None:
    """A slot released on a loop that has ended is reported when it is closed on another one."""
    backend = MemoryLimitsBackend(lambda: 0.0)
    limiter = SharedLimiter(backend, limits=FAST, settle=0)

    async def use() -> None:
        (await limiter.slot()).release()

    run(use())
    assert len(run(backend.peek()).leases) == 1
    run(limiter.close())
    assert not run(backend.peek()).leases


async def test_closing_without_the_backend(share: Share) -> None:
    """Closing does not fail while the backend is unavailable."""
    backend = MemoryLimitsBackend()
    limiter = share(backend, FAST)
    slot = await limiter.slot()
    backend.unreachable = True
    slot.release()
    await limiter.close()
    await share(backend, FAST).close()  # never used


async def test_in_a_context(share: Share, leftovers: Callable[[], set[str]]) -> None:
    """As a context manager it closes itself."""
    backend = MemoryLimitsBackend()
    async with SharedLimiter(backend, limits=FAST, settle=0) as limiter:
        await limiter.slot()
        await asyncio.sleep(10)
        calls = backend.calls
        assert calls >= 5  # heartbeats
    assert not leftovers()
    await asyncio.sleep(10)
    assert backend.calls == calls


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a name the limits are those of the key in the environment, which is not shown."""
    monkeypatch.setenv("APIXO_API_KEY", " a-secret-key ")
    limiter = SharedLimiter("redis://user:word@cache:6380/1")
    assert limiter.name == name_of("a-secret-key") != name_of("another")
    assert "secret" not in limiter.name
    assert SharedLimiter("redis://cache", name="studio").name == "studio"
    monkeypatch.delenv("APIXO_API_KEY")
    with pytest.raises(ConfigurationError, match="whose limits"):
        SharedLimiter("redis://cache")
    for name in ("", "{a}", "a\nb"):
        with pytest.raises(ConfigurationError, match="a word or two"):
            SharedLimiter("redis://cache", name=name)


def test_repr() -> None:
    """A limiter shows where its numbers are kept, and no password."""
    limiter = SharedLimiter("redis://user:word@cache:6380/1", name="n", limits=Limits(7, 3))
    assert repr(limiter) == (
        "<SharedLimiter redis://cache:6380/1 Limits(requests_per_minute=7, concurrent_tasks=3,"
        " presumed_lifetime=3600.0) slots in use: 0>"
    )
    assert limiter.limits == Limits(7, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"when_gone": "weep"}, "when_gone is"),
        ({"when_gone": "local"}, "needs share="),
        ({"share": 0.5}, "nothing else takes it"),
        ({"when_gone": "local", "share": 0.0}, "between 0 and 1"),
        ({"when_gone": "local", "share": 1.1}, "between 0 and 1"),
        ({"when_gone": "local", "share": "1"}, "between 0 and 1"),
        ({"when_gone": ["wait"]}, "when_gone is"),
        ({"settle": -1}, "settle must be a number of seconds"),
        ({"name": 5}, "a word or two"),
        ({"limits": (10, 3)}, "limits must be a Limits"),
        ({"backend": None}, "a backend is a URL or has reserve"),
    ],
)
def test_wrong_settings(options: dict[str, Any], words: str) -> None:
    """A setting that makes no sense is refused before anything is sent."""
    with pytest.raises(ConfigurationError, match=words):
        SharedLimiter(**{"backend": MemoryLimitsBackend(), **options})
