import math
import pickle
from decimal import Decimal

import attrs
import pytest

from kling_async.errors import ConfigurationError
from kling_async.limits.base import Limits


def test_the_vendors_figures() -> None:
    """The defaults are the contract's: 10,000 requests a minute and 1,000 tasks."""
    limits = Limits()
    assert (limits.requests_per_minute, limits.concurrent_tasks) == (10_000, 1_000)
    assert limits.presumed_lifetime == 3600.0


@pytest.mark.parametrize(("requests", "tasks"), [(10, 3), (1, 1), (10**9, 10**9)])
def test_other_plans(requests: int, tasks: int) -> None:
    """Any positive numbers will do, as small or large as a plan may be."""
    limits = Limits(requests, tasks, presumed_lifetime=0.5)
    assert (limits.requests_per_minute, limits.concurrent_tasks) == (requests, tasks)


@pytest.mark.parametrize("name", ["requests_per_minute", "concurrent_tasks"])
@pytest.mark.parametrize("value", [0, -1, True, 10.0, 2.5, "10", None, math.nan])
def test_wrong_counts(name: str, value: object) -> None:
    """A count is a whole number of at least 1, or a ConfigurationError names it."""
    with pytest.raises(ConfigurationError) as caught:
        Limits(**{name: value})  # type: ignore[arg-type] # on purpose
    assert str(caught.value) == f"limits need {name} >= 1, not {value!r}"


@pytest.mark.parametrize("value", [0, 0.0, -1.0, math.nan, math.inf, "60", None, Decimal(60)])
def test_wrong_lifetimes(value: object) -> None:
    """A presumed lifetime is a positive and finite number."""
    with pytest.raises(ConfigurationError) as caught:
        Limits(presumed_lifetime=value)  # type: ignore[arg-type] # on purpose
    assert str(caught.value) == f"limits need presumed_lifetime > 0, not {value!r}"


@pytest.mark.parametrize(
    ("requests", "connections"),
    [
        (1, 4),
        (10, 4),
        (499, 4),
        (500, 5),
        (1_000, 10),
        (9_999, 99),
        (10_000, 100),
        (1_000_000, 100),
    ],
)
def test_connections(requests: int, connections: int) -> None:
    """One request in a hundred of a minute's may be under way, at least 4 and at most 100."""
    assert Limits(requests_per_minute=requests).connections == connections


def test_limits_are_values() -> None:
    """Limits compare, hash and pickle, and cannot be changed."""
    limits = Limits(10, 3)
    assert limits == Limits(10, 3) != Limits(10, 4)
    assert hash(limits) == hash(Limits(10, 3))
    assert pickle.loads(pickle.dumps(limits)) == limits  # noqa: S301 - our own bytes
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        limits.concurrent_tasks = 5  # type: ignore[misc] # on purpose
