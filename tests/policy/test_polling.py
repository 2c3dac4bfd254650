from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kling_async.errors import ConfigurationError
from kling_async.policy.durations import Durations, Kind, expected
from kling_async.policy.polling import Polling, pace, stretch

# No property depends on how fast the machine is, or on luck.
FREELY = settings(deadline=None, derandomize=True)

FIVE = expected(Kind("kling-2-1", "master-text-to-video", 5))
TEN = expected(Kind("kling-2-1", "master-text-to-video", 10))
LEARNED = Durations(tuple(70.0 + n for n in range(40)))
HOURS = Durations((3600.0, 7200.0))


# ---------------------------------------------------------------------------------- the first wait


@pytest.mark.parametrize(
    ("known", "wait"), [(FIVE, 60), (TEN, 90), (LEARNED, LEARNED.early), (None, 15)]
)
def test_first_waits(known: Durations | None, wait: float) -> None:
    """The first poll comes when the first usually end, at first as the vendor says."""
    assert Polling().first_wait(known) == wait


def test_first_wait_of_the_unknown() -> None:
    """A task of which nothing is known is first asked after when the longest wait is over."""
    assert Polling(longest=20.0).first_wait(None) == 20.0


def test_first_wait_after_an_outage() -> None:
    """The first poll comes after two minutes at the latest: a slow service may be well again."""
    assert Polling().first_wait(HOURS) == 120.0


@pytest.mark.parametrize("first", [0, 0.0, 2.5, 1000.0])
@pytest.mark.parametrize("known", [None, FIVE, LEARNED])
def test_an_explicit_first_wait(first: float, known: Durations | None) -> None:
    """An explicit first wait is taken for every task, whatever is known."""
    assert Polling(first=first).first_wait(known) == first


# --------------------------------------------------------------------------------- the waits after


@pytest.mark.parametrize("known", [None, Durations((3600.0,))])
@pytest.mark.parametrize(
    ("age", "wait"),
    [(0, 1.0), (20, 1.0), (60, 3.0), (75, 3.75), (100, 5.0), (300, 15.0), (3e3, 15)],
)
def test_next_waits_of_the_early_and_unknown(
    known: Durations | None, age: float, wait: float
) -> None:
    """Where nothing is known, and before tasks usually end, a wait is a twentieth of the age."""
    assert Polling().next_wait(age, known) == pytest.approx(wait)


@pytest.mark.parametrize(
    ("polling", "known", "wait"),
    [
        (Polling(), FIVE, 1.0),  # half a second would do, but that is less than the shortest
        (Polling(shortest=0.1), FIVE, 0.5),
        (Polling(shortest=4.0), FIVE, 4.0),
        (Polling(shortest=0.1, longest=0.2), FIVE, 0.2),
        (Polling(shortest=0.1), Durations((60.0, 120.0) * 20), (60 + 60 / 20) / 60),
        (Polling(), HOURS, 15.0),
    ],
)
def test_next_waits_where_tasks_usually_end(
    polling: Polling, known: Durations, wait: float
) -> None:
    """Between the marks every wait is a sixtieth of the time between them, within the bounds."""
    middle = (known.early + known.late) / 2
    for age in (known.early, middle, known.late):
        assert polling.next_wait(age, known) == pytest.approx(wait)


@pytest.mark.parametrize(
    ("age", "wait"), [(90, 1.0), (91, 1.1), (100, 2.0), (190, 11.0), (230, 15.0), (1e6, 15.0)]
)
def test_next_waits_in_the_tail(age: float, wait: float) -> None:
    """After the late mark the waits grow by a tenth of what the task is late, to the longest."""
    assert Polling().next_wait(age, FIVE) == pytest.approx(wait)


def test_own_bounds() -> None:
    """The bounds are settings, and may be equal."""
    polling = Polling(shortest=2.0, longest=4.0)
    assert [polling.next_wait(age, None) for age in (0, 60, 1000)] == [2.0, 3.0, 4.0]
    assert Polling(shortest=5, longest=5).next_wait(1000, FIVE) == 5


@FREELY
@given(
    st.floats(0.01, 100),
    st.floats(0, 100),
    st.none() | st.lists(st.floats(0, 1e5), min_size=1, max_size=50),
    st.floats(0, 1e9) | st.just(math.inf),
)
def test_waits_keep_their_bounds(
    shortest: float, more: float, seen: list[float] | None, age: float
) -> None:
    """Every wait lies between the bounds, whatever is known, and however old a task is."""
    known = None if seen is None else Durations(tuple(seen))
    wait = Polling(shortest=shortest, longest=shortest + more).next_wait(age, known)
    assert shortest <= wait <= shortest + more


@FREELY
@given(st.floats(20, 300))
def test_unknown_tasks_are_found_at_most_five_percent_late(lasts: float) -> None:
    """A task of which nothing is known is found at most a twentieth of its duration late."""
    polling, age = Polling(first=1.0), 1.0
    while age < lasts:
        age += polling.next_wait(age, None)
    assert age - lasts <= lasts * 0.05 + 1e-9


@FREELY
@given(st.floats(60, 300))
def test_known_tasks_are_found_a_tenth_of_their_lateness_late(lasts: float) -> None:
    """A task is found at most 1 s late while tasks usually end, then a tenth of what it is late."""
    polling = Polling()
    age = polling.first_wait(FIVE)
    while age < lasts:
        age += polling.next_wait(age, FIVE)
    assert age - lasts <= 1 + max(0, lasts - 90) * 0.1 + 1e-9


def test_the_tail_is_thin() -> None:
    """A stuck task costs 30 polls up to the late mark, 25 to 230 s, then four a minute."""
    polling = Polling()
    ages = [polling.first_wait(FIVE)]
    while ages[-1] < 1800:
        ages.append(ages[-1] + polling.next_wait(ages[-1], FIVE))
    assert sum(age < 90 for age in ages) == 30
    assert sum(90 <= age < 230 for age in ages) in range(20, 30)
    assert {round(b - a, 6) for a, b in pairwise(ages) if a > 230} == {15.0}


# ----------------------------------------------------------------------- where a callback will come


@pytest.mark.parametrize(
    ("known", "wait"),
    [
        (FIVE, 99.0),  # a tenth of 90 s on top
        (TEN, 132.0),
        (Durations((9.0, 10.0) * 20), 15.0625),  # 5 s on top
        (LEARNED, LEARNED.late * 1.1),
        (HOURS, HOURS.late * 1.1),
        (None, 60.0),
    ],
)
def test_first_waits_for_callbacks(known: Durations | None, wait: float) -> None:
    """A task that is called back is first asked after when its callback is overdue."""
    assert Polling().first_wait(known, called_back=True) == pytest.approx(wait)
    assert Polling().next_wait(0.0, known, called_back=True) == pytest.approx(wait)


@pytest.mark.parametrize("known", [None, FIVE, HOURS])
def test_an_explicit_first_wait_for_callbacks(known: Durations | None) -> None:
    """An explicit first wait holds with callbacks, too; the next poll is the safety net's."""
    polling = Polling(first=5.0)
    assert polling.first_wait(known, called_back=True) == 5.0
    overdue = Polling().first_wait(known, called_back=True)
    assert polling.next_wait(5.0, known, called_back=True) == pytest.approx(overdue - 5)


@pytest.mark.parametrize("age", [99.0, 99.001, 150.0, 1e9])
@pytest.mark.parametrize("net", [60.0, 7.0, 3600.0])
def test_the_safety_net(age: float, net: float) -> None:
    """Once its callback is overdue, a task is asked after at the pace of the safety net."""
    assert Polling(safety_net=net).next_wait(age, FIVE, called_back=True) == net


def test_the_safety_net_of_the_unknown() -> None:
    """Where nothing is known of a kind, the safety net alone is the schedule."""
    polling = Polling(safety_net=40.0)
    assert polling.first_wait(None, called_back=True) == 40.0
    assert polling.next_wait(40.0, None, called_back=True) == 40.0


@FREELY
@given(
    st.floats(0.01, 100),
    st.floats(0.001, 1000),
    st.none() | st.lists(st.floats(0, 1e5), min_size=1, max_size=50),
    st.floats(0, 1e9),
)
def test_no_wait_for_a_callback_is_too_short(
    shortest: float, net: float, seen: list[float] | None, age: float
) -> None:
    """However near the moment is at which a callback is overdue, the shortest wait is kept."""
    known = None if seen is None else Durations(tuple(seen))
    polling = Polling(shortest=shortest, longest=100.0, safety_net=net)
    overdue = polling.first_wait(known, called_back=True)
    for at in (age, overdue * (1 - 1e-12), overdue - 1e-6):
        assert polling.next_wait(at, known, called_back=True) >= shortest


@FREELY
@given(st.floats(1, 300))
def test_a_lost_callback_is_found(lasts: float) -> None:
    """A task whose callback is lost is found when that is overdue, or a safety net later."""
    polling = Polling()
    age = polling.first_wait(FIVE, called_back=True)
    while age < lasts:
        age += polling.next_wait(age, FIVE, called_back=True)
    assert age == pytest.approx(99) if lasts < 98.99 else age - lasts <= 60 + 1e-9


# -------------------------------------------------------------------------------- what all share


@pytest.mark.parametrize("rate", [0.1, 1.0, 100.0])
@pytest.mark.parametrize("number", [1, 7, 100])
def test_pace_of_the_steady(rate: float, number: int) -> None:
    """What is made evenly is counted at its pace, whatever it was before, however it is told."""
    assert pace(rate, number / rate, more=number) == pytest.approx(rate)
    counted = 1000.0
    for _ in range(int(500 * rate / number) + 1):
        counted = pace(counted, number / rate, more=number)
    assert counted == pytest.approx(rate)


def test_pace_fades() -> None:
    """Without new ones, the pace falls to a third in 20 s and to nothing in the end."""
    assert pace(9.0, 20.0) == pytest.approx(9 / math.e)
    assert pace(9.0, 0.0) == 9.0
    assert pace(9.0, 1e9) == 0.0


def test_pace_of_the_sudden() -> None:
    """New ones count for 20 s, and no more for having been told late."""
    assert pace(1.0, 0.0, more=3) == pytest.approx(1.15)
    assert pace(0.0, 1e-9, more=3) == pytest.approx(0.15)
    assert pace(0.0, 5.0, more=3) < 0.15
    assert pace(0.0, 60.0, more=3) == pytest.approx(0.05, rel=0.06)


@pytest.mark.parametrize(
    ("wished", "limit", "submits", "factor"),
    [
        (0.0, 10_000, 0.0, 1.0),
        (150.0, 10_000, 0.0, 1.0),
        (300.0, 10_000, 0.0, 2.0),
        (300.0, 10_000, 100.0, 6.0),
        (300.0, 10_000, 120.0, 7.2),  # the quarter that polls always have
        (300.0, 10_000, 1e9, 7.2),
        (3.0, 10, 0.0, 20.0),
        (3.0, 10, 0.1, 60.0),
        (1.0, 1, 0.0, 66.66667),
    ],
)
def test_stretch(wished: float, limit: int, submits: float, factor: float) -> None:
    """Waits grow by what the polls are more than 90 % of the limit less the submits."""
    assert stretch(wished, limit, submits) == pytest.approx(factor)


@FREELY
@given(st.floats(0, 1e5), st.integers(1, 100_000), st.floats(0, 5000))
def test_stretched_polls_and_submits_stay_inside(wished: float, limit: int, submits: float) -> None:
    """Waits never shrink; polls and submits need at most 90 % wherever submits leave a quarter."""
    factor = stretch(wished, limit, submits)
    assert factor >= 1
    polls = wished / factor
    assert polls >= min(wished, limit / 60 * 0.25) * (1 - 1e-9)
    assume(submits <= limit / 60 * (0.9 - 0.25))
    assert polls + submits <= limit / 60 * 0.9 * (1 + 1e-9)


# --------------------------------------------------------------------------------- wrong schedules


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
        ({"safety_net": 0}, "polling needs safety_net > 0, not 0"),
        ({"safety_net": -1.0}, "polling needs safety_net > 0, not -1.0"),
        ({"safety_net": math.inf}, "polling needs safety_net > 0, not inf"),
        ({"safety_net": math.nan}, "polling needs safety_net > 0, not nan"),
    ],
)
def test_wrong_schedules(numbers: dict[str, float], words: str) -> None:
    """A schedule that cannot be kept is a ConfigurationError with the number seen."""
    with pytest.raises(ConfigurationError) as caught:
        Polling(**numbers)
    assert words in str(caught.value)
