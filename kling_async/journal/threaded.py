"""What the journals have in common: one thread for the engine, and commits of many calls."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, ClassVar, Final, Generic, Self, TypeVar, cast

from attrs import Factory, define

from kling_async._utils.shielding import await_uncancelled
from kling_async.errors import ConfigurationError, JournalError, copy_for_waiter
from kling_async.journal.calls import Call, ChangesT

if TYPE_CHECKING:
    from kling_async.journal.base import Entry, ItemState, Planned, Summary, Transition

_T = TypeVar("_T")

PAGE: Final = 500
"""Entries that are read at a time."""

KEY: Final[Callable[[Planned | Transition | Entry], str]] = attrgetter("key")
"""Returns the key of an item."""

# Callers that are resumed in one iteration of the loop. Each of them runs in the next one.
CALLERS_PER_ITERATION = 50


@define(eq=False)
class _OpenJournal(Generic[ChangesT]):
    """The thread of an open journal, and the calls that wait for it."""

    thread: ThreadPoolExecutor
    loop: asyncio.AbstractEventLoop  # of the callers
    waiting: deque[tuple[Call[ChangesT], asyncio.Future[object]]] = Factory(deque)
    committing: bool = False


class ThreadedJournal(ABC, Generic[ChangesT]):
    """The base of a :class:`~kling_async.journal.base.Journal` whose engine runs in its own thread.

    A call that arrives during a commit is part of the next one, so that all callers wait for the
    disk or the network once. The abstract methods are called in the thread. Subclasses add the
    methods about claims.

    Args:
        name: The journal's name in errors.
        read_only: Whether writing raises an error.
    """

    shared: ClassVar[bool]
    """Whether other workers may have the batch open."""

    # Calls in one transaction.
    _calls_per_commit: ClassVar[int]

    def __init__(self, name: str, *, read_only: bool) -> None:
        self._name = name
        self._read_only = read_only
        self._opened: _OpenJournal[ChangesT] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"

    async def __aenter__(self) -> Self:
        if self._opened is not None:
            self._check_open()
            raise JournalError(f"the journal {self._name} is open already")
        thread = ThreadPoolExecutor(1, thread_name_prefix="kling-journal")
        self._opened = _OpenJournal(thread, asyncio.get_running_loop())
        try:
            await self._run(self._open)
        except BaseException:  # also if cancelled: the thread closes what it has opened by then
            await ThreadedJournal.close(self)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def plan(self, items: Sequence[Planned]) -> list[Entry]:
        """Write new items; see :meth:`.Journal.plan`."""
        planned = tuple(items)
        return await self._write([*map(KEY, planned)], lambda changes: changes.plan(planned))

    async def record(self, *transitions: Transition) -> None:
        """Write transitions, all or none; see :meth:`.Journal.record`."""
        await self._write([*map(KEY, transitions)], lambda changes: changes.record(transitions))

    async def entries(self, *states: ItemState) -> AsyncIterator[Entry]:
        """Iterate over items; see :meth:`.Journal.entries`. They are read page by page."""
        last, wanted = 0, tuple(dict.fromkeys(states))
        while True:
            last, page = await self._run(partial(self._read_page, wanted, last))
            for entry in page:
                yield entry
            if len(page) < PAGE:
                return

    async def summary(self) -> Summary:
        """Count the items, and the submits that may have cost money."""
        return await self._run(self._read_summary)

    async def history(self, key: str) -> list[Transition]:
        """Return every transition of an item; see :meth:`.Journal.history`."""
        return await self._run(partial(self._read_history, key))

    async def close(self) -> None:
        """Write all calls, release everything, and close. The second time does nothing."""
        if self._opened is None:
            return
        opened = self._check_open()
        self._commit_waiting(opened, len(opened.waiting))
        closed = self._run(self._close)  # after the commits: there is one thread
        self._opened = None
        try:
            await await_uncancelled(closed)
        finally:
            opened.thread.shutdown()

    async def _write(self, keys: Sequence[str], apply: Callable[[ChangesT], _T]) -> _T:
        """Commit a call with those of others, also if the caller is cancelled."""
        if self._read_only:
            raise JournalError(f"the journal {self._name} was opened for reading only")
        opened = self._check_open()
        future: asyncio.Future[object] = opened.loop.create_future()
        opened.waiting.append((Call(keys, apply), future))
        if not opened.committing:
            self._commit_waiting(opened, self._calls_per_commit)
        return cast("_T", await future)

    def _check_open(self) -> _OpenJournal[ChangesT]:
        """Return the state of a journal that is open on this event loop.

        A journal that a loop has left open when it ended is adopted by the running one.

        Raises:
            JournalError: It is not open.
            ConfigurationError: It is open on another event loop that is running.
        """
        opened, loop = self._opened, asyncio.get_running_loop()
        if opened is None:
            raise JournalError(f"the journal {self._name} is not open: use it in `async with`")
        if opened.loop is not loop:
            if opened.loop.is_running():
                raise ConfigurationError(
                    f"the journal {self._name} is open on another event loop that is running: use"
                    " it on one loop at a time"
                )
            opened.loop, opened.committing = loop, False  # no loop awaits that commit any more
        return opened

    def _run(self, job: Callable[[], _T]) -> asyncio.Future[_T]:
        """Run a function in the thread, after all earlier ones."""
        opened = self._check_open()
        return opened.loop.run_in_executor(opened.thread, job)

    def _commit_waiting(self, opened: _OpenJournal[ChangesT], most: int) -> None:
        """Commit the calls that wait, up to a number."""
        calls: list[Call[ChangesT]] = []
        callers: list[asyncio.Future[object]] = []
        while opened.waiting and len(calls) < most:
            call, caller = opened.waiting.popleft()
            calls.append(call)
            callers.append(caller)
        if calls:
            opened.committing = True
            # A future, not a task: a loop that ends cancels its tasks.
            job = opened.loop.run_in_executor(opened.thread, partial(self._commit, calls))
            job.add_done_callback(partial(self._committed, opened, callers))

    def _committed(
        self,
        opened: _OpenJournal[ChangesT],
        callers: Sequence[asyncio.Future[object]],
        job: asyncio.Future[list[object]],
    ) -> None:
        opened.committing = False
        self._commit_waiting(opened, self._calls_per_commit)
        _resume(callers, job)

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...

    @abstractmethod
    def _commit(self, calls: list[Call[ChangesT]]) -> list[object]:
        """Commit calls in one transaction; return the result of each, or the exception it raises.

        If this itself raises, every caller gets that exception.
        """

    @abstractmethod
    def _read_page(self, states: Sequence[ItemState], after: int) -> tuple[int, list[Entry]]: ...

    @abstractmethod
    def _read_summary(self) -> Summary: ...

    @abstractmethod
    def _read_history(self, key: str) -> list[Transition]: ...


def _resume(
    callers: Sequence[asyncio.Future[object]], job: asyncio.Future[list[object]], first: int = 0
) -> None:
    """Resume the callers of a commit, some in each iteration of the loop."""
    error, end = job.exception(), first + CALLERS_PER_ITERATION
    for number, caller in enumerate(callers[first:end], first):
        # Each caller gets its own copy of the error, to which it may add a note about its item.
        answer = copy_for_waiter(error) if error is not None else job.result()[number]
        if caller.done():
            continue  # it was cancelled
        if isinstance(answer, BaseException):
            caller.set_exception(answer)
        else:
            caller.set_result(answer)
    if end < len(callers):
        job.get_loop().call_soon(_resume, callers, job, end)
