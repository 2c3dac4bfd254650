"""Very many inputs: drawn when they can soon be submitted, told as they finish, ended in order.

One feeder draws the inputs. It waits while enough are on their way, while some still stand
before the limits, and while the caller has not taken what has finished. So a generator of a
million inputs stays flat in memory, however slow the account or the caller is.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
)
from contextlib import aclosing, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from attrs import frozen

from kling_async.errors import ConfigurationError, KlingError
from kling_async.inputs import Input
from kling_async.results import Result, TaskRef

if TYPE_CHECKING:
    from kling_async.abandoned import AbandonedTasks

__all__ = ["FanOut", "Flight", "Outcome", "draw"]

_T = TypeVar("_T")


@frozen
class Outcome:
    """What became of one input among many. Either ``result`` or ``error`` is set, or both.

    Attributes:
        index: The place of the input among those given, from 0.
        input: What was asked for.
        task_ref: The remote task, if the service is known to have accepted one.
        result: What it gave.
        error: Why there is no result; with a batch also why a result was not saved.
        key: The caller's name for it, in a batch.
        files: What a batch has saved, in the order of the result's URLs.
        elsewhere: Another worker that shares the batch's journal has done it meanwhile, and
            tells it, too. Its files are where that worker runs.
    """

    index: int
    input: Input
    task_ref: TaskRef | None = None
    result: Result | None = None
    error: KlingError | None = None
    key: str | None = None
    files: tuple[Path, ...] = ()
    elsewhere: bool = False


async def draw(items: Iterable[_T] | AsyncIterable[_T]) -> AsyncGenerator[_T]:
    """Draw from an iterable of either kind."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


class _Crowd:
    """How many are where, of all flights of one fan-out."""

    def __init__(self) -> None:
        self.entering = self.flying = self.aside = 0
        self.room: asyncio.Event = asyncio.Event()


class Flight(Generic[_T]):
    """One item on its way, as the work on it sees it. It is the witness of its own submit.

    Attributes:
        index: Its place among the items, from 0.
        item: What was drawn.
        ref: The remote task, as soon as there is one.
        patience: Seconds for which its submit is repeated during an outage.
    """

    patience: float | None = None

    def __init__(self, index: int, item: _T, crowd: _Crowd) -> None:
        self.index = index
        self.item = item
        self.ref: TaskRef | None = None
        self._crowd = crowd
        self._entered = self._landed = False
        crowd.entering += 1
        crowd.flying += 1

    def enter(self) -> None:
        """Say that it stands before no limit any more: the next may come to the door."""
        if not self._entered:
            self._entered = True
            self._crowd.entering -= 1
            self._crowd.room.set()

    def land(self) -> None:
        """Say that its remote task has ended: another may be in flight in its place."""
        self.enter()
        if not self._landed:
            self._landed = True
            self._crowd.flying -= 1
            self._crowd.room.set()

    def stand_aside(self) -> None:
        """Say that it waits for somebody else: it takes nobody's place, until it goes on."""
        self.enter()
        self._crowd.flying -= 1
        self._crowd.aside += 1
        self._crowd.room.set()

    def go_on(self) -> None:
        """Say that it waits no more, and is in flight, whatever else is."""
        self._crowd.aside -= 1
        self._crowd.flying += 1

    async def sending(self) -> None:
        """Do nothing: who keeps no books has nothing to write."""

    async def refused(self, error: KlingError) -> None:
        """Do nothing."""

    async def accepted(self, ref: TaskRef) -> None:
        """Keep the reference."""
        self.ref = ref


class FanOut(Generic[_T]):
    """Carries many items at once through the same work; good for one run.

    Args:
        work: What is done with an item. What it raises ends everything and is raised; what
            it returns is told, unless that is None.
        in_flight: How many may be drawn and not have landed, or have landed and not been told.
        at_the_door: How many of those may stand before the limits.
        ordered: Tell the outcomes in the order of the items.
    """

    def __init__(
        self,
        work: Callable[[Flight[_T]], Awaitable[Outcome | None]],
        *,
        in_flight: int,
        at_the_door: int,
        ordered: bool,
    ) -> None:
        if not isinstance(in_flight, int) or in_flight < 1:
            raise ConfigurationError(f"in_flight must be at least 1, not {in_flight!r}")
        self._work = work
        self._in_flight = in_flight
        self._at_the_door = at_the_door
        self._ordered = ordered
        self._flights: dict[Flight[_T], asyncio.Task[None]] = {}
        self._ended: dict[int, Outcome | None] = {}
        self._next = 0  # the index that is to be told next, if in order
        self._crash: BaseException | None = None
        self._drawn_all = self._stopped = False
        self._crowd = _Crowd()
        self._news = asyncio.Event()

    async def outcomes(
        self,
        items: Iterable[_T] | AsyncIterable[_T],
        answered: Callable[[], Awaitable[object]],
        abandoned: AbandonedTasks,
    ) -> AsyncGenerator[Outcome]:
        """Yield what becomes of each item.

        Args:
            items: What to draw from. What it raises ends everything, and is raised.
            answered: Waits until every submit under way has been answered.
            abandoned: Reports the tasks whose outcomes are not yielded, if this ends early.
        """
        self._feeder = asyncio.create_task(self._feed(items))
        try:
            while (index := await self._news_of()) is not None:
                outcome = self._ended.pop(index)
                self._crowd.room.set()
                if outcome is not None:
                    yield outcome
        finally:
            abandoned.report(await self._end(answered), self._crash)
        if self._crash is not None:
            raise self._crash

    async def _feed(self, items: Iterable[_T] | AsyncIterable[_T]) -> None:
        with self._ending_all(), suppress(StopAsyncIteration):
            indices = count()
            async with aclosing(draw(items)) as source:
                while True:
                    while self._is_full():
                        self._crowd.room.clear()
                        await self._crowd.room.wait()
                    flight = Flight(next(indices), await anext(source), self._crowd)
                    self._flights[flight] = asyncio.create_task(self._fly(flight))
        self._drawn_all = True
        self._news.set()

    def _is_full(self) -> bool:
        landed = len(self._flights) - self._crowd.flying - self._crowd.aside
        return (
            self._crowd.entering >= self._at_the_door
            or self._crowd.flying >= self._in_flight
            or landed + len(self._ended) >= self._in_flight
        )

    async def _fly(self, flight: Flight[_T]) -> None:
        outcome = None
        with self._ending_all():
            outcome = await self._work(flight)
        del self._flights[flight]
        self._ended[flight.index] = outcome
        flight.land()
        self._news.set()

    @contextmanager
    def _ending_all(self) -> Iterator[None]:
        """End everything at once with what is raised: the caller may be busy, and gets it later."""
        try:
            yield
        except (Exception, asyncio.CancelledError) as crash:
            if not self._stopped:  # else it is our own cancellation, or comes of it
                self._crash = crash
                self._stop()
                self._news.set()
            raise

    def _stop(self) -> None:
        """Cancel everything of ours, once: a second time would cut short what must be tidied up."""
        if not self._stopped:
            self._stopped = True
            for work in (self._feeder, *self._flights.values()):
                work.cancel()

    async def _news_of(self) -> int | None:
        """Return the index of the next that has ended, or None when there will be no more."""
        while True:
            index = self._next if self._ordered else next(iter(self._ended), None)
            if index in self._ended:
                self._next += 1
                return index
            if self._crash is not None or (self._drawn_all and not self._flights):
                return min(self._ended, default=None)  # late ones that stood behind the crash
            self._news.clear()
            await self._news.wait()

    async def _end(self, answered: Callable[[], Awaitable[object]]) -> tuple[TaskRef, ...]:
        """Stop everything of ours; return the tasks whose outcomes nobody has been told."""
        untold = [outcome.task_ref for outcome in self._ended.values() if outcome]
        flights = dict(self._flights)
        self._stop()
        await asyncio.gather(self._feeder, *flights.values(), return_exceptions=True)
        if flights:
            await answered()
        # What they raised holds frames, which hold the caller's iterable, and this.
        self._flights.clear()
        del self._feeder
        refs = (*untold, *(flight.ref for flight in flights))
        return tuple(ref for ref in refs if ref is not None)
