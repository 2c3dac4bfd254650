"""The videos of the backend: the latest requests, their tasks, and a stream of their changes."""

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncGenerator
from typing import Literal

from pydantic import BaseModel, PrivateAttr, TypeAdapter, computed_field

from kling_async import Input, KlingClient, KlingError, Result, TaskRef
from kling_async.errors import NotFoundError, RateLimitError
from kling_async.webhooks import problem_details

log = logging.getLogger("backend")

MAX_VIDEOS = 100  # the oldest that has ended is removed for a new one
HEARTBEAT = 15.0  # seconds; proxies cut a connection that is silent for a minute or so
RECONNECT_MS = 1000  # after which browsers connect again
USUAL_SECONDS = {5: 75.0, 10: 105.0}  # of a generation, by the length of the video
ENDED = {"done", "failed"}


# As subclasses of the package's errors they have its HTTP responses, 503 and 404.
class FullError(RateLimitError):
    """All kept videos are still running."""


class UnknownVideoError(NotFoundError):
    """The video is unknown."""


def now() -> float:
    """Return the event loop's time, in seconds."""
    return asyncio.get_running_loop().time()


class Video(BaseModel):
    """One request and its state; also the JSON that clients get."""

    id: str
    input: Input
    usual: float  # seconds that such a video usually takes
    state: Literal["waiting", "running", "done", "failed"] = "waiting"
    ref: TaskRef | None = None
    result: Result | None = None
    error: dict[str, object] | None = None  # a problem as in RFC 9457
    _begun: float = PrivateAttr(default_factory=now)
    _ended: float | None = None
    _version: int = 0

    @computed_field  # type: ignore[prop-decorator]  # pydantic asks for this order
    @property
    def seconds(self) -> float:
        """How long it took, or has been running."""
        return (self._ended or now()) - self._begun

    def update(self, version: int, **changes: object) -> None:
        """Change fields."""
        for name, value in changes.items():
            setattr(self, name, value)
        self._version = version
        if self.state in ENDED:
            self._ended = now()

    def changed_since(self, version: int) -> bool:
        """Return whether it has changed since a version."""
        return self._version > version


LIST = TypeAdapter(list[Video])


class Videos:
    """Makes videos, and keeps the last hundred of them in memory.

    Args:
        kling: The client.
        group: The task group that the work runs in.
        speed: How many times faster than the service it is, if it is an emulator.
    """

    def __init__(self, kling: KlingClient, group: asyncio.TaskGroup, speed: float = 1.0) -> None:
        self._kling = kling
        self._group = group
        self._speed = speed
        self._videos: dict[str, Video] = {}
        self._work: set[asyncio.Task[None]] = set()
        self._version = 0
        self._changed = asyncio.Event()
        self._closed = False

    def add(self, input: Input) -> Video:
        """Start a video, and return at once."""
        if len(self._videos) >= MAX_VIDEOS:
            ended = (video.id for video in self.all() if video.state in ENDED)
            if (oldest := next(ended, None)) is None:
                raise FullError(f"{MAX_VIDEOS} videos are running", retry_after=10, retryable=True)
            del self._videos[oldest]
        usual = USUAL_SECONDS[int(input.to_dict()["duration"])] / self._speed
        video = Video(id=secrets.token_hex(8), input=input, usual=usual)
        self._videos[video.id] = video
        work = self._group.create_task(self._generate(video))
        self._work.add(work)
        work.add_done_callback(self._work.discard)
        self._update(video)
        return video

    def find(self, video_id: str) -> Video:
        """Return a video."""
        if (video := self._videos.get(video_id)) is None:
            raise UnknownVideoError(f"no video {video_id!r:.40}")
        return video

    def all(self) -> list[Video]:
        """Return all videos, the oldest first."""
        return list(self._videos.values())

    def close_streams(self) -> None:
        """End all event streams."""
        self._closed = True
        self._changed.set()

    def cancel(self) -> None:
        """Stop waiting for running videos. Their remote tasks continue: they cannot be stopped."""
        for work in self._work:
            work.cancel()

    async def events(self) -> AsyncGenerator[str]:
        """Yield server-sent events: all videos at first, then each one that has changed.

        Nothing is queued: a client that reads slowly, or reconnects, gets the current state, and
        a client that disconnects leaves nothing behind.
        """
        seen, changed = self._version, self._changed
        yield f"retry: {RECONNECT_MS}\n"
        yield _event("videos", LIST.dump_json(self.all()))
        while not self._closed:
            try:
                async with asyncio.timeout(HEARTBEAT):
                    await changed.wait()
            except TimeoutError:
                yield _event("alive", b"")
            changes = [video for video in self.all() if video.changed_since(seen)]
            seen, changed = self._version, self._changed
            for video in changes:
                yield _event("video", video.model_dump_json().encode())

    async def _generate(self, video: Video) -> None:
        try:
            task = await self._kling.submit(video.input)
            self._update(video, state="running", ref=task.ref)
            result = await task  # ended by a callback or by a poll, whichever comes first
            self._update(video, state="done", result=result)
        except KlingError as error:
            self._update(
                video, state="failed", error=json.loads(problem_details.to_response(error).body)
            )
        except Exception:  # a bug must not end the group, and all other videos
            log.exception("a bug in this backend")
            problem = {"title": "Internal error", "detail": "The backend's log has more."}
            self._update(video, state="failed", error=problem)

    def _update(self, video: Video, **changes: object) -> None:
        self._version += 1
        video.update(self._version, **changes)
        self._changed.set()
        self._changed = asyncio.Event()


def _event(name: str, data: bytes) -> str:
    return f"event: {name}\ndata: {data.decode()}\n\n"
