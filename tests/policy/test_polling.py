from __future__ import annotations

import math
from decimal import Decimal
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kling_async.errors import ConfigurationError
from kling_async.policy.durations import Durations, Kind, vendor_estimate
from kling_async.policy.polling import CallbackHealth, PollBudget, Polling

if TYPE_CHECKING:
    from collections.abc import Callable

# No property depends on how fast the machine is, or on luck.
FREELY = settings(deadline=None, derandomize=True)

FIVE = vendor_estimate(Kind("kling-2-1", "master-text-to-video", 5))
TEN = vendor_estimate(Kind("kling-2-1", "master-text-to-video", 10))
LEARNED = Durations(tuple(70.0 + n for n in range(40)))
HOURS = Durations((3600.0, 7200.0))


# ---------------------------------------------------------------------------------- the first wait


@pytest.mark.parametrize(
    ("known", "wait"), [(FIVE, 60), (TEN, 90), (LEARNED, LEARNED.early), (None, 15)]
)
def test_first_waits(known: Durations | None, wait: float) -> None:
    """The first poll is at the early mark, at first that of the vendor's estimate."""
    assert Polling().first_wait(known) == wait


def test_first_wait_of_the_unknown() -> None:
    """A task of an unknown kind is first polled after the longest wait."""
    assert Polling(longest=20.0).first_wait(None) == 20.0


def test_first_wait_after_an_outage() -> None:
    """The first poll is made after two minutes at the latest."""
    assert Polling().first_wait(HOURS) == 120.0


@pytest.mark.parametrize("first", [0, 0.0, 2.5, 1000.0])
@pytest.mark.parametrize("known", [None, FIVE, LEARNED])
def test_an_explicit_first_wait(first: float, known: Durations | None) -> None:
    """An explicit first wait holds for every task."""
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
    """Before the early mark, and for unknown kinds, a wait is a twentieth of the age."""
    assert Polling().next_wait(age, known) == pytest.approx(wait)


@pytest.mark.parametrize("spacing", [0.0, 0.5, 4.0])
@pytest.mark.parametrize("age", [60.0, 67.5, 75.0, 86.0, 90.0])
def test_next_waits_where_tasks_usually_end(age: float, spacing: float) -> None:
    """Between the marks a wait is the spacing times the root of the share that still runs."""
    assert FIVE is not None
    wait = Polling(shortest=0.01).next_wait(age, FIVE, spacing=spacing)
    # Not finer than a fortieth of the 30 s between the marks.
    assert wait == pytest.approx(max(spacing, 0.75) * math.sqrt(FIVE.running(age)))


@pytest.mark.parametrize(
    ("polling", "known", "spacing", "wait"),
    [
        (Polling(), FIVE, 0.0, 1.0),  # 0.75 s would do, but that is less than the shortest
        (Polling(), FIVE, 3.0, 3.0),
        (Polling(), FIVE, 1e9, 30.0),  # not more than the time between the marks
        (Polling(longest=2.0), FIVE, 3.0, 3.0),  # where the limit does not allow more
        (Polling(), HOURS, 0.0, 15.0),
    ],
)
def test_bounds_where_tasks_usually_end(
    polling: Polling, known: Durations, spacing: float, wait: float
) -> None:
    """The bounds hold between the marks, too, the longest if the limit allows it."""
    assert polling.next_wait(known.early, known, spacing=spacing) == pytest.approx(wait)


@pytest.mark.parametrize(("spacing", "wait"), [(0.9, 60.0), (3.0, 62.0), (1e9, 89.0)])
def test_first_waits_where_requests_are_few(spacing: float, wait: float) -> None:
    """With a small limit, the first poll is later than the early mark."""
    assert Polling().first_wait(FIVE, spacing=spacing) == pytest.approx(wait)
    assert 59.0 + Polling().next_wait(59.0, FIVE, spacing=spacing) == pytest.approx(
        min(wait, 59.0 + 59 / 20)
    )


@pytest.mark.parametrize(
    ("age", "wait"), [(90, 1.0), (91, 1.1), (100, 2.0), (190, 11.0), (230, 15.0), (1e6, 15.0)]
)
def test_next_waits_in_the_tail(age: float, wait: float) -> None:
    """After the late mark, waits grow by a tenth of the lateness, up to the longest."""
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
    """Every wait is within the bounds, at any age."""
    known = None if seen is None else Durations(tuple(seen))
    wait = Polling(shortest=shortest, longest=shortest + more).next_wait(age, known)
    assert shortest <= wait <= shortest + more


@FREELY
@given(st.floats(20, 300))
def test_unknown_tasks_are_found_at_most_five_percent_late(lasts: float) -> None:
    """A task of an unknown kind is found at most a twentieth of its duration late."""
    polling, age = Polling(first=1.0), 1.0
    while age < lasts:
        age += polling.next_wait(age, None)
    assert age - lasts <= lasts * 0.05 + 1e-9


@pytest.mark.repeating
@FREELY
@given(st.floats(60, 300))
def test_known_tasks_are_found_a_tenth_of_their_lateness_late(lasts: float) -> None:
    """A task is found at most 1 s late between the marks, then a tenth of its lateness."""
    polling = Polling()
    age = polling.first_wait(FIVE)
    while age < lasts:
        age += polling.next_wait(age, FIVE)
    assert age - lasts <= 1 + max(0, lasts - 90) * 0.1 + 1e-9


def test_the_tail_is_thin() -> None:
    """A stuck task costs 30 polls up to the late mark, 25 up to 230 s, then four a minute."""
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
    """A task with a callback is first polled when its callback is overdue."""
    assert Polling().first_wait(known, called_back=True) == pytest.approx(wait)
    assert Polling().next_wait(0.0, known, called_back=True) == pytest.approx(wait)


@pytest.mark.parametrize("known", [None, FIVE, HOURS])
def test_an_explicit_first_wait_for_callbacks(known: Durations | None) -> None:
    """An explicit first wait holds with callbacks, too; then the safety net applies."""
    polling = Polling(first=5.0)
    assert polling.first_wait(known, called_back=True) == 5.0
    overdue = Polling().first_wait(known, called_back=True)
    assert polling.next_wait(5.0, known, called_back=True) == pytest.approx(overdue - 5)


@pytest.mark.parametrize("age", [99.0, 99.001, 150.0, 1e9])
@pytest.mark.parametrize("net", [60.0, 7.0, 3600.0])
def test_the_safety_net(age: float, net: float) -> None:
    """A task whose callback is overdue is polled at the interval of the safety net."""
    assert Polling(safety_net=net).next_wait(age, FIVE, called_back=True) == net


def test_the_safety_net_of_the_unknown() -> None:
    """For an unknown kind with callbacks, only the safety net applies."""
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
    """The shortest wait holds just before a callback is overdue, too."""
    known = None if seen is None else Durations(tuple(seen))
    polling = Polling(shortest=shortest, longest=100.0, safety_net=net)
    overdue = polling.first_wait(known, called_back=True)
    for at in (age, overdue * (1 - 1e-12), overdue - 1e-6):
        assert polling.next_wait(at, known, called_back=True) >= shortest


@FREELY
@given(st.floats(1, 300))
def test_a_lost_callback_is_found(lasts: float) -> None:
    """A task whose callback is lost is found when it is overdue, or a safety net later."""
    polling = Polling()
    age = polling.first_wait(FIVE, called_back=True)
    while age < lasts:
        age += polling.next_wait(age, FIVE, called_back=True)
    assert age == pytest.approx(99) if lasts < 98.99 else age - lasts <= 60 + 1e-9


# -------------------------------------------------------------------------------- what all share


@pytest.mark.parametrize(
    ("weights", "ends", "result"),
    [
        (20.0, 0.0, 2.0),
        (20.0, 4.0, 5.0),
        (20.0, 6.0, 8.0),  # the quarter that polls always have
        (20.0, 1e9, 8.0),
        (0.0, 0.0, 0.0),
    ],
)
def test_spacing(weights: float, ends: float, result: float) -> None:
    """With the spacing, polls use what ends and submits leave of the rate."""
    budget = PollBudget(625, 0.0)  # of which 600 are planned
    assert budget.spacing(weights, ends) == pytest.approx(result, rel=0.005)


def test_the_best_schedule() -> None:
    """Several other schedules with as many polls find ends later on average."""
    known = Durations(tuple(60.0 + 30 * (n + 0.5) / 40 for n in range(40)))

    def cost(wait: Callable[[float], float]) -> tuple[float, float]:
        age, late, polls = 60.0, 0.0, 0.0
        while age < 90:
            polls += (90 - age) / 30
            step = wait(age)
            late += sum(max(0.0, age + step - end) for end in ends if age < end <= age + step)
            age += step
        return late / len(ends), polls

    ends = [60 + 30 * (n + 0.5) / 3000 for n in range(3000)]
    polling = Polling(shortest=0.01)
    ours, number = cost(lambda age: polling.next_wait(age, known, spacing=2.0))
    evenly, as_many = cost(lambda _: 15 / (number - 0.5))
    assert as_many == pytest.approx(number, rel=0.05)
    assert ours < evenly * 0.93


def sent(budget: PollBudget, seconds: float, *, submits: float = 0.0) -> int:
    """Poll as often as the budget allows, with a rate of submits; return the number of polls."""
    now, number, next_submit = 0.0, 0, 0.0
    while now < seconds:
        if submits and now >= next_submit:
            budget.count_request(now)
            next_submit += 1 / submits
        wait = budget.time_until_poll(now)
        if wait == 0:
            budget.count_request(now, is_poll=True)
            number += 1
        else:
            now += min(wait, next_submit - now) if submits and next_submit > now else wait
    return number


@pytest.mark.parametrize("limit", [2, 10, 60, 1000, 10_000])
def test_the_whole_limit(limit: int) -> None:
    """In the long run polls use nearly the whole limit, and never exceed it."""
    number = sent(PollBudget(limit, 0.0), 600.0)
    assert limit * 10 * 0.99 - 12 <= number <= limit * 10 * 1.001 + 10


@pytest.mark.repeating
@pytest.mark.parametrize("limit", [600, 10_000])
def test_submits_come_first(limit: int) -> None:
    """Polls get what submits leave, but at least a quarter of the limit."""
    rate = limit / 60
    assert sent(PollBudget(limit, 0.0), 600.0, submits=rate / 3) == pytest.approx(
        600 * rate * 2 / 3, rel=0.03
    )
    assert sent(PollBudget(limit, 0.0), 600.0, submits=rate) == pytest.approx(
        600 * rate / 4, rel=0.03
    )


def test_slow_answers() -> None:
    """A request counts until 60 s after its answer: slow answers leave less of the limit."""
    budget = PollBudget(600, 0.0)
    before = budget.spacing(1.0, 0.0)
    for _ in range(1000):
        budget.record_response_time(20.0)
    assert budget.spacing(1.0, 0.0) == pytest.approx(before * 80 / 60, rel=0.01)
    assert sent(budget, 800.0) == pytest.approx(800 * 10 * 60 / 80, rel=0.02)


@pytest.mark.parametrize(("limit", "share"), [(10, 0.7), (100, 0.9), (10_000, 0.99)])
def test_the_planned_rate(limit: int, share: float) -> None:
    """Nearly all of a large limit is planned; a small one leaves room for chance."""
    rate = 1 / PollBudget(limit, 0.0).spacing(1.0, 0.0)
    assert rate == pytest.approx(limit / 60 * share, rel=0.01)


# --------------------------------------------------------------------------------- wrong schedules


WRONG = ["5", True, False, Decimal(5), math.nan, math.inf, -math.inf, -1, -0.1, 10**400, [5], 5j]


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("name", ["first", "shortest", "longest", "safety_net"])
def test_what_is_no_number_of_seconds(name: str, value: object) -> None:
    """Anything but a finite number of seconds raises ConfigurationError with an example."""
    with pytest.raises(ConfigurationError) as caught:
        Polling(**{name: value})  # type: ignore[arg-type]
    said = str(caught.value)
    assert said.startswith(f"Polling({name}=...) must be a finite number of seconds")
    assert f"not {value!r:.80}" in said
    assert "such as" in said
    assert ("None" in said) is (name == "first")


@pytest.mark.parametrize("name", ["shortest", "longest", "safety_net"])
@pytest.mark.parametrize("value", [0, 0.0, None])
def test_waits_that_are_none(name: str, value: object) -> None:
    """Only the first wait may be 0 or None."""
    with pytest.raises(ConfigurationError, match=f"{name}=.*greater than 0, such as"):
        Polling(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("numbers", [{"shortest": 20.0}, {"longest": 0.5}])
def test_bounds_in_the_wrong_order(numbers: dict[str, float]) -> None:
    """A longest wait below the shortest raises ConfigurationError."""
    with pytest.raises(ConfigurationError, match="must not be less than"):
        Polling(**numbers)


# --------------------------------------------------------------------- whether callbacks arrive


def test_callbacks_at_first() -> None:
    """At first, callbacks are presumed to arrive."""
    assert not CallbackHealth().stopped


def test_three_ends_without_callbacks() -> None:
    """After three ends without a callback, callbacks have stopped."""
    known = CallbackHealth(100.0)
    for ended_at, stopped in ((101.0, False), (150.0, False), (101.0, True), (180.0, True)):
        known = known.missed_end(ended_at)
        assert known.stopped is stopped


def test_one_callback_that_comes() -> None:
    """A single callback proves that they arrive."""
    known = CallbackHealth()
    for _ in range(100):
        known = known.missed_end(5.0)
    assert known.stopped
    known = CallbackHealth(200.0)
    assert not known.stopped
    assert not known.missed_end(201.0).missed_end(202.0).stopped


@pytest.mark.parametrize("ended_at", [99.9, 100.0])
def test_ends_before_the_latest_callback(ended_at: float) -> None:
    """An end before the last callback does not count."""
    known = CallbackHealth(100.0)
    for _ in range(1000):
        known = known.missed_end(ended_at)
    assert not known.stopped


def test_a_burst_with_losses() -> None:
    """If one in five of a thousand callbacks is lost, they have not stopped."""
    dice = Random(1)  # noqa: S311 - losses, not keys
    ends = sorted(dice.uniform(60, 90) for _ in range(1000))
    lost = [end for end in ends[:-1] if dice.random() < 0.2]
    known = CallbackHealth()
    for end in ends:
        if end not in lost:
            known = CallbackHealth(end + 0.1)
    for end in lost:  # they are found later, all of them together
        known = known.missed_end(end)
    assert len(lost) > 150
    assert not known.stopped


@FREELY
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 10)), max_size=50))
def test_stopped_means_three_in_a_row(history: list[tuple[bool, float]]) -> None:
    """Callbacks have stopped if three ends after the last one were missed."""
    known, now, last, missed = CallbackHealth(), 0.0, float("-inf"), 0
    for came, ago in history:
        now += 1.0
        if came:
            known, last, missed = CallbackHealth(now), now, 0
        else:
            known = known.missed_end(now - ago)
            missed += now - ago > last
        assert known.stopped is (missed >= 3)
