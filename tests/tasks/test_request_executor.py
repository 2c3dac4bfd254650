from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import pytest

from kling_async import Limits, MasterTextToVideo, Retry, TaskRef
from kling_async.errors import (
    BadRequestError,
    ClientClosedError,
    KlingError,
    RateLimitError,
    ServerError,
)
from kling_async.events import Event, Paused, Retrying
from kling_async.limits.local import LocalLimiter
from kling_async.protocol import requests, responses
from kling_async.tasks.request_executor import Failed, RequestExecutor
from kling_async.testing import ScriptedTransport
from kling_async.testing.transport import answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kling_async.limits.base import Permit
    from kling_async.testing.transport import Request, Response

pytestmark = pytest.mark.virtual_time

REQUEST = requests.build_balance()
STATUS = requests.build_status(TaskRef("kling-2-1", "task_1"))
SUBMIT = requests.build_submit(MasterTextToVideo("a fox"))


def now() -> float:
    """Give the loop's time."""
    return asyncio.get_running_loop().time()


def create_executor(
    *hooks: Callable[[Event], object],
    retry: Retry | None = None,
    script: Callable[[Request], Response | Awaitable[Response]] = lambda _: answer(1),
    **limits: int,
) -> RequestExecutor:
    """Create an executor with a limiter of its own."""
    transport = ScriptedTransport(script)
    return RequestExecutor(transport, LocalLimiter(Limits(**limits)), retry or Retry(), hooks)


class Sending:
    """Fails with one error after another, then returns the time; gives its permits back."""

    def __init__(self, *errors: KlingError, takes: float = 0.0) -> None:
        self.errors = list(errors)
        self.takes = takes
        self.permits: list[Permit] = []

    async def __call__(self, permit: Permit) -> float | Failed:
        self.permits.append(permit)
        await asyncio.sleep(self.takes)
        permit.answered()
        return Failed(self.errors.pop(0)) if self.errors else now()


def busy(words: str = "", retry_after: float | None = None) -> RateLimitError:
    """Make the error of a 429."""
    return RateLimitError("429", message=words, retry_after=retry_after, retryable=True)


async def test_what_may_be_repeated_is() -> None:
    """A call is repeated until it succeeds, and each repetition is reported beforehand."""
    events: list[Event] = []
    trouble = [ServerError("1", retryable=True), ServerError("2", retryable=True)]
    await create_executor(events.append).execute(REQUEST, Sending(*trouble))
    reported = [event for event in events if isinstance(event, Retrying)]
    assert [(one.what, one.error, one.attempt) for one in reported] == [
        ("balance", trouble[0], 1),
        ("balance", trouble[1], 2),
    ]
    assert now() == pytest.approx(sum(one.delay for one in reported), abs=0.01)


async def test_what_may_not_be_repeated_is_not() -> None:
    """An error that is not retryable is raised as it is, and no request waits for it."""
    events: list[Event] = []
    error = BadRequestError("no")
    with pytest.raises(BadRequestError) as caught:
        await create_executor(events.append).execute(REQUEST, Sending(error))
    assert caught.value is error
    assert events == []


@pytest.mark.parametrize("error", [ServerError("mine", retryable=True), ZeroDivisionError()])
async def test_what_is_raised_on_the_way_is_not_repeated(error: Exception) -> None:
    """Only a request that failed is repeated: what the sending raises is raised at once."""
    events: list[Event] = []
    sent = 0

    async def once(permit: Permit) -> float | Failed:
        nonlocal sent
        sent += 1
        permit.answered()
        raise error

    with pytest.raises(type(error)) as caught:
        await create_executor(events.append).execute(REQUEST, once)
    assert caught.value is error
    assert (sent, events) == (1, [])


async def test_what_comes_before_each_sending() -> None:
    """The preparation is awaited before each sending, and before it takes a permit."""
    executor = create_executor(requests_per_minute=1)
    prepared: list[float] = []
    attempts: list[int] = []

    async def prepare(attempt: int) -> None:
        prepared.append(now())
        attempts.append(attempt)

    sending = Sending(ServerError("again", retryable=True))
    assert await executor.execute(REQUEST, sending, prepare=prepare) > 60
    assert len(prepared) == len(sending.permits) == 2
    assert attempts == [1, 2]
    assert prepared[1] < 1
    assert sending.permits[1].granted_at > 60


async def test_reading() -> None:
    """A read returns what its answer says; the permit is given back, also after a failure."""
    answers = iter([answer(None, status=503), answer(7.5)])
    executor = create_executor(requests_per_minute=1, script=lambda _: next(answers))
    parse = partial(responses.parse_balance, REQUEST)
    read = await executor.execute(REQUEST, partial(executor.send, REQUEST, parse))
    assert read == 7.5
    assert now() == pytest.approx(60, abs=1)  # the window: both permits were given back


# ---------------------------------------------------------------------------------------------- 429


async def test_a_cancelled_read_counts_for_longer() -> None:
    """The permit of a cancelled request is kept until its answer would have come, or failed."""

    async def hang(_: Request) -> Response:
        await asyncio.sleep(20)
        return answer(1)

    executor = create_executor(requests_per_minute=1, script=hang)
    send = partial(executor.send, REQUEST, lambda _, now: now)
    read = partial(executor.execute, REQUEST, send)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await read()
    await read()
    assert now() == pytest.approx(5 + 30 + 60 + 20, abs=1)


async def test_a_refusal_is_waited_for_once() -> None:
    """After 429 the limiter's pause is the whole wait before the repetition."""
    events: list[Event] = []
    at = await create_executor(events.append).execute(REQUEST, Sending(busy(retry_after=20.0)))
    assert at == pytest.approx(20, abs=0.5)
    assert [type(event) for event in events] == [Paused, Retrying]


async def test_a_refusal_asks_for_ages() -> None:
    """A pause for those who come after is no longer than the policy's longest wait."""
    executor = create_executor(retry=Retry(attempts=1, cap=30.0))
    with pytest.raises(RateLimitError):
        await executor.execute(REQUEST, Sending(busy(retry_after=9999.0)))
    assert await executor.execute(REQUEST, Sending()) == pytest.approx(30, abs=0.1)


@pytest.mark.parametrize(
    ("request_", "error", "pauses"),
    [
        (STATUS, busy(), True),
        (STATUS, busy("too many concurrent tasks"), True),
        (STATUS, busy(retry_after=20.0), True),
        (SUBMIT, busy(), False),
        (SUBMIT, busy("slow down"), False),
        (SUBMIT, busy("slow down", 20.0), True),
        (SUBMIT, busy("Concurrency limit reached", 20.0), False),
        (SUBMIT, busy("20 videos are RUNNING", 20.0), False),
        (SUBMIT, busy("too many tasks", 20.0), False),
    ],
)
async def test_what_a_429_pauses(request_: Request, error: RateLimitError, *, pauses: bool) -> None:
    """A 429 pauses all requests, but for that of a submit which may concern the running tasks."""
    events: list[Event] = []
    executor = create_executor(events.append, retry=Retry(base=30.0))
    await executor.execute(request_, Sending(error))
    assert [type(event) for event in events] == [Paused, Retrying][not pauses :]
    if not pauses:
        assert now() < 0.1  # it is the slots that a submit waits for
    elif error.retry_after:
        assert now() > 20


@pytest.mark.parametrize(("request_", "seconds"), [(SUBMIT, 1000.0), (STATUS, 180.0)])
async def test_how_long_a_429_is_repeated(request_: Request, seconds: float) -> None:
    """A 429 is repeated however often: a submit's for the patience, a read's for the deadline."""
    executor = create_executor(retry=Retry(attempts=2, patience=1000.0))
    refusals = [busy("slow down", 30.0) for _ in range(100)]
    with pytest.raises(RateLimitError):
        await executor.execute(request_, Sending(*refusals))
    assert seconds - 60 < now() <= seconds


async def test_patience() -> None:
    """With patience any failure is repeated for that time, however often."""
    executor = create_executor(retry=Retry(attempts=2, deadline=1.0, cap=10.0))
    trouble = [ServerError("down", retryable=True) for _ in range(1000)]
    with pytest.raises(ServerError):
        await executor.execute(SUBMIT, Sending(*trouble), patience=500.0)
    assert 480 < now() <= 500


async def test_the_deadline_counts_from_the_first_sending() -> None:
    """The wait for the limits is no part of the deadline."""
    executor = create_executor(retry=Retry(deadline=10.0, base=0.01), requests_per_minute=2)
    for _ in range(2):
        await executor.execute(REQUEST, Sending())
    assert await executor.execute(REQUEST, Sending(ServerError("again", retryable=True))) > 30


async def test_a_place_is_free_while_it_waits() -> None:
    """Between two tries a call takes none of the places for requests under way."""
    executor = create_executor(retry=Retry(base=60.0), requests_per_minute=400)
    trouble = [ServerError("busy", retry_after=50.0, retryable=True) for _ in range(4)]
    waiting = [asyncio.create_task(executor.execute(REQUEST, Sending(error))) for error in trouble]
    await asyncio.sleep(1)
    assert await executor.execute(REQUEST, Sending()) < 2
    assert min(await asyncio.gather(*waiting)) >= 50


# ------------------------------------------------------------------------------------------ closing


@pytest.mark.parametrize("request_", [STATUS, REQUEST])
async def test_interrupted_while_it_waits(request_: Request) -> None:
    """A call that waits for a permit or its next try when the client is closed sends no more."""
    executor = create_executor(requests_per_minute=1)
    retried, pending = Sending(ServerError("again", retryable=True)), Sending()
    both = [asyncio.create_task(executor.execute(request_, one)) for one in (retried, pending)]
    await asyncio.sleep(0.1)
    executor.interrupt()
    for error in await asyncio.gather(*both, return_exceptions=True):
        assert isinstance(error, ClientClosedError)
        assert error.ref == request_.ref
        assert error.may_have_charged is (request_.ref is not None)
    assert len(retried.permits) == 1
    assert not pending.permits
    assert await executor.execute(request_, Sending()) < 200  # and no permit is lost


async def test_interrupted_while_it_is_answered() -> None:
    """A call whose request is under way then returns its answer."""
    executor = create_executor()
    sent = asyncio.create_task(executor.execute(REQUEST, Sending(takes=5.0)))
    await asyncio.sleep(1)
    executor.interrupt()
    assert await sent == pytest.approx(5, abs=0.1)
