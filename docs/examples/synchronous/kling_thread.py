"""One client for synchronous code: its event loop runs in a thread of its own."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, TypeVar

from kling_async import KlingClient

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class KlingThread:
    """Runs coroutines of one client on one event loop, for callers on any thread."""

    def __init__(self, make_client: Callable[[], KlingClient] = KlingClient) -> None:
        self.client = make_client()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kling", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[object, object, T], timeout: float | None = None) -> T:
        """Run a coroutine and return its result. If the caller is interrupted, it is cancelled."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Wait for submits under way, close the client and end the thread."""
        self.run(self.client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


_lock = threading.Lock()
_threads: dict[int, KlingThread] = {}  # by process: a thread does not survive a fork


def kling() -> KlingThread:
    """Return the one thread of this process, which is started when it is first needed."""
    with _lock:
        if os.getpid() not in _threads:
            _threads.clear()
            _threads[os.getpid()] = KlingThread()
        return _threads[os.getpid()]
