"""Very many inputs: drawn when they can soon be submitted, told as they finish, ended in order.

One feeder draws the inputs. It waits while enough are on their way, while some still stand
before the limits, and while the caller has not taken what has finished. So a generator of a
million inputs stays flat in memory, however slow the account or the caller is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import aclosing, contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from attrs import frozen

from kling_async._utils.cleanups import outlive
from kling_async.errors import ConfigurationError, InputError, KlingError
from kling_async.inputs.base import Input
from kling_async.results import Result, TaskRef

if TYPE_CHECKING:
    from kling_async._utils.cleanups import Cleanups
    from kling_async.tasks.abandoned import AbandonedTasks

_T = TypeVar("_T")

_log = logging.getLogger("kling_async")


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
        done_by_other: Another worker that shares the batch's journal has done it meanwhile, and
            tells it, too. Its files are where that worker runs.
    """

    index: int
    input: Input
    task_ref: TaskRef | None = None
    result: Result | None = None
    error: KlingError | None = None
    key: str | None = None
    files: tuple[Path, ...] = ()
    done_by_other: bool = False


async def draw(items: Iterable[_T] | AsyncIterable[_T]) -> AsyncGenerator[_T]:
    """Yield from an iterable of either kind; if it is a generator, it is closed with this one."""
    if isinstance(items, AsyncIterable):
        arriving = aiter(items)
        try:
            async for item in arriving:
                yield item
        finally:
            if isinstance(arriving, AsyncGenerator):
                await arriving.aclose()
    else:
        with closing_generator(iter(items)) as ready:
            for item in ready:
                yield item


@contextmanager
def closing_generator(items: Iterator[_T]) -> Iterator[Iterator[_T]]:
    """Close an iterator at the end, if it is a generator: only that one has code left to run."""
    try:
        yield items
    finally:
        if isinstance(items, Generator):
            items.close()


def check_inputs(inputs: object) -> None:
    """Check that this can be iterated over for inputs, before anything is sent.

    Raises:
        InputError: It is a single input, a text, a mapping, a class, or not iterable at all.
    """
    iterable = isinstance(inputs, Iterable | AsyncIterable) or hasattr(inputs, "__getitem__")
    if iterable and not isinstance(inputs, str | bytes | bytearray | Mapping | type):
        return
    seen = inputs.__name__ if isinstance(inputs, type) else type(inputs).__name__
    raise InputError(
        "pass an iterable of inputs, such as [MasterTextToVideo(...)] or a generator of them,"
        f" not {'the class' if isinstance(inputs, type) else 'an object of type'} {seen}"
    )


class _Crowd:
    """How many are where, of all flights of one fan-out."""

    def __init__(self) -> None:
        self.entering = self.flying = self.aside = 0
        self.room: asyncio.Event = asyncio.Event()


class Flight(Generic[_T]):
    """One item on its way, as the work on it sees it. It is the observer of its own submit.

    Attributes:
        index: Its place among the items, from 0.
        item: What was drawn.
        ref: The remote task, as soon as there is one.
        patience: Seconds for which its submit is repeated during an outage.
    """

    def __init__(self, index: int, item: _T, crowd: _Crowd, patience: float) -> None:
        self.index = index
        self.item = item
        self.patience = patience
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

    async def before_send(self) -> None:
        """Do nothing: who keeps no books has nothing to write."""

    async def on_rejected(self, error: KlingError) -> None:
        """Do nothing."""

    async def on_accepted(self, ref: TaskRef) -> None:
        """Keep the reference."""
        self.ref = ref


class FanOut(Generic[_T]):
    """Carries many items at once through the same work; good for one run.

    Args:
        work: What is done with an item. What it raises ends everything and is raised; what
            it returns is yielded, unless that is None.
        in_flight: How many may be drawn and not have landed, or have landed and not been yielded.
        at_the_door: How many of those may wait for the limits.
        ordered: Yield the outcomes in the order of the items.
        answered: Waits until every submit under way has been answered.
        abandoned: Reports the tasks whose outcomes are not yielded, if this ends early.
        cleanups: Runs what is left to do then.
        patience: Seconds for which a submit is repeated during an outage.
    """

    def __init__(  # noqa: PLR0913 - all are given by name, in one place
        self,
        work: Callable[[Flight[_T]], Awaitable[Outcome | None]],
        *,
        in_flight: int,
        at_the_door: int,
        ordered: bool,
        answered: Callable[[], Awaitable[object]],
        abandoned: AbandonedTasks,
        cleanups: Cleanups,
        patience: float,
    ) -> None:
        if not isinstance(in_flight, int) or isinstance(in_flight, bool) or in_flight < 1:
            raise ConfigurationError(f"in_flight must be at least 1, not {in_flight!r}")
        if not isinstance(ordered, bool):
            raise ConfigurationError(f"ordered must be True or False, not {ordered!r}")
        self._work = work
        self._in_flight = in_flight
        self._at_the_door = at_the_door
        self._ordered = ordered
        self._answered = answered
        self._abandoned = abandoned
        self._cleanups = cleanups
        self._patience = patience
        # A flight that failed or was cancelled stays here: its task is abandoned. The value is
        # None until create_task() returns, before which an eager task may have ended.
        self._flights: dict[Flight[_T], asyncio.Task[None] | None] = {}
        self._ended: dict[int, Outcome | None] = {}
        self._next = 0  # the index that is to be yielded next, if in order
        self._crash: BaseException | None = None
        self._drawn_all = self._stopped = self._left = False
        self._crowd = _Crowd()
        self._news = asyncio.Event()
        self._feeder: asyncio.Task[None] | None = None
        self._cleanup: asyncio.Task[None] | None = None

    async def outcomes(self, items: Iterable[_T] | AsyncIterable[_T]) -> AsyncGenerator[Outcome]:
        """Yield what becomes of each item.

        Args:
            items: What to draw from. What it raises ends everything, and is raised. If it is a
                generator, it is closed at the end.
        """
        self._feeder = asyncio.create_task(self._feed(items))
        if self._stopped:  # pragma: no cover - an eager task has failed: Python 3.12 and later
            self._feeder.cancel()
        try:
            while (index := await self._next_ended()) is not None:
                outcome = self._ended.pop(index)
                self._crowd.room.set()
                if outcome is not None:
                    yield outcome
        except BaseException as error:
            await self._leave(error)
            raise
        await self._leave(self._crash)
        if self._crash is not None:
            raise self._crash

    def close(self, error: BaseException) -> None:
        """End a run from outside: its loop gets what has ended already, and then the error.

        The clean-up is left to ``cleanups``. A run in which nothing is under way, or which belongs
        to another event loop, is left alone.
        """
        if self._feeder is None or (self._drawn_all and not self._flights):
            return
        if self._feeder.get_loop() is asyncio.get_running_loop():
            self._fail(error)
            self._abandon(error)

    async def finished(self) -> None:
        """Wait until the clean-up of a run that was left has ended."""
        if self._cleanup is not None:
            await asyncio.wait((self._cleanup,))

    async def _feed(self, items: Iterable[_T] | AsyncIterable[_T]) -> None:
        try:
            async with aclosing(draw(items)) as source:
                await self._start_all(source)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the caller gets it
            if self._stopped and isinstance(error, Exception):
                _log.exception("the iterable of the inputs failed while it was closed")
            self._fail(error)

    async def _start_all(self, source: AsyncGenerator[_T]) -> None:
        """Draw the items as long as there is room, and start a flight for each."""
        indices = count()
        async for item in source:
            # The iterable suppressed a cancellation, or a flight failed eagerly.
            if self._stopped:
                return  # pragma: no cover - coverage loses sight of a frame that was thrown into
            flight = Flight(next(indices), item, self._crowd, self._patience)
            self._flights[flight] = None
            flying = asyncio.create_task(self._fly(flight))
            if flight in self._flights:  # pragma: no branch - an eager task may have ended
                self._flights[flight] = flying
            while self._is_full():
                self._crowd.room.clear()
                await self._crowd.room.wait()
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
        try:
            outcome = await self._work(flight)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the caller gets it
            self._fail(error)
            return
        del self._flights[flight]
        self._ended[flight.index] = outcome
        flight.land()
        self._news.set()

    def _fail(self, error: BaseException) -> None:
        """End everything at once: the caller may be busy, and gets the error later."""
        if not self._stopped:  # else it is our own cancellation, or comes of it
            self._crash = error
            self._stop()
            self._news.set()

    def _stop(self) -> None:
        """Cancel everything of ours, once: a second time would cut short what must be tidied up."""
        if not self._stopped:
            self._stopped = True
            for task in self._tasks():
                task.cancel()

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [task for task in (self._feeder, *self._flights.values()) if task is not None]

    async def _next_ended(self) -> int | None:
        """Return the index of the next that has ended, or None when there will be no more."""
        while True:
            index = self._next if self._ordered else next(iter(self._ended), None)
            if index in self._ended:
                self._next += 1
                return index
            if self._crash is not None or (self._drawn_all and not self._flights):
                return min(self._ended, default=None)  # late ones, behind the crash in order
            self._news.clear()
            await self._news.wait()

    async def _leave(self, error: BaseException | None) -> None:
        """Abandon what is left, and clean up; the exception is the one that the caller will see."""
        self._left = True
        try:
            await outlive(self._abandon(error))
        except asyncio.CancelledError as again:  # takes the place of the error
            self._abandoned.note(again)
            raise

    def _abandon(self, error: BaseException | None) -> asyncio.Task[None]:
        """Stop everything of ours and report what is known, before anything is awaited."""
        self._report(error)
        self._stop()
        if self._cleanup is None:
            self._cleanup = self._cleanups.start(self._clean_up(error))
        return self._cleanup

    async def _clean_up(self, error: BaseException | None) -> None:
        """Wait for what was stopped, and report what became known meanwhile."""
        try:
            await asyncio.wait(self._tasks())
            if self._flights:
                await self._answered()
        finally:
            self._report(error)
            self._flights.clear()  # what they raised holds frames, which hold the iterable

    def _report(self, error: BaseException | None) -> None:
        """Report the tasks whose outcomes will not be yielded, as far as they are known."""
        refs = [flight.ref for flight in self._flights]
        if self._left:
            refs += [outcome.task_ref for outcome in self._ended.values() if outcome]
        self._abandoned.report(refs, error)
