"""A backend for videos: FastAPI, callbacks, progress as server-sent events, and one page.

Run it with ``python app.py``. README.md, beside this file, has the settings and how it is built.
"""

import asyncio
import logging
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Self

import uvicorn
from attrs import Factory, evolve, frozen
from fastapi import APIRouter, Body, Depends, FastAPI, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from videos import Video, Videos

from kling_async import Inbox, Input, KlingClient, Polling
from kling_async.testing import Emulator, Scenario
from kling_async.testing.sample_files import FOLDER
from kling_async.webhooks import fastapi as kling_fastapi

log = logging.getLogger("backend")

PAGE = Path(__file__).parent / "page"
PICTURES = {".jpg", ".png", ".webp"}
# The page may load its own files, and videos from anywhere; those of an emulator are at 127.0.0.1.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self';"
    " media-src https: http://127.0.0.1:*;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
REAL = "The service makes the videos, and charges for each."
EMULATED = (
    "An emulator on this machine makes the videos. They show what you asked for; no model has"
    " seen it, and nothing is charged."
)


@frozen
class Settings:
    """The settings, from environment variables."""

    host: str = "127.0.0.1"
    port: int = 8000
    real: bool = False  # the real service, or an emulator in this process
    public_url: str = ""  # where the real service reaches us; without it, tasks are polled
    speed: float = 6.0  # of the emulator: a video takes 10 to 15 s
    scenario: Scenario = Factory(Scenario)  # faults of the emulator

    @classmethod
    def from_environ(cls) -> Self:
        """Read the settings; raise ValueError if one is invalid."""
        return cls(
            host=os.environ.get("HOST", "127.0.0.1"),
            port=int(os.environ.get("PORT", "8000")),
            real=bool(os.environ.get("APIXO_API_KEY")),
            public_url=os.environ.get("PUBLIC_URL", "").rstrip("/"),
            speed=float(os.environ.get("EMULATOR_SPEED", "6")),
            scenario=Scenario.parse(os.environ.get("EMULATOR_FAULTS", "").split()),
        )

    @property
    def reached_at(self) -> str:
        """The URL at which the service reaches us, or an empty text."""
        return self.public_url if self.real else f"http://127.0.0.1:{self.port}"


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
async def submit(input: Annotated[Input, Body()], response: Response, videos: VideosHere) -> Video:
    """Start a video. The header `Location` has its URL."""
    video = videos.add(input)
    response.headers["Location"] = f"/videos/{video.id}"
    return video


@routes.get("/videos")
async def list_videos(videos: VideosHere) -> list[Video]:
    """Return all videos that are kept, the oldest first."""
    return videos.all()


@routes.get("/videos/events")
async def events(videos: VideosHere) -> StreamingResponse:
    """Stream all videos that are kept, and then each change."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # no proxy may hold it back
    return StreamingResponse(videos.events(), media_type="text/event-stream", headers=headers)


@routes.get("/videos/{video_id}")
async def get_video(video_id: str, videos: VideosHere) -> Video:
    """Return a video."""
    return videos.find(video_id)


@routes.get("/about", include_in_schema=False)
async def about(settings: SettingsHere) -> dict[str, object]:
    """Return what the page shows: who makes the videos, and pictures for the service to fetch."""
    pictures = sorted(file.name for file in FOLDER.iterdir() if file.suffix in PICTURES)
    samples = {name: f"{settings.reached_at}/samples/{name}" for name in pictures}
    return {
        "text": REAL if settings.real else EMULATED,
        "samples": samples if settings.reached_at else {},
    }


@routes.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """Return the page."""
    return FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": POLICY})


def create_app(settings: Settings) -> FastAPI:
    """Create the application. Nothing is opened before it starts."""
    inbox = None
    if settings.reached_at:
        # Tasks are not stored, so that their tokens need not outlive this process either.
        inbox = Inbox(f"{settings.reached_at}/callbacks", secret=secrets.token_bytes(32))

    emulator = None
    if not settings.real:
        emulator = Emulator(speed=settings.speed, scenario=settings.scenario)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if emulator is None:
                kling = KlingClient(inbox=inbox)
            else:
                await stack.enter_async_context(emulator)
                kling = KlingClient(
                    emulator.key,
                    base_url=emulator.origin,
                    inbox=inbox,
                    polling=Polling(first=60 / settings.speed),  # the service takes 60 s or more
                )
            # Called after the client is closed, when the last submit has been answered.
            stack.callback(report, kling, real=settings.real)
            await stack.enter_async_context(kling)
            async with asyncio.TaskGroup() as group:
                videos = Videos(kling, group, 1.0 if settings.real else settings.speed)
                app.state.videos = videos
                yield
                videos.cancel()

    app = FastAPI(title="Videos", lifespan=lifespan)
    app.state.settings = settings
    kling_fastapi.answer_errors(app)
    if inbox is not None:
        app.include_router(kling_fastapi.router(inbox), prefix="/callbacks")
    app.include_router(routes)
    app.mount("/page", StaticFiles(directory=PAGE))
    app.mount("/samples", StaticFiles(directory=FOLDER))
    return app


def report(kling: KlingClient, *, real: bool) -> None:
    """Log which tasks still run. Those at the real service cannot be stopped."""
    if refs := kling.running:
        then = "wait for them with: kling-async wait" if real else "the emulator ends with us:"
        log.warning("Still running: %d; %s %s", len(refs), then, " ".join(map(str, refs)))


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
    try:
        settings = Settings.from_environ()
        listener = socket.create_server((settings.host, settings.port))
        settings = evolve(settings, port=listener.getsockname()[1])  # port 0 was any free one
        server = Server(create_app(settings))
    except (ValueError, OSError, OverflowError) as error:
        sys.exit(f"The backend cannot start: {error}")
    print(f"Open http://{settings.host}:{settings.port} in a browser. Ctrl-C ends it.", flush=True)
    with suppress(KeyboardInterrupt):  # uvicorn raises it again when all is done
        server.run(sockets=[listener])


if __name__ == "__main__":
    main()
