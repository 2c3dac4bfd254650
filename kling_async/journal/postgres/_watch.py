"""A server that says nothing any more: its connection is cut, and is as good as lost."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock, Timer
from typing import Final

# Seconds for which a server may say nothing, at least: a thousand items take it less than one.
SHORTEST: Final = 5.0

# How often in a lease the connection may be cut before others may think that this worker has died.
_TRIES: Final = 4


def longest(lease: float) -> float:
    """Return the seconds for which a server may say nothing to a worker with such a lease."""
    return max(lease / _TRIES, SHORTEST)


class Watch:
    """Cuts a connection of another thread when the time for one use of it is over.

    Args:
        longest: Seconds for one use.
    """

    def __init__(self, longest: float) -> None:
        self.longest = longest
        self.was_cut = False  # in the use that is under way, or was the last
        self._lock = Lock()
        self._timer: Timer | None = None

    @contextmanager
    def over(self, fd: int) -> Iterator[None]:
        """Watch over one use of a connection."""
        # A copy: what the number means may change as soon as the connection is lost.
        with _copy(fd) as way:
            with self._lock:
                self.was_cut = False
                self._start(way)
            try:
                yield
            finally:
                with self._lock:
                    timer, self._timer = self._timer, None
                assert timer is not None  # noqa: S101 - for the type checker
                timer.cancel()
                timer.join()

    def hurry(self, longest: float) -> None:
        """Wait no longer than so, also in the use that is under way."""
        with self._lock:
            self.longest = min(self.longest, longest)
            if self._timer is not None:
                self._timer.cancel()
                self._start(*self._timer.args)

    def _start(self, way: socket.socket) -> None:
        self._timer = Timer(self.longest, self._cut, (way,))
        self._timer.daemon = True
        self._timer.start()

    def _cut(self, way: socket.socket) -> None:
        self.was_cut = True
        with suppress(OSError):  # the server has ended it
            way.shutdown(socket.SHUT_RDWR)


def _copy(fd: int) -> socket.socket:
    return socket.fromfd(fd, socket.AF_INET, socket.SOCK_STREAM)  # of whatever family it is
