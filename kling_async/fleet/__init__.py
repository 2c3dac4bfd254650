"""A fleet: machines that share one batch through a PostgreSQL database.

:class:`Queue` enqueues items and :class:`Worker` processes them, on any machine. The journal, in
the same database, records the state of each item and prevents that one is paid twice: a queue may
deliver an item more than once. :mod:`kling_async.taskiq` uses a broker in place of the queue.
"""

from kling_async.fleet.queue import Enqueued, Queue
from kling_async.fleet.worker import Worker

__all__ = ["Enqueued", "Queue", "Worker"]
