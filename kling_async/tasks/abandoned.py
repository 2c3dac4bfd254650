"""Abandoned tasks: paid, running at the service, and with nothing left that waits for them.

A remote task cannot be cancelled. When its last waiter is cancelled, or its loop is left, the
reference is all that finds the result again, so it is reported at once: before any clean-up
that awaits, which another cancellation may cut short. One :class:`AbandonedTasks` belongs to one
operation (a ``generate``, a fan-out, the closing of a client) and reports a reference once, however
many parts of that operation come to know it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from kling_async.results import TaskRef

_log = logging.getLogger("kling_async")

Report: TypeAlias = "Callable[[tuple[TaskRef, ...]], object]"


def describe(refs: Sequence[TaskRef]) -> str:
    """Return the sentence that names abandoned tasks, all of them: each has been paid."""
    named = ", ".join(map(str, refs))
    if len(refs) == 1:
        return f"1 task still runs at the service, unattended; attach it for the result: {named}"
    return (
        f"{len(refs)} tasks still run at the service, unattended; attach them for the results:"
        f" {named}"
    )


def log_warning(refs: tuple[TaskRef, ...]) -> None:
    """Log the references, where nothing else keeps them."""
    _log.warning("%s", describe(refs))


def log_journaled(refs: tuple[TaskRef, ...]) -> None:
    """Log how many tasks a journal keeps: the next run waits for them."""
    _log.info("tasks still running, which the journal has: %d", len(refs))


class AbandonedTasks:
    """Reports the tasks that one operation abandons: each reference once.

    A report is a note on the exception, if there is one, then the event, then the log record.
    None of them awaits or raises.

    Args:
        emit: Receives the references of a report, and makes the event of them.
        log: Receives them after that; a warning in the log unless something else keeps them.
        claim: Returns whether a reference has not been reported by another operation: then there
            is no event and no log record for it, but a note.
    """

    def __init__(
        self,
        emit: Report,
        log: Report | None = None,
        *,
        claim: Callable[[TaskRef], bool] = lambda _: True,
    ) -> None:
        self._emit = emit
        self._log = log or log_warning
        self._claim = claim
        self._reported: dict[TaskRef, None] = {}

    def report(
        self, refs: Iterable[TaskRef | None], error: BaseException | None = None
    ) -> tuple[TaskRef, ...]:
        """Report the references that have not been reported yet, and return them.

        Args:
            refs: The references; None where there is no task yet.
            error: The exception that abandons the tasks, which the caller will see.
        """
        new = tuple(
            ref for ref in dict.fromkeys(refs) if ref is not None and ref not in self._reported
        )
        if new:
            self._reported.update(dict.fromkeys(new))
            if error is not None:
                error.add_note(describe(new))
            self._pass_on(tuple(filter(self._claim, new)))
        return new

    def _pass_on(self, refs: tuple[TaskRef, ...]) -> None:
        for receive in (self._emit, self._log) if refs else ():
            try:
                receive(refs)
            except Exception:  # noqa: BLE001 - the clean-up that reports must come to its end
                _log.exception("reporting failed: %s", describe(refs))

    def note(self, error: BaseException) -> None:
        """Add a note with all that was reported to the exception that replaces the first one.

        A second cancellation during the clean-up does so, and the first exception is lost.
        """
        if self._reported:
            error.add_note(describe(tuple(self._reported)))
