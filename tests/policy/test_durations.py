from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kling_async.policy.durations import (
    Durations,
    Kind,
    measured_duration,
    observed,
    unsure_lifetime,
    vendor_estimate,
)
from kling_async.results import Snapshot, TaskRef, TaskState

# No property depends on how fast the machine is, or on luck.
FREELY = settings(deadline=None, derandomize=True)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
FIVE = Kind("kling-2-1", "master-text-to-video", 5)

seconds = st.floats(0, 1e6)


def ended(*, created: float | None = None, completed: float | None = None) -> Snapshot:
    """Return the snapshot of an ended task, with the service's times in seconds."""
    moments = [None if at is None else NOON + timedelta(seconds=at) for at in (created, completed)]
    return Snapshot(
        TaskRef("kling-2-1", "task_1"),
        TaskState.SUCCESS,
        created_at=moments[0],
        completed_at=moments[1],
    )


def estimate() -> Durations:
    """Return the vendor's estimate for videos of 5 s."""
    known = vendor_estimate(FIVE)
    assert known is not None
    return known


def observe(known: Durations, *durations: float) -> Durations:
    """Observe several durations in sequence."""
    for duration in durations:
        known = observed(known, duration)
    return known


@pytest.mark.parametrize(
    ("model", "duration", "marks"),
    [
        ("kling-2-1", 5, (60, 90)),
        ("kling-2-1", 10, (90, 120)),
        ("kling-2-1", None, (60, 120)),
        ("kling-2-5-turbo-pro", 5, (30, 45)),
        ("kling-2-5-turbo-pro", 10, (45, 60)),
        ("kling-2-5-turbo-pro", None, (30, 60)),
    ],
)
def test_the_vendors_word(model: str, duration: int | None, marks: tuple[float, float]) -> None:
    """The first marks are the vendor's estimate, for any mode and provider."""
    for mode, provider in (("", None), ("pro-image-to-video", "value")):
        known = vendor_estimate(Kind(model, mode, duration, provider))
        assert known is not None
        assert (known.early, known.late) == marks


@pytest.mark.parametrize("kind", [Kind("kling-2-6", "x", 5), Kind("kling-2-1", "x", 7), Kind("")])
def test_the_vendor_says_nothing(kind: Kind) -> None:
    """Without figures from the vendor there is no estimate."""
    assert vendor_estimate(kind) is None


def test_results_replace_the_vendors_word() -> None:
    """Each of the first eight durations replaces one figure, the extremes last."""
    known = vendor_estimate(FIVE)
    assert known is not None
    marks = []
    for _ in range(8):
        known = observed(known, 75.0)
        assert len(known.seen) == 8
        marks.append((known.early, known.late))
    assert marks[:6] == [(60, 90)] * 6
    assert marks[6] in {(60, 75), (75, 90)}
    assert known == Durations((75.0,) * 8)


def test_forty_are_remembered() -> None:
    """The latest forty durations are kept, in their order."""
    known = observe(estimate(), *map(float, range(1, 101)))
    assert known.seen == tuple(map(float, range(61, 101)))


def test_the_odd_ones_are_left_out() -> None:
    """Of forty, the shortest and the longest lie outside the marks; of fewer, none."""
    known = Durations((*(100.0 + n for n in range(38)), 1.0, 999.0))
    assert known.early == pytest.approx(100 - 37 / 40)
    assert known.late == pytest.approx(137 + 37 / 40)
    fewer = Durations(known.seen[1:])
    assert fewer.early < 1
    assert fewer.late > 999


@pytest.mark.parametrize(
    ("seen", "early", "late"),
    [
        ((80.0,), 60.0, 100.0),
        ((80.0, 80.0), 70.0, 90.0),
        ((60.0, 100.0), 40.0, 120.0),
        ((1.0, 100.0), 0.0, 149.5),
        ((80.0,) * 40, 79.5, 80.5),
    ],
)
def test_marks_are_wider_where_few_were_seen(
    seen: tuple[float, ...], early: float, late: float
) -> None:
    """The margin is the spread, or a quarter of the duration, divided by their number."""
    known = Durations(seen)
    assert [known.early, known.late] == pytest.approx([early, late])


@FREELY
@given(st.lists(seconds, min_size=1, max_size=60), st.booleans())
def test_marks_make_sense(durations: list[float], vendor: bool) -> None:  # noqa: FBT001
    """The early mark is at most the late mark; both are finite and not negative."""
    before = known = vendor_estimate(FIVE) if vendor else None
    for duration in durations:
        known = observed(known, duration)
        assert 0 <= known.early <= known.late < math.inf
    assert observed(before, *durations) == known  # all of them at once


@FREELY
@given(
    st.none() | st.lists(seconds, max_size=100),
    st.lists(st.floats(60, 90), min_size=40, max_size=40),
    st.sampled_from([0.5, 2.0]),
)
def test_forty_results_later(before: list[float] | None, new: list[float], factor: float) -> None:
    """A change of speed is known after forty durations."""
    known = observe(estimate(), *(before or ()))
    new = [duration * factor for duration in new]
    assert observe(known, *new) == Durations(tuple(new))
    assert observe(known, *new).early >= 59 * factor
    assert observe(known, *new).late <= 91 * factor


# ---------------------------------------------------------------------- the share still running


def test_running() -> None:
    """The share that still runs falls from 1 at the early mark, but not to 0."""
    known = Durations((10.0, 20.0, 30.0, 40.0), seeds=4)
    shares = [known.running(age) for age in (0.0, 10.0, 20.0, 25.0, 30.0, 40.0, 1e9)]
    assert shares == pytest.approx([1, 1, 2 / 3, 0.5, 1 / 3, 1 / 6, 1 / 6])


@FREELY
@given(st.lists(seconds, min_size=1, max_size=60), st.lists(seconds, min_size=2, max_size=9))
def test_the_share_still_running_only_falls(durations: list[float], ages: list[float]) -> None:
    """The share lies between 0 and 1 and falls with age; the weight is no more than the span."""
    known = observe(Durations(tuple(durations[:1])), *durations[1:])
    shares = [known.running(age) for age in sorted(ages)]
    assert shares == sorted(shares, reverse=True)
    assert all(0 < share <= 1 for share in shares)
    assert 0 <= known.weight <= (known.late - known.early) * (1 + 1e-9)


def test_the_weight_of_even_durations() -> None:
    """For tasks that end evenly within 30 s, the integral of the root is 20 s."""
    known = Durations(tuple(60.0 + 30 * n / 39 for n in range(40)))
    assert known.weight == pytest.approx(20, rel=0.03)
    assert known.mean == pytest.approx(75)


# ------------------------------------------------------------------------------- presumed lifetimes


@pytest.mark.parametrize(
    ("known", "lifetime"),
    [(vendor_estimate(FIVE), 690.0), (Durations((1000.0,) * 40), 1006.25 * 5)],
)
def test_lifetimes(known: Durations | None, lifetime: float) -> None:
    """An accepted task is presumed to end long after the late mark."""
    assert known is not None
    assert known.lifetime == pytest.approx(lifetime)


@pytest.mark.parametrize(
    ("known", "lifetime"),
    [
        (vendor_estimate(FIVE), 114.5),
        (Durations((1.0, 2.5) * 20), (2.5 + 1.5 / 40) * 1.25 + 2),
        (None, 300.0),
    ],
)
def test_unsure_lifetimes(known: Durations | None, lifetime: float) -> None:
    """A task of a submit without an answer is presumed to end soon after the late mark."""
    assert unsure_lifetime(known) == pytest.approx(lifetime)


# ------------------------------------------------------------------------------ measured_duration


@pytest.mark.parametrize("ages", [[], [80.0], [70.0, 80.0]])
def test_the_services_own_times(ages: list[float]) -> None:
    """The service's own times give the duration."""
    assert measured_duration(ended(created=0, completed=75.5), ages) == 75.5
    assert measured_duration(ended(created=0, completed=0), ages) == 0


@pytest.mark.parametrize(("ages", "taken"), [([], 500.0), ([80.0], 80.0), ([70.0, 80.0], 80.0)])
def test_a_service_that_claims_too_much(ages: list[float], taken: float) -> None:
    """A duration is at most the age."""
    assert measured_duration(ended(created=0, completed=500), ages) == taken


@pytest.mark.parametrize(
    "snapshot",
    [ended(), ended(created=0), ended(completed=0), ended(created=500, completed=0)],
)
@pytest.mark.parametrize(
    ("ages", "taken"), [([70.0, 80.0], 75.0), ([80.0], 72.0), ([0.0], 0.0), ([], None)]
)
def test_without_sensible_times(snapshot: Snapshot, ages: list[float], taken: float | None) -> None:
    """Otherwise it is halfway between the last two polls, 10 % below the only one, or None."""
    assert measured_duration(snapshot, ages) == (None if taken is None else pytest.approx(taken))


@pytest.mark.parametrize("real", [20.0, 40.0])
def test_a_much_quicker_service_without_times(real: float) -> None:
    """If tasks end before the first poll, that poll comes earlier each time."""
    known = vendor_estimate(FIVE)
    assert known is not None
    for _ in range(200):
        if known.early <= real:
            break
        known = observed(known, measured_duration(ended(), [known.early]) or 0.0)
    assert real / 2 < known.early <= real
