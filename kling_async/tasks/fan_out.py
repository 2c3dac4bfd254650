"""Many inputs: read when they can soon be submitted, each outcome yielded when it is known.

One asyncio task reads the inputs. It waits while enough items run, while some of them still wait
for the limits, and while the caller has not taken the outcomes. So a generator of a million inputs
needs little memory, however slow the account or the caller is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Collection,
    Generator,
    Iterable,
)
from contextlib import aclosing
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from attrs import Factory, define, field, frozen

from kling_async._utils.text import format_value, printable
from kling_async.errors import ConfigurationError, KlingError
from kling_async.inputs.base import Input
from kling_async.results import MediaFacts, Result, TaskRef

if TYPE_CHECKING:
    from kling_async._utils.shielding import Cleanups
    from kling_async.tasks.abandoned import AbandonedTasks

_T = TypeVar("_T")

_log = logging.getLogger("kling_async")


@frozen
class Outcome:
    """The outcome of one input of many. ``result`` or ``error`` is set, or both.

    Attributes:
        index: The place of the input among those given, from 0.
        input: The input.
        task_ref: The remote task, if the service is known to have accepted one.
        result: Its result.
        error: Why there is no result; with a batch also why a result was not saved.
        key: The caller's name for the input, in a batch.
        files: What a batch has saved, in the order of the result's URLs.
        done_by_other: Another worker that shares the batch's journal has done it, and yields it,
            too. Its files are where that worker runs.
        media: What each of the files contains, if the batch inspects them.
        archived: The URLs of what a batch has saved in an archive; ``files`` is empty then.
    """

    index: int
    input: Input
    task_ref: TaskRef | None = None
    result: Result | None = None
    error: KlingError | None = None
    key: str | None = None
    files: tuple[Path, ...] = ()
    done_by_other: bool = False
    media: tuple[MediaFacts, ...] = ()
    archived: tuple[str, ...] = ()

    def __str__(self) -> str:
        name = self.index if self.key is None else self.key
        urls = self.result.result_urls if self.result is not None else ()
        end = " ".join(map(str, self.files or self.archived or urls))
        if self.error is not None:
            end = f"{type(self.error).__name__}: {self.error}"
        return printable(f"{name} {format_value(getattr(self.input, 'prompt', self.input))}: {end}")

    def __repr__(self) -> str:
        return f"<Outcome {self}>"

    def _repr_html_(self) -> str:
        from kling_async._display.contact_sheet import render_part
        from kling_async._display.result_cards import outcome_cards

        return render_part(list(outcome_cards(self, self.error)))


async def iterate(items: Iterable[_T] | AsyncIterable[_T]) -> AsyncGenerator[_T]:
    """Yield from an iterable of either kind; close it at the end if it is a generator."""
    if isinstance(items, AsyncIterable):
        iterator = aiter(items)
        try:
            async for item in iterator:
                yield item
        finally:
            if isinstance(iterator, AsyncGenerator):
                await iterator.aclose()
    else:
        ready = iter(items)
        try:
            for item in ready:
                yield item
        finally:
            if isinstance(ready, Generator):
                ready.close()


@define(eq=False)
class _Counters:
    """How many items of one fan-out are where, and how many may be."""

    in_flight: int
    max_waiting: int
    waiting: int = 0  # for the limits
    running: int = 0  # with those that wait
    parked: int = 0
    changed: asyncio.Event = Factory(asyncio.Event)


@define(eq=False)
class WorkItem(Generic[_T]):
    """One item, as the work on it sees it. It is the observer of its own submit.

    Attributes:
        index: Its place among the items, from 0.
        item: The item.
        patience: Seconds for which its submit is repeated during an outage.
        ref: The remote task, as soon as there is one.
    """

    index: int
    item: _T
    patience: float
    _counters: _Counters
    ref: TaskRef | None = field(default=None, init=False)
    _submitted: bool = field(default=False, init=False)
    _ended: bool = field(default=False, init=False)

    def submitted(self) -> None:
        """Record that it does not wait for the limits any more: the next item may be read."""
        if not self._submitted:
            self._submitted = True
            self._counters.waiting -= 1
            self._counters.changed.set()

    def task_ended(self) -> None:
        """Record that its remote task has ended: another item may run in its place."""
        self.submitted()
        if not self._ended:
            self._ended = True
            self._counters.running -= 1
            self._counters.changed.set()

    def park(self) -> None:
        """Do not count it as running until `unpark`: it waits for another worker."""
        self.submitted()
        self._counters.running -= 1
        self._counters.parked += 1
        self._counters.changed.set()

    def unpark(self) -> None:
        """Count it as running again, even beyond the limit."""
        self._counters.parked -= 1
        self._counters.running += 1

    async def before_send(self) -> None:
        """Do nothing."""

    async def on_rejected(self, error: KlingError) -> None:
        """Do nothing."""

    async def on_accepted(self, ref: TaskRef) -> None:
        """Keep the reference."""
        self.ref = ref


class FanOut(Generic[_T]):
    """Runs the same work on many items at once; for one run.

    Args:
        work: Awaited with each item. Its result is yielded, unless that is None. If it raises,
            the run ends with that error.
        in_flight: How many items may run, and how many outcomes may wait to be yielded.
        max_waiting: How many of the running ones may wait for the limits.
        ordered: Yield the outcomes in the order of the items.
        wait_answered: Waits until every submit under way has been answered.
        abandoned: Reports the tasks whose outcomes are not yielded, if the run ends early.
        cleanups: Runs the clean-up then.
        patience: Seconds for which a submit is repeated during an outage.
    """

    def __init__(  # noqa: PLR0913 - all are given by name, in one place
        self,
        work: Callable[[WorkItem[_T]], Awaitable[Outcome | None]],
        *,
        in_flight: int,
        max_waiting: int,
        ordered: bool,
        wait_answered: Callable[[], Awaitable[object]],
        abandoned: AbandonedTasks,
        cleanups: Cleanups,
        patience: float,
    ) -> None:
        if not callable(work):
            raise ConfigurationError(f"work must be a function, not {work!r:.80}")
        if not isinstance(in_flight, int) or isinstance(in_flight, bool) or in_flight < 1:
            raise ConfigurationError(f"in_flight must be at least 1, not {in_flight!r}")
        if not isinstance(ordered, bool):
            raise ConfigurationError(f"ordered must be True or False, not {ordered!r}")
        self._work = work
        self._wait_answered = wait_answered
        self._abandoned = abandoned
        self._cleanups = cleanups
        self._patience = patience
        self._counters = _Counters(in_flight, max_waiting)
        self._outcomes = _Outcomes(ordered)
        # An item whose work failed or was cancelled stays here: its task is abandoned. The value is
        # None until create_task() returns, before which an eager task may have ended.
        self._running: dict[WorkItem[_T], asyncio.Task[None] | None] = {}
        self._stopped = False  # the reader and the work were cancelled
        self._reader: asyncio.Task[None] | None = None
        self._cleanup: asyncio.Task[None] | None = None

    async def outcomes(self, items: Iterable[_T] | AsyncIterable[_T]) -> AsyncGenerator[Outcome]:
        """Yield the outcome of each item.

        What ``items`` raises ends the run, and is raised. A generator is closed at the end.
        """
        outcomes = self._outcomes
        self._reader = asyncio.create_task(self._start_items(items))
        if outcomes.error is not None:  # pragma: no cover - an eager task failed: Python 3.12 on
            self._reader.cancel()
        try:
            while (index := await outcomes.next(self._running)) is not None:
                outcome = outcomes.ended.pop(index)
                self._counters.changed.set()
                if outcome is not None:
                    yield outcome
        except BaseException as error:
            await self._leave(error)
            raise
        if outcomes.error is not None:
            await self._leave(outcomes.error)
            raise outcomes.error

    def close(self, error: BaseException) -> None:
        """End the run from outside: its loop gets the outcomes so far, and then the error.

        A run that has ended, or that belongs to another event loop, is not changed.
        """
        if self._reader is None or (self._outcomes.complete and not self._running):
            return
        if self._reader.get_loop() is asyncio.get_running_loop():
            self._fail(error)
            self._abandon(error)

    def is_run_by(self, task: asyncio.Task[object] | None) -> bool:
        """Return whether this asyncio task reads the items or works on one of them."""
        return task in self._tasks()

    async def finished(self) -> None:
        """Wait until the clean-up of a run that was left has ended."""
        if self._cleanup is not None:
            await asyncio.wait((self._cleanup,))

    async def _start_items(self, items: Iterable[_T] | AsyncIterable[_T]) -> None:
        """Read the items as long as there is room, and start the work on each."""
        indices, counters, running = count(), self._counters, self._running
        try:
            async with aclosing(iterate(items)) as source:
                async for item in source:
                    # The iterable suppressed a cancellation, or the work on an item failed eagerly.
                    if self._stopped:
                        return  # pragma: no cover - coverage loses the frame after athrow()
                    work_item = WorkItem(next(indices), item, self._patience, counters)
                    counters.waiting += 1
                    counters.running += 1
                    running[work_item] = None
                    task = asyncio.create_task(self._run(work_item))
                    if work_item in running:  # pragma: no branch - an eager task may have ended
                        running[work_item] = task
                    while self._is_full():
                        counters.changed.clear()
                        await counters.changed.wait()
            self._outcomes.complete = True
            self._outcomes.changed.set()
        except BaseException as error:  # noqa: BLE001 - the caller gets it
            if self._stopped and isinstance(error, Exception):
                _log.exception("the iterable of the inputs failed while it was closed")
            self._fail(error)

    def _is_full(self) -> bool:
        counters = self._counters
        ended = len(self._running) - counters.running - counters.parked + len(self._outcomes.ended)
        return (
            counters.waiting >= counters.max_waiting
            or counters.running >= counters.in_flight
            or ended >= counters.in_flight
        )

    async def _run(self, work_item: WorkItem[_T]) -> None:
        try:
            outcome = await self._work(work_item)
        except BaseException as error:  # noqa: BLE001 - the caller gets it
            if isinstance(error, GeneratorExit):  # the event loop has ended, without a clean-up
                self._abandoned.report([work_item.ref], error)
            self._fail(error)
            return
        del self._running[work_item]
        work_item.task_ended()
        self._outcomes.ended[work_item.index] = outcome
        self._outcomes.changed.set()

    def _fail(self, error: BaseException) -> None:
        """Stop the run; the caller gets the error when it asks for the next outcome."""
        ended = self._stopped or isinstance(error, GeneratorExit)  # or the event loop has
        if not ended:  # else it is the cancellation by `_stop`, or follows from it
            self._stop()
            self._outcomes.error = error
            self._outcomes.changed.set()
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise error

    def _stop(self) -> None:
        """Cancel the reader and the work, once: a second time would interrupt their clean-up."""
        if not self._stopped:
            self._stopped = True
            for task in self._tasks():
                task.cancel()

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [task for task in (self._reader, *self._running.values()) if task is not None]

    async def _leave(self, error: BaseException | None) -> None:
        """Abandon the rest and clean up; the exception is the one that the caller will get."""
        self._outcomes.left = True
        cleanup = self._abandon(error)
        try:
            await asyncio.wait((cleanup,))
            cleanup.result()
        except asyncio.CancelledError as again:  # replaces the error
            self._abandoned.add_note_to(again)
            raise

    def _abandon(self, error: BaseException | None) -> asyncio.Task[None]:
        """Stop the run and report what is known, before anything is awaited."""
        self._report(error)
        self._stop()
        if self._cleanup is None:
            self._cleanup = self._cleanups.start(self._clean_up(error))
        return self._cleanup

    async def _clean_up(self, error: BaseException | None) -> None:
        """Wait for what was stopped, retrieve what it raised, and report what became known."""
        try:
            await asyncio.wait([asyncio.gather(*self._tasks(), return_exceptions=True)])
            if self._running:
                await self._wait_answered()
        finally:
            self._report(error)
            self._running.clear()  # what they raised holds frames, which hold the iterable

    def _report(self, error: BaseException | None) -> None:
        """Report the tasks whose outcomes will not be yielded, as far as they are known."""
        refs = [work_item.ref for work_item in self._running]
        if self._outcomes.left:
            refs += [outcome.task_ref for outcome in self._outcomes.ended.values() if outcome]
        self._abandoned.report(refs, error)


@define(eq=False)
class _Outcomes:
    """The outcomes that have not been yielded yet."""

    ordered: bool
    ended: dict[int, Outcome | None] = Factory(dict)  # by the indices of their items
    next_index: int = 0  # that is yielded next, if in order
    complete: bool = False  # all items have been read
    error: BaseException | None = None  # that ends the run
    left: bool = False  # no outcome is yielded any more
    changed: asyncio.Event = Factory(asyncio.Event)

    async def next(self, running: Collection[object]) -> int | None:
        """Wait for the next outcome; return its index, or None when there will be no more."""
        while True:
            index = self.next_index if self.ordered else next(iter(self.ended), None)
            if index in self.ended:
                self.next_index += 1
                return index
            if self.error is not None or (self.complete and not running):
                return min(self.ended, default=None)  # late ones, after a gap in the order
            self.changed.clear()
            await self.changed.wait()
