"""The calls of a journal's methods, as its thread commits them in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import sleep
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from attrs import frozen

if TYPE_CHECKING:
    from kling_async.journal.base import Entry, Planned, Transition

CALLS_PER_PAUSE: Final = 20
"""Calls after which the thread releases the interpreter for a moment.

The event loop needs it, too, and would otherwise wait for 5 ms each time
(``sys.getswitchinterval``).
"""


class Changes(Protocol):
    """The changes of one transaction. A method that raises has changed nothing."""

    def plan(self, items: Sequence[Planned]) -> list[Entry]:
        """Add the items that are not stored yet; return the entries of all."""

    def record(self, transitions: Sequence[Transition]) -> None:
        """Add transitions, all or none."""


ChangesT = TypeVar("ChangesT", bound=Changes)


@frozen
class Call(Generic[ChangesT]):
    """A call that writes.

    Attributes:
        keys: The keys of its items.
        apply: Applies it to the changes of a transaction, and returns its result. It is called
            again if the transaction has to be repeated.
    """

    keys: Sequence[str]
    apply: Callable[[ChangesT], object]


def apply_calls(
    calls: Sequence[Call[ChangesT]], changes: ChangesT, *, fatal: tuple[type[Exception], ...]
) -> list[object]:
    """Return the result of each call, or the exception that it raises.

    Exceptions of the types ``fatal`` concern all calls, and are raised.
    """
    answers: list[object] = []
    for number, call in enumerate(calls, 1):
        if number % CALLS_PER_PAUSE == 0:
            sleep(1e-6)
        try:
            answers.append(call.apply(changes))
        except fatal:
            raise
        except Exception as error:  # noqa: BLE001 - raised by the caller's method
            answers.append(error)
    return answers
