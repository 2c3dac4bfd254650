import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kling_async.errors import (
    AnswerLostError,
    BadRequestError,
    ConfigurationError,
    ConnectError,
    ContractError,
    KlingError,
    RateLimitError,
    ServerError,
)
from kling_async.policy.retry import Retry, backoff

# No property depends on how fast the machine is, or on luck.
FREELY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

CHANCES = st.floats(0, 1, exclude_max=True)
PASSING = ServerError("503", retryable=True)


def asking(seconds: float | None) -> KlingError:
    """Return an error with a Retry-After."""
    return RateLimitError("429", retryable=True, retry_after=seconds)


@pytest.mark.parametrize(
    "error",
    [
        BadRequestError("400"),
        ServerError("500", may_have_charged=True),
        AnswerLostError("lost", may_have_charged=True),
        ContractError("odd", may_have_charged=True),
        RateLimitError("429", retry_after=1.0),
    ],
)
def test_what_may_not_be_repeated_is_not(error: KlingError) -> None:
    """An error that is not retryable is never repeated."""
    assert Retry(attempts=10**6).next_delay(error, 1, 0.0, 0.0) is None


@pytest.mark.parametrize("error", [PASSING, ConnectError("no"), asking(None), asking(0.0)])
def test_what_may_be_repeated_is(error: KlingError) -> None:
    """A retryable error is repeated after a random wait."""
    assert Retry().next_delay(error, 1, 0.0, 0.5) == 0.25
    assert Retry().next_delay(error, 1, 0.0, 0.0) == 0.0


@pytest.mark.parametrize(
    ("attempt", "widest"),
    [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (7, 32.0), (8, 60.0), (64, 60.0), (10**9, 60.0)],
)
def test_widest_waits(attempt: int, widest: float) -> None:
    """The longest wait doubles with each failure, from half a second up to the cap."""
    assert backoff(attempt, 0.5, 60.0, 1.0) == widest
    assert backoff(attempt, 0.5, 60.0, 0.5) == widest / 2
    assert backoff(attempt, 0.5, 60.0, 0.0) == 0.0


@FREELY
@given(st.integers(1, 10**6), CHANCES, st.floats(1e-3, 1e9), st.floats(1e-3, 1e9))
def test_jitter_is_full_and_capped(attempt: int, chance: float, base: float, cap: float) -> None:
    """A wait is between 0 and the lesser of the cap and the doubled base."""
    wait = backoff(attempt, base, cap, chance)
    assert 0 <= wait <= cap
    assert wait <= base * 2.0 ** min(attempt - 1, 900)


def test_absurd_bases() -> None:
    """A huge base or number of failures does not overflow: the cap holds."""
    assert backoff(60, 1e308, 7.0, 1.0) == 7.0
    assert backoff(10**12, 1.0, 7.0, 1.0) == 7.0


def test_attempts_run_out() -> None:
    """The number of attempts includes the first sending."""
    retry = Retry(attempts=3)
    assert [retry.next_delay(PASSING, attempt, 0.0, 0.0) for attempt in (1, 2, 3, 4)] == [
        0.0,
        0.0,
        None,
        None,
    ]
    assert Retry(attempts=1).next_delay(PASSING, 1, 0.0, 0.0) is None


def test_attempts_do_not_count_for_429() -> None:
    """A 429 is repeated until the deadline, however often it has been sent."""
    assert Retry(attempts=3).next_delay(asking(None), 100, 100.0, 0.0) == 0.0
    assert Retry(attempts=3).next_delay(asking(None), 100, 180.1, 0.0) is None


@pytest.mark.parametrize("error", [PASSING, asking(None), ConnectError("no")])
def test_patience(error: KlingError) -> None:
    """With patience only the time since the first sending counts."""
    retry = Retry(attempts=3, deadline=10.0)
    assert retry.next_delay(error, 100, 900.0, 0.0, patience=1000.0) == 0.0
    assert retry.next_delay(error, 100, 1000.1, 0.0, patience=1000.0) is None
    assert retry.next_delay(error, 1, 5.1, 0.0, patience=5.0) is None


@pytest.mark.parametrize("patience", [None, 1e6])
@pytest.mark.parametrize("error", [PASSING, asking(1.0)])
def test_a_single_attempt(error: KlingError, patience: float | None) -> None:
    """With one attempt nothing is repeated, a 429 included."""
    assert Retry(attempts=1).next_delay(error, 1, 0.0, 0.0, patience=patience) is None


def test_patience_with_what_may_not_be_repeated() -> None:
    """Patience repeats nothing that may have cost money."""
    lost = AnswerLostError("lost", may_have_charged=True)
    assert Retry().next_delay(lost, 1, 0.0, 0.0, patience=1e6) is None


def test_six_attempts_by_default() -> None:
    """By default a request is sent six times at the most."""
    assert Retry().next_delay(PASSING, 5, 0.0, 0.0) == 0.0
    assert Retry().next_delay(PASSING, 6, 0.0, 0.0) is None


@pytest.mark.parametrize(
    ("asked", "chance", "wait"),
    [
        (3.0, 0.0, 3.0),  # the service's wish is the least wait
        (3.0, 0.9, 3.0),
        (0.1, 0.5, 0.25),  # which chance may exceed
        (0.0, 0.5, 0.25),
        (60.0, 0.0, 60.0),
        (61.0, 0.0, 60.0),  # up to the cap
        (999_999_999.0, 0.0, 60.0),
        (math.inf, 0.0, 60.0),
    ],
)
def test_retry_after(asked: float, chance: float, wait: float) -> None:
    """Retry-After is the least wait, up to the cap."""
    assert Retry().next_delay(asking(asked), 1, 0.0, chance) == wait


def test_no_wait_beyond_the_deadline() -> None:
    """A wait that would exceed the deadline gives up; one that just meets it does not."""
    retry = Retry(deadline=10.0)
    assert retry.next_delay(asking(4.0), 1, 6.0, 0.0) == 4.0
    assert retry.next_delay(asking(4.0), 1, 6.5, 0.0) is None
    assert retry.next_delay(PASSING, 1, 10.5, 0.0) is None
    assert retry.next_delay(PASSING, 1, 10.0, 0.0) == 0.0


@FREELY
@given(
    st.integers(1, 10),
    st.floats(0, 1e6),
    CHANCES,
    st.none() | st.floats(0, allow_infinity=True, allow_nan=False),
)
def test_every_wait_keeps_every_bound(
    attempt: int, elapsed: float, chance: float, asked: float | None
) -> None:
    """Every wait is within the cap and the deadline, or None."""
    retry = Retry(attempts=8, base=0.5, cap=20.0, deadline=100.0)
    error = ServerError("503", retryable=True, retry_after=asked)
    wait = retry.next_delay(error, attempt, elapsed, chance)
    if wait is None:
        assert attempt >= 8 or elapsed + 20.0 > 100.0
    else:
        assert attempt < 8
        assert min(asked or 0.0, 20.0) <= wait <= 20.0
        assert elapsed + wait <= 100.0


@pytest.mark.parametrize("attempts", [0, -1, 2.5, math.nan, True])
def test_wrong_attempts(attempts: int) -> None:
    """A request is sent at least once."""
    with pytest.raises(ConfigurationError, match=f"retry needs attempts >= 1, not {attempts}$"):
        Retry(attempts=attempts)


@pytest.mark.parametrize("name", ["base", "cap", "deadline", "request_timeout", "patience"])
@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, True, "60", None])
def test_wrong_numbers(name: str, value: object) -> None:
    """A time that is not positive and finite raises ConfigurationError with its name."""
    said = f"retry needs {name} > 0 as a number of seconds, not {value!r}$"
    with pytest.raises(ConfigurationError, match=said):
        Retry(**{name: value})  # type: ignore[arg-type] # some are wrong


def test_defaults() -> None:
    """The defaults: a minute a wait, three in all, an hour for a 429, 30 s for one sending."""
    retry = Retry()
    assert (retry.attempts, retry.base, retry.cap) == (6, 0.5, 60.0)
    assert (retry.deadline, retry.request_timeout, retry.patience) == (180.0, 30.0, 3600.0)


@pytest.mark.parametrize(
    ("attempt", "wait"), [(1, 0.5), (2, 1.0), (5, 8.0), (6, 10.0), (1_100, 10.0), (10**9, 10.0)]
)
def test_backoff(attempt: int, wait: float) -> None:
    """A wait doubles with each failure up to its cap, after any number of failures."""
    assert backoff(attempt, 0.5, 10.0, 1.0) == wait
    assert backoff(attempt, 0.5, 10.0, 0.25) == wait / 4
