"""What the journals have in common: one thread for the engine, and the calls to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from time import sleep
from typing import TYPE_CHECKING, Final, Self, TypeAlias, cast

from attrs import frozen

from kling_async.errors import JournalError
from kling_async.journal.base import Entry, Planned, Transition
from kling_async.journal.writer import GroupWriter

if TYPE_CHECKING:
    from types import TracebackType

    from kling_async.journal.base import Claim, ItemState, Summary

PAGE: Final = 500
"""Entries that are read at a time."""

CALLS_PER_PAUSE: Final = 20
"""Calls after which the thread releases the interpreter for a moment.

The event loop needs it, too, and would otherwise wait for 5 ms each time
(``sys.getswitchinterval``).
"""


@frozen
class PlanCall:
    """Items to be written unless they are stored already."""

    items: Sequence[Planned]

    @property
    def keys(self) -> Iterable[str]:
        """The keys of the items."""
        return (item.key for item in self.items)


@frozen
class RecordCall:
    """Transitions to be written, all or none."""

    transitions: Sequence[Transition]

    @property
    def keys(self) -> Iterable[str]:
        """The keys of the items."""
        return (transition.key for transition in self.transitions)


@frozen
class ClaimCall:
    """Items to be claimed, or whose ownership is to be returned only."""

    entries: Sequence[Entry]
    peek: bool = False

    @property
    def keys(self) -> Iterable[str]:
        """The keys of the items."""
        return (entry.key for entry in self.entries)


@frozen
class ReleaseCall:
    """Items to be released."""

    keys: Sequence[str]
    ended: bool


Call: TypeAlias = PlanCall | RecordCall | ClaimCall | ReleaseCall


def apply_calls(
    calls: Sequence[Call], apply: Callable[[Call], object], *, fatal: tuple[type[Exception], ...]
) -> list[object]:
    """Return the result of each call, or the exception that it raises.

    Exceptions of the types ``fatal`` concern all calls, and are raised.
    """
    answers: list[object] = []
    for number, call in enumerate(calls, 1):
        if number % CALLS_PER_PAUSE == 0:
            sleep(1e-6)
        try:
            answers.append(apply(call))
        except fatal:
            raise
        except Exception as error:  # noqa: BLE001 - raised by the caller's method
            answers.append(error)
    return answers


class ThreadedJournal(ABC):
    """A :class:`~kling_async.journal.base.Journal` whose engine runs in a thread of its own.

    Calls that arrive during a commit are committed together. The abstract methods are called in
    the thread.

    Args:
        name: The journal's name in errors.
        read_only: Whether writing raises an error.
        most: Calls in one transaction.
    """

    def __init__(self, name: str, *, read_only: bool, most: int) -> None:
        self._name = name
        self._read_only = read_only
        self._writer: GroupWriter[Call] = GroupWriter(name, self._commit, most=most)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"

    async def __aenter__(self) -> Self:
        await self._writer.start(self._open, self._close)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    @abstractmethod
    def shared(self) -> bool:
        """Whether other workers may have the batch open."""

    async def plan(self, items: Sequence[Planned]) -> list[Entry]:
        """Write new items; see :meth:`.Journal.plan`."""
        return cast("list[Entry]", await self._write(PlanCall(tuple(items))))

    async def record(self, *transitions: Transition) -> None:
        """Write transitions, all or none; see :meth:`.Journal.record`."""
        await self._write(RecordCall(transitions))

    async def claim(self, *entries: Entry) -> list[Claim]:
        """Claim items; see :meth:`.Journal.claim`.

        Without entries this checks that the lease has not expired.
        """
        return cast("list[Claim]", await self._write(ClaimCall(entries)))

    async def peek(self, *entries: Entry) -> list[Claim]:
        """Return what :meth:`claim` would return, without claiming anything."""
        return cast("list[Claim]", await self._write(ClaimCall(entries, peek=True)))

    async def release(self, *keys: str, ended: bool = False) -> None:
        """Release items; see :meth:`.Journal.release`."""
        await self._write(ReleaseCall(keys, ended))

    async def entries(self, *states: ItemState) -> AsyncIterator[Entry]:
        """Iterate over items; see :meth:`.Journal.entries`. They are read page by page."""
        last, wanted = 0, tuple(dict.fromkeys(states))
        while True:
            last, page = await self._writer.run(partial(self._read_page, wanted, last))
            for entry in page:
                yield entry
            if len(page) < PAGE:
                return

    async def summary(self) -> Summary:
        """Count the items, and the submits that may have cost money."""
        return await self._writer.run(self._read_summary)

    async def history(self, key: str) -> list[Transition]:
        """Return every transition of an item; see :meth:`.Journal.history`."""
        return await self._writer.run(partial(self._read_history, key))

    async def close(self) -> None:
        """Write all calls, release everything, and close. The second time does nothing."""
        await self._writer.stop(self._close)

    async def _write(self, call: Call) -> object:
        if self._read_only:
            raise JournalError(f"the journal {self._name} was opened for reading only")
        return await self._writer.write(call)

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...

    @abstractmethod
    def _commit(self, calls: list[Call]) -> list[object]: ...

    @abstractmethod
    def _read_page(self, states: Sequence[ItemState], after: int) -> tuple[int, list[Entry]]: ...

    @abstractmethod
    def _read_summary(self) -> Summary: ...

    @abstractmethod
    def _read_history(self, key: str) -> list[Transition]: ...
