"""The videos of the backend: each is a row, and its state decides what is done next."""

import asyncio
import json
import logging
import secrets
import sqlite3
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

from attrs import define
from database import Database
from pydantic import BaseModel, TypeAdapter

from kling_async import Input, KlingClient, KlingError, Result, TaskRef, parse_input
from kling_async.errors import DownloadError, InputError, NotFoundError, Problem, RateLimitError
from kling_async.webhooks import problem_details

log = logging.getLogger("backend")

MAX_RUNNING = 100  # videos that have not ended
MAX_LISTED = 100  # the latest; older ones are found by their ids
HEARTBEAT = 15.0  # seconds; proxies cut a connection that is silent for a minute or so
RECONNECT_MS = 1000  # after which browsers connect again
PATIENCE = 86_400.0  # seconds; a task that has not ended by then is not waited for any more
SAVE_ATTEMPTS, SAVE_EVERY = 60, 60.0  # as while the disk is full; seconds
USUAL_SECONDS = 75.0  # of a generation, until some were measured

CUT_SHORT = {
    "title": "Cut short",
    "detail": "The backend was stopped while it sent this to the service.",
    "may_have_charged": True,
}
INTERNAL: dict[str, object] = {"title": "Internal error", "detail": "The backend's log has more."}


# As subclasses of the package's errors they have its HTTP responses, 503 and 404.
class FullError(RateLimitError):
    """Too many videos have not ended."""


class UnknownVideoError(NotFoundError):
    """The video is unknown."""


class Video(BaseModel):
    """A row as clients get it."""

    id: str
    input: Input
    state: Literal["waiting", "sending", "running", "done", "failed", "unsure"]
    ref: TaskRef | None = None
    file: str | None = None  # the path of the video
    error: dict[str, object] | None = None  # a problem as in RFC 9457
    seconds: float  # that it took, or has been running
    usual: float  # seconds that such a video usually takes
    version: int  # increases with each change: an answer may arrive after a newer event

    @classmethod
    def from_row(cls, row: sqlite3.Row) -> Self:
        """Return the video of a row."""
        return cls(
            id=row["id"],
            input=parse_input(json.loads(row["input"])),
            state=row["state"],
            ref=row["ref"] and TaskRef.parse(row["ref"]),
            file=row["file"] and f"/videos/{row['id']}/file",
            error=row["error"] and json.loads(row["error"]),
            seconds=max(0.0, (row["ended_at"] or time.time()) - row["asked_at"]),
            usual=row["usual"],
            version=row["version"],
        )


LIST = TypeAdapter(list[Video])


@define
class Recorder:
    """Records each step of a submit before the next one, so that no crash hides a payment.

    The client calls it: see `kling_async.SubmitObserver`.
    """

    videos: "Videos"
    video_id: str
    accepted: bool = False
    left: bool = False  # `submit` has raised an error

    async def before_send(self) -> None:
        """Record that from now on it may be paid."""
        await self.videos.update(self.video_id, state="sending")

    async def on_rejected(self, error: KlingError) -> None:
        """Record that it was certainly not paid."""
        del error  # unless it is temporary, `submit` raises it
        await self.videos.update(self.video_id, state="waiting")

    async def on_accepted(self, ref: TaskRef) -> None:
        """Record the task. After a lost answer, a callback brings it when `submit` has ended."""
        accepted = {"ref": str(ref), "accepted_at": time.time()}
        await self.videos.update(
            self.video_id, state="running", **accepted, error=None, ended_at=None
        )
        self.accepted = True
        if self.left:
            self.videos.start(self.video_id)


class Videos:
    """Makes videos, one asyncio task each.

    Args:
        kling: The client.
        database: Has their rows.
        folder: Where their files are saved.
        group: The task group that the work runs in.
    """

    def __init__(
        self, kling: KlingClient, database: Database, folder: Path, group: asyncio.TaskGroup
    ) -> None:
        self._kling = kling
        self._database = database
        self._folder = folder
        self._group = group
        self._work: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._closed = False

    async def resume(self) -> None:
        """Continue what the last process left.

        What it was sending may have been paid, and is not sent again.
        """
        await self._database.execute(
            "UPDATE videos SET state = 'unsure', error = ?, ended_at = ? WHERE state = 'sending'",
            json.dumps(CUT_SHORT),
            time.time(),
        )
        for row in await self._database.execute("SELECT id FROM videos WHERE ended_at IS NULL"):
            self.start(row["id"])

    async def add(self, input: Input, request_key: str | None = None) -> Video:
        """Store a video, start it, and return. The same key finds the same video again."""
        text = json.dumps(input.to_dict())
        kind = (input.model, getattr(input, "duration", None))  # some have no duration
        rows = await self._database.execute(
            """
            INSERT INTO videos
                (id, request_key, input, model, duration, usual, asked_at, state, version)
            SELECT ?, ?, ?, ?, ?, ?, ?, 'waiting', (SELECT IFNULL(MAX(version), 0) + 1 FROM videos)
            WHERE (SELECT COUNT(*) FROM videos WHERE ended_at IS NULL) < ?
            ON CONFLICT (request_key) DO NOTHING RETURNING id
            """,
            secrets.token_hex(8),
            request_key,
            text,
            *kind,
            await self._usual_seconds(*kind),
            time.time(),
            MAX_RUNNING,
        )
        if rows:
            self._announce()
            self.start(rows[0]["id"])
        else:
            find = "SELECT id, input FROM videos WHERE request_key = ?"
            rows = await self._database.execute(find, request_key)
            if not rows:
                raise FullError(f"{MAX_RUNNING} videos are running", retry_after=10, retryable=True)
            if rows[0]["input"] != text:
                rule = "was used for another video"
                raise InputError(problems=[Problem("Idempotency-Key", rule, repr(request_key))])
        return await self.find(rows[0]["id"])

    async def find(self, video_id: str) -> Video:
        """Return a video."""
        return Video.from_row(await self._read(video_id))

    async def file(self, video_id: str) -> Path:
        """Return the path of a video's file."""
        name: str | None = (await self._read(video_id))["file"]
        if name is None or not (path := self._folder / name).is_file():
            raise UnknownVideoError(f"the video {video_id!r:.40} has no file")
        return path

    async def latest(self) -> list[Video]:
        """Return the latest videos, the oldest of them first."""
        return [Video.from_row(row) for row in await self._latest()]

    def close_streams(self) -> None:
        """End all event streams."""
        self._closed = True
        self._changed.set()

    def cancel(self) -> None:
        """Stop waiting. The remote tasks continue, and the next process attaches them."""
        self._closed = True
        for work in self._work:
            work.cancel()

    async def events(self) -> AsyncGenerator[str]:
        """Yield server-sent events: the latest videos at first, then each one that has changed.

        Nothing is queued: a client that reads slowly, or reconnects, gets the current state, and
        a client that disconnects leaves nothing behind.
        """
        yield f"retry: {RECONNECT_MS}\n"
        changed = self._changed  # before the rows are read, so that no change is missed
        rows = await self._latest()
        seen = max((row["version"] for row in rows), default=0)
        yield _event("videos", LIST.dump_json([Video.from_row(row) for row in rows]))
        while not self._closed:
            try:
                async with asyncio.timeout(HEARTBEAT):
                    await changed.wait()
            except TimeoutError:
                yield _event("alive", b"")
                continue
            changed = self._changed
            newer = "SELECT * FROM videos WHERE version > ? ORDER BY version"
            for row in await self._database.execute(newer, seen):
                seen = row["version"]
                yield _event("video", Video.from_row(row).model_dump_json().encode())

    async def update(self, video_id: str, **changes: object) -> None:
        """Change columns of a row, and announce it."""
        columns = "".join(f"{name} = ?, " for name in changes)  # never names that a client gave
        await self._database.execute(
            f"UPDATE videos SET {columns} version = (SELECT MAX(version) + 1 FROM videos)"  # noqa: S608
            " WHERE id = ?",
            *changes.values(),
            video_id,
        )
        self._announce()

    def start(self, video_id: str) -> None:
        """Begin or continue with a video."""
        if not self._closed:
            work = self._group.create_task(self._finish(video_id))
            self._work.add(work)
            work.add_done_callback(self._work.discard)

    async def _finish(self, video_id: str) -> None:
        """Bring a video to its end: submit it unless it has a task, wait for that, and save it."""
        recorder, task = Recorder(self, video_id), None
        try:
            row = await self._read(video_id)
            input = parse_input(json.loads(row["input"]))
            if row["ref"] is None:
                task = await self._kling.submit(input, observer=recorder)
            else:
                accepted_at = datetime.fromtimestamp(row["accepted_at"], UTC)
                task = self._kling.attach(row["ref"], input=input, submitted_at=accepted_at)
            # Ended by a callback or by a poll, whichever comes first.
            result = await task.wait(timeout=PATIENCE)
            name = await self._save(result, video_id)
            await self.update(video_id, state="done", file=name, ended_at=time.time())
        except KlingError as error:
            recorder.left = True
            if task is None and recorder.accepted:  # a callback has brought what was lost
                self.start(video_id)
            else:
                problem = json.loads(problem_details.to_response(error).body)
                await self._fail(video_id, problem, submitted=task is not None)
        except Exception:  # a bug must not end the group, and all other videos
            log.exception("video %s: a bug in this backend, or a full disk", video_id)
            await self._fail(video_id, INTERNAL, submitted=task is not None)

    async def _save(self, result: Result, video_id: str) -> str:
        """Download the file, since the URLs of results expire; return its name."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return (await self._kling.download(result, self._folder, name=video_id))[0].name
            except DownloadError as error:
                if not error.retryable or attempt == SAVE_ATTEMPTS:
                    raise
                log.warning("video %s: %s; trying again", video_id, error)
                await asyncio.sleep(SAVE_EVERY)

    async def _fail(self, video_id: str, problem: dict[str, object], *, submitted: bool) -> None:
        """Record a failure. Of a submit whose outcome is not known, record that it is unsure."""
        try:
            await self._database.execute(
                """
                UPDATE videos SET error = ?, ended_at = ?,
                    state = CASE state WHEN 'sending' THEN 'unsure' ELSE 'failed' END,
                    version = (SELECT MAX(version) + 1 FROM videos)
                WHERE id = ? AND (ref IS NOT NULL) = ?
                """,
                json.dumps(problem),
                time.time(),
                video_id,
                submitted,
            )
        except sqlite3.Error:  # the next process continues with the row as it is
            log.exception("video %s: its failure could not be stored: %s", video_id, problem)
        self._announce()

    async def _usual_seconds(self, model: str, duration: int | None) -> float:
        """Return how long the last ten videos of a model and duration took."""
        ((mean,),) = await self._database.execute(
            """
            SELECT AVG(ended_at - asked_at) FROM (
                SELECT ended_at, asked_at FROM videos
                WHERE state = 'done' AND model = ? AND duration IS ?
                ORDER BY ended_at DESC LIMIT 10
            )
            """,
            model,
            duration,
        )
        return USUAL_SECONDS if mean is None else float(mean)

    async def _read(self, video_id: str) -> sqlite3.Row:
        rows = await self._database.execute("SELECT * FROM videos WHERE id = ?", video_id)
        if not rows:
            raise UnknownVideoError(f"no video {video_id!r:.40}")
        return rows[0]

    async def _latest(self) -> list[sqlite3.Row]:
        latest = "SELECT * FROM videos ORDER BY rowid DESC LIMIT ?"
        return (await self._database.execute(latest, MAX_LISTED))[::-1]

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _event(name: str, data: bytes) -> str:
    return f"event: {name}\ndata: {data.decode()}\n\n"
