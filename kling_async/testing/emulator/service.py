"""The account: its key, request window, running tasks, money and ledger.

Nothing here reads a clock or waits: `now` is an argument, and a `Refusal` is raised.
"""

from __future__ import annotations

import heapq
import hmac
import math
import secrets
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final

from kling_async.testing.emulator.checks import Refusal
from kling_async.testing.emulator.models import MODELS
from kling_async.testing.emulator.records import Submission
from kling_async.testing.emulator.rules import Order, read_order
from kling_async.testing.emulator.tasks import ON_TIME, SUCCESS, EmulatedTask

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from kling_async.testing.scenario import ScenarioRule

# USD for 5 s; a longer video costs more in proportion. The contract names no prices: these are made
# up. Other modes cost as much as text-to-video.
PRICES: Final[Mapping[str, float]] = {
    "standard-image-to-video": 0.20,
    "pro-image-to-video": 0.40,
    "master-text-to-video": 1.20,
    "master-image-to-video": 1.20,
    "text-to-video": 0.50,
    "image-to-video": 0.50,
    "motion-control": 0.80,
}
_PRICED_SECONDS: Final = 5

# The Retry-After where only the end of another task helps.
_CONCURRENCY_RETRY_AFTER: Final = 5.0
WINDOW: Final = 60.0


class SlidingWindow:
    """Counts requests: never more than a limit in any 60 seconds. Refused ones do not count."""

    def __init__(self, limit: int) -> None:
        self.limit: int = limit
        self._counted: deque[float] = deque()

    def count_request(self, now: float) -> float:
        """Count a request and return 0.0, or return the seconds until one would be counted."""
        if self.counted(now) >= self.limit:
            return WINDOW - (now - self._counted[0])
        self._counted.append(now)
        return 0.0

    def counted(self, now: float) -> int:
        """Return the number of requests in the last 60 seconds."""
        while self._counted and now - self._counted[0] >= WINDOW:
            self._counted.popleft()
        return len(self._counted)


class Service:
    """One account: what it may do, its tasks and its money."""

    def __init__(  # noqa: PLR0913 - each is a keyword
        self,
        *,
        api_key: str | None,
        requests_per_minute: int,
        concurrent_tasks: int,
        balance: float,
        duration: Callable[[Order], float],
        models: Collection[str] = (),
    ) -> None:
        self._api_key = api_key
        self._models = frozenset(models)
        self.window: SlidingWindow = SlidingWindow(requests_per_minute)
        self.concurrent_tasks = concurrent_tasks
        self._duration = duration
        self._tasks: dict[str, EmulatedTask] = {}
        self._running: set[str] = set()
        self._ends: list[tuple[float, str]] = []
        self.balance: float = balance
        self.ledger: list[Submission] = []

    def check_key(self, authorization: str | None) -> None:
        """Refuse (401) a missing or a wrong ``Authorization`` header."""
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip()
        valid = bool(key) if self._api_key is None else _is_same(key, self._api_key)
        if scheme.lower() != "bearer" or not valid:
            # The documented body has no "data".
            raise Refusal(401, "Invalid or missing API key", has_data=False)

    def check_rate(self, now: float) -> None:
        """Count a request into the window, or refuse it (429)."""
        if wait := self.window.count_request(now):
            raise Refusal(429, "Too many requests", retry_after=wait)

    def check_model(self, model: str) -> None:
        """Refuse (404) a model that does not exist."""
        if model not in MODELS and model not in self._models:
            known = ", ".join(sorted({*MODELS, *self._models}))
            raise Refusal(404, "Not found", error=f"Unknown model: {model} (known: {known})")

    def submit(
        self,
        raw: bytes,
        now: float,
        find_rule: Callable[[str], ScenarioRule | None],
        model: str = "kling-2-1",
    ) -> EmulatedTask:
        """Start a task and charge its price, or refuse it (400, 429).

        `find_rule` returns the scenario's rule for the next ``task`` that is started, and for the
        next ``callback`` among them.
        """
        order = read_order(raw, model)
        if self.count_running(now) >= self.concurrent_tasks:
            raise Refusal(429, "Too many concurrent tasks", retry_after=_CONCURRENCY_RETRY_AFTER)
        price = PRICES.get(order.mode, PRICES["text-to-video"])
        price = round(price * order.duration / _PRICED_SECONDS, 4)
        if price > self.balance:
            raise Refusal(400, "Insufficient credits")
        self.balance = round(self.balance - price, 4)
        callback = None
        if order.callback_url is not None:
            callback = find_rule("callback")
        task = EmulatedTask(
            task_id=f"task_{secrets.token_hex(8)}",
            model=model,
            order=order,
            created=now,
            planned=self._duration(order),
            outcome=find_rule("task") or SUCCESS,
            callback=callback or ON_TIME,
            waiting=bool(order.image_urls or order.video_urls),
        )
        self._tasks[task.task_id] = task
        self._running.add(task.task_id)
        self.ledger.append(
            Submission(now, model, order.mode, order.input, task.task_id, order.callback_url)
        )
        return task

    def schedule_end(self, task: EmulatedTask) -> None:
        """Stop counting a task as running when it ends."""
        if math.isfinite(task.ends_at):
            heapq.heappush(self._ends, (task.ends_at, task.task_id))

    def finish_tasks(self, now: float) -> None:
        """End all running tasks now, but for those that never end."""
        for task_id in self._running:
            task = self._tasks[task_id]
            task.end_early(now)
            self.schedule_end(task)

    def count_running(self, now: float) -> int:
        """Return the number of tasks that run."""
        self._release_ended(now)
        return len(self._running)

    def latest_tasks(self, *, running: int, ended: int) -> list[EmulatedTask]:
        """Return the latest tasks that run, then the latest that have ended, at most so many."""
        latest = reversed(self._tasks.values())
        return [
            *heapq.nlargest(running, map(self.task, self._running), key=lambda task: task.created),
            *islice((task for task in latest if task.task_id not in self._running), ended),
        ]

    def visible_task(self, model: str, task_id: str, now: float) -> EmulatedTask:
        """Return a model's task that status requests find by now, or refuse (404)."""
        task = self.task(task_id)
        if task.model != model or task.is_unseen(now):
            raise _unknown_task(task_id)
        return task

    def task(self, task_id: str) -> EmulatedTask:
        """Return a task, visible or not, or refuse (404)."""
        task = self._tasks.get(task_id)
        if task is None:
            raise _unknown_task(task_id)
        return task

    def _release_ended(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            self._running.discard(heapq.heappop(self._ends)[1])


def _unknown_task(task_id: str) -> Refusal:
    return Refusal(404, "Not found", error=f"Unknown task: {task_id}")


def _is_same(one: str, other: str) -> bool:
    return hmac.compare_digest(
        one.encode(errors="surrogateescape"), other.encode(errors="surrogateescape")
    )
