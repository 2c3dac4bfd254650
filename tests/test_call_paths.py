"""How many functions of the package an operation enters, and in how many files.

The operations run on the emulator, a second time: what is only made once does not count. ``-s``
shows the functions in the order in which they are entered; a failure shows them, too.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI

import kling_async
from kling_async import Batch, KlingClient, MasterTextToVideo
from kling_async.testing import Emulator, Scenario
from kling_async.webhooks import fastapi
from kling_async.webhooks.inbox import Inbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
    from contextlib import AbstractContextManager
    from types import CodeType, FrameType, TracebackType
    from typing import Any, Self

    from tests.conftest import Figure

pytestmark = pytest.mark.virtual_time

# Functions and files that an operation may enter. They go down, unless a longer path is faster:
# a deadline of two methods is, and so are marks of durations that are computed when they are read.
LIMITS = {
    "submit": (34, 14),
    "generate": (65, 18),
    "callback": (56, 19),
    "batch of one": (136, 32),
}

HOME = Path(inspect.getfile(kling_async)).parent
FOX = MasterTextToVideo("a fox in fresh snow", duration=5)


class Trace:
    """Records the functions that are entered while it is open."""

    def __init__(self) -> None:
        self._codes: dict[CodeType, None] = {}

    def __enter__(self) -> Self:
        sys.setprofile(self._record)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        sys.setprofile(None)

    def _record(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            self._codes[frame.f_code] = None

    @property
    def functions(self) -> list[tuple[str, str]]:
        """The files and names of the package's functions, in the order of their first calls."""
        found = []
        for code in self._codes:
            path = Path(code.co_filename)
            if path.is_relative_to(HOME) and not path.is_relative_to(HOME / "testing"):
                name = f"{code.co_qualname}, line {code.co_firstlineno}"
                found.append((str(path.relative_to(HOME)), name))
        return found

    def check(self, operation: str, figure: Figure) -> None:
        """Report and print the path, and fail if it is longer than its limit."""
        path, (functions, files) = self.functions, LIMITS[operation]
        entered = len({file for file, _ in path})
        figure(f"{operation}: {len(path)} functions of {functions} in {entered} files of {files}")
        for number, (file, name) in enumerate(path, 1):
            print(f"{number:4} {file:36} {name}")  # noqa: T201
        assert path
        assert len(path) <= functions
        assert entered <= files


async def trace_second(operation: Callable[[], Awaitable[object]]) -> Trace:
    """Run an operation twice; return the trace of the second time."""
    await operation()
    with Trace() as trace:
        await operation()
    return trace


class RecordingInbox(Inbox):
    """An inbox that keeps the last URL that it has given to a submit."""

    url = ""

    def callback_url(self, model: str, nonce: str) -> str:
        self.url = super().callback_url(model, nonce)
        return self.url


async def post(app: FastAPI, path: str, task_id: str) -> None:
    """Send the callback of a task that has succeeded to an application."""
    result = json.dumps({"resultUrls": ["https://example.com/fox.mp4"]})
    data = {"taskId": task_id, "state": "success", "resultJson": result}
    body = json.dumps({"code": 200, "message": "success", "data": data}).encode()
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"content-length", b"%d" % len(body))],
    }
    answers: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        answers.append(message)

    await app(scope, receive, send)
    assert answers[0]["status"] == 200


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    """Start an emulator in which a video takes 60 s, and which delivers no callbacks."""
    scenario = Scenario.parse(["callback:*=lost"])
    async with Emulator(scenario=scenario, video="small", duration=(60.0, 60.0)) as emulator:
        yield emulator


async def test_submit(figure: Figure, emulator: Emulator) -> None:
    """A submit takes few functions, in few files.

    The aim is 34 functions in 13 files.
    """
    async with KlingClient(emulator.key, base_url=emulator.base_url) as kling:
        trace = await trace_second(lambda: kling.submit(FOX))
    trace.check("submit", figure)


async def test_generate(figure: Figure, emulator: Emulator) -> None:
    """A generation takes few functions, in few files.

    The aim is 64 functions in 14 files.
    """
    async with KlingClient(emulator.key, base_url=emulator.base_url) as kling:
        trace = await trace_second(lambda: kling.generate(FOX))
    trace.check("generate", figure)


async def test_fastapi_callback(figure: Figure, emulator: Emulator) -> None:
    """From a callback's arrival at FastAPI to the result takes few functions, in few files.

    The aim is 50 functions in 14 files.
    """
    inbox = RecordingInbox("https://example.com/kling", secret="a secret of the tests")
    app = FastAPI()
    app.include_router(fastapi.router(inbox), prefix="/kling")

    async with KlingClient(emulator.key, base_url=emulator.base_url, inbox=inbox) as kling:

        async def wait_and_call_back(trace: AbstractContextManager[object]) -> None:
            task = await kling.submit(FOX)
            waiter = asyncio.create_task(task.wait())
            await asyncio.sleep(61)  # it has ended, and its callback is not overdue
            path, task_id = urlsplit(inbox.url).path, task.ref.task_id
            with trace:
                await post(app, path, task_id)
                await waiter

        await wait_and_call_back(nullcontext())
        trace = Trace()
        await wait_and_call_back(trace)
    trace.check("callback", figure)


async def test_batch_of_one(figure: Figure, emulator: Emulator, tmp_path: Path) -> None:
    """A batch of one takes few functions, in few files.

    The aim is 140 functions in 26 files.
    """
    numbers = count()

    async def run_batch() -> None:
        async with Batch(kling, journal=tmp_path / f"{next(numbers)}.sqlite") as batch:
            async for outcome in batch.run([FOX]):
                assert outcome.error is None

    async with KlingClient(emulator.key, base_url=emulator.base_url) as kling:
        trace = await trace_second(run_batch)
    trace.check("batch of one", figure)
