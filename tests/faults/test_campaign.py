"""A few short campaigns, and long runs in which faults must not eat up the account's slots."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

import pytest

from kling_async import KlingClient, Limits, MasterTextToVideo
from kling_async.errors import KlingError
from kling_async.testing import ScriptedTransport
from kling_async.testing.transport import answer
from tests.faults import campaign

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kling_async.testing.transport import Request, Response
    from tests.conftest import Connect, Emulate

MINUTE = 60.0
WARM_UP = 90.0  # until it is known how little time these tasks take


@pytest.mark.slow
@pytest.mark.parametrize("seed", [7, 18, 39])
def test_campaign(seed: int) -> None:
    """Whatever goes wrong, nothing is paid twice, exceeds a limit, gets lost or is left over."""
    report = campaign.run(seed, tasks=100)
    assert not report.problems, (report.command, report.problems)
    assert report.paid


def test_a_campaign_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A campaign that finds something names its seed, and the command that repeats it."""
    monkeypatch.setattr(campaign.Campaign, "_check_money", spoil)
    assert campaign.main(["--seed", "7", "--tasks", "8"]) == 1
    said = capsys.readouterr().out
    assert "seed 7: " in said
    assert "  spoilt\n" in said
    assert "repeat: python -m tests.faults.campaign --seed 7 --tasks 8" in said


def spoil(one: campaign.Campaign) -> None:
    """Find something."""
    one.books.problems.append("spoilt")


def foxes() -> Iterator[MasterTextToVideo]:
    """Give inputs without end."""
    while True:
        yield MasterTextToVideo("a fox")


async def ended_in(kling: KlingClient, minutes: int) -> list[int]:
    """Generate for some minutes; return how many tasks have ended in each quarter of them."""
    loop = asyncio.get_running_loop()
    begun, quarters = loop.time() + WARM_UP, [0, 0, 0, 0]
    length = minutes * MINUTE / 4
    try:
        async with asyncio.timeout(WARM_UP + minutes * MINUTE):
            async for outcome in kling.generate_many(foxes()):
                quarter = int((loop.time() - begun) // length)
                if outcome.result is not None and quarter >= 0:
                    quarters[quarter] += 1
    except TimeoutError:
        pass
    return quarters


class Model:
    """A service without sockets, in which tasks take a second or two, and some submits fail."""

    def __init__(self, unsure: float) -> None:
        self._unsure = unsure
        self._dice = Random(1)  # noqa: S311 - repeatable, and no secret
        self._tasks: list[tuple[float, float]] = []  # when each begins and ends

    def __call__(self, request: Request) -> Response:
        now = asyncio.get_running_loop().time()
        if request.ref is None:
            if self._dice.random() < self._unsure:
                return answer(None, status=500)
            self._tasks.append((now, now + self._dice.uniform(1.0, 2.5)))
            return answer({"taskId": str(len(self._tasks) - 1)})
        begins, ends = self._tasks[int(request.ref.task_id)]
        data = {"taskId": request.ref.task_id, "state": "processing", "createTime": begins * 1000}
        if now >= ends:
            data |= {
                "state": "success",
                "completeTime": ends * 1000,
                "costTime": (ends - begins) * 1000,
                "resultJson": '{"resultUrls": ["https://a.example/f.mp4"]}',
            }
        return answer(data)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.virtual_time
@pytest.mark.parametrize(("slots", "unsure", "minutes"), [(100, 0.02, 10), (400, 0.01, 2)])
async def test_soak(slots: int, unsure: float, minutes: int) -> None:
    """With some submits unsure, the throughput of the last minutes is that of the first."""
    limits = Limits(concurrent_tasks=slots, requests_per_minute=100 * slots * 4)
    transport = ScriptedTransport(Model(unsure))
    kling = KlingClient("a-key", limits=limits, transport=transport)
    async with kling:
        quarters = await ended_in(kling, minutes)
    assert quarters[3] >= 0.9 * quarters[0], quarters
    assert quarters[0] > minutes * MINUTE / 4 * slots / 2.5 / 2, quarters


@pytest.mark.virtual_time
async def test_an_account_of_three(emulate: Emulate, connect: Connect) -> None:
    """Three answers of 500 take three slots of three for some minutes, and not for an hour."""
    emulator = await emulate("submit:1-3=500", concurrent_tasks=3)
    kling = await connect(emulator, limits=Limits(concurrent_tasks=3))
    for _ in range(3):
        with pytest.raises(KlingError):
            await kling.submit(MasterTextToVideo("a fox"))
    await kling.submit(MasterTextToVideo("a fox"))
    assert asyncio.get_running_loop().time() < 6 * MINUTE
