"""Delivering callbacks as documented: exactly 200 within 30 s, else again, three times.

Redirects are not followed and count as a refusal. At most `AT_ONCE` attempts are under way at one
time, so that a thousand tasks that end together do not open a thousand sockets; the others wait
for their turn, and their 30 s begin with it.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import aiohttp

from kling_async.testing.emulator.records import Delivery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from kling_async.testing.emulator.tasks import EmulatedTask

AT_ONCE: Final = 100
_ANSWER_WITHIN: Final = 30.0
_RETRY_AFTER: Final = (30.0, 120.0, 600.0)
_OK: Final = 200

_DELAY: Final = 20.0
_OVERTAKEN_WITHIN: Final = 60.0
_NO_SUCH_TASK: Final = "task_0000000000000000"


class Callbacks:
    """Posts the ends of tasks; all waits but that for an answer take 1/`speed` of their time."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._overtaken: list[asyncio.Event] = []
        self._session: aiohttp.ClientSession
        self.deliveries: list[Delivery] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hold the connections to the receivers."""
        async with aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Content-Type": "application/json", "User-Agent": "kling-async-emulator"},
            # Each attempt has a connection of its own: none is lost to one that is just closed.
            connector=aiohttp.TCPConnector(limit=AT_ONCE, force_close=True),
        ) as self._session:
            yield

    async def deliver(
        self, task: EmulatedTask, data: Mapping[str, object], sent: asyncio.Event
    ) -> None:
        """Post a task's end until it is taken or given up, as the scenario wants it.

        Args:
            task: Which has ended now.
            data: What its status answer says.
            sent: Is set when it has been posted for the first time.
        """
        rule = task.callback
        if rule.what == "lost":
            return
        if rule.what == "delay":
            await asyncio.sleep(float(rule.detail or _DELAY) / self._speed)
        passed = [sent]
        if rule.what == "overtaken":
            await self._let_pass()
        else:
            passed += self._overtaken
            self._overtaken.clear()
        body = _body(rule.what, data)
        if rule.what == "double":
            late = float(rule.detail or 0) / self._speed
            async with asyncio.TaskGroup() as copies:
                copies.create_task(self._attempts(task, body, passed))
                copies.create_task(self._attempts(task, body, (), late))
        else:
            await self._attempts(task, body, passed)

    async def _let_pass(self) -> None:
        """Wait until the next one that falls due has been posted, if there is one in time."""
        passed = asyncio.Event()
        self._overtaken.append(passed)
        with suppress(TimeoutError):
            async with asyncio.timeout(_OVERTAKEN_WITHIN / self._speed):
                await passed.wait()

    async def _attempts(
        self, task: EmulatedTask, body: bytes, passed: Iterable[asyncio.Event], late: float = 0.0
    ) -> None:
        url = task.order.callback_url or ""
        waits = (late, *(wait / self._speed for wait in _RETRY_AFTER))
        for attempt, wait in enumerate(waits, start=1):
            await asyncio.sleep(wait)
            async with self._turns:
                at = asyncio.get_running_loop().time()
                status = await self._post(url, body)
            self.deliveries.append(Delivery(at, task.task_id, url, attempt, status))
            for event in passed:
                event.set()
            if status == _OK:
                return

    async def _post(self, url: str, body: bytes) -> int | None:
        try:
            async with (
                asyncio.timeout(_ANSWER_WITHIN),
                self._session.post(url, data=body, allow_redirects=False) as response,
            ):
                return response.status
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            # ValueError: a URL that aiohttp cannot make sense of.
            return None


def _body(what: str, data: Mapping[str, object]) -> bytes:
    """Write what a callback says: the envelope of the status answer, or what the scenario wants."""
    if what == "garbage":
        return b"\xc3\x28 {'code': 200"  # neither JSON nor UTF-8
    said = dict(data)
    if what == "wrong-task":
        said["taskId"] = _NO_SUCH_TASK
    elif what == "unfinished":
        said = {"taskId": data["taskId"], "state": "processing", "createTime": data["createTime"]}
    elif what == "object-result" and isinstance(result := data.get("resultJson"), str):
        said["resultJson"] = json.loads(result)
    body = json.dumps({"code": 200, "message": "success", "data": said}).encode()
    return body[: len(body) // 2] if what == "truncated" else body
