"""The work behind the requests: reading images, ending tasks, sending callbacks."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from kling_async.testing.emulator.callbacks import CallbackSender
from kling_async.testing.emulator.faults import wait
from kling_async.testing.emulator.files import Films
from kling_async.testing.emulator.images import ImageProblem, ImageReader
from kling_async.testing.emulator.uploads import Uploads

if TYPE_CHECKING:
    import aiohttp

    from kling_async.testing.emulator.callbacks import Outbox
    from kling_async.testing.emulator.service import Service
    from kling_async.testing.emulator.tasks import EmulatedTask


@frozen
class Settings:
    """How an emulator answers, and how fast: see `Emulator`.

    `latency` returns the seconds that the next request or answer is under way; `decode` says
    whether pictures can be decoded.
    """

    latency: Callable[[], float]
    speed: float
    retry_after: bool
    rendered: bool
    decode: bool
    samples: Path | None
    uploads: Uploads | None


class Background:
    """What one running server does on its event loop; made when it starts, closed when it stops.

    Not an `asyncio.TaskGroup`: a server may be started in one task and stopped in another, as test
    fixtures are, and a group belongs to the task that entered it.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        service: Service,
        outbox: Outbox,
        settings: Settings,
    ) -> None:
        self._service = service
        self._speed = settings.speed
        self._images = ImageReader(session, decode=settings.decode)
        self._callbacks = CallbackSender(session, outbox, settings.speed)
        self._tasks: set[asyncio.Task[None]] = set()
        self._epoch = time.time() - asyncio.get_running_loop().time()
        self._finishing = asyncio.Event()
        self.films: Films = Films(self._images, rendered=settings.rendered)
        self.closing: asyncio.Event = asyncio.Event()

    def start(self, task: EmulatedTask, origin: str) -> asyncio.Event:
        """Start the work for a task; return an event that is set when it has called back once.

        The event is set at the end of the work at the latest. An exception is reported by the
        loop's exception handler.
        """
        called_back = asyncio.Event()
        work = asyncio.create_task(self._complete(task, origin, called_back))
        self._tasks.add(work)
        work.add_done_callback(self._tasks.discard)
        return called_back

    def finish_tasks(self) -> None:
        """End the running tasks now."""
        self._service.finish_tasks(asyncio.get_running_loop().time())
        self._finishing.set()
        self._finishing = asyncio.Event()

    async def cancel(self) -> None:
        """Cancel the work for all tasks and wait until it has ended. Answers no longer wait."""
        self.closing.set()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Cancel everything and wait until it has ended."""
        await self.cancel()
        await self.films.close()
        await self._images.close()

    def timestamp(self, at: float) -> int:
        """Return a moment of the loop's time in Unix milliseconds."""
        return int((self._epoch + at) * 1000)

    async def _complete(self, task: EmulatedTask, origin: str, called_back: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        try:
            await self._check_images(task)
            self._service.schedule_end(task)
            if task.order.callback_url is None or math.isinf(task.ends_at):
                return
            while (seconds := task.ends_at - loop.time()) > 0:
                await wait(seconds, self._finishing)
            data = task.data(max(loop.time(), task.ends_at), self.timestamp, origin)
            await self._callbacks.deliver(task, data, called_back)
        finally:
            called_back.set()

    async def _check_images(self, task: EmulatedTask) -> None:
        loop = asyncio.get_running_loop()
        try:
            for url in task.order.image_urls:
                await self._images.check_image(url)
            for url in task.order.video_urls:
                await self._images.check_video(url)
            task.images_ready(loop.time())
        except ImageProblem as problem:
            # The service needs a second or so to find out, however near the image is.
            at = max(loop.time(), task.created + 1.0 / self._speed)
            task.fail(at, problem.code, problem.message)
