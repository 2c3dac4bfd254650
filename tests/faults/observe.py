"""Runs a client against a fault, and returns what its caller sees."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from attrs import frozen

from kling_async import Batch, KlingClient, KlingError, MasterTextToVideo, Result, Retry, TaskRef
from kling_async.journal.sqlite.journal import SqliteJournal
from tests.faults.service import TASK_ID, Fault, Service, serve

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# A journal waits for its disk at each step; a disk in memory is as good a file, and faster.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None

__all__ = ["Seen", "batch", "caller", "fan_out", "wait"]

FOX = MasterTextToVideo("a fox")
PATIENCE = 60.0
REF = TaskRef("kling-2-1", TASK_ID)


@frozen
class Seen:
    """What the caller of one operation has seen, and the service of its requests.

    Attributes:
        outcome: ``value``, or the class of the error.
        sent: The complete requests that have reached the service.
        started: The tasks that it has started.
        charged: The error's ``may_have_charged``.
        retryable: The error's ``retryable``.
        seconds: How long it took.
        waits: Seconds between two requests.
        state: Of the item of a batch.
    """

    outcome: str
    sent: int
    started: int
    charged: bool = False
    retryable: bool = False
    seconds: float = 0.0
    waits: tuple[float, ...] = ()
    state: str = ""


def client_of(service: Service) -> KlingClient:
    """Make a client with the default policies, but for its patience, which is an hour."""
    base_url = f"{service.scheme}://{service.host}"
    return KlingClient("a-key-of-some-length", base_url=base_url, retry=Retry(patience=PATIENCE))


async def caller(kind: str, fault: Fault, times: float = inf) -> Seen:
    """Do what leads to one request of a kind: submit, status, balance, file."""

    async def download(kling: KlingClient, service: Service) -> object:
        with TemporaryDirectory() as folder:
            return await kling.download(Result(REF, (service.url,)), folder)

    operations: dict[str, Callable[[KlingClient, Service], Awaitable[object]]] = {
        "submit": lambda kling, _: kling.submit(FOX),
        "status": lambda kling, _: kling.status(REF),
        "balance": lambda kling, _: kling.balance(),
        "file": download,
    }
    return await _see(kind, fault, times, operations[kind])


async def wait(fault: Fault, timeout: float) -> Seen:
    """Wait for a task whose status calls meet a fault that stays."""
    return await _see("status", fault, inf, lambda kling, _: kling.attach(REF).wait(timeout))


async def fan_out(fault: Fault, times: float = inf) -> Seen:
    """Submit in a fan-out."""

    async def many(kling: KlingClient, _: Service) -> None:
        async for outcome in kling.generate_many([FOX]):
            if outcome.error is not None:
                raise outcome.error

    return await _see("submit", fault, times, many)


async def batch(fault: Fault) -> Seen:
    """Submit in a batch, twice, with a fault that stays: what was unsure is not sent again."""
    with TemporaryDirectory(dir=MEMORY) as folder:
        path = Path(folder) / "journal.sqlite"

        async def run(kling: KlingClient, _: Service) -> None:
            async with Batch(kling, journal=path) as one:
                async for outcome in one.run([FOX]):
                    if outcome.error is not None:
                        raise outcome.error

        seen = await _see("submit", fault, inf, run)
        async with SqliteJournal(path, read_only=True) as journal:
            (entry,) = [entry async for entry in journal.entries()]
        if seen.charged:
            again = await _see("submit", fault, inf, run)
            assert (again.sent, again.charged) == (0, True)
        return Seen(seen.outcome, seen.sent, seen.started, state=entry.state.value)


async def _see(
    kind: str,
    fault: Fault,
    times: float,
    operation: Callable[[KlingClient, Service], Awaitable[object]],
) -> Seen:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    async with serve(kind, fault, times) as service:
        outcome, charged, retryable = "value", False, False
        async with client_of(service) as kling:
            try:
                await operation(kling, service)
            except KlingError as error:
                outcome, charged, retryable = (
                    type(error).__name__,
                    error.may_have_charged,
                    error.retryable,
                )
            seconds = loop.time() - begun
    arrived = service.arrived.get(kind, [])
    return Seen(
        outcome,
        len(arrived),
        service.started,
        charged,
        retryable,
        seconds,
        tuple(later - earlier for earlier, later in pairwise(arrived)),
    )
