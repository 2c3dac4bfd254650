"""Where local images are stored, so that the service can fetch them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from attrs import field, frozen

LIFETIME: Final = 6 * 3600.0
"""Seconds for which a URL is valid, by default.

A URL is made right before the request that contains it is sent. The service fetches the image when
it begins the task, minutes later at most. The longest wait for a task is half an hour by default.
"""


@frozen
class Image:
    """An image to store.

    Attributes:
        name: Its name, made of the checksum of its content: equal images have equal names.
        media_type: Its type, such as ``image/jpeg``.
        read: Returns its content. A store that has the image already does not call it.
    """

    name: str
    media_type: str
    read: Callable[[], Awaitable[bytes]] = field(repr=False, eq=False)


class ImageStore(Protocol):
    """Stores images where the service can fetch them.

    A store that has a method ``close`` without arguments may be opened by a client; otherwise it is
    the caller's.
    """

    async def put(self, image: Image) -> str:
        """Store an image, unless it is stored already, and return a URL of it.

        The URL must be valid for longer than a task waits. This is called again, for a URL that is
        valid from then on, whenever a submit is repeated; so it should remember what is stored.

        Raises:
            StorageError: The store cannot be used. The submit raises it, and nothing is sent.
        """
        ...


class KnownNames:
    """The names that a store is known to have, for a while: someone may delete objects.

    Args:
        seconds: How long that is.
        clock: Returns the time in seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._seen: dict[str, float] = {}  # the latest last

    def __contains__(self, name: str) -> bool:
        at = self._seen.get(name)
        return at is not None and self._clock() - at < self._seconds

    def add(self, name: str) -> None:
        """Add a name that the store has now."""
        self._seen.pop(name, None)
        now = self._seen[name] = self._clock()
        while now - self._seen[oldest := next(iter(self._seen))] >= self._seconds:
            del self._seen[oldest]
