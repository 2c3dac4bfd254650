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
    """Make an error with which the service asks for a wait."""
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
    """An error that is not retryable is never repeated, at no chance and no moment."""
    assert Retry(attempts=10**6).wait(error, 1, 0.0, 0.0) is None


@pytest.mark.parametrize("error", [PASSING, ConnectError("no"), asking(None), asking(0.0)])
def test_what_may_be_repeated_is(error: KlingError) -> None:
    """A retryable error is repeated after the wait that chance gives."""
    assert Retry().wait(error, 1, 0.0, 0.5) == 0.25
    assert Retry().wait(error, 1, 0.0, 0.0) == 0.0


@pytest.mark.parametrize(
    ("attempt", "widest"),
    [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (7, 32.0), (8, 60.0), (64, 60.0), (10**9, 60.0)],
)
def test_widest_waits(attempt: int, widest: float) -> None:
    """The widest wait doubles with each failure, from half a second up to the cap."""
    assert Retry().backoff(attempt, 1.0) == widest
    assert Retry().backoff(attempt, 0.5) == widest / 2
    assert Retry().backoff(attempt, 0.0) == 0.0


@FREELY
@given(st.integers(1, 10**6), CHANCES, st.floats(1e-3, 1e9), st.floats(1e-3, 1e9))
def test_jitter_is_full_and_capped(attempt: int, chance: float, base: float, cap: float) -> None:
    """A wait lies between nothing and the lesser of the cap and the doubled base."""
    wait = Retry(base=base, cap=cap).backoff(attempt, chance)
    assert 0 <= wait <= cap
    assert wait <= base * 2.0 ** min(attempt - 1, 900)


def test_absurd_bases() -> None:
    """A base that overflows when doubled is still held by the cap."""
    assert Retry(base=1e308, cap=7.0).backoff(60, 1.0) == 7.0


def test_attempts_run_out() -> None:
    """A request is sent as often as the attempts say, the first sending included."""
    retry = Retry(attempts=3)
    assert [retry.wait(PASSING, attempt, 0.0, 0.0) for attempt in (1, 2, 3, 4)] == [
        0.0,
        0.0,
        None,
        None,
    ]
    assert Retry(attempts=1).wait(PASSING, 1, 0.0, 0.0) is None


def test_six_attempts_by_default() -> None:
    """By default a request is sent six times at the most."""
    assert Retry().wait(PASSING, 5, 0.0, 0.0) == 0.0
    assert Retry().wait(PASSING, 6, 0.0, 0.0) is None


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
    assert Retry().wait(asking(asked), 1, 0.0, chance) == wait


def test_no_wait_beyond_the_deadline() -> None:
    """A wait that would pass the deadline is not begun; one that just meets it is."""
    retry = Retry(deadline=10.0)
    assert retry.wait(asking(4.0), 1, 6.0, 0.0) == 4.0
    assert retry.wait(asking(4.0), 1, 6.5, 0.0) is None
    assert retry.wait(PASSING, 1, 10.5, 0.0) is None
    assert retry.wait(PASSING, 1, 10.0, 0.0) == 0.0


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
    """Whatever happened, a wait is within the cap and the deadline, or there is none."""
    retry = Retry(attempts=8, base=0.5, cap=20.0, deadline=100.0)
    wait = retry.wait(asking(asked), attempt, elapsed, chance)
    if wait is None:
        assert attempt >= 8 or elapsed + 20.0 > 100.0
    else:
        assert attempt < 8
        assert min(asked or 0.0, 20.0) <= wait <= 20.0
        assert elapsed + wait <= 100.0


@pytest.mark.parametrize("attempts", [0, -1, 2.5, math.nan])
def test_wrong_attempts(attempts: int) -> None:
    """A request is sent at least once."""
    with pytest.raises(ConfigurationError, match=f"retry needs attempts >= 1, not {attempts}$"):
        Retry(attempts=attempts)


@pytest.mark.parametrize("name", ["base", "cap", "deadline", "request_timeout"])
@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
def test_wrong_numbers(name: str, value: float) -> None:
    """Every time is positive and finite, or a ConfigurationError names it."""
    with pytest.raises(ConfigurationError, match=f"retry needs {name} > 0, not {value!r}$"):
        Retry(**{name: value})  # type: ignore[arg-type] # not attempts


def test_defaults() -> None:
    """The defaults: waits up to a minute, three minutes in all, half a minute for one sending."""
    retry = Retry()
    assert (retry.attempts, retry.base, retry.cap) == (6, 0.5, 60.0)
    assert (retry.deadline, retry.request_timeout) == (180.0, 30.0)


@pytest.mark.parametrize(
    ("attempt", "wait"), [(1, 0.5), (2, 1.0), (5, 8.0), (6, 10.0), (1_100, 10.0), (10**9, 10.0)]
)
def test_backoff(attempt: int, wait: float) -> None:
    """A wait doubles with each failure up to its cap, after however many failures."""
    assert backoff(attempt, 0.5, 10.0, 1.0) == wait
    assert backoff(attempt, 0.5, 10.0, 0.25) == wait / 4
