"""What the processes send each other: JSON arrays of these."""

from typing import NamedTuple

# A task that has ended long ago. To ask after it loads what a client loads at its first use; it
# is not counted.
WARM = "warm"


class Counts(NamedTuple):
    """What the server saw."""

    started: int  # POSTs, each of which started a task
    keyed: int  # how many of them carried an idempotency key
    polls: int  # questions after a task's state
    ended: int  # tasks that had ended when it stopped
    found: int  # tasks whose end was reported
    late: float  # seconds between a task's end and its report, on average


class Waited(NamedTuple):
    """What it took the client to wait for all."""

    failed: int  # calls that raised
    errors: list[str]  # what they raised
    cpu: float
    late_p95: float  # seconds that the loop came late
    latest: float
    peak_bytes: int


class Lost(NamedTuple):
    """What the caller of a submit got."""

    error: str
