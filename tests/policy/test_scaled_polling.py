from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kling_async import KlingClient, MasterTextToVideo
from kling_async.policy.durations import Kind, vendor_estimate
from kling_async.policy.polling import Polling
from kling_async.policy.scaled_polling import scaled_polling
from kling_async.webhooks.inbox import Inbox

if TYPE_CHECKING:
    from tests.conftest import Emulate


def waits(polling: Polling) -> tuple[float | None, float, float, float]:
    """Return the waits of a schedule."""
    return polling.first, polling.shortest, polling.longest, polling.safety_net


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (6.0, (6.0, 0.1, 1.5, 6.0)),
        (60.0, waits(Polling(first=60.0))),
        (90.0, waits(Polling(first=90.0))),
        (0.0, (0.0, 0.001, 0.015, 0.06)),
    ],
)
def test_all_waits_are_scaled(first: float, expected: tuple[float, ...]) -> None:
    """Waits are as much shorter than the default ones as the first; none is longer, none is 0."""
    assert waits(scaled_polling(first)) == expected


def test_a_callback_is_overdue_as_much_sooner() -> None:
    """If the first poll comes before the end, the next does not wait for the vendor's times."""
    known = vendor_estimate(Kind("kling-2-1", duration=5))
    usual = Polling(first=3.0).next_wait(3.0, known, called_back=True)
    assert usual > 90
    assert scaled_polling(3.0).next_wait(3.0, known, called_back=True) <= usual / 20


@pytest.mark.virtual_time
async def test_a_lost_callback_at_a_high_speed(
    emulate: Emulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client with the emulator's environment finds an end soon, also if its callback is lost."""
    emulator = await emulate("callback:*=lost", speed=20.0, duration=(60.0, 90.0))
    for name, value in emulator.environment.items():
        monkeypatch.setenv(name, value)
    inbox = Inbox("https://testserver/kling", secret="sixteen characters or more")
    async with KlingClient(inbox=inbox) as kling:
        for _ in range(5):
            result = await kling.generate(MasterTextToVideo("a fox"), timeout=10.0)
            assert result.cost_time is not None
            assert result.cost_time < 5
