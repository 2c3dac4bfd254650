"""The calls of a journal's methods, as its thread commits them in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from time import sleep
from typing import Final, TypeAlias

from attrs import frozen

from kling_async.journal.base import Entry, Planned, Transition

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
