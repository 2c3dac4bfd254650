"""Abandoned tasks: paid, running at the service, and without a caller that waits for them.

A remote task cannot be cancelled. When its last waiter is cancelled, or a fan-out is left early,
only the reference finds the result again. So it is reported at once: before any clean-up that
awaits, which another cancellation may cut short.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from attrs import define, field

from kling_async.results import TaskRef

_log = logging.getLogger("kling_async")

Report: TypeAlias = "Callable[[tuple[TaskRef, ...]], object]"


def describe(refs: Sequence[TaskRef]) -> str:
    """Return the sentence that names all of some abandoned tasks: each has been paid."""
    named = ", ".join(map(str, refs))
    if len(refs) == 1:
        return f"1 task still runs at the service, unattended; attach it for the result: {named}"
    return (
        f"{len(refs)} tasks still run at the service, unattended; attach them for the results:"
        f" {named}"
    )


def log_warning(refs: tuple[TaskRef, ...]) -> None:
    """Log the references, which are stored nowhere else."""
    _log.warning("%s", describe(refs), extra=_fields(refs))


def log_journaled(refs: tuple[TaskRef, ...]) -> None:
    """Log how many tasks are in a journal: the next run waits for them."""
    _log.info("tasks still running, which the journal has: %d", len(refs), extra=_fields(refs))


def _fields(refs: tuple[TaskRef, ...]) -> dict[str, object]:
    return {"kling_event": "TasksAbandoned", "kling_refs": list(map(str, refs))}


@define(eq=False)
class AbandonedTasks:
    """Reports the tasks that one operation abandons, each reference once.

    An operation is a ``generate``, a fan-out, or the closing of a client. A report is a note on the
    exception, if there is one, then the event, then the log record. It neither awaits nor raises.

    Args:
        emit: Called with the references of a report; emits the event.
        log: Called with them after that.
        claim: Returns whether a reference has not been reported by another operation. If it has,
            there is a note, but no event and no log record.
    """

    _emit: Report
    _log: Report = log_warning
    _claim: Callable[[TaskRef], bool] = field(default=lambda _: True, kw_only=True)
    _reported: dict[TaskRef, None] = field(factory=dict, init=False)

    def report(
        self, refs: Iterable[TaskRef | None], error: BaseException | None = None
    ) -> tuple[TaskRef, ...]:
        """Report the references that have not been reported yet, and return them.

        A None among them is ignored. ``error`` is the exception that the caller will get.
        """
        new = tuple(
            ref for ref in dict.fromkeys(refs) if ref is not None and ref not in self._reported
        )
        if new:
            self._reported.update(dict.fromkeys(new))
            if error is not None:
                error.add_note(describe(new))
            claimed = tuple(filter(self._claim, new))
            for receive in (self._emit, self._log) if claimed else ():
                try:
                    receive(claimed)
                except (Exception, CancelledError):  # noqa: BLE001 - the clean-up that reports must be completed
                    _log.exception("reporting failed: %s", describe(claimed))
        return new

    def add_note_to(self, error: BaseException) -> None:
        """Add a note with all reported references to an exception.

        That is for a second cancellation during the clean-up: it replaces the first exception.
        """
        if self._reported:
            error.add_note(describe(tuple(self._reported)))
