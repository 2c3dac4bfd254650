import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kling_async.errors import ConfigurationError
from kling_async.inputs import (
    MasterImageToVideo,
    MasterTextToVideo,
    ProImageToVideo,
    StandardImageToVideo,
)
from kling_async.policy.polling import Polling

# No property depends on how fast the machine is, or on luck.
FREELY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

MODES = [
    cls.mode
    for cls in (StandardImageToVideo, ProImageToVideo, MasterTextToVideo, MasterImageToVideo)
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("duration", "wait"), [(5, 60.0), (10, 90.0)])
def test_first_wait_by_the_vendors_figures(mode: str, duration: int, wait: float) -> None:
    """The first poll of a 5 s video comes after 60 s, of a 10 s video after 90 s."""
    assert Polling().first_wait("kling-2-1", mode, duration) == wait


@pytest.mark.parametrize(
    ("model", "duration"), [("kling-2-6", 5), ("kling-2-1", 7), ("kling-2-1", None), ("", None)]
)
def test_first_wait_of_the_unknown(model: str, duration: int | None) -> None:
    """A task of which no figures are known is first asked after when the longest wait is over."""
    assert Polling(longest=20.0).first_wait(model, "text-to-video", duration) == 20.0


@pytest.mark.parametrize("first", [0, 0.0, 2.5, 1000.0])
def test_an_explicit_first_wait(first: float) -> None:
    """An explicit first wait is taken for every task, however long or short."""
    polling = Polling(first=first)
    assert polling.first_wait("kling-2-1", MODES[0], 5) == first
    assert polling.first_wait("kling-9", "x", None) == first


@pytest.mark.parametrize(
    ("age", "wait"),
    [(0, 1.0), (10, 1.0), (20, 1.0), (60, 3.0), (75, 3.75), (100, 5.0), (300, 15.0), (3600, 15.0)],
)
def test_next_waits(age: float, wait: float) -> None:
    """The wait is a twentieth of the age, at least 1 s and at most 15 s."""
    assert Polling().next_wait(age) == pytest.approx(wait)


def test_own_bounds() -> None:
    """The bounds are settings, and may be equal."""
    polling = Polling(shortest=2.0, longest=4.0)
    assert [polling.next_wait(age) for age in (0, 60, 1000)] == [2.0, 3.0, 4.0]
    assert Polling(shortest=5, longest=5).next_wait(1000) == 5


def test_polls_of_a_usual_task() -> None:
    """A 5 s video that takes 75 s costs six polls and is found less than 4 s late."""
    polling = Polling()
    age = polling.first_wait("kling-2-1", MODES[0], 5)
    polls = 1
    while age < 75:
        age += polling.next_wait(age)
        polls += 1
    assert polls == 6
    assert age < 79


@FREELY
@given(
    st.floats(0.01, 100),
    st.floats(0, 100),
    st.floats(0, 1e9) | st.just(math.inf),
    st.floats(0, 1e9),
)
def test_waits_keep_their_bounds(shortest: float, more: float, age: float, later: float) -> None:
    """Every wait lies between the bounds, and an older task never waits for less."""
    polling = Polling(shortest=shortest, longest=shortest + more)
    wait = polling.next_wait(age)
    assert shortest <= wait <= shortest + more
    assert polling.next_wait(age + later) >= wait


@FREELY
@given(st.floats(20, 300))
def test_tasks_are_found_at_most_five_percent_late(lasts: float) -> None:
    """A task that lasts from 20 s to 5 min is found at most a twentieth of that later."""
    polling = Polling(first=1.0)
    age = 1.0
    while age < lasts:
        age += polling.next_wait(age)
    assert age - lasts <= lasts * 0.05 + 1e-9


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"shortest": 0}, "0 < shortest <= longest, not shortest=0, longest=15.0"),
        ({"shortest": -1.0}, "not shortest=-1.0, longest=15.0"),
        ({"shortest": math.nan}, "not shortest=nan, longest=15.0"),
        ({"shortest": 20.0}, "not shortest=20.0, longest=15.0"),
        ({"longest": 0.5}, "not shortest=1.0, longest=0.5"),
        ({"longest": math.inf}, "not shortest=1.0, longest=inf"),
        ({"longest": math.nan}, "not shortest=1.0, longest=nan"),
        ({"first": -0.1}, "polling needs first >= 0, not -0.1"),
        ({"first": math.inf}, "polling needs first >= 0, not inf"),
        ({"first": math.nan}, "polling needs first >= 0, not nan"),
    ],
)
def test_wrong_schedules(numbers: dict[str, float], words: str) -> None:
    """A schedule that cannot be kept is a ConfigurationError with the number seen."""
    with pytest.raises(ConfigurationError) as caught:
        Polling(**numbers)
    assert words in str(caught.value)
