from __future__ import annotations

import asyncio
import importlib
import json
import signal
import socket
import urllib.request
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
import pytest

from kling_async import KlingClient, MasterTextToVideo
from kling_async.testing import Scenario, ScriptedTransport
from kling_async.testing.transport import Request, Response, answer
from tests.patience import HANGS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import ModuleType

    from kling_async.testing import Emulator
    from tests.conftest import Connect, Emulate
    from tests.examples.conftest import Start

BACKEND = Path(__file__).parents[2] / "docs" / "examples" / "backend"
FOX = {"mode": "master-text-to-video", "prompt": "a fox in fresh snow"}
STREAM = "/videos/events"
ENDS = {"done", "failed"}

pytestmark = pytest.mark.virtual_time

ServerSentEvent = tuple[str, Any]


class Serve(Protocol):
    async def __call__(self, **settings: object) -> Backend: ...


class Backend:
    """A running backend, and what a client does with it."""

    def __init__(self, server: Any, session: aiohttp.ClientSession) -> None:  # noqa: ANN401
        self.server = server
        self.session = session
        self.running: asyncio.Task[None]

    async def get(self, path: str) -> Any:  # noqa: ANN401
        async with self.session.get(path) as response:
            assert response.status == 200
            return await response.json()

    async def ask(self, input: object = FOX) -> Any:  # noqa: ANN401
        async with self.session.post("/videos", json=input) as response:
            assert response.status == 202
            return await response.json()

    async def ended(self, number: int = 1) -> dict[str, Any]:
        """Follow the stream until so many videos have ended; return them by id."""
        ended: dict[str, Any] = {}
        async with self.session.get(STREAM) as response:
            async for name, data in events(response):
                videos = data if name == "videos" else [data] if name == "video" else []
                ended |= {video["id"]: video for video in videos if video["state"] in ENDS}
                if len(ended) >= number:
                    return ended
        raise AssertionError("the stream ended first")

    async def stop(self) -> None:
        self.server.should_exit = True
        await self.running


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[ServerSentEvent]:
    """Read server-sent events: their names, and their data as JSON."""
    name = ""
    async for raw in response.content:
        field, _, value = raw.decode().rstrip("\n").partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value or "null")


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import the example as its own folder sees it."""
    monkeypatch.syspath_prepend(str(BACKEND))
    return importlib.import_module("app")


@pytest.fixture
async def serve(app: ModuleType) -> AsyncIterator[Serve]:
    """Start the backend; it is ended at the end."""
    async with AsyncExitStack() as stack:

        async def serve(**settings: object) -> Backend:
            listener = socket.create_server(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            settings = {
                name: value.format(port=port) if isinstance(value, str) else value
                for name, value in settings.items()
            }
            server = app.Server(app.create_app(app.Settings(port=port, **settings)))
            session = aiohttp.ClientSession(f"http://127.0.0.1:{port}")
            backend = Backend(server, await stack.enter_async_context(session))
            backend.running = asyncio.create_task(server.serve(sockets=[listener]))
            stack.push_async_callback(backend.stop)
            await backend.get("/videos")
            return backend

        yield serve


async def test_asking_is_answered_at_once_with_where_to_look(serve: Serve) -> None:
    """POST answers 202 and the place where the video's state can be read."""
    backend = await serve()
    async with backend.session.post("/videos", json=FOX) as response:
        video = await response.json()
    assert (response.status, video["state"]) == (202, "waiting")
    assert video["input"]["prompt"] == FOX["prompt"]
    there = await backend.get(response.headers["Location"])
    assert there["id"] == video["id"]


async def test_stream_has_every_state(serve: Serve) -> None:
    """A stream begins with all videos, and has the start and the end of each."""
    backend = await serve()
    before = await backend.ask()
    async with backend.session.get(STREAM) as response:
        stream = events(response)
        name, videos = await anext(stream)
        assert (name, [video["id"] for video in videos]) == ("videos", [before["id"]])
        asked = await backend.ask()
        states = []
        async for name, video in stream:
            assert name == "video"
            if video["id"] == asked["id"]:
                states.append(video["state"])
                if video["state"] == "done":
                    break
    assert states[-2:] == ["running", "done"]
    assert video["result"]["result_urls"][0].endswith(".mp4")
    assert video["result"]["ref"] == video["ref"]
    assert 10 <= video["seconds"] <= 16  # at six times the service's speed


async def test_videos_are_listed_in_the_order_of_their_asking(serve: Serve) -> None:
    """GET /videos gives the oldest first, so that a page can be filled again."""
    backend = await serve()
    asked = [(await backend.ask())["id"] for _ in range(3)]
    assert [video["id"] for video in await backend.get("/videos")] == asked


async def test_quiet_stream_gives_a_sign_of_life(serve: Serve) -> None:
    """After fifteen seconds without news, an event says that the connection lives."""
    backend = await serve()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    async with backend.session.get(STREAM) as response:
        stream = events(response)
        await anext(stream)
        assert await anext(stream) == ("alive", None)
    assert 15 <= loop.time() - begun < 30


async def test_failed_video_says_why(serve: Serve) -> None:
    """The error of a failed video is a problem with reason, reference and money."""
    backend = await serve(scenario=Scenario().on("task", 1, "fail:NSFW_DETECTED"))
    await backend.ask()
    (video,) = (await backend.ended()).values()
    assert video["state"] == "failed"
    error = video["error"]
    assert (error["reason"], error["may_have_charged"]) == ("content", True)
    assert error["ref"] == video["ref"]


async def test_failed_submit_says_why(serve: Serve) -> None:
    """A submit that the service refuses ends its video, and no other."""
    backend = await serve(scenario=Scenario().on("submit", 1, "402"))
    first, second = await backend.ask(), await backend.ask()
    ended = await backend.ended(2)
    assert ended[first["id"]]["error"]["type"] == "urn:kling-async:unavailable"
    assert ended[second["id"]]["state"] == "done"


async def test_every_broken_rule_has_its_field(serve: Serve) -> None:
    """An input with two broken rules is a 422 that names both fields."""
    backend = await serve()
    wrong = {**FOX, "prompt": "", "duration": 7}
    async with backend.session.post("/videos", json=wrong) as response:
        assert response.status == 422
        problems = (await response.json())["detail"]
    assert {problem["loc"][-1] for problem in problems} == {"prompt", "duration"}
    assert await backend.get("/videos") == []


async def test_unknown_video_is_a_problem(serve: Serve) -> None:
    """A video that is not here is a 404 in the form of RFC 9457."""
    backend = await serve()
    async with backend.session.get("/videos/nope") as response:
        assert (response.status, response.content_type) == (404, "application/problem+json")


async def test_no_more_videos_than_there_is_room_for(serve: Serve) -> None:
    """With a hundred videos under way, one more is a 503 that says when to come back."""
    backend = await serve(scenario=Scenario().on("task", "*", "stuck"))
    await asyncio.gather(*(backend.ask() for _ in range(100)))
    async with backend.session.post("/videos", json=FOX) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "10")
        assert response.content_type == "application/problem+json"


async def test_oldest_video_that_has_ended_makes_room(serve: Serve) -> None:
    """Of a hundred videos the oldest that has ended is forgotten for a new one."""
    backend = await serve(scenario=Scenario().on("task", 1, "stuck"))
    await backend.ask()
    await asyncio.gather(*(backend.ask() for _ in range(99)))
    await backend.ended(99)
    before = [video["id"] for video in await backend.get("/videos")]
    new = (await backend.ask())["id"]
    after = [video["id"] for video in await backend.get("/videos")]
    assert after == [before[0], *before[2:], new]


@pytest.fixture
async def service(emulate: Emulate, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Start what the backend takes for the real service."""
    emulator = await emulate()
    monkeypatch.setenv("APIXO_API_KEY", emulator.key)
    monkeypatch.setenv("APIXO_BASE_URL", emulator.origin)
    return emulator


async def test_callbacks_end_the_wait(serve: Serve, service: Emulator) -> None:
    """With a public URL the real service calls back, and is asked once for each task."""
    backend = await serve(real=True, public_url="http://127.0.0.1:{port}")
    for _ in range(3):
        await backend.ask()
    ended = await backend.ended(3)
    assert {video["state"] for video in ended.values()} == {"done"}
    assert [delivery.status for delivery in service.deliveries] == [200] * 3
    kinds = Counter(arrival.kind for arrival in service.requests)
    assert kinds == {"submit": 3, "status": 3}


async def test_service_is_asked_where_nothing_reaches_us(serve: Serve, service: Emulator) -> None:
    """Without a public URL there is no route for callbacks, and videos end all the same."""
    backend = await serve(real=True)
    await backend.ask()
    (video,) = (await backend.ended()).values()
    assert video["state"] == "done"
    assert service.deliveries == ()
    async with backend.session.post("/callbacks/anything") as response:
        assert response.status == 404


@pytest.mark.parametrize("public_url", ["", "http://127.0.0.1:{port}"])
async def test_sample_pictures_are_where_the_service_fetches_them(
    serve: Serve, service: Emulator, public_url: str
) -> None:
    """Samples are offered if the service can fetch them from here, and only then."""
    real, emulated = await serve(real=True, public_url=public_url), await serve()
    about = await real.get("/about")
    assert bool(about["samples"]) == bool(public_url)
    assert "charges" in about["text"]
    for url in {**about["samples"], **(await emulated.get("/about"))["samples"]}.values():
        async with emulated.session.get(url) as response:
            assert response.content_type.startswith("image/")


async def test_streams_end_with_the_server(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """A shutdown ends open streams at once, and reports what still runs."""
    backend = await serve(scenario=Scenario().on("task", "*", "stuck"))
    async with backend.session.get(STREAM) as response:
        stream = events(response)
        await anext(stream)
        await backend.ask()
        async for _, video in stream:
            if video["state"] == "running":
                break
        begun = asyncio.get_running_loop().time()
        await backend.stop()
        rest = await response.content.read()  # raises unless the answer has come to its end
    assert rest.strip() == b""
    assert asyncio.get_running_loop().time() - begun < 2
    assert f"Still running: 1; the emulator ends with us: {video['ref']}" in caplog.text


async def test_tasks_left_at_the_service_can_be_waited_for(
    serve: Serve, service: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    """A shutdown names what still runs at the real service, a submit under way included."""
    backend = await serve(real=True)
    await backend.ask()
    await backend.stop()
    (paid,) = service.ledger
    assert f"kling-async wait kling-2-1/{paid.task_id}" in caplog.text


async def test_client_that_has_gone_leaves_nothing(serve: Serve) -> None:
    """When streams are cut by their clients, their asyncio tasks end, without any news."""
    backend = await serve()
    before = len(asyncio.all_tasks())
    streams = [await backend.session.get(STREAM) for _ in range(20)]
    assert len(asyncio.all_tasks()) > before
    for stream in streams:
        stream.close()
    await asyncio.sleep(1)
    assert len(asyncio.all_tasks()) == before


async def test_slow_reader_gets_the_current_state(
    app: ModuleType, connect: Connect, emulate: Emulate
) -> None:
    """A client that has read nothing while ten videos have ended gets ten ends."""
    kling = await connect(await emulate())
    async with asyncio.TaskGroup() as group:
        videos = app.Videos(kling, group)
        stream = videos.events()
        assert await anext(stream) == "retry: 1000\n"
        assert await anext(stream) == "event: videos\ndata: []\n\n"
        made = [videos.add(MasterTextToVideo("a fox")) for _ in range(10)]
        await asyncio.sleep(200)
        for video in made:
            event = await anext(stream)
            assert f'"id":"{video.id}"' in event
            assert '"state":"done"' in event
        videos.close_streams()
        assert [event async for event in stream] == []


async def test_mistake_of_our_own_ends_one_video_only(
    app: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected exception fails its own video, is logged, and no other suffers."""
    sent = 0

    def script(request: Request) -> Response:
        nonlocal sent
        if request.kind == "submit":
            sent += 1
            if sent == 1:
                raise ZeroDivisionError
            return answer({"taskId": "task_1"})
        urls = '{"resultUrls": ["https://example.com/1.mp4"]}'
        return answer({"taskId": "task_1", "state": "success", "resultJson": urls})

    async with (
        KlingClient("a-key", transport=ScriptedTransport(script)) as kling,
        asyncio.TaskGroup() as group,
    ):
        videos = app.Videos(kling, group)
        first, second = (videos.add(MasterTextToVideo("a fox")) for _ in range(2))
    assert (first.state, second.state) == ("failed", "done")
    assert first.error["title"] == "Internal error"
    assert "ZeroDivisionError" in caplog.text


async def test_schema_shows_what_clients_may_use(serve: Serve) -> None:
    """OpenAPI has the three routes for videos, and neither callbacks nor the page."""
    backend = await serve()
    paths = (await backend.get("/openapi.json"))["paths"]
    assert set(paths) == {"/videos", "/videos/{video_id}", "/videos/events"}


async def test_page_may_load_nothing_foreign(serve: Serve) -> None:
    """The page comes with a policy that lets no foreign script, style or frame in."""
    backend = await serve()
    async with backend.session.get("/") as response:
        policy = response.headers["Content-Security-Policy"]
        text = await response.text()
    assert "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'" in policy
    assert "unsafe" not in policy
    assert "https://" not in text.replace('placeholder="https://', "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("EMULATOR_SPEED", "fast"),
        ("EMULATOR_FAULTS", "task:1=explode"),
    ],
)
def test_wrong_setting_is_one_line(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """A setting that makes no sense ends the start with one line."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=r"^The backend cannot start: .+$"):
        app.main()


def test_busy_port_is_one_line(app: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that is in use ends the start with one line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("PORT", str(taken.getsockname()[1]))
        with pytest.raises(SystemExit, match=r"^The backend cannot start: .+$"):
            app.main()


def test_interrupt_ends_it_within_seconds(start: Start) -> None:
    """Ctrl-C with a connected page and a running video: a report, and a quick, clean end."""
    backend = start()
    asked = urllib.request.Request(  # noqa: S310 - our own server
        f"{backend.url}/videos", json.dumps(FOX).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(asked, timeout=HANGS).close()  # noqa: S310
    with urllib.request.urlopen(backend.url + STREAM, timeout=HANGS) as stream:  # noqa: S310
        while b'"running"' not in stream.readline():
            pass
        backend.process.send_signal(signal.SIGINT)
        stream.read()
        _, said = backend.process.communicate(timeout=HANGS)
    assert "graceful shutdown exceeded" not in said  # as uvicorn says that has to cut a stream
    assert backend.process.returncode == 0
    assert "Still running: 1; the emulator ends with us: kling-2-1/task_" in said
    assert "Traceback" not in said
