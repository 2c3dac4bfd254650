"""The videos of the backend: what was asked for lately, the work on it, and the news of it."""

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

KEPT = 100  # videos; the oldest that has ended makes room for a new one
HEARTBEAT = 15.0  # seconds; proxies cut a connection that is silent for a minute or so
RETRY_MS = 1000  # after which browsers connect again
USUAL = {5: 75.0, 10: 105.0}  # seconds that a video takes, by its length: the vendor's figures
ENDED = {"done", "failed"}


# Subclasses of the package's errors have their rows in its table of HTTP answers, 503 and 404.
class FullError(RateLimitError):
    """There is no room for one more video."""


class UnknownVideoError(NotFoundError):
    """No such video is remembered."""


def now() -> float:
    """Return the event loop's time, in seconds."""
    return asyncio.get_running_loop().time()


class Video(BaseModel):
    """What became of one request. This is also the JSON that clients get."""

    id: str
    input: Input
    usual: float  # seconds that such a video takes
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
        """How long it took, or has taken so far."""
        return (self._ended or now()) - self._begun

    def become(self, version: int, **changes: object) -> None:
        """Change."""
        for name, value in changes.items():
            setattr(self, name, value)
        self._version = version
        if self.state in ENDED:
            self._ended = now()

    def newer(self, version: int) -> bool:
        """Tell whether it has changed since then."""
        return self._version > version


LIST = TypeAdapter(list[Video])


class Videos:
    """Makes videos, and remembers the last hundred of them, in memory alone.

    Args:
        kling: What makes them.
        group: What the work runs in.
        speed: How many times faster than the service, if it is an emulator.
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
        """Begin with a video, and return at once."""
        if len(self._videos) >= KEPT:
            ended = (video.id for video in self.all() if video.state in ENDED)
            if (oldest := next(ended, None)) is None:
                raise FullError(f"{KEPT} videos are under way", retry_after=10, retryable=True)
            del self._videos[oldest]
        usual = USUAL[int(input.to_dict()["duration"])] / self._speed
        video = Video(id=secrets.token_hex(8), input=input, usual=usual)
        self._videos[video.id] = video
        work = self._group.create_task(self._make(video))
        self._work.add(work)
        work.add_done_callback(self._work.discard)
        self._tell(video)
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
        """Let every stream of events end."""
        self._closed = True
        self._changed.set()

    def leave(self) -> None:
        """Stop waiting for what runs. Remote tasks go on: nothing can stop them."""
        for work in self._work:
            work.cancel()

    async def events(self) -> AsyncGenerator[str]:
        """Yield server-sent events: all videos at first, then each one that has changed.

        Nothing is queued. Whoever reads slowly, or was away, is told how things stand now: so
        nothing piles up for clients, and nothing is left of those that have gone.
        """
        seen, changed = self._version, self._changed
        yield f"retry: {RETRY_MS}\n"
        yield _event("videos", LIST.dump_json(self.all()))
        while not self._closed:
            try:
                async with asyncio.timeout(HEARTBEAT):
                    await changed.wait()
            except TimeoutError:
                yield _event("alive", b"")
            news = [video for video in self.all() if video.newer(seen)]
            seen, changed = self._version, self._changed
            for video in news:
                yield _event("video", video.model_dump_json().encode())

    async def _make(self, video: Video) -> None:
        try:
            task = await self._kling.submit(video.input)
            self._tell(video, state="running", ref=task.ref)
            result = await task  # ended by a callback or by a status call, whichever comes first
            self._tell(video, state="done", result=result)
        except KlingError as error:
            self._tell(
                video, state="failed", error=json.loads(problem_details.to_response(error).body)
            )
        except Exception:  # one mistake of ours must not end the group, and all other videos
            log.exception("a mistake in this backend")
            words = {"title": "Internal error", "detail": "The backend's log has more."}
            self._tell(video, state="failed", error=words)

    def _tell(self, video: Video, **changes: object) -> None:
        self._version += 1
        video.become(self._version, **changes)
        self._changed.set()
        self._changed = asyncio.Event()


def _event(name: str, data: bytes) -> str:
    return f"event: {name}\ndata: {data.decode()}\n\n"
