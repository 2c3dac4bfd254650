"""One remote task, awaitable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from math import inf
from typing import TYPE_CHECKING, Protocol

from kling_async._utils.deadlines import Deadline
from kling_async.errors import (
    ClientClosedError,
    ConfigurationError,
    ContractError,
    KlingError,
    NotFoundError,
    TaskTimeoutError,
)
from kling_async.protocol import responses
from kling_async.results import TaskState

if TYPE_CHECKING:
    from kling_async.policy.durations import Kind
    from kling_async.results import Result, Snapshot, TaskRef
    from kling_async.tasks.poll_scheduler import Course, Polls


class Registry(Protocol):
    """What a task needs of the client that it belongs to."""

    async def ask(self, ref: TaskRef) -> Snapshot:
        """Ask the service how a task is."""

    def abandon(self, *tasks: Task, error: BaseException | None = None) -> None:
        """Report tasks that nothing waits for any more."""

    def check_loop(self) -> None:
        """Raise if another event loop that runs uses the client."""


# Seconds. The vendor speaks of two minutes at the most; half an hour is a service in trouble.
DEFAULT_TIMEOUT = 1800.0

# Seconds in which a verdict about something that has just come to be is not final: the service
# answers 404 for a task that it has accepted so recently, and says that a task has succeeded
# before its URLs can be read.
_UNSEEN_GRACE = 60.0
_URLS_GRACE = 60.0

# Callbacks that say that a task still runs, and lead to a status call each.
_RUNNING_HINTS = 5

# Seconds until the next poll in that time.
_SOON = 2.0


class Task:
    """A remote task: await it for its result.

    ``await task`` is ``await task.wait()``. Any number of waiters may share one task; between
    them they poll it once. Cancelling a waiter does not stop the remote task, which nothing
    can: keep :attr:`ref` and attach it again.
    """

    def __init__(  # noqa: PLR0913 - what it is, and what it works with
        self,
        ref: TaskRef,
        kind: Kind,
        registry: Registry,
        polls: Polls,
        course: Course,
        *,
        age_known: bool = True,
    ) -> None:
        """Use :meth:`KlingClient.submit` or :meth:`KlingClient.attach` instead."""
        self._ref = ref
        self.kind = kind
        self._registry = registry
        self._polls = polls
        self._course = course
        self._age_known = age_known
        self._waiters: list[None] = []  # one for each caller that waits on this event loop
        self.reported: bool = False  # as abandoned
        self._snapshot: Snapshot | None = None
        self._believed: Snapshot | None = None
        self._trouble: KlingError | None = None
        self._running_hints = 0
        self._urls_due: float | None = None  # until when a success may have no URLs yet
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
    def may_appear(self) -> bool:
        """Whether the task is so young that a 404 does not mean that there is none."""
        return self._age_known and self._course.age < _UNSEEN_GRACE

    @property
    def seen_running(self) -> bool:
        """Whether this process has submitted the task, or has seen it running."""
        return not self._course.guessed or self._snapshot is not None

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
        snapshot = await self._registry.ask(self._ref)
        if self._complete(snapshot) is None:
            self.notify_ended()  # those that wait ask again until the URLs can be read
            return snapshot
        self._snapshot = snapshot
        if snapshot.state.ended:
            self.notify_ended(snapshot)  # those that wait need not ask again
        return snapshot

    async def wait(self, timeout: float = DEFAULT_TIMEOUT) -> Result:
        """Wait for the end and return the result.

        Trouble with the network or the service does not end the wait; the deadline does. If
        the wait is cancelled and nothing else waits for the task, its reference is reported: in
        a note on the exception, in the event :class:`~kling_async.TasksAbandoned` and by a
        warning of the logger ``kling_async``.

        Args:
            timeout: Seconds to wait, from now. There is always a deadline: half an hour unless
                you say otherwise.

        Raises:
            TaskFailedError: The task ended without a video.
            TaskTimeoutError: The deadline passed. The remote task continues.
            APIError: The service refused the status call.
            ContractError: The task succeeded, and its answer holds no result URLs.
            ClientClosedError: The client was closed meanwhile. The remote task continues.
            ConfigurationError: The timeout is not a positive number of seconds.
        """
        waiters = self._enter()
        try:
            return await self.outcome(timeout)
        except asyncio.CancelledError as error:
            self._left(waiters, error)
            raise
        finally:
            waiters.pop()

    async def outcome(self, timeout: float = DEFAULT_TIMEOUT) -> Result:
        """Wait as :meth:`wait` does, for callers that report abandoned tasks themselves."""
        deadline = _deadline(timeout)
        snapshot = await self._next(None, timeout, deadline)
        while not snapshot.state.ended:
            snapshot = await self._next(snapshot, timeout, deadline)
        return responses.result_from(snapshot)

    async def watch(self, timeout: float = DEFAULT_TIMEOUT) -> AsyncIterator[Snapshot]:
        """Yield a snapshot whenever something has changed, the last when the task has ended.

        Args:
            timeout: Seconds from now until :class:`TaskTimeoutError` is raised.

        Raises:
            TaskTimeoutError: The deadline passed. The remote task continues.
            APIError: The service refused the status call.
            ClientClosedError: The client was closed meanwhile. The remote task continues.
        """
        deadline = _deadline(timeout)
        shown: Snapshot | None = None
        while shown is None or not shown.state.ended:
            waiters = self._enter()
            try:
                shown = await self._next(shown, timeout, deadline)
            except asyncio.CancelledError as error:
                self._left(waiters, error)
                raise
            finally:
                waiters.pop()
            yield shown

    def notify_running(self) -> bool:
        """Poll soon, as after :meth:`notify_ended`, though a callback said the task still runs.

        After a few such hints, one more does nothing: they may come without end.

        Returns:
            Whether a caller waits for the task, or nothing was done.
        """
        self._running_hints += 1
        return self._running_hints > _RUNNING_HINTS or self.notify_ended()

    def notify_ended(self, ended: Snapshot | None = None) -> bool:
        """Have the service asked at once: something says that the task has ended.

        A client with an inbox does this by itself. Call it on the event loop of the client.

        Args:
            ended: How the task has ended, if that is beyond doubt: then nobody is asked.

        Returns:
            Whether somebody is waiting for the task. Else the first who does is told at once.
        """
        self._believed = ended or self._believed
        self._polls.hasten(self._course, certain=ended is not None)
        return self._line is not None and self._loop is asyncio.get_running_loop()

    def _enter(self) -> list[None]:
        """Count a caller that waits on this event loop; return where it is counted."""
        self._bind()
        self._waiters.append(None)
        return self._waiters

    def _bind(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._registry.check_loop()
            self._loop, self._line, self._waiters = loop, None, []
        return loop

    def _left(self, waiters: list[None], error: BaseException) -> None:
        """Report the task if the last caller that waited for it has been cancelled."""
        ended = self._snapshot is not None and self._snapshot.state.ended
        if len(waiters) == 1 and waiters is self._waiters and not ended:
            self._registry.abandon(self, error=error)

    async def _next(self, shown: Snapshot | None, timeout: float, deadline: float) -> Snapshot:
        """Wait for a snapshot that is another one than was shown, until the deadline."""
        loop = self._bind()
        # Only our own wait is inside the time limit, never the caller's code.
        limit = Deadline(self._polls.deadlines, deadline)
        try:
            with limit:
                while self._snapshot is None or self._snapshot == shown:
                    if self._line is None:
                        await self._poll()
                    else:  # another waiter polls; if it leaves, the next in line does
                        turn = loop.create_future()
                        self._line.append(turn)
                        await turn
        except TimeoutError:
            if limit.closed:
                raise ClientClosedError(
                    f"the client was closed while {self._ref} was waited for; the task continues"
                    " at the service: attach the reference to wait again",
                    ref=self._ref,
                    may_have_charged=True,
                ) from None
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
            for turn in line:
                if not turn.done():
                    turn.set_result(None)

    async def _ask_once(self) -> None:
        """Ask, and pass the answer on to the schedule."""
        self._trouble = snapshot = None
        try:
            snapshot = self._complete(self._believed or await self._registry.ask(self._ref))
        except KlingError as error:
            passing = error.retryable or (isinstance(error, NotFoundError) and self.may_appear)
            if not passing or isinstance(error, ClientClosedError):
                raise
            self._trouble = error
        finally:
            self._polls.asked(self._course, snapshot)
        if snapshot is None:
            young = isinstance(self._trouble, NotFoundError) or self._urls_due is not None
            self._polls.postpone(self._course, _SOON if young else inf)
        else:
            self._snapshot = snapshot

    def _complete(self, snapshot: Snapshot) -> Snapshot | None:
        """Return an answer, or None if it says that the URLs of a result are yet to come."""
        if snapshot.state is not TaskState.SUCCESS or snapshot.result_urls:
            return snapshot
        now = asyncio.get_running_loop().time()
        if self._urls_due is None:
            self._urls_due = now + _URLS_GRACE
        if now >= self._urls_due:
            return snapshot
        self._trouble = ContractError(
            f"{self._ref} succeeded, and its result URLs are not there yet", ref=self._ref
        )
        return None

    def _timed_out(self, timeout: float) -> TaskTimeoutError:
        said = f"the service last said {self._snapshot.vendor_state}" if self._snapshot else ""
        trouble = f"the last poll failed: {self._trouble}" if self._trouble else ""
        known = "; ".join(filter(None, (said, trouble))) or "it was not asked yet"
        return TaskTimeoutError(
            f"{self._ref} did not end within {timeout:g} s ({known});"
            " it continues at the service: attach the reference to wait again",
            ref=self._ref,
            snapshot=self._snapshot,
        )


def check_timeout(timeout: float) -> None:
    """Check a timeout before anything is sent.

    Raises:
        ConfigurationError: It is not a finite, positive number of seconds.
    """
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not number or not 0 < timeout < inf:
        raise ConfigurationError(
            f"a timeout must be a finite number of seconds > 0, such as 600.0, not {timeout!r}"
        )


def _deadline(timeout: float) -> float:
    """Return the moment, in the running loop's time, at which a wait of so many seconds ends."""
    check_timeout(timeout)
    return asyncio.get_running_loop().time() + timeout
