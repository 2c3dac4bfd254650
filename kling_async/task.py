"""One remote task, awaitable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from math import inf
from typing import TYPE_CHECKING, TypeAlias

from kling_async._deadlines import Deadline
from kling_async.errors import ConfigurationError, ContractError, KlingError, TaskTimeoutError
from kling_async.protocol import responses

if TYPE_CHECKING:
    from kling_async.polls import Course, Polls
    from kling_async.results import Result, Snapshot, TaskRef

__all__ = ["DEFAULT_TIMEOUT", "Ask", "Task", "check_timeout"]

Ask: TypeAlias = "Callable[[TaskRef], Awaitable[Snapshot]]"

# Seconds. The vendor speaks of two minutes at the most; half an hour is a service in trouble.
DEFAULT_TIMEOUT = 1800.0


class Task:
    """A remote task: await it for its result.

    ``await task`` is ``await task.wait()``. Any number of waiters may share one task; between
    them they poll it once. Cancelling a waiter does not stop the remote task, which nothing
    can: keep :attr:`ref` and attach it again.
    """

    def __init__(
        self,
        ref: TaskRef,
        ask: Ask,
        polls: Polls,
        course: Course,
    ) -> None:
        """Use :meth:`KlingClient.submit` or :meth:`KlingClient.attach` instead."""
        self._ref = ref
        self._ask = ask
        self._polls = polls
        self._course = course
        self._snapshot: Snapshot | None = None
        self._believed: Snapshot | None = None
        self._trouble: KlingError | None = None
        self._line: list[asyncio.Future[None]] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        state = self._snapshot.vendor_state if self._snapshot else "not asked yet"
        return f"<Task {self._ref} {state}>"

    def __await__(self) -> Generator[object, None, Result]:
        return self.wait().__await__()

    @property
    def ref(self) -> TaskRef:
        """What finds this task again, from any process: store it."""
        return self._ref

    @property
    def snapshot(self) -> Snapshot | None:
        """The last thing that the service said of the task, if it was asked yet."""
        return self._snapshot

    async def status(self) -> Snapshot:
        """Ask once where the task stands. Trouble on the way is retried.

        Raises:
            APIError: The service said no.
            RequestError: No usable answer came.
        """
        snapshot = self._snapshot = await self._ask(self._ref)
        if snapshot.state.ended:
            self.hint(snapshot)  # whoever waits need not ask again
        return snapshot

    async def wait(self, timeout: float = DEFAULT_TIMEOUT) -> Result:
        """Wait for the end and return the result.

        Passing trouble with the network or the service does not end the wait; the deadline
        does.

        Args:
            timeout: Seconds to wait, from now. There is always a deadline: half an hour unless
                you say otherwise.

        Raises:
            TaskFailedError: The task ended without a video.
            TaskTimeoutError: The deadline passed. The remote task goes on.
            APIError: The service refused the status call.
            ContractError: The service's answers make no sense, or hold no result URLs.
        """
        deadline = _deadline(timeout)
        snapshot = await self._next(None, timeout, deadline)
        while not snapshot.state.ended:
            snapshot = await self._next(snapshot, timeout, deadline)
        return responses.result(snapshot)

    async def watch(self, timeout: float = DEFAULT_TIMEOUT) -> AsyncIterator[Snapshot]:
        """Yield a snapshot whenever something has changed, the last when the task has ended.

        Args:
            timeout: Seconds from now until :class:`TaskTimeoutError` is raised.

        Raises:
            TaskTimeoutError: The deadline passed. The remote task goes on.
            APIError: The service refused the status call.
            ContractError: The service's answers make no sense.
        """
        deadline = _deadline(timeout)
        shown: Snapshot | None = None
        while shown is None or not shown.state.ended:
            shown = await self._next(shown, timeout, deadline)
            yield shown

    def hint(self, ended: Snapshot | None = None) -> bool:
        """Have the service asked at once: something says that the task has ended.

        A client with an inbox does this by itself. Call it on the event loop of the client.

        Args:
            ended: How the task has ended, if that is beyond doubt: then nobody is asked.

        Returns:
            Whether somebody is waiting for the task. Else the first who does is told at once.
        """
        self._believed = ended or self._believed
        self._polls.hasten(self._course)
        return self._line is not None and self._loop is asyncio.get_running_loop()

    async def _next(self, shown: Snapshot | None, timeout: float, deadline: float) -> Snapshot:
        """Wait for a snapshot that is another one than was shown, until the deadline."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._line = loop, None
        # Only our own wait stands inside the time limit, never the caller's code.
        try:
            with Deadline(self._polls.deadlines, deadline):
                while self._snapshot is None or self._snapshot == shown:
                    if self._line is None:
                        await self._poll()
                    else:  # a fellow waiter asks; if he gives up, the next in line does
                        told = loop.create_future()
                        self._line.append(told)
                        await told
        except TimeoutError:
            raise self._timed_out(timeout) from self._trouble
        return self._snapshot

    async def _poll(self) -> None:
        """Ask once, when the schedule says so."""
        line = self._line = []
        try:
            await self._polls.turn(self._course)
            await self._ask_once()
        finally:
            if self._line is line:  # else another loop has begun one
                self._line = None
            for told in line:
                if not told.done():
                    told.set_result(None)

    async def _ask_once(self) -> None:
        """Ask, and tell the schedule what became of it."""
        self._trouble = snapshot = None
        try:
            snapshot = self._snapshot = self._believed or await self._ask(self._ref)
        except KlingError as error:
            # Garbage has been asked about again already, and more of it is no passing trouble.
            if not error.retryable or isinstance(error, ContractError):
                raise
            self._trouble = error
        finally:
            self._polls.asked(self._course, snapshot)
        if snapshot is None:
            self._polls.postpone(self._course)

    def _timed_out(self, timeout: float) -> TaskTimeoutError:
        said = f"the service last said {self._snapshot.vendor_state}" if self._snapshot else ""
        trouble = f"the last poll failed: {self._trouble}" if self._trouble else ""
        known = "; ".join(filter(None, (said, trouble))) or "it was not asked yet"
        return TaskTimeoutError(
            f"{self._ref} did not end within {timeout:g} s ({known});"
            " it goes on at the service: attach the reference to wait again",
            ref=self._ref,
            snapshot=self._snapshot,
        )


def check_timeout(timeout: float) -> None:
    """Refuse a timeout that is none, before anything is paid for.

    Raises:
        ConfigurationError: It is not a number of seconds.
    """
    if not 0 < timeout < inf:
        raise ConfigurationError(f"a timeout must be a number of seconds, not {timeout!r}")


def _deadline(timeout: float) -> float:
    """Return the moment, in the running loop's time, at which a wait of so many seconds ends."""
    check_timeout(timeout)
    return asyncio.get_running_loop().time() + timeout
