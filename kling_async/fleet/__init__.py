"""A fleet: machines that share one batch, with nothing but PostgreSQL between them.

A queue says which items are to be done, and spreads them over the workers; the journal says what
has become of each, and sees to it that none is paid for twice. Both are in one database. The queue
may deliver an item twice, as all queues may: the second time, the journal has the answer.

:class:`Queue` puts items in, :class:`Worker` takes them out, wherever it runs. Who has a broker
already may use that instead: see :mod:`kling_async.taskiq`.
"""

from __future__ import annotations

from kling_async.fleet.queue import Enqueued, Queue
from kling_async.fleet.worker import Worker

__all__ = ["Enqueued", "Queue", "Worker"]
