from math import inf

from hypothesis import given
from hypothesis import strategies as st

from kling_async.policy.circuit_breaker import Admission, CircuitBreaker

CHANCES = st.floats(0, 1, exclude_max=True)


def admitted(breaker: CircuitBreaker, now: float = 0.0) -> Admission:
    """Admit a request."""
    admission = breaker.admit(now)
    assert admission is not None
    return admission


def opened(now: float = 0.0, chance: float = 0.0) -> CircuitBreaker:
    """Return a breaker that five failures have just opened."""
    breaker = CircuitBreaker()
    for _ in range(5):
        breaker.failed(admitted(breaker, now), now, chance)
    return breaker


def test_closed_at_first() -> None:
    """A closed breaker admits every request, and none is a probe."""
    breaker = CircuitBreaker()
    assert not breaker.is_open
    assert breaker.next_probe_at == -inf
    assert not any(admitted(breaker).probe for _ in range(100))


def test_so_many_failures_in_a_row() -> None:
    """Five failures in a row open it; a success resets the count."""
    breaker = CircuitBreaker()
    for number in range(4 + 4):
        breaker.failed(admitted(breaker), 0.0, 0.0)
        if number == 3:
            breaker.succeeded(admitted(breaker))
    assert not breaker.is_open
    breaker.failed(admitted(breaker), 10.0, 0.0)
    assert breaker.is_open
    assert breaker.admit(10.9) is None
    assert breaker.next_probe_at == 11.0


def test_one_probe_at_a_time() -> None:
    """Until the outcome of a probe is recorded, nothing else is admitted."""
    breaker = opened()
    assert admitted(breaker, 1.0).probe
    assert breaker.next_probe_at == inf
    assert breaker.admit(1e9) is None


def test_growing_intervals() -> None:
    """Each probe that fails doubles the interval, up to the longest."""
    breaker, now, waits = opened(), 0.0, []
    for _ in range(8):
        waits.append(breaker.next_probe_at - now)
        now = breaker.next_probe_at + 3.0
        breaker.failed(admitted(breaker, now), now, 0.0)
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


@given(st.integers(1, 2000), CHANCES)
def test_jitter(failures: int, chance: float) -> None:
    """Chance shortens an interval by at most half."""
    breaker, now = opened(chance=chance), 0.0
    for _ in range(failures):
        whole = min(30.0, 2.0 * (now + 1))
        assert breaker.next_probe_at - now <= whole
        now = breaker.next_probe_at
        breaker.failed(admitted(breaker, now), now, chance)
    assert 0.5 <= breaker.next_probe_at - now <= 30.0


def test_the_service_asks_to_wait() -> None:
    """The service's Retry-After is the shortest interval."""
    breaker = opened()
    breaker.failed(admitted(breaker, 1.0), 1.0, 0.0, retry_after=100.0)
    assert breaker.next_probe_at == 101.0


def test_a_probe_that_succeeds() -> None:
    """A successful probe closes it; the next outage starts with short intervals again."""
    breaker = opened()
    breaker.failed(admitted(breaker, 1.0), 1.0, 0.0)
    breaker.succeeded(admitted(breaker, 3.0))
    assert not breaker.is_open
    for _ in range(5):
        breaker.failed(admitted(breaker, 10.0), 10.0, 0.0)
    assert breaker.next_probe_at == 11.0


def test_late_outcomes() -> None:
    """The outcome of a request that was admitted in an earlier period changes nothing."""
    breaker = CircuitBreaker()
    early = [admitted(breaker) for _ in range(20)]
    for one in early[:6]:
        breaker.failed(one, 0.0, 0.0)
    breaker.succeeded(early[6])
    assert breaker.is_open
    assert breaker.next_probe_at == 1.0
    probe = admitted(breaker, 1.0)
    breaker.withdrawn(early[7])
    breaker.undecided(early[8], 1.0, 0.0)
    assert breaker.next_probe_at == inf
    breaker.succeeded(probe)
    for one in early[9:]:
        breaker.failed(one, 2.0, 0.0)
    assert not breaker.is_open


def test_a_probe_that_was_not_sent() -> None:
    """If a probe was not sent, another one is admitted at once."""
    breaker = opened()
    breaker.withdrawn(admitted(breaker, 1.0))
    assert admitted(breaker, 1.0).probe


def test_a_probe_without_a_verdict() -> None:
    """A probe whose answer was lost counts as failed, since it was sent."""
    breaker = opened()
    breaker.undecided(admitted(breaker, 1.0), 1.0, 0.0)
    assert breaker.next_probe_at == 3.0


def test_an_answer_that_was_lost() -> None:
    """While it is closed, an undecided outcome changes nothing."""
    breaker = CircuitBreaker()
    for _ in range(100):
        breaker.undecided(admitted(breaker), 0.0, 0.0)
    for _ in range(4):
        breaker.failed(admitted(breaker), 0.0, 0.0)
    breaker.undecided(admitted(breaker), 0.0, 0.0)
    assert not breaker.is_open
    breaker.failed(admitted(breaker), 0.0, 0.0)
    assert breaker.is_open
