"""One remote task, awaitable."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Generator
from math import inf
from typing import TYPE_CHECKING, Protocol

from attrs import Factory, define, field

from kling_async._utils.loops import Deadline, DeadlinesClosedError
from kling_async._utils.text import format_duration
from kling_async.errors import (
    ClientClosedError,
    ConfigurationError,
    ContractError,
    KlingError,
    NotFoundError,
    TaskTimeoutError,
)
from kling_async.protocol import responses
from kling_async.results import Snapshot, TaskRef, TaskState
from kling_async.tasks.arguments import DEFAULT_TIMEOUT, check_timeout
from kling_async.tasks.poll_scheduler import PollScheduler, TrackedTask

if TYPE_CHECKING:
    from kling_async.results import Result
    from kling_async.tasks.updates import OnUpdate

_log = logging.getLogger("kling_async")

# Seconds in which a verdict about something new is not final: the service answers 404 for a task
# that it has accepted so recently, and says that a task has succeeded before its URLs are there.
_UNSEEN_GRACE = 60.0
_URLS_GRACE = 60.0

# Seconds until the next poll in that time.
_SOON = 2.0

# Callbacks that say that a task still runs, and lead to a status call each.
_RUNNING_CALLBACKS = 5


class Registry(Protocol):
    """What a task needs of the client that it belongs to."""

    async def read_status(self, ref: TaskRef) -> Snapshot:
        """Send a status call, and update the client's tasks with the answer."""

    def abandon(self, task: Task, error: BaseException | None = None) -> None:
        """Report a task for which nothing waits any more."""


@define(eq=False)
class _Waiters:
    """Those that wait for a task on one event loop."""

    loop: asyncio.AbstractEventLoop | None = None
    count: int = 0  # of those that report an abandoned task
    served: bool = False  # one of them has been given the end
    # While one of them polls, the others wait here: the first takes over if it is cancelled.
    line: list[asyncio.Future[None]] | None = None


@define(eq=False, repr=False)
class Task:
    """A remote task: await it for its result.

    ``await task`` is ``await task.wait()``. Any number of waiters may share one task; between
    them they poll it once. Cancelling a waiter does not stop the remote task, and nothing else
    does: keep :attr:`ref`, and attach it to wait again.

    Use :meth:`KlingClient.submit` or :meth:`KlingClient.attach` to create one.
    """

    _ref: TaskRef
    _tracked: TrackedTask
    _registry: Registry
    _scheduler: PollScheduler
    seen_running: bool = False  # or submitted by this process
    reported: bool = field(default=False, init=False)  # as abandoned
    _snapshot: Snapshot | None = field(default=None, init=False)
    _final: Snapshot | None = field(default=None, init=False)  # known without a status call
    _trouble: KlingError | None = field(default=None, init=False)
    _urls_due: float | None = field(default=None, init=False)  # of a success without URLs
    _waiters: _Waiters = field(default=Factory(_Waiters), init=False)

    def __repr__(self) -> str:
        state = self._snapshot.vendor_state if self._snapshot else "not polled yet"
        return f"<Task {self._ref} {state}>"

    def __await__(self) -> Generator[object, None, Result]:
        return self.wait().__await__()

    @property
    def ref(self) -> TaskRef:
        """What finds this task again, from any process: store it."""
        return self._ref

    @property
    def presumed_lifetime(self) -> float:
        """Seconds after which the task is presumed to have ended, since it was seen running."""
        return self._tracked.history.lifetime

    @property
    def may_appear(self) -> bool:
        """Whether the task is so young that a 404 does not mean that it does not exist."""
        return self._tracked.elapsed < _UNSEEN_GRACE

    @property
    def snapshot(self) -> Snapshot | None:
        """The last status of the task, if it has been polled."""
        return self._snapshot

    async def status(self) -> Snapshot:
        """Send one status call. Temporary failures are retried.

        Raises:
            APIError: The service refused the call.
            RequestError: No usable answer came.
        """
        snapshot = await self._registry.read_status(self._ref)
        if not snapshot.result_urls and self._lacks_urls(snapshot):
            self.notify_ended()  # waiters poll again until the URLs are there
            return snapshot
        self._snapshot, self.seen_running = snapshot, True
        if snapshot.state.ended:
            self.notify_ended(snapshot)  # waiters need not poll again
        return snapshot

    async def wait(
        self,
        timeout: float = DEFAULT_TIMEOUT,
        *,
        report: bool = True,
        on_update: OnUpdate | None = None,
    ) -> Result:
        """Wait for the end and return the result.

        Temporary failures of the network or the service do not end the wait; the deadline does. If
        the wait is cancelled and no other caller waits for the task, its reference is reported: in
        a note on the exception, in the event :class:`~kling_async.TasksAbandoned` and in a
        warning of the logger ``kling_async``.

        Args:
            timeout: Seconds to wait, from now; half an hour by default.
            report: Whether to report the reference of an abandoned task.
            on_update: Called with a :class:`~kling_async.TaskUpdate` at first, if the task is known
                to run, and whenever its state has changed. Its exceptions are logged and ignored.

        Raises:
            TaskFailedError: The task ended without a video.
            TaskTimeoutError: The deadline passed. The remote task continues.
            APIError: The service refused the status call.
            ContractError: The task succeeded, and its answer holds no result URLs.
            ClientClosedError: The client was closed meanwhile. The remote task continues.
            ConfigurationError: The timeout is not a positive number of seconds, ``report`` is not a
                bool, or ``on_update`` is not a function.
        """
        updates = None
        if on_update is not None:
            from kling_async.tasks.updates import UpdateCaller

            updates = UpdateCaller(on_update, self._ref, self._tracked)
            if self.seen_running:
                updates.report(self._snapshot)
        if timeout != DEFAULT_TIMEOUT:
            check_timeout(timeout)
        if not isinstance(report, bool):
            raise ConfigurationError(f"report must be True or False, not {report!r:.80}")
        deadline = asyncio.get_running_loop().time() + timeout
        snapshot: Snapshot | None = None
        while snapshot is None or not snapshot.state.ended:
            snapshot = await self._next(snapshot, timeout, deadline, report=report)
            if updates is not None:
                updates.report(snapshot)
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
        check_timeout(timeout)
        deadline = asyncio.get_running_loop().time() + timeout
        snapshot: Snapshot | None = None
        while snapshot is None or not snapshot.state.ended:
            snapshot = await self._next(snapshot, timeout, deadline, report=True)
            yield snapshot

    def notify_running(self) -> bool:
        """Do as :meth:`notify_ended` for a callback that said that the task still runs.

        The first five are followed. Returns whether a caller waits, or nothing was done.
        """
        wakes = self._tracked.wakes
        wakes.while_running += 1
        return wakes.while_running > _RUNNING_CALLBACKS or self.notify_ended()

    def notify_ended(self, ended: Snapshot | None = None) -> bool:
        """Poll the task at once: something says that it has ended.

        A client with an inbox calls this itself. Call it on the event loop of the client.

        Args:
            ended: How the task has ended, if that is certain: then no status call is sent.

        Returns:
            Whether a caller waits for the task. Otherwise the next one to wait polls at once.
        """
        self._final = ended or self._final
        self._scheduler.poll_now(self._tracked, certain=ended is not None)
        waiters = self._waiters
        return waiters.line is not None and waiters.loop is asyncio.get_running_loop()

    async def _next(
        self, shown: Snapshot | None, timeout: float, deadline: float, *, report: bool
    ) -> Snapshot:
        """Wait for a snapshot that differs from the one that was shown, until the deadline."""
        loop, waiters = asyncio.get_running_loop(), self._waiters
        if waiters.loop is not loop:
            self._scheduler.queues.get()  # raises if another running loop uses the client
            waiters = self._waiters = _Waiters(loop)
        waiters.count += report
        try:
            # Only our own wait is inside the time limit, never the caller's code.
            with Deadline(self._scheduler.deadlines, deadline):
                while self._snapshot is None or self._snapshot == shown:
                    if waiters.line is None:
                        await self._poll(waiters)
                    else:
                        turn = loop.create_future()
                        waiters.line.append(turn)
                        await turn
        except DeadlinesClosedError:
            raise ClientClosedError(
                f"the client was closed during the wait for {self._ref}; the task continues at"
                " the service: attach the reference to wait again",
                ref=self._ref,
                may_have_charged=True,
            ) from None
        except TimeoutError:
            raise self._timed_out(timeout) from self._trouble
        except (asyncio.CancelledError, GeneratorExit) as error:  # or the event loop has ended
            # Also if the task has ended, as a status call by another caller has shown: this one is
            # never given the result.
            last = waiters.count == 1 and waiters is self._waiters and not waiters.served
            if report and last:
                self._registry.abandon(self, error)
            raise
        finally:
            waiters.count -= report
        waiters.served |= report and self._snapshot.state.ended
        return self._snapshot

    async def _poll(self, waiters: _Waiters) -> None:
        """Wait until a poll is due, send it, and record the answer."""
        line = waiters.line = []
        try:
            await self._scheduler.wait_until_due(self._tracked)
            snapshot = self._trouble = None
            try:
                snapshot = self._final or await self._registry.read_status(self._ref)
                if not snapshot.result_urls and self._lacks_urls(snapshot):
                    snapshot = None
                    self._trouble = ContractError(
                        f"{self._ref} succeeded, and its result URLs are not there yet",
                        ref=self._ref,
                    )
            except KlingError as error:
                passing = error.retryable or (isinstance(error, NotFoundError) and self.may_appear)
                if not passing or isinstance(error, ClientClosedError):
                    raise
                self._trouble = error
            finally:
                self._scheduler.record(self._tracked, snapshot)
            if snapshot is None:
                young = isinstance(self._trouble, NotFoundError) or self._urls_due is not None
                self._scheduler.reschedule(self._tracked, _SOON if young else inf)
            else:
                self._snapshot, self.seen_running = snapshot, True
        finally:
            waiters.line = None
            for turn in line:
                if not turn.done():
                    turn.set_result(None)

    def _lacks_urls(self, snapshot: Snapshot) -> bool:
        """Whether an answer without URLs says that the task succeeded, and they may come soon."""
        if snapshot.state is not TaskState.SUCCESS:
            return False
        now = asyncio.get_running_loop().time()
        if self._urls_due is None:
            self._urls_due = now + _URLS_GRACE
        return now < self._urls_due

    def _timed_out(self, timeout: float) -> TaskTimeoutError:
        said = f"the last status was {self._snapshot.vendor_state}" if self._snapshot else ""
        trouble = f"the last poll failed: {self._trouble}" if self._trouble else ""
        known = "; ".join(filter(None, (said, trouble))) or "it was not polled yet"
        return TaskTimeoutError(
            f"{self._ref} did not end within {format_duration(timeout)} ({known});"
            " it continues at the service: attach the reference to wait again",
            ref=self._ref,
            snapshot=self._snapshot,
        )


async def poll_unattended(task: Task, *, once: bool = False) -> None:
    """Wait for a task for which no caller waits, or send one status call, to notice its end."""
    try:
        await (task.status() if once else task.wait(report=False))
    except KlingError:  # those that wait for the task get it themselves
        pass
    except Exception:  # noqa: BLE001 - of the user's transport or limiter
        _log.exception("polling %s failed", task.ref)
