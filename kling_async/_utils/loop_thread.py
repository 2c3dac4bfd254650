"""An event loop in a thread of its own, for callers that have none."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Iterable

_R = TypeVar("_R")
_T = TypeVar("_T")
_END = object()
_used: WeakSet[Any] = WeakSet()


class LoopThread(threading.Thread):
    """Runs an event loop until it is stopped."""

    def __init__(self) -> None:
        super().__init__(name="kling_async", daemon=True)
        self._process_id = os.getpid()
        self._lock = threading.Lock()
        self._stopped = False
        self._loop = asyncio.new_event_loop()
        self.start()

    def run(self) -> None:
        """Run the loop in the new thread."""
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            loop = runner.get_loop()
            while not self._stopped:
                # A task that raises one of these interrupts the loop; its caller gets it.
                with suppress(KeyboardInterrupt, SystemExit):
                    loop.run_forever()

    def stop(self) -> None:
        """End the loop, which cancels what still runs there, and wait for the thread."""
        with self._lock:  # nothing is scheduled after the end
            self._stopped = True
            self._loop.call_soon_threadsafe(self._loop.stop)
        self.join()

    def call(self, coroutine: Coroutine[Any, Any, _R]) -> _R:
        """Run a coroutine on the loop and wait for its result; cancel it if interrupted.

        Raises:
            ConfigurationError: As :meth:`check_caller`.
            CancelledError: The thread was stopped.
        """
        try:
            self.check_caller()
        except ConfigurationError:
            coroutine.close()
            raise
        done: Future[_R] = Future()
        task: asyncio.Task[_R] | None = None

        def start() -> None:
            nonlocal task
            task = self._loop.create_task(coroutine)
            task.add_done_callback(lambda task: _transfer(task, done))

        def cancel() -> None:
            if task is not None:
                task.cancel()
            else:  # the interrupt came before the start was scheduled
                coroutine.close()
                done.set_exception(asyncio.CancelledError())

        try:
            with self._lock:
                if self._stopped:
                    coroutine.close()
                    done.set_exception(asyncio.CancelledError())
                else:
                    self._loop.call_soon_threadsafe(start)
            return done.result()
        except BaseException as interrupt:
            if done.done():  # the coroutine's own error
                raise
            self._loop.call_soon_threadsafe(cancel)
            if (error := done.exception()) is None:
                interrupt.add_note(f"the interrupted call had succeeded: {done.result()!r}")
            for note in getattr(error, "__notes__", ()):
                interrupt.add_note(note)
            raise

    def check_caller(self) -> None:
        """Raise if a call from here could never return.

        Raises:
            ConfigurationError: The thread belongs to the process from which this one was forked,
                or it is the thread that calls.
        """
        if self._process_id != os.getpid():
            raise ConfigurationError(
                "this process was forked after the first blocking call, and the thread of the"
                " event loop is not part of it: make a client in each process"
            )
        if threading.current_thread() is self:
            raise ConfigurationError(
                "a blocking call from a hook would never return: await instead"
            )


def _transfer(task: asyncio.Task[_R], done: Future[_R]) -> None:
    try:
        done.set_result(task.result())
    except BaseException as error:  # noqa: BLE001 - it is raised in the calling thread
        done.set_exception(error)


def close_at_exit(client: object) -> None:
    """Call ``client.close()`` when the program exits, while its threads still run."""
    _used.add(client)


@atexit.register
def _close_all() -> None:
    for client in list(_used):
        client.close()


async def iterate_in_thread(items: Iterable[_T]) -> AsyncGenerator[_T]:
    """Read an iterable in a thread: it may block, also by using the blocking client."""
    iterator = iter(items)
    try:
        while (item := await asyncio.to_thread(next, iterator, _END)) is not _END:
            yield item  # type: ignore[misc] # not the end
    finally:
        close = getattr(iterator, "close", None)
        if close is not None and threading.main_thread().is_alive():  # else no thread starts
            await asyncio.to_thread(close)
