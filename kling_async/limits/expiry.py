"""When things expire, where most of them are put off again and again before they do.

Pure: no clock is read, moments come in as arguments.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush


class Expiries:
    """The moments at which numbered things expire.

    A heap has one entry a thing, or more if it was moved to an earlier moment. Putting a thing
    off leaves its entry where it is until it comes up, so that it costs nothing.
    """

    def __init__(self) -> None:
        self._due: dict[int, float] = {}
        # The entry that counts of each thing is the earliest, and not later than it is due.
        self._queued: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []

    def set(self, number: int, moment: float) -> None:
        """Let a thing expire at this moment, and at no other."""
        self._due[number] = moment
        queued = self._queued.get(number)
        if queued is None or moment < queued:
            self._push(number, moment)
            if len(self._heap) > 2 * len(self._due) + 64:
                self._rebuild()

    def discard(self, number: int) -> None:
        """Forget a thing."""
        self._due.pop(number, None)
        self._queued.pop(number, None)

    def next(self) -> float | None:
        """Return the moment at which the first thing expires, if there is any."""
        while self._heap:
            moment, number = self._heap[0]
            if self._queued.get(number) == moment:
                due = self._due[number]
                if due == moment:
                    return due
                heappop(self._heap)
                self._push(number, due)
            else:
                heappop(self._heap)
        return None

    def pop(self, now: float) -> list[int]:
        """Remove what has expired by now; return it in the order of its moments."""
        expired = []
        while (moment := self.next()) is not None and moment <= now:
            _, number = heappop(self._heap)
            self.discard(number)
            expired.append(number)
        return expired

    def shift(self, shift: float) -> None:
        """Change to a clock that shows so much more."""
        self._due = {number: moment + shift for number, moment in self._due.items()}
        self._rebuild()

    def _push(self, number: int, moment: float) -> None:
        self._queued[number] = moment
        heappush(self._heap, (moment, number))

    def _rebuild(self) -> None:
        self._queued = dict(self._due)
        self._heap = [(moment, number) for number, moment in self._due.items()]
        heapify(self._heap)
