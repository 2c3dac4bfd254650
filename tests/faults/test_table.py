"""Every row of the table of faults is what a caller sees, and nothing is paid twice."""

from __future__ import annotations

import pytest

from tests.faults import observe
from tests.faults.table import ATTEMPTS, CASES, PAGE, Case, Sees, rendered

pytestmark = pytest.mark.virtual_time

cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def check(seen: observe.Seen, sees: Sees) -> None:
    """Compare what the caller has seen of a fault that stays with the table."""
    facts = (seen.outcome, seen.charged, seen.retryable)
    assert facts == (sees.lasting, sees.charged, sees.retryable)
    if isinstance(sees.requests, int):
        assert seen.sent == sees.requests
    else:
        assert seen.sent > 1


async def check_kind(kind: str, case: Case, sees: Sees) -> None:
    """Let a caller meet a fault once, and then all the time."""
    once = await observe.caller(kind, case.fault, times=1)
    assert once.outcome == sees.once
    assert once.started <= 1
    assert all(wait >= case.fault.least_wait for wait in once.waits)
    if kind == "submit" and once.outcome == "value":
        assert once.started == 1
    lasting = await observe.caller(kind, case.fault)
    check(lasting, sees)
    assert lasting.started <= 1


@cases
async def test_submits(case: Case) -> None:
    """A submit is repeated only if nothing was started, and the error says so."""
    await check_kind("submit", case, case.submit)


@pytest.mark.repeating
@pytest.mark.slow
@cases
async def test_fan_outs(case: Case) -> None:
    """In a fan-out what is free is repeated for longer; the rest is as for a single submit."""
    seen, sees = await observe.fan_out(case.fault), case.submit
    facts = (seen.outcome, seen.charged, seen.retryable)
    assert facts == (sees.lasting, sees.charged, sees.retryable)
    assert seen.started <= 1
    if not sees.retryable:
        assert seen.sent == sees.requests
    elif sees.requests == ATTEMPTS:
        assert seen.sent > ATTEMPTS


@pytest.mark.slow
@cases
async def test_batches(case: Case) -> None:
    """A batch's item is where the table says; what is unsure is not sent again by the next run."""
    seen = await observe.batch(case.fault)
    assert (seen.outcome, seen.state) == (case.submit.lasting, case.submit.item)
    assert seen.started <= 1


@pytest.mark.repeating
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["status", "balance"])
@cases
async def test_reads(case: Case, kind: str) -> None:
    """A status call, and the balance, are repeated unless the service itself has refused them."""
    await check_kind(kind, case, case.read)


@pytest.mark.repeating
@pytest.mark.slow
@cases
async def test_waiting_callers(case: Case) -> None:
    """Who waits for a task waits through what is retryable, until the deadline."""
    seen = await observe.wait(case.fault, timeout=20)
    assert seen.outcome == ("TaskTimeoutError" if case.read.retryable else case.read.lasting)


@cases
async def test_files(case: Case) -> None:
    """A file is asked for again unless it is dead or refused."""
    if case.file is not None:
        await check_kind("file", case, case.file)


def test_the_page() -> None:
    """The committed page has these rows; `python -m tests.faults.table` writes them."""
    text = PAGE.read_text("utf-8")
    assert rendered(text) == text
    assert all(f"| {case.name} |" in text for case in CASES)
