"""What a shared limiter does while its backend is unavailable, slow or broken."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from kling_async import KlingClient, MasterTextToVideo
from kling_async.errors import ConfigurationError, LimiterError
from kling_async.limits.base import Limits
from kling_async.limits.shared.memory import MemoryLimitsBackend
from tests.limits.conftest import (
    FAST,
    Breaking,
    Canceller,
    crowd,
    crowds,
    fullest,
    granted,
    now,
    run,
)

if TYPE_CHECKING:
    from kling_async.limits.base import Permit
    from kling_async.limits.shared.availability import WhenGone
    from kling_async.limits.shared.backend import LeaseStatus, LeaseUpdate, Reservation
    from kling_async.limits.shared.schedule import RequestSchedule
    from kling_async.limits.shared.window import Report
    from tests.conftest import Emulate
    from tests.limits.conftest import Share


pytestmark = pytest.mark.virtual_time


FOX = MasterTextToVideo("a fox")


@pytest.mark.parametrize("fails", [True, False])
async def test_giving_up_as_the_answer_comes(share: Share, *, fails: bool) -> None:
    """A caller that is cancelled as the answer arrives is skipped, even if the call failed."""
    backend = Canceller()
    backend.at_once, backend.unreachable = True, fails
    limiter = share(backend, FAST, when_gone="raise")
    for call in (limiter.request, limiter.slot):
        first: asyncio.Task[object] = asyncio.create_task(call())
        second: asyncio.Task[object] = asyncio.create_task(call())
        backend.victim = first
        await asyncio.wait([first, second])
        assert first.cancelled()
        assert isinstance(second.exception(), LimiterError) is fails
    assert limiter.slots_in_use == (0 if fails else 1)


async def test_waiting_for_the_backend(share: Share, caplog: pytest.LogCaptureFixture) -> None:
    """By default everything waits while the backend is unavailable, and continues by itself."""
    backend = MemoryLimitsBackend()
    limiter = share(backend, FAST)
    await granted(limiter)
    backend.unreachable = True
    request, slot = asyncio.create_task(granted(limiter)), asyncio.create_task(limiter.slot())
    await asyncio.sleep(30)
    assert not request.done()
    assert not slot.done()
    backend.unreachable = False
    assert 30 <= await request <= 31.1
    await slot
    assert now() <= 31.2
    lost, back = (record.getMessage() for record in caplog.records)
    assert lost == (
        "the limits at MemoryLimitsBackend cannot be kept: the backend in memory is unreachable;"
        " everything waits until it is back"
    )
    assert back == "the limits at MemoryLimitsBackend are kept again"


async def test_raising(share: Share) -> None:
    """With when_gone="raise" each waiting caller gets an error of its own."""
    backend = MemoryLimitsBackend()
    limiter = share(backend, FAST, when_gone="raise")
    await limiter.request()
    backend.unreachable = True
    results = await asyncio.gather(
        *(limiter.request() for _ in range(3)),
        *(limiter.slot() for _ in range(2)),
        return_exceptions=True,
    )
    errors = [one for one in results if isinstance(one, LimiterError)]
    assert len({*map(id, errors)}) == 5
    assert all(error.retryable and not error.may_have_charged for error in errors)
    backend.unreachable = False
    await limiter.request()
    await limiter.slot()


async def test_a_local_share(share: Share) -> None:
    """With when_gone="local" a process keeps to its share while the backend is unavailable."""
    backend = MemoryLimitsBackend()
    limits = Limits(600, 8)
    limiter = share(backend, limits, when_gone="local", share=0.25)
    slots = [await limiter.slot()]
    backend.unreachable = True
    moments: list[float] = []
    asking = asyncio.create_task(crowd(limiter, 10, now() + 200, moments))
    waiting = [asyncio.create_task(limiter.slot()) for _ in range(3)]
    await asyncio.sleep(100)
    assert fullest(moments) <= 150
    assert len(moments) >= 0.9 * 150 * 100 / 60
    assert [task.done() for task in waiting] == [True, False, False]
    slots[0].release()
    await asyncio.sleep(0)
    await waiting[1]  # it takes the place of the one that was released
    backend.unreachable = False
    await asyncio.gather(asking, waiting[2])
    assert len([moment for moment in moments if moment > 102]) > 0.9 * 600 * 98 / 60
    assert len((await backend.peek()).leases) == 3


async def test_a_local_share_for_few_requests(share: Share) -> None:
    """A process that asks now and then, too, returns to a backend that is back."""
    backend = MemoryLimitsBackend()
    limiter = share(backend, Limits(600), when_gone="local", share=0.5)
    backend.unreachable = True
    for _ in range(5):
        await limiter.request()
        await asyncio.sleep(0.5)
    backend.unreachable = False
    for _ in range(5):
        await asyncio.sleep(0.5)
        await limiter.request()
    assert (await backend.peek()).requests >= 3


async def test_a_grant_of_a_local_share_that_is_not_used(share: Share) -> None:
    """It counts for neither limit for longer than a minute."""
    backend = MemoryLimitsBackend()
    limiter = share(backend, Limits(60), when_gone="local", share=0.1)
    backend.unreachable = True
    for _ in range(5):
        await granted(limiter)
    waiting = asyncio.create_task(limiter.request())
    local = limiter._local  # noqa: SLF001 - to be cancelled as it is granted
    assert local is not None
    asked = local.request

    async def request() -> Permit:
        permit = await asked()
        waiting.cancel()
        return permit

    local.request = request  # type: ignore[method-assign]
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    await asyncio.sleep(1)
    backend.unreachable = False
    await asyncio.sleep(70)
    await granted(limiter)
    assert (await backend.peek()).requests <= 2


async def test_a_local_share_while_a_backend_fails(share: Share) -> None:
    """A backend that raises unexpected errors is not called again without a delay."""

    class Failing(MemoryLimitsBackend):
        asked = 0

        async def reserve(self, number: int, report: Report, pace: RequestSchedule) -> Reservation:
            self.asked += 1
            if self.asked > 1:
                raise ZeroDivisionError
            return await super().reserve(number, report, pace)

    backend = Failing()
    limiter = share(backend, Limits(600), when_gone="local", share=0.5)
    backend.unreachable = True
    await crowd(limiter, 3, 10.0, [])
    assert 5 <= backend.asked <= 12


async def test_a_pause_without_the_backend(share: Share) -> None:
    """A process that keeps to its own share pauses, too."""
    backend = MemoryLimitsBackend()
    limiter = share(backend, FAST, when_gone="local", share=0.5)
    backend.unreachable = True
    limiter.pause(7.0, await limiter.request())
    begun = now()
    await limiter.request()
    assert now() - begun == pytest.approx(7, abs=0.1)


@pytest.mark.repeating
@pytest.mark.parametrize("processes", [1, 3])
def test_the_bound_with_local_shares(processes: int) -> None:
    """Falling back to shares that are 1 together, and coming back, costs 2 % at most."""

    async def main() -> list[float]:
        backend = MemoryLimitsBackend()
        breaking = asyncio.create_task(Breaking(backend, 40, 30, 20, 5).run())
        options: dict[str, Any] = {"when_gone": "local", "share": 1 / processes}
        shares = await crowds([backend] * processes, Limits(1_000), 150, 20, **options)
        await breaking
        return [moment for share in shares for moment in share]

    moments = run(main())
    assert fullest(moments) <= 1_020
    assert len(moments) > 0.93 * 2_500


async def test_a_backend_that_refuses(share: Share) -> None:
    """A configuration error is raised at once, whatever when_gone is."""

    class Refusing(MemoryLimitsBackend):
        refuses = True

        async def reserve(self, number: int, report: Report, pace: RequestSchedule) -> Reservation:
            if self.refuses:
                raise ConfigurationError("no")
            return await super().reserve(number, report, pace)

        async def update_leases(self, change: LeaseUpdate) -> LeaseStatus:
            if self.refuses:
                raise ConfigurationError("no")
            return await super().update_leases(change)

        async def pause(self, delay: float, age: float) -> float:
            raise ConfigurationError("no")

    backend = Refusing()
    limiter = share(backend, FAST)
    for call in (limiter.request, limiter.slot):
        with pytest.raises(ConfigurationError, match="no"):
            await call()
    backend.refuses = False
    limiter.pause(1.0, await limiter.request())
    assert await granted(limiter) == pytest.approx(1.0, abs=0.6)
    await limiter.slot()


async def test_a_local_share_while_a_backend_refuses(share: Share) -> None:
    """Not even a backend that begins to refuse us disturbs a process that keeps to its share."""

    class Turning(MemoryLimitsBackend):
        async def reserve(self, number: int, report: Report, pace: RequestSchedule) -> Reservation:
            if self.unreachable and now() > 5:
                raise ConfigurationError("the password was changed")
            return await super().reserve(number, report, pace)

    backend = Turning()
    limiter = share(backend, Limits(600), when_gone="local", share=0.5)
    backend.unreachable = True
    moments: list[float] = []
    await crowd(limiter, 5, 60.0, moments)
    assert len(moments) > 0.9 * 300


async def test_slots_of_a_backend_that_refuses_for_a_while(
    share: Share, caplog: pytest.LogCaptureFixture
) -> None:
    """Slots released while the backend refuses access are reported later; one error is logged."""

    class Moody(MemoryLimitsBackend):
        refuses = False

        async def update_leases(self, change: LeaseUpdate) -> LeaseStatus:
            if self.refuses:
                raise ConfigurationError("no")
            return await super().update_leases(change)

    backend = Moody()
    limiter = share(backend, FAST)
    slots = [await limiter.slot() for _ in range(3)]
    backend.refuses = True
    slots[0].release()
    with pytest.raises(ConfigurationError, match="no"):
        await limiter.slot()
    await asyncio.sleep(10)
    backend.refuses = False
    await asyncio.sleep(2)
    assert len((await backend.peek()).leases) == 2
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


async def test_an_error_that_cannot_be_copied(share: Share) -> None:
    """A backend may raise errors of any class: waiting callers get them."""

    class OddError(Exception):
        def __init__(self, one: int, *, other: int) -> None:
            super().__init__(one + other)

    class Odd(MemoryLimitsBackend):
        odd = True

        async def reserve(self, number: int, report: Report, pace: RequestSchedule) -> Reservation:
            raise OddError(1, other=2)

        async def update_leases(self, change: LeaseUpdate) -> LeaseStatus:
            if self.odd:
                raise OddError(1, other=2)
            return await super().update_leases(change)

    backend = Odd()
    limiter = share(backend, FAST)
    for call in (limiter.request, limiter.slot):
        with pytest.raises(OddError, match="3"):
            await call()
    backend.odd = False


async def test_unexpected_errors_of_a_backend(share: Share) -> None:
    """Whatever a backend raises, no caller waits for ever."""

    class Broken(MemoryLimitsBackend):
        broken = True

        def work(self) -> None:
            if self.broken:
                raise ZeroDivisionError

        async def reserve(self, number: int, report: Report, pace: RequestSchedule) -> Reservation:
            self.work()
            return await super().reserve(number, report, pace)

        async def update_leases(self, change: LeaseUpdate) -> LeaseStatus:
            self.work()
            return await super().update_leases(change)

    backend = Broken()
    limiter = share(backend, FAST)
    for call in (limiter.request, limiter.slot):
        with pytest.raises(ZeroDivisionError):
            await call()
    backend.broken = False
    await limiter.request()
    await limiter.slot()


async def test_a_silent_backend(share: Share, caplog: pytest.LogCaptureFixture) -> None:
    """A backend that does not answer within two seconds is unavailable."""
    backend = MemoryLimitsBackend(round_trip=100.0)
    limiter = share(backend, FAST, when_gone="raise")
    with pytest.raises(LimiterError, match="no answer within 2 s"):
        await limiter.request()
    assert now() == pytest.approx(2, abs=0.01)
    backend.round_trip = 0.0
    await limiter.request()


async def test_a_slow_backend(share: Share) -> None:
    """With answers that come too late nothing is granted, until they are fast again."""
    backend = MemoryLimitsBackend(round_trip=0.6)
    patient, other = share(backend, FAST), share(backend, FAST, when_gone="raise")
    waiting = asyncio.create_task(granted(patient))
    with pytest.raises(LimiterError, match="answers take too long"):
        await other.request()
    await asyncio.sleep(10)
    assert not waiting.done()
    await patient.slot()  # slots do not mind
    backend.round_trip = 0.1
    assert await waiting < now() + 2
    await other.request()


@pytest.mark.parametrize("when_gone", ["raise", "local"])
async def test_a_slow_backend_while_slots_are_held(share: Share, when_gone: WhenGone) -> None:
    """That answers to calls which do not mind come late does not hide that others do."""
    backend = MemoryLimitsBackend()
    part = 0.5 if when_gone == "local" else None
    limiter = share(backend, Limits(600, 2), when_gone=when_gone, share=part)
    await limiter.request()
    await limiter.slot()
    await limiter.slot()
    waiting = asyncio.create_task(limiter.slot())  # asks all the time
    backend.round_trip = 0.6
    asking = asyncio.create_task(limiter.request())
    await asyncio.sleep(5)
    assert asking.done()
    assert isinstance(asking.exception(), LimiterError) is (when_gone == "raise")
    waiting.cancel()


@pytest.mark.repeating
def test_a_backend_that_is_slow_now_and_then() -> None:
    """However slow single answers are, no minute is over the limit, and requests are granted."""

    async def main() -> list[float]:
        dice = Random(2)  # noqa: S311 - delays, not secrets

        class Moody(MemoryLimitsBackend):
            async def reserve(
                self, number: int, report: Report, pace: RequestSchedule
            ) -> Reservation:
                await asyncio.sleep(dice.choice([0.0, 0.0, 0.0, 0.2, 0.5]))
                answer = await super().reserve(number, report, pace)
                await asyncio.sleep(dice.choice([0.0, 0.0, 0.0, 0.2, 0.5]))
                return answer

        shares = await crowds([Moody()] * 3, Limits(1_000), 130, 15)
        return [moment for share in shares for moment in share]

    moments = run(main())
    assert fullest(moments) <= 1_000
    assert len(moments) > 0.3 * 1_000 * 130 / 60


@pytest.mark.parametrize("when_gone", ["wait", "raise", "local"])
async def test_a_client_while_the_backend_is_away(
    share: Share, emulate: Emulate, when_gone: WhenGone
) -> None:
    """A submit waits, raises, or is sent; a task that is waited for is polled in the end."""
    emulator, backend = await emulate(), MemoryLimitsBackend()
    limits = Limits(600, 5)
    part = 0.5 if when_gone == "local" else None
    limiter = share(backend, limits, when_gone=when_gone, share=part)
    async with KlingClient(emulator.key, base_url=emulator.base_url, limiter=limiter) as kling:
        task = await kling.submit(FOX)
        waiting = asyncio.create_task(task.wait())
        await asyncio.sleep(50)
        backend.unreachable = True
        submitting = asyncio.create_task(kling.submit(FOX))
        await asyncio.sleep(50)
        assert submitting.done() is (when_gone != "wait")
        assert waiting.done() is (when_gone == "local")
        backend.unreachable = False
        assert (await waiting).ref == task.ref
        if when_gone == "raise":
            with pytest.raises(LimiterError, match="cannot be kept"):
                await submitting
        else:
            await submitting
        await asyncio.sleep(3)
        keys = [lease.key for lease in (await backend.peek()).leases]
        assert keys == ([] if when_gone == "raise" else [str(submitting.result().ref)])
    assert len(emulator.ledger) == 2 - (when_gone == "raise")
