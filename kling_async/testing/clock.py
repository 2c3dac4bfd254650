"""Virtual time: an event loop on which waiting takes no real time.

Sockets, threads and subprocesses stay real. Whenever the loop has nothing to do but wait for
a timer, its clock jumps to that timer. A 90-second generation takes milliseconds, and a test
never depends on how fast the machine is.

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

_T = TypeVar("_T")

# Real seconds that a peer on the loopback interface has to answer before the clock jumps. A
# peer on the same loop needs none of it; one in another thread or process does.
GRACE = 0.0005

# Virtual seconds that one iteration of the loop takes. Without them, code that sets a timer for a
# moment that is too near to differ from now would run forever.
TICK = 1e-8


class _Selector(selectors.DefaultSelector):
    """Wait for real events only; where the loop would sleep, move the clock instead."""

    now = 0.0
    at_work = 0  # jobs in threads: while one runs, the clock does not advance

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += TICK
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        if self.at_work:
            return super().select(None)
        # The loop's own wake-up pipe is always registered; anything else is a socket.
        sockets = len(self.get_map()) > 1
        events: list[tuple[selectors.SelectorKey, int]] = super().select(GRACE if sockets else 0)
        if not events:
            self.now += timeout
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose :meth:`time` starts at 0 and jumps from timer to timer.

    Use it as a ``loop_factory``. The clock does not advance while a job runs in an executor. Peers
    in another process run on real time: keep both ends on one virtual loop.
    """

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual.now

    def run_in_executor(
        self, executor: Executor | None, func: Callable[..., _T], *args: object
    ) -> asyncio.Future[_T]:
        """Run ``func`` in a thread; the clock waits for it."""
        self._virtual.at_work += 1
        try:
            job = super().run_in_executor(executor, func, *args)
        except BaseException:
            self._virtual.at_work -= 1
            raise
        job.add_done_callback(self._job_done)
        return job

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for the threads to end, which takes no virtual time, whatever the ``timeout``."""
        del timeout  # it would be counted in virtual seconds, while threads end in real ones
        self._virtual.at_work += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._virtual.at_work -= 1

    def _job_done(self, _job: object) -> None:
        self._virtual.at_work -= 1
