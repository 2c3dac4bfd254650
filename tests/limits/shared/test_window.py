"""The window that processes share, and each one's ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kling_async.limits.shared.window import LEASE, STEP, Ledger, Report, SharedWindow
from kling_async.limits.window import COUNTED_FOR

if TYPE_CHECKING:
    from collections.abc import Sequence


def test_grants_within_the_limit() -> None:
    """As many grants as the limit are given at once; the next ones when answers are old enough."""
    window = SharedWindow()
    assert window.accept(0.0, Report("a", 1)) == 1
    assert window.grant(0.0, "a", 2, 3) == [0.0, 0.0]
    assert window.grant(0.0, "a", 5, 3) == [0.0]
    assert window.grant(0.0, "a", 5, 3) == []
    assert window.accept(10.0, Report("a", 2, 1, 1, ((4.0, 1), (1.0, 1)))) == 2
    grants = window.grant(10.0, "a", 5, 3)
    assert [grant - grant % STEP for grant in grants] == grants
    assert [0 <= grant - COUNTED_FOR - at <= STEP for grant, at in zip(grants, (6, 9), strict=True)]
    assert window.count(10.0) == 5


def test_an_answered_request_counts_for_a_minute() -> None:
    """It ceases to count 60 s after its answer, or up to a step later."""
    window = SharedWindow()
    window.accept(100.0, Report("a", 1, 0, 0, ((3.0, 7),)))
    assert window.count(97.0 + COUNTED_FOR - 0.01) == 7
    assert window.count(97.0 + COUNTED_FOR + STEP) == 0


def test_a_process_that_is_dead() -> None:
    """What it had under way counts until its lease ends, and 60 s from then."""
    window = SharedWindow()
    window.accept(0.0, Report("a", 1, 0, 5))
    assert window.count(LEASE + COUNTED_FOR - 0.1) == 5
    assert window.count(LEASE + COUNTED_FOR + STEP) == 0
    assert (
        window.accept(LEASE + COUNTED_FOR + 1, Report("a", 2, 1)) == 0
    )  # it is not known any more


def test_a_process_that_comes_back() -> None:
    """The reports of a process that was cut off are still known."""
    window = SharedWindow()
    window.accept(0.0, Report("a", 4, 0, 5))
    assert window.count(LEASE + 1) == 5
    assert window.accept(LEASE + 1, Report("a", 5, 4, 2)) == 5
    assert window.count(LEASE + 1) == 7


def test_a_ledger_reports_each_answer_once() -> None:
    """An answer is reported until the backend has it, and in groups of a step."""
    ledger = Ledger("a")
    ledger.in_flight = 6
    for at in (1.0, 1.125, 1.5):
        ledger.answered(at)
    lost = ledger.create_report(2.0)
    assert lost == Report("a", 1, 0, 3, ((0.875, 2), (0.5, 1)))
    ledger.answered(2.0)
    again = ledger.create_report(3.0)
    assert again == Report("a", 2, 0, 2, ((1.875, 2), (1.5, 1), (1.0, 1)))
    ledger.acknowledge(1)
    assert ledger.create_report(3.0).answered == ((1.0, 1),)
    ledger.acknowledge(3)
    assert ledger.create_report(3.0) == Report("a", 4, 3, 2)
    ledger.acknowledge(0)  # a backend that has forgotten everything
    assert ledger.create_report(3.0).answered == ((1.875, 2), (1.5, 1), (1.0, 1))
    assert [number for _, number in ledger.create_report(1.25 + COUNTED_FOR).answered] == [1, 1]


def test_a_ledger_with_nothing_to_report() -> None:
    """It has something while anything is under way, or an answer was in no report."""
    ledger = Ledger("a")
    assert not ledger.pending
    ledger.in_flight = 1
    assert ledger.pending
    ledger.answered(0.0)
    assert ledger.pending
    ledger.create_report(0.0)
    assert not ledger.pending


def test_a_ledger_on_another_clock() -> None:
    """Its answers are as old as before."""
    ledger = Ledger("a")
    ledger.answered(5.0)
    ledger.shift(100.0)
    assert ledger.create_report(106.0).answered == ((1.0, 1),)


class Process:
    """A process of the model: what it knows, and what really happened."""

    def __init__(self, name: str) -> None:
        self.ledger = Ledger(name)
        self.grants: list[float] = []
        self.sent: list[int] = []  # the numbers of its requests under way
        self.late: Report | None = None  # a call that may still arrive


class Model:
    """Processes, their backend, and when each of their requests was really answered."""

    def __init__(self, limit: int) -> None:
        self.now = 0.0
        self.processes = [Process(f"{number}") for number in range(3)]
        self._limit = limit
        self._window = SharedWindow()
        self._answered: list[float | None] = []

    def call(self, process: Process, number: int, how: str) -> None:
        """Report and ask for grants; the call may get lost, or late, or its answer lost."""
        if process.late is not None and how == "late":
            self._arrive(process.late, number)
        report = process.ledger.create_report(self.now)
        if how in ("lost", "late"):
            process.late = report
            return
        known, grants = self._arrive(report, number)
        if how == "answered":
            process.ledger.acknowledge(known)
            process.ledger.in_flight += len(grants)
            process.grants += grants

    def use(self, process: Process) -> None:
        """Send what may be sent now."""
        while process.grants and process.grants[0] <= self.now:
            process.grants.pop(0)
            process.sent.append(len(self._answered))
            self._answered.append(None)
            counting = [at for at in self._answered if at is None or at > self.now - 60]
            assert len(counting) <= self._limit

    def answer(self, process: Process, number: int) -> None:
        """Answer some of the requests of a process."""
        for _ in range(min(number, len(process.sent))):
            self._answered[process.sent.pop(0)] = self.now
            process.ledger.answered(self.now)

    def drop(self, process: Process) -> None:
        """Do not use a grant."""
        if process.grants:
            process.grants.pop()
            process.ledger.in_flight -= 1

    def die(self, process: Process) -> None:
        """End a process, and begin another: what it has sent arrives in the same moment."""
        for number in process.sent:
            self._answered[number] = self.now
        index = self.processes.index(process)
        self.processes[index] = Process(f"{process.ledger.holder}+")

    def _arrive(self, report: Report, number: int) -> tuple[int, list[float]]:
        known = self._window.accept(self.now, report)
        if known != report.sequence:
            return known, []
        return known, self._window.grant(self.now, report.holder, number, self._limit)


@pytest.mark.slow
@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 2),  # which process
            st.sampled_from(
                ["answered", "answered", "answered", "lost", "late", "unanswered"]
            ),  # its call
            st.integers(0, 4),  # the grants that it asks for
            st.integers(0, 5),  # its requests that are answered
            st.sampled_from(["uses", "uses", "uses", "keeps", "drops", "dies"]),  # what it does
            st.sampled_from([0.0, 0.1, 1.0, 7.0, 29.0]),  # seconds until the next step
        ),
        max_size=60,
    ),
    limit=st.integers(1, 6),
)
@settings(max_examples=300, deadline=None)
def test_never_more_than_the_limit_counts(
    steps: Sequence[tuple[int, str, int, int, str, float]], limit: int
) -> None:
    """Whatever calls get lost and processes die, no grant is usable beyond the limit.

    A request really counts from its sending until 60 s after its answer.
    """
    model = Model(limit)
    for which, how, number, answers, does, wait in steps:
        process = model.processes[which]
        model.call(process, number, how)
        if does == "uses":
            model.use(process)
        model.answer(process, answers)
        if does == "drops":
            model.drop(process)
        if does == "dies":
            model.die(process)
        model.now += wait
        for one in model.processes * 2:  # a process that lives reports in time
            model.call(one, 0, "answered")
