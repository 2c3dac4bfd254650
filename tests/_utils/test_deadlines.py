"""Deadlines that share a timer behave as those of asyncio, each of which has its own."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_async._utils.deadlines import Deadline, Deadlines
from kling_async.testing import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.virtual_time


def now() -> float:
    """Give the loop's time."""
    return asyncio.get_running_loop().time()


async def test_in_time() -> None:
    """Who is out before the moment is left alone, also when it comes."""
    with Deadline(Deadlines(), now() + 5):
        await asyncio.sleep(4)
    await asyncio.sleep(4)
    assert now() == pytest.approx(8, abs=1e-3)


async def wait(deadlines: Deadlines, seconds: float, deadline: float) -> None:
    """Wait some seconds inside of a deadline that is so many seconds away."""
    with Deadline(deadlines, now() + deadline):
        await asyncio.sleep(seconds)


async def test_too_late() -> None:
    """Who is not is cancelled at the moment, and sees a TimeoutError."""
    with pytest.raises(TimeoutError) as caught:
        await wait(Deadlines(), 60, 5)
    assert now() == pytest.approx(5, abs=1e-3)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    await asyncio.sleep(60)  # and it is over with the cancelling


async def test_over_from_the_start() -> None:
    """A moment that has passed already cancels the first wait, however short that is."""
    with pytest.raises(TimeoutError):
        await wait(Deadlines(), 0, -5)
    assert now() < 1


async def test_errors_go_first() -> None:
    """What goes wrong inside is not hidden by the deadline, before it or because of it."""
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


async def test_whoever_else_cancels_goes_first() -> None:
    """A caller who cancels in the moment of the deadline sees that he has."""
    task = asyncio.create_task(wait(Deadlines(), 60, 5))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_at(5, task.cancel)
    await asyncio.wait([task])
    assert task.cancelled()


@pytest.mark.parametrize(("outer", "inner"), [(5, 9), (5, 5), (9, 5)])
async def test_one_inside_of_another(outer: float, inner: float) -> None:
    """The one that comes first speaks; of two at one moment, the outer one."""
    deadlines = Deadlines()
    spoke = ""
    begun = now()
    try:
        with Deadline(deadlines, begun + outer):
            try:
                with Deadline(deadlines, begun + inner):
                    await asyncio.sleep(60)
            except TimeoutError:
                spoke = "inner"
            await asyncio.sleep(1)
    except TimeoutError:
        spoke = "outer"
    assert spoke == ("inner" if inner < outer else "outer")
    assert now() - begun == pytest.approx(min(outer, inner + 1), abs=1e-3)


async def life(deadline: object, begin: float, take: float) -> tuple[str, float]:
    """Begin at a moment, take some seconds, and tell how and when it ended."""
    await asyncio.sleep(begin)
    try:
        if isinstance(deadline, Deadline):
            with deadline:
                await asyncio.sleep(take)
        else:
            assert isinstance(deadline, asyncio.Timeout)
            async with deadline:
                await asyncio.sleep(take)
    except TimeoutError:
        return "late", now()
    return "done", now()


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 40)),
        min_size=1,
        max_size=20,
    ).map(lambda lives: [(begin, take + 0.5, when + 0.25) for begin, take, when in lives])
)
def test_as_those_of_asyncio(lives: list[tuple[int, float, float]]) -> None:
    """Whatever begins, ends and is due when: each is late or done as with a timer of its own."""

    async def all_of(make: Callable[[float], object]) -> list[tuple[str, float]]:
        begun = now()
        ends = await asyncio.gather(
            *(life(make(begun + when), begin, take) for begin, take, when in lives)
        )
        return [(how, round(at - begun, 2)) for how, at in ends]

    deadlines = Deadlines()
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        ours = runner.run(all_of(lambda when: Deadline(deadlines, when)))
        theirs = runner.run(all_of(asyncio.timeout_at))
    assert ours == theirs
    assert not deadlines.queue


class Watched(Deadlines):
    """Deadlines of which it can be seen whether anybody holds them."""

    __slots__ = ("__weakref__",)


# ------------------------------------------------------------------ a blocked loop, and closing


def block(seconds: float) -> None:
    """Let the virtual clock go on while the loop does nothing, as blocking code does."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop._virtual.now += seconds  # noqa: SLF001 - nothing else moves it


@pytest.mark.parametrize(("blocked", "outcome"), [(0.0, None), (5.05, None), (5.2, "answer")])
async def test_a_blocked_loop(blocked: float, outcome: str | None) -> None:
    """If the loop was blocked when the moment came, there is a second more, else none."""
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
    """The second more is given once, though the loop is blocked again."""
    loop = asyncio.get_running_loop()
    loop.call_later(0, block, 6.0)
    loop.call_later(6.5, block, 3.0)
    with pytest.raises(TimeoutError):
        await wait(Deadlines(), 60, 5)
    assert now() == pytest.approx(9.5, abs=0.01)


async def test_others_while_the_loop_was_blocked() -> None:
    """Each whose moment came while the loop was blocked has a second more; a later one its time."""
    deadlines = Deadlines()
    asyncio.get_running_loop().call_later(0, block, 10.0)

    async def late(deadline: float) -> float:
        with pytest.raises(TimeoutError):
            await wait(deadlines, 60, deadline)
        return now()

    ends = await asyncio.gather(*map(late, (5.0, 9.95, 10.5, 12.0)))
    assert ends == pytest.approx([11.0, 11.0, 10.5, 12.0], abs=0.01)


async def test_closing() -> None:
    """Closing ends all that are inside at once, as closed; the next one is not concerned."""
    deadlines, closed = Deadlines(), []
    deadlines.close()  # nothing is inside

    async def inside(deadline: Deadline) -> None:
        with pytest.raises(TimeoutError), deadline:
            await asyncio.sleep(60)
        closed.append(deadline.closed)

    inner = [Deadline(deadlines, now() + moment) for moment in (5, 50)]
    async with asyncio.TaskGroup() as group:
        for one in inner:
            group.create_task(inside(one))
        await asyncio.sleep(1)
        deadlines.close()
    assert now() == pytest.approx(1, abs=0.01)
    assert closed == [True, True]
    assert not deadlines.queue
    after = Deadline(deadlines, now() + 5)
    await inside(after)
    assert closed == [True, True, False]


def test_closing_from_another_loop() -> None:
    """Closing on a loop that has never used it leaves those of the last loop alone."""
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


# ------------------------------------------------------------------------------------- what is left


async def test_nothing_is_left_behind() -> None:
    """When nobody is inside any more, no timer holds on to anything."""
    deadlines = Watched()
    left = weakref.ref(deadlines)
    await asyncio.gather(*(wait(deadlines, seconds, 1800) for seconds in range(10)))
    del deadlines
    gc.collect()
    assert left() is None


async def test_the_queue_is_swept() -> None:
    """While some wait for long, thousands who come and go leave no trail, and harm nobody."""
    deadlines, random = Deadlines(), Random(1)  # noqa: S311 - no secret

    async def late(deadline: float) -> float:
        begun = now()
        with pytest.raises(TimeoutError):
            await wait(deadlines, 9_000, deadline)
        return now() - begun

    moments = [random.uniform(1_000, 2_000) for _ in range(50)]
    waiting = [asyncio.create_task(late(moment)) for moment in moments]
    await asyncio.sleep(0)
    for _ in range(5_000):
        with Deadline(deadlines, now() + random.uniform(500, 3_000)):
            assert len(deadlines.queue) <= 101 + 2 * len(deadlines.inside) == 203
    assert await asyncio.gather(*waiting) == pytest.approx(moments, abs=1e-3)


def test_on_another_loop() -> None:
    """What the last loop has left neither counts nor wakes anybody on the next."""
    deadlines = Deadlines()
    left = VirtualLoop()
    task = left.create_task(wait(deadlines, 60, 5))
    left.run_until_complete(asyncio.sleep(1))
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(wait(deadlines, 4, 5))
        assert not deadlines.inside
        with pytest.raises(TimeoutError):
            runner.run(wait(deadlines, 60, 5))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        left.run_until_complete(task)
    left.close()
    with asyncio.Runner(loop_factory=VirtualLoop) as runner, pytest.raises(TimeoutError):
        runner.run(wait(deadlines, 60, 5))
