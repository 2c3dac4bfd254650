from __future__ import annotations

from kling_async.testing.emulator.records import Arrival, RequestLog


def arrival(at: float) -> Arrival:
    """Give an arrival."""
    return Arrival(at, "GET", "/", "other")


def test_an_answer_is_added_to_its_arrival() -> None:
    """An arrival has no status until it is answered."""
    log = RequestLog()
    first, second = log.add(arrival(1)), log.add(arrival(2))
    log.update(second, status=503)
    assert [a.status for a in log] == [None, 503]
    log.update(first, status=200)
    assert [a.status for a in log] == [200, 503]


def test_when_an_arrival_was_counted() -> None:
    """An arrival has the moment at which it was counted, if it was, unless it is forgotten."""
    log = RequestLog(keep=1)
    numbers = [log.add(arrival(at)) for at in range(3)]
    for number in numbers[:2]:
        log.update(number, counted_at=10.0 + number)
    assert [(a.at, a.counted_at) for a in log] == [(1, 11.0), (2, None)]


def test_old_arrivals_are_forgotten() -> None:
    """A log that is full drops its older half and still knows the rest by number."""
    log = RequestLog(keep=2)
    numbers = [log.add(arrival(at)) for at in range(5)]
    assert [a.at for a in log] == [2, 3, 4]
    for number in numbers:
        log.update(number, status=200 + number)
    assert [a.status for a in log] == [202, 203, 204]
