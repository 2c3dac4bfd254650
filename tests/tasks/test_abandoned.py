from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from kling_async.results import TaskRef
from kling_async.tasks.abandoned import AbandonedTasks, describe, log_journaled

if TYPE_CHECKING:
    from collections.abc import Callable

ONE, TWO, THREE = (TaskRef("m", f"{number}") for number in (1, 2, 3))


def notes(error: BaseException) -> list[str]:
    """Return the notes of an exception."""
    return getattr(error, "__notes__", [])


def test_a_report(caplog: pytest.LogCaptureFixture) -> None:
    """A report is one event, one warning and one note, each with all references."""
    emitted: list[tuple[TaskRef, ...]] = []
    error = ValueError()
    assert AbandonedTasks(emitted.append).report([ONE, None, TWO], error) == (ONE, TWO)
    assert emitted == [(ONE, TWO)]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert [record.getMessage()] == notes(error) == [describe((ONE, TWO))]
    assert notes(error)[0].startswith("2 tasks still run at the service, unattended;")
    assert notes(error)[0].endswith(": m/1, m/2")


def test_each_reference_once(caplog: pytest.LogCaptureFixture) -> None:
    """What was reported is not reported again; without news nothing happens."""
    emitted: list[tuple[TaskRef, ...]] = []
    error = ValueError()
    abandoned = AbandonedTasks(emitted.append)
    abandoned.report([ONE, ONE])
    assert abandoned.report([ONE, None], error) == ()
    assert notes(error) == []
    abandoned.report([TWO, ONE, THREE], error)
    assert emitted == [(ONE,), (TWO, THREE)]
    assert len(caplog.records) == 2
    assert "1 task still runs" in caplog.records[0].getMessage()


def test_a_log_of_the_callers(caplog: pytest.LogCaptureFixture) -> None:
    """Where something else keeps the references, there is no warning, but the event."""
    caplog.set_level(logging.INFO, "kling_async")
    emitted: list[tuple[TaskRef, ...]] = []
    AbandonedTasks(emitted.append, log_journaled).report([ONE, TWO])
    assert emitted == [(ONE, TWO)]
    (record,) = caplog.records
    assert (record.levelno, record.args) == (logging.INFO, (2,))


@pytest.mark.parametrize("broken", ["emit", "log"])
def test_a_receiver_that_fails(broken: str, caplog: pytest.LogCaptureFixture) -> None:
    """A receiver that raises keeps no reference from the other one, nor from the log."""
    received: list[tuple[TaskRef, ...]] = []

    def fail(_: object) -> None:
        raise ZeroDivisionError

    receive: dict[str, Callable[[tuple[TaskRef, ...]], object]] = {
        "emit": received.append,
        "log": received.append,
        broken: fail,
    }
    AbandonedTasks(receive["emit"], receive["log"]).report([ONE])
    assert received == [(ONE,)]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "m/1" in record.getMessage()


def test_an_exception_that_replaces_the_first() -> None:
    """The note for a later exception names all that was reported, and nothing if nothing was."""
    abandoned = AbandonedTasks(len)
    error = ValueError()
    abandoned.add_note_to(error)
    assert notes(error) == []
    abandoned.report([ONE])
    abandoned.report([TWO])
    abandoned.add_note_to(error)
    assert notes(error) == [describe((ONE, TWO))]


def test_what_another_operation_has_reported(caplog: pytest.LogCaptureFixture) -> None:
    """A reference that is claimed already is in the note only: neither in the event nor the log."""
    emitted: list[tuple[TaskRef, ...]] = []
    error = ValueError()
    abandoned = AbandonedTasks(emitted.append, claim=lambda ref: ref != ONE)
    assert abandoned.report([ONE, TWO], error) == (ONE, TWO)
    assert emitted == [(TWO,)]
    assert [record.getMessage() for record in caplog.records] == [describe((TWO,))]
    assert notes(error) == [describe((ONE, TWO))]
    AbandonedTasks(emitted.append, claim=lambda _: False).report([ONE])
    assert len(emitted) == len(caplog.records) == 1
