"""The account: its key, request window, running tasks, money and ledger.

Nothing here reads a clock or waits: `now` comes in, and a `Refusal` or a task goes out.
"""

from __future__ import annotations

import heapq
import hmac
import math
import secrets
from typing import TYPE_CHECKING, Final

from kling_async.testing.emulator.records import Submission
from kling_async.testing.emulator.refusal import Refusal
from kling_async.testing.emulator.rules import MODEL, Order, read_order
from kling_async.testing.emulator.tasks import ON_TIME, SUCCESS, EmulatedTask
from kling_async.testing.emulator.window import SlidingWindow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kling_async.testing.scenario import Rule

# USD for 5 s; a 10 s video costs twice as much. The contract names no prices: these are made up.
PRICES: Final[Mapping[str, float]] = {
    "standard-image-to-video": 0.20,
    "pro-image-to-video": 0.40,
    "master-text-to-video": 1.20,
    "master-image-to-video": 1.20,
}
_LONG: Final = 10

# What to name as Retry-After where only the end of another task helps.
_CONCURRENCY_RETRY_AFTER: Final = 5.0


class Service:
    """What one account may do, has done and owns."""

    def __init__(
        self,
        *,
        api_key: str | None,
        requests_per_minute: int,
        concurrent_tasks: int,
        balance: float,
        duration: Callable[[Order], float],
    ) -> None:
        self._api_key = api_key
        self._window = SlidingWindow(requests_per_minute)
        self.concurrent_tasks = concurrent_tasks
        self._duration = duration
        self._tasks: dict[str, EmulatedTask] = {}
        self._running: set[str] = set()
        self._ends: list[tuple[float, str]] = []
        self._callbacks = 0
        self.balance: float = balance
        self.ledger: list[Submission] = []

    def check_key(self, authorization: str | None) -> None:
        """Refuse (401) a missing or a wrong ``Authorization`` header."""
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip()
        good = bool(key) if self._api_key is None else _same(key, self._api_key)
        if scheme.lower() != "bearer" or not good:
            # The documented body has no "data".
            raise Refusal(401, "Invalid or missing API key", has_data=False)

    def check_rate(self, now: float) -> None:
        """Count a request into the window, or refuse it (429)."""
        wait = self._window.admit(now)
        if wait:
            raise Refusal(429, "Too many requests", retry_after=wait)

    def check_model(self, model: str) -> None:
        """Refuse (404) a model that does not exist."""
        if model != MODEL:
            raise Refusal(404, "Not found", error=f"Unknown model: {model} (known: {MODEL})")

    def submit(
        self,
        raw: bytes,
        now: float,
        fate: Callable[[str, int], Rule | None],
    ) -> EmulatedTask:
        """Start a task and take its price, or refuse it (400, 429).

        `fate` is asked what shall become of the Nth ``task`` that is started, and of the Nth
        ``callback`` among them.
        """
        order = read_order(raw)
        self._settle(now)
        if len(self._running) >= self.concurrent_tasks:
            raise Refusal(429, "Too many concurrent tasks", retry_after=_CONCURRENCY_RETRY_AFTER)
        price = PRICES[order.mode] * (2 if order.duration == _LONG else 1)
        if price > self.balance:
            raise Refusal(400, "Insufficient credits")
        self.balance = round(self.balance - price, 4)
        callback = None
        if order.callback_url is not None:
            self._callbacks += 1
            callback = fate("callback", self._callbacks)
        task = EmulatedTask(
            task_id=f"task_{secrets.token_hex(8)}",
            model=MODEL,
            order=order,
            created=now,
            planned=self._duration(order),
            outcome=fate("task", len(self.ledger) + 1) or SUCCESS,
            callback=callback or ON_TIME,
            waiting=bool(order.image_urls),
        )
        self._tasks[task.task_id] = task
        self._running.add(task.task_id)
        self.ledger.append(
            Submission(now, MODEL, order.mode, order.input, task.task_id, order.callback_url)
        )
        return task

    def end_is_known(self, task: EmulatedTask) -> None:
        """Note when a task ends: from then on it does not count as running."""
        if math.isfinite(task.ends_at):
            heapq.heappush(self._ends, (task.ends_at, task.task_id))

    def find(self, task_id: str, now: float) -> EmulatedTask:
        """Give a task that can be seen by now, or refuse (404)."""
        task = self.task(task_id)
        if task.is_unseen(now):
            raise _unknown(task_id)
        return task

    def task(self, task_id: str) -> EmulatedTask:
        """Give a task, seen or not, or refuse (404)."""
        task = self._tasks.get(task_id)
        if task is None:
            raise _unknown(task_id)
        return task

    def _settle(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            self._running.discard(heapq.heappop(self._ends)[1])


def _unknown(task_id: str) -> Refusal:
    return Refusal(404, "Not found", error=f"Unknown task: {task_id}")


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(
        one.encode(errors="surrogateescape"), other.encode(errors="surrogateescape")
    )
