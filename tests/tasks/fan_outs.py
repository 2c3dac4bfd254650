"""Inputs, services and assertions for the tests of the fan-out."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeAlias

from kling_async import MasterTextToVideo, TaskRef
from kling_async.events import Event, TasksAbandoned
from kling_async.tasks.abandoned import describe
from kling_async.testing.transport import answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping

    import pytest

    from kling_async.inputs.base import Input
    from kling_async.testing import Emulator
    from kling_async.testing.transport import Request, Response

Leftovers: TypeAlias = "Callable[[], set[str]]"
KEY = "sk-a-key"


def foxes(number: int | None = None) -> Iterator[MasterTextToVideo]:
    """Give so many inputs, or inputs without end."""
    for index in itertools.count() if number is None else range(number):
        yield MasterTextToVideo(f"fox {index}")


def by_number(*seconds: float, rest: float) -> Callable[[Mapping[str, object]], float]:
    """Let the first foxes take so many seconds, and all others as many as the rest."""

    def duration(sent: Mapping[str, object]) -> float:
        number = int(str(sent["prompt"]).rpartition(" ")[2])
        return seconds[number] if number < len(seconds) else rest

    return duration


def refs(emulator: Emulator) -> list[TaskRef]:
    """Name the tasks that were started."""
    return [TaskRef(one.model, one.task_id) for one in emulator.ledger]


class Service:
    """Answers submits, and status calls of tasks that take a minute, without a socket."""

    def __init__(self) -> None:
        self.tasks = 0

    def __call__(self, request: Request) -> Response:
        if request.kind == "submit":
            self.tasks += 1
            return answer({"taskId": f"task_{self.tasks}"})
        assert request.ref is not None
        result = json.dumps({"resultUrls": ["https://example.com/fox.mp4"]})
        said = {"taskId": request.ref.task_id, "state": "success", "resultJson": result}
        return answer(said)


async def left_alone(
    emulator: Emulator,
    events: list[Event],
    leftovers: Leftovers,
    caplog: pytest.LogCaptureFixture,
    reported: Iterable[TaskRef | None] = (),
) -> None:
    """Assert that a fan-out has ended, with all that it had submitted reported."""
    await asyncio.sleep(0)
    assert not leftovers()
    started = set(refs(emulator))
    reports = [event.refs for event in events if isinstance(event, TasksAbandoned)]
    left = [ref for report in reports for ref in report]
    assert set(left) == started - set(reported)
    assert len(left) == len(set(left))
    warnings = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    abandoned = [text for text in warnings if "unattended" in text]
    assert abandoned == [describe(report) for report in reports]
    before = len(emulator.requests)
    await asyncio.sleep(1000)
    assert len(emulator.requests) == before


class BrokenError(Exception):
    pass


def breaking(number: int) -> Iterator[Input]:
    """Give so many inputs, then break."""
    yield from foxes(number)
    raise BrokenError


class Watched:
    """Generators that note when they are closed, and how."""

    def __init__(self) -> None:
        self.closed: list[type[BaseException] | None] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.closed.append(type(error))
            raise
        else:
            self.closed.append(None)

    def ready(self) -> Iterator[Input]:
        with self.watching():
            yield from foxes()

    async def arriving(self) -> AsyncIterator[Input]:
        with self.watching():
            for fox in foxes():
                yield fox

    async def awaiting(self) -> AsyncIterator[Input]:
        with self.watching():
            for fox in foxes(1):
                yield fox
            await asyncio.Event().wait()

    async def tidying(self) -> AsyncIterator[Input]:
        try:
            for fox in foxes():
                yield fox
        finally:
            await asyncio.sleep(5)
            self.closed.append(None)

    async def stubborn(self) -> AsyncIterator[Input]:
        with self.watching():
            yield MasterTextToVideo("a fox")
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            yield MasterTextToVideo("one too many")
