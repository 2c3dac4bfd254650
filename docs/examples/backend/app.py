"""A backend for videos: FastAPI, callbacks, progress as server-sent events, and one page.

Run it with ``python app.py``. README.md, beside this file, has the settings and how it is built.
"""

import asyncio
import logging
import os
import secrets
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

import uvicorn
from attrs import evolve, frozen
from database import Database
from fastapi import APIRouter, Body, Depends, FastAPI, Header, Request, Response
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import FileResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from small_bodies import SmallBodies
from videos import Video, Videos

from kling_async import Hook, Inbox, Input, KlingClient, KlingError
from kling_async.testing.sample_files import FOLDER
from kling_async.webhooks import fastapi as kling_fastapi

log = logging.getLogger("backend")

PAGE = Path(__file__).parent / "page"
DATA = Path(__file__).parent / "data"
PICTURES = {".jpg", ".png", ".webp"}
POLICY = (  # the page may load its own files and the videos, and nothing else
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self';"
    " media-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
LOOPBACK = {"127.0.0.1", "localhost"}
REAL = "The service makes the videos, and charges for each."
EMULATED = (
    "An emulator on this machine makes the videos. They show what you asked for; no model has"
    " seen it, and nothing is charged."
)
HOOKS: Sequence[Hook] = ()  # your metrics and traces: functions of the client's events


@frozen
class Settings:
    """The settings, from environment variables; the client reads its own."""

    host: str = "127.0.0.1"
    port: int = 8000
    data: Path = DATA  # has the database and the videos
    public_url: str = ""  # where the service reaches us; without it, tasks are polled
    secret: str = ""  # signs the URLs of callbacks
    emulated: bool = False  # the service is an emulator on this machine

    @classmethod
    def from_environ(cls) -> Self:
        """Read the settings; raise ValueError if one is invalid."""
        if not os.environ.get("APIXO_API_KEY"):
            raise ValueError(
                "no APIXO_API_KEY. Run `kling-async emulate` in another shell, and copy the lines"
                " that it prints into this one"
            )
        service = urlsplit(os.environ.get("APIXO_BASE_URL", "")).hostname
        return cls(
            host=os.environ.get("HOST", "127.0.0.1"),
            port=int(os.environ.get("PORT", "8000")),
            data=Path(os.environ.get("DATA_DIR", DATA)),
            public_url=os.environ.get("PUBLIC_URL", "").rstrip("/"),
            secret=os.environ.get("KLING_SECRET", ""),
            emulated=service in LOOPBACK,
        )

    @property
    def reached_at(self) -> str:
        """The URL at which the service reaches us, or an empty text."""
        here = f"http://127.0.0.1:{self.port}" if self.emulated else ""
        return self.public_url or here

    @property
    def hosts(self) -> list[str]:
        """What the header `Host` may be.

        On a developer's machine, no page of another site can make videos by a name that leads here.
        """
        if self.host not in LOOPBACK:
            return ["*"]
        public = urlsplit(self.public_url).hostname
        return [*LOOPBACK, *([public] if public else [])]


def get_videos(request: Request) -> Videos:
    """Return the videos, as a dependency of routes."""
    videos: Videos = request.app.state.videos
    return videos


def get_settings(request: Request) -> Settings:
    """Return the settings, as a dependency of routes."""
    settings: Settings = request.app.state.settings
    return settings


VideosHere = Annotated[Videos, Depends(get_videos)]
SettingsHere = Annotated[Settings, Depends(get_settings)]
routes = APIRouter()


@routes.post("/videos", status_code=202)
async def submit(
    input: Annotated[Input, Body()],
    response: Response,
    videos: VideosHere,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=100)] = None,
) -> Video:
    """Start a video. The header `Location` has its URL.

    A request that is repeated with the same `Idempotency-Key` finds the video of the first one.
    """
    video = await videos.add(input, idempotency_key)
    response.headers["Location"] = f"/videos/{video.id}"
    return video


@routes.get("/videos")
async def list_videos(videos: VideosHere) -> list[Video]:
    """Return the last hundred videos, the oldest of them first."""
    return await videos.latest()


@routes.get("/videos/events")
async def events(videos: VideosHere) -> StreamingResponse:
    """Stream the last hundred videos, and then each change."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # no proxy may hold it back
    return StreamingResponse(videos.events(), media_type="text/event-stream", headers=headers)


@routes.get("/videos/{video_id}")
async def get_video(video_id: str, videos: VideosHere) -> Video:
    """Return a video."""
    return await videos.find(video_id)


@routes.get("/videos/{video_id}/file")
async def get_file(video_id: str, videos: VideosHere) -> FileResponse:
    """Return the file of a video."""
    headers = {"X-Content-Type-Options": "nosniff"}  # it is a video, whatever it looks like
    return FileResponse(await videos.file(video_id), media_type="video/mp4", headers=headers)


@routes.get("/about", include_in_schema=False)
async def about(settings: SettingsHere) -> dict[str, object]:
    """Return what the page shows: who makes the videos, and pictures for the service to fetch."""
    pictures = sorted(file.name for file in FOLDER.iterdir() if file.suffix in PICTURES)
    samples = {name: f"{settings.reached_at}/samples/{name}" for name in pictures}
    return {
        "text": EMULATED if settings.emulated else REAL,
        "samples": samples if settings.reached_at else {},
    }


@routes.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """Return the page."""
    return FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": POLICY})


def create_app(settings: Settings, database: Database) -> FastAPI:
    """Create the application. It starts nothing before the server does."""
    inbox = None
    if settings.reached_at:
        # Without a secret of your own, the callbacks of the last process's tasks are not accepted:
        # polls find their ends.
        secret = settings.secret or secrets.token_bytes(32)
        inbox = Inbox(f"{settings.reached_at}/callbacks", secret=secret)
    kling = KlingClient(inbox=inbox, hooks=HOOKS)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Closing the client waits for the answers to its last submits, which are still stored.
        async with kling, asyncio.TaskGroup() as group:
            videos = Videos(kling, database, settings.data, group)
            app.state.videos = videos
            await videos.resume()
            yield
            videos.cancel()
        if refs := kling.running:
            log.warning("%d tasks continue; the next start attaches them", len(refs))

    app = FastAPI(title="Videos", lifespan=lifespan)
    app.state.settings = settings
    app.add_middleware(SmallBodies)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=settings.hosts)
    kling_fastapi.answer_errors(app)
    if inbox is not None:
        app.include_router(kling_fastapi.router(inbox), prefix="/callbacks")
    app.include_router(routes)
    app.mount("/page", StaticFiles(directory=PAGE))
    app.mount("/samples", StaticFiles(directory=FOLDER))
    return app


class Server(uvicorn.Server):
    """Closes the event streams first: uvicorn waits for clients, and a page never disconnects."""

    def __init__(self, app: FastAPI) -> None:
        config = uvicorn.Config(
            app,
            access_log=False,  # the paths of callbacks hold tokens
            timeout_graceful_shutdown=5,  # for clients that do not even read the end
        )
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down."""
        self._app.state.videos.close_streams()
        await super().shutdown(sockets)


def main() -> None:
    """Serve until Ctrl-C."""
    with ExitStack() as stack:
        try:
            settings = Settings.from_environ()
            settings.data.mkdir(parents=True, exist_ok=True)
            listener = stack.enter_context(socket.create_server((settings.host, settings.port)))
            settings = evolve(settings, port=listener.getsockname()[1])  # port 0 was any free one
            database = stack.enter_context(closing(Database(settings.data / "videos.sqlite")))
            server = Server(create_app(settings, database))
        except (KlingError, sqlite3.Error, ValueError, OSError, OverflowError) as error:
            sys.exit(f"The backend cannot start: {error}")
        url = f"http://{settings.host}:{settings.port}"
        print(f"Open {url} in a browser. Ctrl-C ends it.", flush=True)
        with suppress(KeyboardInterrupt):  # uvicorn raises it again when all is done
            server.run(sockets=[listener])


if __name__ == "__main__":
    main()
