"""When a batch submits nothing more: limits of the caller's, and refusals that would repeat.

Four things stop a run: the number of tasks, the balance, an account that the service refuses,
and rejections without end. What was not submitted stays *planned*.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from attrs import frozen

from kling_async.errors import APIError, BalanceError, KlingError
from kling_async.protocol import verdicts
from kling_async.protocol.verdicts import Verdict

if TYPE_CHECKING:
    from kling_async.batch.options import BatchOptions
    from kling_async.client import KlingClient
    from kling_async.journal.base import Summary

# Submits between two questions for the balance, at the most.
_LONGEST = 50


@frozen
class Budget:
    """What is known of the balance, and how many submits it allows before it is asked for again.

    The price of a task is not published. The largest drop of the balance for one task, as seen
    so far, stands for it; until one was seen, and again close to the least balance, tasks are
    submitted one by one.

    Attributes:
        least: US dollars that the balance must not fall below.
        balance: US dollars when it was last asked for; None before that.
        step: US dollars of the largest drop for one task.
    """

    least: float
    balance: float | None = None
    step: float = 0.0

    def asked(self, balance: float, submits: int) -> Budget:
        """Return what is known after another question, and so many submits since the last."""
        step = self.step
        if self.balance is not None and submits:
            step = max(step, (self.balance - balance) / submits)
        return Budget(self.least, balance, step)

    @property
    def allowed(self) -> int:
        """How many submits may follow; 0 if one could bring the balance below the least."""
        if self.balance is None or self.balance < self.least + self.step:
            return 0
        if not self.step:
            return 1
        # Half of what is left, so that dearer tasks among them are noticed in time.
        return max(1, min(_LONGEST, int((self.balance - self.least) / self.step / 2)))


class SpendGuard:
    """Stops the submits of a batch before the money does, or when they lead nowhere.

    Args:
        client: What asks for the balance.
        options: The limits.
    """

    def __init__(self, client: KlingClient, options: BatchOptions) -> None:
        self._client = client
        self._options = options
        self._asking = asyncio.Lock()
        self._idle = asyncio.Event()
        self._tasks = self._under_way = self._rejections = 0
        self._budget: Budget | None = None
        self._since = 0  # submits since the balance was asked for
        self._error: KlingError | None = None
        self._models: dict[str, KlingError] = {}
        self.stopped: str | None = None

    def open(self, summary: Summary) -> None:
        """Begin a run, with what all runs before it have started."""
        self._tasks, self._under_way, self._rejections = summary.attempts, 0, 0
        least = self._options.min_balance
        self._budget = None if least is None else Budget(least)
        self._since = 0
        self._models = {}
        self._error = self.stopped = None

    def close(self) -> None:
        """Raise what has stopped the run, if it was an error."""
        if self._error is not None:
            raise self._error

    async def allows(self) -> bool:
        """Whether one more task may be started; if so, :meth:`answered` must follow."""
        if self._budget is not None and self.stopped is None:
            async with self._asking:
                await self._check_balance(self._budget)
        most = self._options.max_tasks
        if self.stopped is None and most is not None and self._tasks >= most:
            self.stopped = f"max_tasks: {self._tasks} tasks have been started, in all runs"
        if self.stopped is not None:
            return False
        self._tasks += 1
        self._under_way += 1
        return True

    def answered(self, *, started: bool) -> None:
        """Note the end of a submit that was allowed. It counts if it may have started a task."""
        self._tasks -= not started
        self._under_way -= 1
        if started:
            self._rejections = 0
        if not self._under_way:
            self._idle.set()

    def refused_model(self, model: str) -> KlingError | None:
        """Return the error with which the account was refused this model, if it was."""
        return self._models.get(model)

    def rejected(self, error: KlingError) -> None:
        """Count a submit that led to no task, for whatever reason, and cost nothing."""
        self._rejections += 1
        most = self._options.max_rejections
        if most is not None and self._rejections >= most:
            self.stopped = self.stopped or (
                f"max_rejections: {self._rejections} submits in a row led to no task; the last"
                f" error: {error}"
            )

    def refused(self, error: KlingError, model: str) -> None:
        """Submit nothing more that would be refused like this: of the model, or at all."""
        if _names_model(error, model):
            self._models.setdefault(model, error)
        else:
            self.stop(error)

    def stop(self, error: KlingError) -> None:
        """Submit nothing more, since every submit would end like this one."""
        if self._error is None:
            self._error, self.stopped = error, str(error)

    async def _check_balance(self, budget: Budget) -> None:
        """Ask for the balance if the submits that it allowed have been made."""
        if budget.allowed <= self._since and self.stopped is None:
            while self._under_way:  # what is not charged yet cannot be seen in the balance
                self._idle.clear()
                await self._idle.wait()
            try:
                dollars = await self._client.balance()
            except KlingError as error:
                if verdicts.judge_error(error) is not Verdict.ACCOUNT_REFUSED:
                    raise
                self.stop(error)
                return
            budget = self._budget = budget.asked(dollars, self._since)
            self._since = 0
            if not budget.allowed:
                self.stop(BalanceError(_too_low(budget)))
        self._since += 1


def _too_low(budget: Budget) -> str:
    balance, least = budget.balance or 0.0, budget.least
    if balance < least:
        return f"the balance is {balance:.2f} USD, below {least:.2f}"
    return (
        f"the balance is {balance:.2f} USD, and a task has cost up to {budget.step:.2f}:"
        f" the next could bring it below {least:.2f}"
    )


def _names_model(error: KlingError, model: str) -> bool:
    """Whether a refusal concerns one model: "no permission for the requested model"."""
    words = error.message.casefold() if isinstance(error, APIError) else ""
    return "model" in words or model.casefold() in words
