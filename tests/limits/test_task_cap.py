from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, TypeVar

import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from kling_async import TaskRef
from kling_async.limits.base import Limits
from kling_async.limits.local import LocalLimiter
from kling_async.limits.task_cap import TaskCap
from kling_async.testing.clock import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Coroutine

_T = TypeVar("_T")


def run(main: Coroutine[object, object, _T]) -> _T:
    """Run on a virtual loop of its own."""
    with asyncio.Runner(debug=False, loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def capped(limit: int, cap: int, now: float = 0.0) -> TaskCap:
    """Return a cap that a refusal at a moment has lowered."""
    policy = TaskCap(limit)
    policy.accepted(cap)
    policy.refused(now, cap, now)
    assert policy.cap == cap
    return policy


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["admit", "accept", "end", "refuse", "wait"]),
        st.floats(0, 200),
    )
)


@given(limit=st.integers(1, 40), adopted=st.integers(0, 50), events=EVENTS)
def test_between_one_and_the_limit(
    limit: int, adopted: int, events: list[tuple[str, float]]
) -> None:
    """Whatever happens, the cap is from 1 to the limit, and none is admitted at or above it."""
    policy, now, running = TaskCap(limit), 0.0, adopted
    submits: list[float] = []
    policy.accepted(running)
    for event, number in events:
        held = running + len(submits)
        if event == "wait":
            now += number
        elif event == "admit":
            if policy.try_admit(held, now):
                assert held < policy.cap
                submits.append(now)
            elif held < limit:
                # There is always a moment at which one more is let through.
                moment = policy.next_admission(held)
                assert moment is not None
                assert moment >= now or held < policy.cap
        elif event == "accept" and submits:
            submits.pop(0)
            running += 1
            policy.accepted(running)
        elif event == "refuse" and submits:
            policy.refused(submits.pop(0), running, now)
        elif event == "end" and running:
            running -= 1
            policy.probing = False
        assert 1 <= policy.cap <= limit


@given(limit=st.integers(1, 1_000), events=EVENTS)
def test_never_stuck(limit: int, events: list[tuple[str, float]]) -> None:
    """After any refusals the next task is let through within five seconds if none runs."""
    policy, now = TaskCap(limit), 0.0
    for event, number in events:
        now += number
        if event == "refuse":
            policy.refused(now, 0, now)
    assert policy.try_admit(0, now + 5.0)


def test_a_refusal_lowers_it() -> None:
    """After a refusal as many may run as run, and one more only when one has ended."""
    policy = capped(1_000, 3)
    assert not policy.try_admit(3, 1.0)
    policy.probing = False
    assert policy.try_admit(2, 1.0)
    assert not policy.try_admit(3, 1.0)


def test_nothing_runs_and_yet_refused() -> None:
    """If no task of ours runs, one at a time is tried after 1, 2, 4, 5, 5, ... s."""
    policy, now, waits = TaskCap(20), 0.0, []
    policy.try_admit(0, now)
    policy.refused(now, 0, now)
    for _ in range(6):
        moment = policy.next_admission(0)
        assert moment is not None
        assert not policy.try_admit(0, moment - 0.001)
        assert policy.try_admit(0, moment)
        waits.append(moment - now)
        now = moment
        policy.refused(now, 0, now + 0.001)
        now += 0.001
    assert waits == pytest.approx([1, 2, 4, 5, 5, 5], abs=0.01)
    policy.accepted(1)
    policy.probing = False
    policy.refused(now + 1, 0, now + 1)
    assert policy.next_admission(0) == pytest.approx(now + 2)


def test_one_probe_at_a_time() -> None:
    """While the answer to a probe is missing, no other one follows before its time."""
    policy = capped(20, 5)
    assert policy.try_admit(3, 1.0)  # two ended, which was not seen
    assert not policy.try_admit(4, 1.9)
    assert policy.try_admit(4, 2.0)


def test_one_storm_counts_once() -> None:
    """Refusals of submits that were under way together do not add up."""
    one, many = capped(100, 3), capped(100, 3)
    for _ in range(50):
        many.refused(0.0, 3, 0.0)
    assert many.next_admission(3) == one.next_admission(3) == 10.0
    assert many.next_admission(2) == one.next_admission(2) == 1.0


def test_rising() -> None:
    """While it keeps tasks waiting and nothing is refused, it rises by 1, 2, 4, ... every 10 s."""
    policy, caps = capped(1_000, 1), []
    for second in range(10, 120, 10):
        assert not policy.try_admit(policy.cap, second - 0.001)
        policy.try_admit(policy.cap, second)
        caps.append(policy.cap)
    assert caps == [2, 4, 8, 16, 32, 64, 128, 256, 512, 1_000, 1_000]
    assert policy.next_admission(1_000) is None


def test_it_does_not_rise_unused() -> None:
    """A cap that keeps none waiting stays, however long."""
    policy = capped(1_000, 3)
    policy.probing = False
    assert policy.try_admit(0, 1e6)
    assert policy.cap == 3


def test_rises_in_vain() -> None:
    """Each rise that is refused makes the next one wait longer, up to two minutes."""
    policy, now, waits = capped(1_000, 3), 0.0, []
    for _ in range(7):
        moment = policy.next_admission(3)
        assert moment is not None
        assert policy.try_admit(3, moment)
        assert policy.cap == 4
        policy.refused(moment, 3, moment)
        waits.append(moment - now)
        now = moment
    assert waits == [10, 20, 40, 80, 120, 120, 120]
    # Two rises without a refusal: the account has grown, and the waits begin again.
    policy.try_admit(3, now + 120)
    policy.accepted(4)
    policy.try_admit(4, now + 130)
    assert policy.cap == 6
    policy.refused(now + 131, 5, now + 131)
    assert policy.next_admission(5) == now + 151


def test_what_runs_fits() -> None:
    """Tasks that were accepted when a refusal was known already raise the cap to their number."""
    policy = TaskCap(1_000)
    policy.refused(0.0, 0, 0.0)
    for running in (1, 2, 3):
        policy.accepted(running)
    assert policy.cap == 3


def test_the_ramp() -> None:
    """At first 20 tasks start, and then twice as many as were accepted."""
    policy, held = TaskCap(1_000), 0
    for accepted, most in ((0, 20), (1, 20), (10, 20), (18, 36), (36, 72), (600, 1_000)):
        policy.accepted(accepted)
        while policy.try_admit(held, 0.0):
            held += 1
        assert held == most


def test_hanging_submits_do_not_hold_up_the_ramp() -> None:
    """Each second in which nothing is let through doubles the ramp."""
    policy, held, counts = TaskCap(100), 0, []
    for tenth in range(40):
        while policy.try_admit(held, tenth / 10):
            held += 1
        counts.append(held)
    assert [counts[i] for i in (0, 9, 10, 19, 20, 29, 30)] == [20, 20, 40, 40, 80, 80, 100]
    assert policy.next_admission(held) is None


def test_another_clock() -> None:
    """On another clock the same waits are left."""
    policy = capped(1_000, 3, 100.0)
    policy.shift(-90.0)
    assert policy.next_admission(3) == 20.0
    assert policy.next_admission(2) == 11.0
    policy.refused(5.0, 3, 15.0)  # a submit from before the refusal: the same storm
    assert policy.next_admission(2) == 11.0


@define
class Account:
    """An account at the service, and a caller with many items."""

    limiter: LocalLimiter
    tasks: int
    rng: Random = field(factory=lambda: Random(1))  # noqa: S311 - latencies, not secrets
    running: int = 0
    accepted: int = 0
    refused: int = 0

    async def foreign(self, seconds: float) -> None:
        """Let a task run that the limiter does not know."""
        self.running += 1
        await asyncio.sleep(seconds)
        self._end()

    async def generate(self, name: str, seconds: float) -> None:
        """Submit one item until it is accepted; see its end when it is polled."""
        slot = await self.limiter.slot()
        while not await self._submit(seconds):
            self.limiter.refused(slot)
            slot = await self.limiter.slot(first=True)
        slot.confirm(TaskRef("kling-2-1", name))
        await asyncio.sleep(seconds + self.rng.uniform(0.2, 1.0))
        slot.release()

    async def _submit(self, seconds: float) -> bool:
        permit = await self.limiter.request()
        await asyncio.sleep(self.rng.uniform(0.05, 0.3))
        fits = self.running < self.tasks
        if fits:
            self.accepted += 1
            self.running += 1
            asyncio.get_running_loop().call_later(seconds, self._end)
        else:
            self.refused += 1
        await asyncio.sleep(self.rng.uniform(0.05, 0.3))
        permit.answered()
        return fits

    def _end(self) -> None:
        self.running -= 1

    async def batch(self, items: int, low: float, high: float) -> float:
        """Generate all items; return how long it took."""
        begun = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for item in range(items):
                group.create_task(self.generate(f"{item}", self.rng.uniform(low, high)))
        return asyncio.get_running_loop().time() - begun


def test_an_account_of_three_tasks_under_the_default_limits() -> None:
    """All 100 items are made, one submit in two is refused at most, and no time is lost."""

    async def main() -> tuple[Account, float]:
        account = Account(LocalLimiter(), 3)
        return account, await account.batch(100, 75.0, 75.0)

    account, seconds = run(main())
    assert account.accepted == 100
    assert account.refused <= 50
    assert account.limiter.effective_tasks <= 4
    assert seconds <= 34 * 75 * 1.03


def test_twenty_tasks_of_the_run_before() -> None:
    """A batch that is started again waits for the tasks of the run before, and ends."""

    async def main() -> tuple[Account, float]:
        account = Account(LocalLimiter(Limits(10_000, 20)), 20)
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(account.foreign(account.rng.uniform(60, 90)))
            await asyncio.sleep(0)
            seconds = await account.batch(100, 60.0, 90.0)
        return account, seconds

    account, seconds = run(main())
    assert account.accepted == 100
    assert account.refused <= 50
    assert account.limiter.effective_tasks == 20
    assert seconds <= 90 + 100 / 20 * 75 + 60


@pytest.mark.parametrize("tasks", [1, 2, 19, 49])
def test_a_limit_that_is_one_too_high(tasks: int) -> None:
    """All items are made, with a refusal now and then."""

    async def main() -> tuple[Account, float]:
        account = Account(LocalLimiter(Limits(10_000, tasks + 1)), tasks)
        return account, await account.batch(100, 60.0, 90.0)

    account, seconds = run(main())
    assert account.accepted == 100
    assert account.refused <= 80
    assert seconds <= (100 / tasks + 1) * 78


def test_a_cap_lowered_by_mistake() -> None:
    """From 1 the cap is back at 1,000 in two minutes if the tasks are there."""

    async def main() -> tuple[Account, float]:
        account = Account(LocalLimiter(), 1_000)
        account.limiter.refused(await account.limiter.slot())
        assert account.limiter.effective_tasks == 1
        begun = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            batch = group.create_task(account.batch(2_000, 300.0, 300.0))
            while account.limiter.effective_tasks < 1_000:  # noqa: ASYNC110 - nothing reports it
                await asyncio.sleep(1)
            reached = asyncio.get_running_loop().time() - begun
            await batch
        return account, reached

    account, reached = run(main())
    assert reached <= 120
    assert (account.accepted, account.refused) == (2_000, 0)
