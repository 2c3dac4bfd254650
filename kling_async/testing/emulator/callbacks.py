"""Sending callbacks as documented: exactly 200 within 30 s, else three more attempts.

Redirects are not followed and count as a refusal. At most `AT_ONCE` attempts are under way at one
time, so that a thousand tasks that end together do not open a thousand sockets; the others wait,
and their 30 s begin when they are sent.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias

import aiohttp
from attrs import define, field

from kling_async.testing.emulator.faults import NOT_JSON
from kling_async.testing.emulator.records import Delivery

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kling_async.testing.emulator.tasks import EmulatedTask

DeliverCallback: TypeAlias = Callable[[str, bytes], int | Awaitable[int]]
"""Delivers a callback: takes its URL and body, returns the status of the answer."""

_log = logging.getLogger("kling_async")

AT_ONCE: Final = 100
_ANSWER_WITHIN: Final = 30.0
_RETRY_AFTER: Final = (30.0, 120.0, 600.0)
_OK: Final = 200
_HEADERS: Final = {"Content-Type": "application/json"}

_DELAY: Final = 20.0
_OVERTAKEN_WITHIN: Final = 60.0
_NO_SUCH_TASK: Final = "task_0000000000000000"


@define
class Outbox:
    """The attempts to deliver callbacks, and the function that takes the place of a request."""

    deliveries: list[Delivery] = field(factory=list, init=False)
    deliver: DeliverCallback | None = field(default=None, init=False)


class CallbackSender:
    """Posts the ends of tasks; all waits but that for an answer take 1/`speed` of their time."""

    def __init__(self, session: aiohttp.ClientSession, outbox: Outbox, speed: float) -> None:
        self._session = session
        self._outbox = outbox
        self._speed = speed
        self._room = asyncio.Semaphore(AT_ONCE)
        self._overtaken: list[asyncio.Event] = []

    async def deliver(
        self, task: EmulatedTask, data: Mapping[str, object], sent: asyncio.Event
    ) -> None:
        """Post a task's end until it is accepted or abandoned, as the scenario requires.

        Args:
            task: The task, which has ended now.
            data: `data` of its status answer.
            sent: Is set after the first attempt.
        """
        rule = task.callback
        if rule.what == "lost":
            return
        if rule.what == "delay":
            await asyncio.sleep(float(rule.detail or _DELAY) / self._speed)
        passed = [sent]
        if rule.what == "overtaken":
            await self._wait_until_overtaken()
        else:
            passed += self._overtaken
            self._overtaken.clear()
        body = _body(rule.what, data)
        async with asyncio.TaskGroup() as copies:
            copies.create_task(self._attempts(task, body, passed))
            if rule.what == "double":
                late = float(rule.detail or 0) / self._speed
                copies.create_task(self._attempts(task, body, (), late))

    async def _wait_until_overtaken(self) -> None:
        """Wait until the next callback that is due has been posted, if there is one in time."""
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
            async with self._room:
                at = asyncio.get_running_loop().time()
                deliver = self._outbox.deliver
                post = self._post(url, body) if deliver is None else _call(deliver, url, body)
                status = await post
            self._outbox.deliveries.append(Delivery(at, task.task_id, url, attempt, status))
            for event in passed:
                event.set()
            if status == _OK:
                return

    async def _post(self, url: str, body: bytes) -> int | None:
        """Send one attempt; return the status of the answer, or None without one."""
        try:
            async with (
                asyncio.timeout(_ANSWER_WITHIN),
                self._session.post(
                    url, data=body, headers=_HEADERS, allow_redirects=False
                ) as response,
            ):
                return response.status
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            # ValueError: a URL that aiohttp cannot parse.
            return None


async def _call(deliver: DeliverCallback, url: str, body: bytes) -> int | None:
    """Call the user's function in a thread; return the status, or None if it fails."""
    try:
        async with asyncio.timeout(_ANSWER_WITHIN):
            answered = await asyncio.to_thread(deliver, url, body)
            return await answered if inspect.isawaitable(answered) else answered
    except Exception:  # noqa: BLE001 - a test client raises what the application does
        # The URL is not logged: it contains a token.
        _log.warning("deliver_callback of the emulator failed", exc_info=True)
        return None


def _body(what: str, data: Mapping[str, object]) -> bytes:
    """Return a callback's body: the envelope of the status answer, or what the scenario names."""
    if what == "garbage":
        return NOT_JSON
    sent = dict(data)
    if what == "wrong-task":
        sent["taskId"] = _NO_SUCH_TASK
    elif what == "unfinished":
        sent = {"taskId": data["taskId"], "state": "processing", "createTime": data["createTime"]}
    elif what == "object-result" and isinstance(result := data.get("resultJson"), str):
        sent["resultJson"] = json.loads(result)
    body = json.dumps({"code": 200, "message": "success", "data": sent}).encode()
    return body[: len(body) // 2] if what == "truncated" else body
