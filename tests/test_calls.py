from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from kling_async import Limits, Retry
from kling_async.calls import Calls
from kling_async.errors import BadRequestError, KlingError, RateLimitError, ServerError
from kling_async.events import Event, Paused, Retrying
from kling_async.limits.local import LocalLimiter
from kling_async.protocol import requests
from kling_async.testing import ScriptedTransport
from kling_async.testing.transport import answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.virtual_time

REQUEST = requests.balance()


def now() -> float:
    """Give the loop's time."""
    return asyncio.get_running_loop().time()


def calls(*hooks: Callable[[Event], object], retry: Retry | None = None, **limits: int) -> Calls:
    """Make calls with their own limiter."""
    transport = ScriptedTransport(lambda _: answer(1))
    return Calls(transport, LocalLimiter(Limits(**limits)), retry or Retry(), hooks)


def failing(*errors: KlingError) -> Callable[[], Awaitable[float]]:
    """Fail with one error after another, then give the time."""
    left = list(errors)

    async def once() -> float:
        if left:
            raise left.pop(0)
        return now()

    return once


async def test_what_may_be_repeated_is() -> None:
    """A call is made again until it succeeds, and each repetition is told beforehand."""
    events: list[Event] = []
    trouble = [ServerError("1", retryable=True), ServerError("2", retryable=True)]
    await calls(events.append).call(REQUEST, failing(*trouble))
    told = [event for event in events if isinstance(event, Retrying)]
    assert [(one.what, one.error, one.attempt) for one in told] == [
        ("balance", trouble[0], 1),
        ("balance", trouble[1], 2),
    ]
    assert now() == pytest.approx(sum(one.delay for one in told), abs=0.01)


async def test_what_may_not_be_repeated_is_not() -> None:
    """An error that is not retryable is raised as it is, and nobody pauses."""
    events: list[Event] = []
    error = BadRequestError("no")
    with pytest.raises(BadRequestError) as caught:
        await calls(events.append).call(REQUEST, failing(error))
    assert caught.value is error
    assert events == []


async def test_a_refusal_is_waited_for_once() -> None:
    """After 429 the limiter's pause is the whole wait before the repetition."""
    events: list[Event] = []
    refusal = RateLimitError("slow down", retry_after=20.0, retryable=True)
    at = await calls(events.append).call(REQUEST, failing(refusal))
    assert at == pytest.approx(20, abs=0.5)
    assert [type(event) for event in events] == [Paused, Retrying]


async def test_a_refusal_asks_for_ages() -> None:
    """A pause for those who come after is no longer than the policy's longest wait."""
    some = calls(retry=Retry(attempts=1, cap=30.0))
    refusal = RateLimitError("slow down", retry_after=9999.0, retryable=True)
    with pytest.raises(RateLimitError):
        await some.call(REQUEST, failing(refusal))
    assert await some.call(REQUEST, failing()) == pytest.approx(30, abs=0.1)


async def test_the_deadline_counts_from_the_first_sending() -> None:
    """The wait for the limits is none of the deadline's."""
    some = calls(retry=Retry(deadline=10.0, base=0.01), requests_per_minute=2)
    for _ in range(2):
        await some.call(REQUEST, failing())
    assert await some.call(REQUEST, failing(ServerError("again", retryable=True))) > 30


async def test_a_place_is_free_while_it_waits() -> None:
    """Between two tries a call takes none of the places for requests under way."""
    some = calls(retry=Retry(base=60.0), requests_per_minute=400)
    trouble = [ServerError("busy", retry_after=50.0, retryable=True) for _ in range(4)]
    waiting = [asyncio.create_task(some.call(REQUEST, failing(error))) for error in trouble]
    await asyncio.sleep(1)
    assert await some.call(REQUEST, failing()) < 2
    assert min(await asyncio.gather(*waiting)) >= 50


async def test_a_hook_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """A hook that raises is logged with its traceback, and the others are told all the same."""
    events: list[Event] = []

    def bad(_: Event) -> None:
        raise ZeroDivisionError

    calls(bad, events.append).tell(Paused, 1.0)
    assert events == [Paused(1.0)]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "a hook failed on Paused"
    assert record.exc_info is not None


async def test_without_hooks_no_event_is_made() -> None:
    """Where nobody listens, an event is not even made."""

    def made(_: float) -> Paused:
        raise AssertionError

    calls().tell(made, 1.0)
