"""What every backend does: in memory, in Redis and in PostgreSQL, on real time."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import pytest

from kling_async._utils.extras import install_command
from kling_async.errors import ConfigurationError
from kling_async.limits.shared.backend import Lease, LimitsBackend, Usage, create_backend
from kling_async.limits.shared.memory import MemoryLimitsBackend
from kling_async.limits.shared.schedule import RequestSchedule
from kling_async.limits.shared.window import Report
from tests.limits.conftest import PACE, change, plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Connect(Protocol):
    def __call__(self, name: str = "n") -> LimitsBackend: ...


@pytest.fixture(params=["memory", "redis", "postgres"])
async def backends(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Make backends that keep the same numbers, if they are of the same name."""
    made: list[LimitsBackend] = []
    memories: dict[str, LimitsBackend] = {}
    url = "" if request.param == "memory" else request.getfixturevalue(f"{request.param}_url")

    def make(name: str = "n") -> LimitsBackend:
        if request.param == "memory":
            return memories.setdefault(name, MemoryLimitsBackend())
        made.append(create_backend(url, name))
        return made[-1]

    yield make
    for backend in made:
        await backend.close()


async def test_grants_are_given_in_a_row(backends: Connect) -> None:
    """Grants follow one another for all processes, beginning with the burst."""
    one, other = backends(), backends()
    assert (await one.reserve(0, plain(), PACE)).delays == ()  # it was new
    await asyncio.sleep(0.03)
    begun = asyncio.get_running_loop().time()
    first = await one.reserve(300, plain(), PACE)
    assert first.delays[0] == pytest.approx(-PACE.burst, abs=1e-5)
    steps = [later - sooner for sooner, later in pairwise(first.delays)]
    assert steps == pytest.approx([PACE.interval] * 299, abs=1e-5)
    second = await other.reserve(100, plain(), PACE)
    third = await one.reserve(1, plain(), PACE)
    took = asyncio.get_running_loop().time() - begun
    assert 0.29 - took - 0.1 <= second.delays[0] <= 0.29
    assert third.delays[0] - second.delays[0] == pytest.approx(0.1, abs=took + 0.001)
    assert first.epoch == second.epoch == third.epoch
    assert (first.pause, first.paused_for > 1e8) == (0.0, True)


async def test_many_at_once(backends: Connect) -> None:
    """No grant is given twice, however many ask at the same time."""
    asking = [backends() for _ in range(4)]
    loop = asyncio.get_running_loop()
    # So far apart that it does not matter how long a call takes.
    pace = RequestSchedule(60_000, 1_000.0, 0.0, 100, 0.0)

    async def one(backend: LimitsBackend) -> list[float]:
        return [
            loop.time() + (await backend.reserve(2, plain(), pace)).delays[0] for _ in range(10)
        ]

    moments = sorted(at for part in await asyncio.gather(*map(one, asking)) for at in part)
    grants = [round((at - moments[0]) / pace.interval) for at in moments]
    assert grants == list(range(0, 80, 2))


async def test_names_share_nothing(backends: Connect) -> None:
    """Limits of another name are others."""
    one, other = backends("one"), backends("other")
    await one.reserve(1_000, plain(), PACE)
    await one.update_leases(change(acquire=("a",)))
    await one.pause(10.0, 0.0)
    assert (await other.reserve(1, plain(), PACE)).delays[0] < 0.01
    assert await other.update_leases(change(acquire=("a", "b", "c"))) is not None
    usage = await other.peek()
    assert (usage.requests, usage.pause, len(usage.leases)) == (1, 0.0, 3)


async def test_a_pause(backends: Connect) -> None:
    """No grant lies in a pause; refusals of one storm may extend it; it never shrinks."""
    backend = backends()
    assert 39 < await backend.pause(40.0, 30.0) <= 40
    await asyncio.sleep(0.02)
    assert 30 < await backend.pause(30.0, 30.0) < 40
    assert 40 < await backend.pause(50.0, 30.0) <= 50
    got = await backend.reserve(1, plain(), PACE)
    assert got.delays[0] == pytest.approx(got.pause, abs=1e-5)
    assert 40 < got.pause < 50
    assert 0.02 <= got.paused_for < 10
    assert 40 < await backend.pause(10.0, 0.0) < 50
    assert 50 < await backend.pause(60.0, 0.0) <= 60
    other = backends("other")
    assert await other.pause(0.0, 0.0) == 0
    await asyncio.sleep(0.02)
    assert await other.pause(60.0, 30.0) == 0  # it is over
    assert 50 < (await backend.peek()).pause <= 60


async def test_leases_are_given_up_to_the_limit(backends: Connect) -> None:
    """The first ids are given as far as the limit allows; what is dropped is free after that."""
    one, other = backends(), backends()
    assert (await one.update_leases(change(acquire=("a", "b")))).acquired == ("a", "b")
    assert (await other.update_leases(change(acquire=("c", "d")))).acquired == ("c",)
    # Not to the process that releases: others have waited for as long.
    assert (await one.update_leases(change(release=("a", "b", "x"), acquire=("e",)))).acquired == ()
    assert (await other.update_leases(change(acquire=("f", "g", "h")))).acquired == ("f", "g")


async def test_leases_are_held_beyond_the_limit(backends: Connect) -> None:
    """What a process holds counts first, whatever the limit, and is taken over by its key."""
    one, other = backends(), backends()
    holds = tuple(Lease(f"m/{i}", "me", 10.0 + i, 50.0) for i in range(4))
    assert (await one.update_leases(change(renew=holds, acquire=("a",)))).acquired == ()
    await other.update_leases(
        change(holder="other", renew=(Lease("m/2", "me", 1.0, 60.0),), release=("m/0",))
    )
    leases = {lease.key: lease for lease in (await one.peek()).leases}
    assert {key: lease.holder for key, lease in leases.items()} == {
        "m/1": "me",
        "m/2": "other",
        "m/3": "me",
    }
    assert 13 <= leases["m/3"].held_for < 23
    assert 50 < leases["m/2"].ends_in <= 60
    # A task gets a name of its own in one call.
    await one.update_leases(change(renew=(Lease("m/9", "me", 0.0, 9.0),), release=("m/1",)))
    assert sorted(lease.key for lease in (await one.peek()).leases) == ["m/2", "m/3", "m/9"]


async def test_leases_end(backends: Connect) -> None:
    """A lease that is not renewed is free after its lifetime."""
    backend = backends()
    await backend.update_leases(change(acquire=("a", "b"), lifetime=0.1))
    await backend.update_leases(change(renew=(Lease("b", "me", 0.0, 60.0),)))
    await asyncio.sleep(0.12)
    assert [lease.key for lease in (await backend.peek()).leases] == ["b"]
    assert (await backend.update_leases(change(acquire=("c", "d", "e")))).acquired == ("c", "d")


async def test_a_lease_is_never_shortened(backends: Connect) -> None:
    """A report of another process does not shorten a lease."""
    backend = backends()
    await backend.update_leases(change(renew=(Lease("m/1", "me", 0.0, 60.0),)))
    await backend.update_leases(change(holder="other", renew=(Lease("m/1", "me", 0.0, 5.0),)))
    (lease,) = (await backend.peek()).leases
    assert lease.ends_in > 50


async def test_a_backend_that_knows_nothing(backends: Connect) -> None:
    """It grants nothing at first, neither requests nor leases, but stores what is held at once."""
    backend = backends()
    careful = RequestSchedule(60_000, 0.001, 0.01, 100, 30.0)
    first = await backend.update_leases(
        change(renew=(Lease("h", "me", 0.0, 9.0),), acquire=("a",), settle=0.2)
    )
    assert first.acquired == ()
    await backend.update_leases(change(release=("h",), settle=0.2, schedule=careful))
    assert (await backend.reserve(1, plain(), PACE)).delays[
        0
    ] < 0.01  # it was created by a call without a delay
    other = backends("careful")
    got = await other.reserve(1, plain(), careful)
    assert got.delays[0] == pytest.approx(30, abs=0.01)
    again = await other.reserve(1, plain(), careful)
    assert 20 < again.delays[0] < 30.001
    assert again.epoch == got.epoch
    await asyncio.sleep(0.2)
    assert (await backend.update_leases(change(acquire=("a",), settle=0.2))).acquired == ("a",)


async def test_reports(backends: Connect) -> None:
    """What is under way counts, and what was answered 60 s from then; a grant waits for both."""
    backend, pace = backends(), RequestSchedule(10, 0.0, 0.0, 100, 0.0)
    first = await backend.reserve(4, Report("a", 1), pace)
    assert (len(first.delays), first.acknowledged) == (4, 1)
    # Of process a 4 are under way; b has 5 that were answered, at different times.
    got = await backend.reserve(3, Report("b", 7, 0, 0, ((20.0, 2), (58.0, 3))), pace)
    assert got.acknowledged == 7
    assert len(got.delays) == 3
    assert abs(got.delays[0]) < 0.01
    assert [2 - 0.01 <= delay <= 2.31 for delay in got.delays[1:]] == [True, True]
    assert (await backend.peek()).requests == 12
    # a has 2 left, 1 was answered just now, and 1 grant was not used.
    got = await backend.reserve(9, Report("a", 2, 1, 2, ((0.0, 1),)), pace)
    assert len(got.delays) == 5
    assert [2 - 0.3 <= delay <= 2.31 for delay in got.delays[:2]] == [True, True]
    assert [39 <= delay <= 40.31 for delay in got.delays[2:4]] == [True, True]
    assert 59 <= got.delays[4] <= 60.31
    # All that is left is under way: nothing is known of when it will be answered.
    assert (await backend.reserve(1, Report("b", 8, 7, 3), pace)).delays == ()


async def test_a_report_that_does_not_follow_the_last(backends: Connect) -> None:
    """A report whose predecessor is unknown changes nothing, and the last that is known is said."""
    backend, pace = backends(), RequestSchedule(10, 0.0, 0.0, 100, 0.0)
    await backend.reserve(1, Report("a", 1), pace)
    for late in (Report("a", 5, 4, 9, ((0.0, 5),)), Report("a", 2, 0, 9), Report("b", 2, 1, 9)):
        got = await backend.reserve(2, late, pace)
        assert (got.delays, got.acknowledged) == ((), 1 if late.holder == "a" else 0)
    assert (await backend.peek()).requests == 1


async def test_peek(backends: Connect) -> None:
    """`peek` returns what is in use, by holder, and changes nothing."""
    backend = backends()
    nothing = await backend.peek()
    assert (nothing.requests, nothing.pause, nothing.leases) == (0, 0.0, ())
    await backend.reserve(40, plain(), PACE)
    await backend.reserve(2, plain(), PACE)
    await backend.update_leases(change(holder="b", acquire=("x", "y")))
    await backend.update_leases(change(holder="a b", acquire=("z",)))
    usage = await backend.peek()
    assert isinstance(usage, Usage)
    assert usage.requests == 42
    assert (usage.requests_per_minute, usage.concurrent_tasks) == (60_000, 3)
    assert usage.effective_tasks == 3
    assert sorted((lease.holder, lease.key) for lease in usage.leases) == [
        ("a b", "z"),
        ("b", "x"),
        ("b", "y"),
    ]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://cache", "not at http://"),
        ("cache:6379", "not at anything else"),
        ("pass:word://cache", "not at anything else"),
        ("redis://:pass:word@cache:port", "invalid limiter URL, redis:"),
    ],
)
def test_invalid_urls(url: str, message: str) -> None:
    """An unknown scheme is refused, and the message has no password."""
    with pytest.raises(ConfigurationError, match=message) as caught:
        create_backend(url, "n")
    assert "word" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "package"), [("valkeys://c", "redis"), ("postgres://c", "psycopg")]
)
def test_without_the_package(url: str, package: str) -> None:
    """Without the package that speaks to a backend, the error names the extra to install."""
    extra = "postgres" if package == "psycopg" else package
    script = f"""
import sys
sys.modules[{package!r}] = None
from kling_async import KlingClient, MissingExtraError
try:
    KlingClient("key", limiter={url!r})
except MissingExtraError as error:
    print(error)
"""
    status = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COVERAGE_PROCESS_START": ""},
    )
    assert install_command(extra) in status.stdout
