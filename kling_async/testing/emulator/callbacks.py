"""Delivering callbacks as documented: exactly 200 within 30 s, else again, three times."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import aiohttp

from kling_async.testing.emulator.records import Delivery

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Callbacks"]

_ANSWER_WITHIN: Final = 30.0
_RETRY_AFTER: Final = (30.0, 120.0, 600.0)
_OK: Final = 200


class Callbacks:
    """Posts the ends of tasks; the waits between attempts take 1/`speed` of their time."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self.deliveries: list[Delivery] = []

    async def deliver(
        self,
        session: aiohttp.ClientSession,
        task_id: str,
        url: str,
        body: Mapping[str, object],
    ) -> None:
        """Post until it is taken or the attempts are used up. Redirects count as a refusal."""
        for attempt, wait in enumerate((0.0, *_RETRY_AFTER), start=1):
            await asyncio.sleep(wait / self._speed)
            at = asyncio.get_running_loop().time()
            status = await _post(session, url, body)
            self.deliveries.append(Delivery(at, task_id, url, attempt, status))
            if status == _OK:
                return


async def _post(session: aiohttp.ClientSession, url: str, body: Mapping[str, object]) -> int | None:
    try:
        async with (
            asyncio.timeout(_ANSWER_WITHIN),
            session.post(url, json=body, allow_redirects=False) as response,
        ):
            return response.status
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        # ValueError: a URL that aiohttp cannot make sense of.
        return None
