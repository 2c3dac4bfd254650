"""When a run of a batch submits nothing more.

Four things stop it: the number of tasks, the balance, an account that the service refuses, and
too many rejections in a row. Items that were not submitted stay *planned*.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from attrs import frozen

from kling_async._utils.text import format_count
from kling_async.errors import APIError, BalanceError, KlingError, copy_for_waiter
from kling_async.protocol import verdicts
from kling_async.protocol.verdicts import Verdict

if TYPE_CHECKING:
    from kling_async.batch.options import BatchOptions
    from kling_async.client import KlingClient

# The most submits between two balance calls.
_MOST_SUBMITS = 50


@frozen
class SpendBudget:
    """How many submits the balance allows before it is read again.

    Prices are not published: the largest drop of the balance per task so far is taken as the price.
    Until there was one, and again close to the minimum, tasks are submitted one by one.
    """

    minimum: float  # US dollars
    balance: float | None = None  # when it was last read
    price: float = 0.0

    def updated(self, balance: float, submits: int) -> SpendBudget:
        """Return the budget after the balance was read, ``submits`` submits after the last time."""
        price = self.price
        if self.balance is not None and submits:
            price = max(price, (self.balance - balance) / submits)
        return SpendBudget(self.minimum, balance, price)

    @property
    def allowed_submits(self) -> int:
        """How many submits may follow; 0 if one could bring the balance below the minimum."""
        if self.balance is None or self.balance < self.minimum + self.price:
            return 0
        if not self.price:
            return 1
        # Half of what is left, so that more expensive tasks among them are noticed in time.
        return max(1, min(_MOST_SUBMITS, int((self.balance - self.minimum) / self.price / 2)))

    def __str__(self) -> str:
        balance, minimum = self.balance or 0.0, self.minimum
        if balance < minimum:
            return f"the balance is {balance:.2f} USD, below {minimum:.2f}"
        return (
            f"the balance is {balance:.2f} USD, and a task has cost up to {self.price:.2f}:"
            f" the next could bring it below {minimum:.2f}"
        )


class SpendGuard:
    """Stops the submits of one run before they cost too much, or when they lead to no tasks.

    Attributes:
        started: How many tasks have been started, in all runs of the batch.
        stopped: Why nothing more is submitted; None if submits are allowed.
        error: The error that stopped the run; None if a limit of the caller's did.
    """

    def __init__(self, client: KlingClient, options: BatchOptions) -> None:
        self.started: int = 0
        self.stopped: str | None = None
        self.error: KlingError | None = None
        self._client = client
        self._options = options
        minimum = options.min_balance
        self._budget = None if minimum is None else SpendBudget(minimum)
        self._balance_lock = asyncio.Lock()
        self._submits_since_read = 0
        self._unanswered = 0
        self._all_answered = asyncio.Event()
        self._rejections = 0
        self._refused_models: dict[str, KlingError] = {}

    async def admit_submit(self, model: str) -> bool:
        """Return whether a task may be started; if so, :meth:`submit_ended` must follow.

        Raises:
            KlingError: The account was refused this model, or the balance cannot be read.
        """
        if (refusal := self._refused_models.get(model)) is not None:
            self.count_rejection(refusal)
            raise copy_for_waiter(refusal)
        if self._budget is not None and self.stopped is None:
            async with self._balance_lock:
                await self._check_balance(self._budget)
        most = self._options.max_tasks
        if self.stopped is None and most is not None and self.started >= most:
            started = format_count(self.started, "task")
            self.stopped = f"max_tasks: {started} started, in all runs together"
        if self.stopped is not None:
            return False
        self.started += 1
        self._unanswered += 1
        return True

    def submit_ended(self, *, started: bool) -> None:
        """End a submit that was admitted. It counts if it may have started a task."""
        self._unanswered -= 1
        if started:
            self._rejections = 0
        else:
            self.started -= 1
        if not self._unanswered:
            self._all_answered.set()

    def count_rejection(self, error: KlingError) -> None:
        """Count a submit that led to no task, for whatever reason, and cost nothing."""
        self._rejections += 1
        most = self._options.max_rejections
        if most is not None and self._rejections >= most and self.stopped is None:
            self.stopped = (
                f"max_rejections: {format_count(self._rejections, 'submit')} in a row led to no"
                f" task; the last error: {error}"
            )

    def refuse(self, error: KlingError, model: str) -> bool:
        """Stop the submits that would be refused like this one.

        Returns:
            Whether those are the submits of this model only; else the run is stopped.
        """
        words = error.message.casefold() if isinstance(error, APIError) else ""
        # Such as "no permission for the requested model".
        if "model" in words or model.casefold() in words:
            self._refused_models.setdefault(model, error)
            return True
        self._stop_run(error)
        return False

    def _stop_run(self, error: KlingError) -> None:
        if self.error is None:
            self.error, self.stopped = error, str(error)

    async def _check_balance(self, budget: SpendBudget) -> None:
        """Read the balance if the submits that it allowed have been made."""
        if budget.allowed_submits <= self._submits_since_read and self.stopped is None:
            while self._unanswered:  # a submit that is not charged yet is not in the balance
                self._all_answered.clear()
                await self._all_answered.wait()
            try:
                balance = await self._client.balance()
            except KlingError as error:
                if verdicts.judge_error(error) is not Verdict.ACCOUNT_REFUSED:
                    raise
                self._stop_run(error)
                return
            budget = self._budget = budget.updated(balance, self._submits_since_read)
            self._submits_since_read = 0
            if not budget.allowed_submits:
                self._stop_run(BalanceError(str(budget)))
        self._submits_since_read += 1
