"""Deadlines behave as those of asyncio, and allow for a blocked event loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_async._utils.loops import Deadline, Deadlines, DeadlinesClosedError
from kling_async.testing import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.virtual_time


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


async def test_in_time() -> None:
    """A block that ends in time is not cancelled later."""
    with Deadline(Deadlines(), now() + 5):
        await asyncio.sleep(4)
    await asyncio.sleep(4)
    assert now() == pytest.approx(8, abs=1e-3)


async def wait(deadlines: Deadlines, seconds: float, deadline: float) -> None:
    """Wait in a block with a deadline in so many seconds."""
    with Deadline(deadlines, now() + deadline):
        await asyncio.sleep(seconds)


async def test_too_late() -> None:
    """A block that is late is cancelled at the moment, and raises TimeoutError."""
    with pytest.raises(TimeoutError) as caught:
        await wait(Deadlines(), 60, 5)
    assert now() == pytest.approx(5, abs=1e-3)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    await asyncio.sleep(60)


async def test_over_from_the_start() -> None:
    """A moment in the past cancels the first wait, however short it is."""
    with pytest.raises(TimeoutError):
        await wait(Deadlines(), 0, -5)
    assert now() < 1


async def test_errors_go_first() -> None:
    """An exception in the block is not replaced, before the deadline or after."""
    deadlines = Deadlines()

    async def fail(seconds: float) -> None:
        with Deadline(deadlines, now() + 5):
            try:
                await asyncio.sleep(seconds)
            finally:
                raise LookupError

    for seconds in (1, 60):
        with pytest.raises(LookupError):
            await fail(seconds)
        await asyncio.sleep(60)


async def test_a_cancellation_at_the_deadline() -> None:
    """A task that is cancelled at the moment of the deadline ends as cancelled."""
    task = asyncio.create_task(wait(Deadlines(), 60, 5))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_at(5, task.cancel)
    await asyncio.wait([task])
    assert task.cancelled()


@pytest.mark.parametrize(("outer", "inner"), [(5, 9), (5, 5), (9, 5)])
async def test_one_inside_of_another(outer: float, inner: float) -> None:
    """The earlier deadline raises; of two at one moment, the outer one."""
    deadlines = Deadlines()
    raised = ""
    begun = now()
    try:
        with Deadline(deadlines, begun + outer):
            try:
                with Deadline(deadlines, begun + inner):
                    await asyncio.sleep(60)
            except TimeoutError:
                raised = "inner"
            await asyncio.sleep(1)
    except TimeoutError:
        raised = "outer"
    assert raised == ("inner" if inner < outer else "outer")
    assert now() - begun == pytest.approx(min(outer, inner + 1), abs=1e-3)


async def life(make: Callable[[], object], begin: float, take: float) -> tuple[str, float]:
    """Begin at a moment, take some seconds, and return how and when it ended."""
    await asyncio.sleep(begin)
    deadline = make()
    try:
        if isinstance(deadline, asyncio.Timeout):
            async with deadline:
                await asyncio.sleep(take)
        else:
            assert isinstance(deadline, AbstractContextManager)
            with deadline:
                await asyncio.sleep(take)
    except TimeoutError:
        return "late", now()
    return "done", now()


@pytest.mark.repeating
@pytest.mark.slow
@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 40)),
        min_size=1,
        max_size=20,
    ).map(lambda lives: [(begin, take + 0.5, when + 0.25) for begin, take, when in lives])
)
def test_as_those_of_asyncio(lives: list[tuple[int, float, float]]) -> None:
    """Each block ends as with `asyncio.timeout_at`."""

    async def all_of(make: Callable[[float], object]) -> list[tuple[str, float]]:
        begun = now()
        ends = await asyncio.gather(
            *(life(partial(make, begun + when), begin, take) for begin, take, when in lives)
        )
        return [(how, round(at - begun, 2)) for how, at in ends]

    deadlines = Deadlines()
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        ours = runner.run(all_of(partial(Deadline, deadlines)))
        theirs = runner.run(all_of(asyncio.timeout_at))
    assert ours == theirs
    assert not deadlines.active


# ------------------------------------------------------------------ a blocked loop, and closing


def block(seconds: float) -> None:
    """Advance the virtual clock while the loop does nothing, as blocking code does."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop._virtual.now += seconds  # noqa: SLF001 - nothing else moves it


@pytest.mark.parametrize(("blocked", "outcome"), [(0.0, None), (5.05, None), (5.2, "answer")])
async def test_a_blocked_loop(blocked: float, outcome: str | None) -> None:
    """If the loop was blocked at the moment, the deadline is extended by a second."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()
    loop.call_later(0, block, blocked)
    loop.call_later(max(5.0, blocked) + 0.5, answer.set_result, "answer")
    got = None
    with contextlib.suppress(TimeoutError), Deadline(Deadlines(), now() + 5):
        got = await answer
    assert got == outcome
    assert now() == pytest.approx(max(5.0, blocked) + (0.5 if outcome else 0.0), abs=0.01)


async def test_a_blocked_loop_extends_once() -> None:
    """A deadline is extended once, also if the loop is blocked again."""
    loop = asyncio.get_running_loop()
    loop.call_later(0, block, 6.0)
    loop.call_later(6.5, block, 3.0)
    with pytest.raises(TimeoutError):
        await wait(Deadlines(), 60, 5)
    assert now() == pytest.approx(9.5, abs=0.01)


async def test_others_while_the_loop_was_blocked() -> None:
    """All that were due while the loop was blocked are extended, later ones are not."""
    deadlines = Deadlines()
    asyncio.get_running_loop().call_later(0, block, 10.0)

    async def late(deadline: float) -> float:
        with pytest.raises(TimeoutError):
            await wait(deadlines, 60, deadline)
        return now()

    ends = await asyncio.gather(*map(late, (5.0, 9.95, 10.5, 12.0)))
    assert ends == pytest.approx([11.0, 11.0, 10.5, 12.0], abs=0.01)


async def test_closing() -> None:
    """Closing lets all active deadlines expire as closed; later ones are not affected."""
    deadlines, closed = Deadlines(), []
    deadlines.close()  # nothing is inside

    async def inside(seconds: float) -> None:
        with pytest.raises(TimeoutError) as caught, Deadline(deadlines, now() + seconds):
            await asyncio.sleep(60)
        closed.append(isinstance(caught.value, DeadlinesClosedError))

    async with asyncio.TaskGroup() as group:
        for seconds in (5, 50):
            group.create_task(inside(seconds))
        await asyncio.sleep(1)
        deadlines.close()
        deadlines.close()  # nothing is cancelled twice
    assert now() == pytest.approx(1, abs=0.01)
    assert closed == [True, True]
    assert not deadlines.active
    await inside(5)
    assert closed == [True, True, False]


def test_closing_from_another_loop() -> None:
    """Closing affects the deadlines of the running loop only."""
    deadlines = Deadlines()
    left = VirtualLoop()
    task = left.create_task(wait(deadlines, 4, 5))
    left.run_until_complete(asyncio.sleep(1))

    async def close() -> None:
        deadlines.close()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(close())
    left.run_until_complete(task)
    left.close()


async def test_clean_up_after_the_deadline() -> None:
    """A block that cleans up for long after its deadline does not extend other deadlines."""
    deadlines = Deadlines()

    async def clean_up() -> None:
        with Deadline(deadlines, now() + 5):
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(20)

    async def late(deadline: float) -> float:
        with pytest.raises(TimeoutError):
            await wait(deadlines, 60, deadline)
        return now()

    cleaning = asyncio.create_task(clean_up())
    assert await asyncio.gather(*map(late, (8.0, 9.0))) == pytest.approx([8.0, 9.0], abs=0.01)
    with pytest.raises(TimeoutError):
        await cleaning
    assert now() == pytest.approx(25, abs=0.01)


# ------------------------------------------------------------------------------------- what is left


async def test_nothing_is_left_behind() -> None:
    """After the last block has ended, no timer refers to the group."""
    deadlines = Deadlines()
    left = weakref.ref(deadlines)
    await asyncio.gather(*(wait(deadlines, seconds, 1800) for seconds in range(10)))
    del deadlines
    gc.collect()
    assert left() is None


def test_on_another_loop() -> None:
    """Deadlines of an earlier loop do not affect those of the next."""
    deadlines = Deadlines()
    left = VirtualLoop()
    task = left.create_task(wait(deadlines, 60, 5))
    left.run_until_complete(asyncio.sleep(1))
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(wait(deadlines, 4, 5))
        (active,) = deadlines.active
        assert active.task is task
        with pytest.raises(TimeoutError):
            runner.run(wait(deadlines, 60, 5))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        left.run_until_complete(task)
    left.close()
    with asyncio.Runner(loop_factory=VirtualLoop) as runner, pytest.raises(TimeoutError):
        runner.run(wait(deadlines, 60, 5))
