from __future__ import annotations

import asyncio
import importlib
import json
import re
import signal
import socket
import sqlite3
import urllib.request
from collections import Counter
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
import pytest

from kling_async import KlingClient, MasterTextToVideo
from kling_async.testing import ScriptedTransport
from kling_async.testing.transport import Request, Response, answer
from tests.patience import HANGS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import ModuleType

    from kling_async.testing import Emulator
    from tests.conftest import Connect, Emulate
    from tests.examples.conftest import Service, Start

BACKEND = Path(__file__).parents[2] / "docs" / "examples" / "backend"
FOX = {"mode": "master-text-to-video", "prompt": "a fox in fresh snow"}
STREAM = "/videos/events"
ENDS = {"done", "failed"}

pytestmark = pytest.mark.virtual_time

ServerSentEvent = tuple[str, Any]


class Serve(Protocol):
    async def __call__(self, *rules: str, **settings: object) -> Backend: ...


class Backend:
    """A running backend, and what a client does with it."""

    def __init__(
        self,
        server: Any,  # noqa: ANN401
        session: aiohttp.ClientSession,
        service: Emulator,
        database: Any,  # noqa: ANN401
    ) -> None:
        self.server = server
        self.session = session
        self.service = service
        self.database = database
        self.running: asyncio.Task[None]

    async def get(self, path: str) -> Any:  # noqa: ANN401
        async with self.session.get(path) as response:
            assert response.status == 200
            return await response.json()

    async def ask(self, input: object = FOX, key: str | None = None) -> Any:  # noqa: ANN401
        headers = {} if key is None else {"Idempotency-Key": key}
        async with self.session.post("/videos", json=input, headers=headers) as response:
            assert response.status == 202
            return await response.json()

    async def ended(self, number: int = 1) -> dict[str, Any]:
        """Follow the stream until so many videos have ended; return them by id."""
        return await self.until(*ENDS, number=number)

    async def until(self, *states: str, number: int = 1) -> dict[str, Any]:
        """Follow the stream until so many videos have one of the states; return them by id."""
        found: dict[str, Any] = {}
        async with self.session.get(STREAM) as response:
            async for name, data in events(response):
                videos = data if name == "videos" else [data] if name == "video" else []
                found |= {video["id"]: video for video in videos if video["state"] in states}
                if len(found) >= number:
                    return found
        raise AssertionError("the stream ended first")

    async def stop(self) -> None:
        self.server.should_exit = True
        await self.running
        self.database.close()


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
async def serve(
    app: ModuleType, emulate: Emulate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Serve]:
    """Start the backend and an emulator with rules; both are ended at the end.

    All backends of a test have one emulator and one database, one after the other.
    """
    async with AsyncExitStack() as stack:
        service: Emulator | None = None

        async def serve(*rules: str, **settings: object) -> Backend:
            nonlocal service
            service = service or await emulate(*rules)
            monkeypatch.setenv("APIXO_API_KEY", service.key)
            monkeypatch.setenv("APIXO_BASE_URL", service.origin)
            listener = socket.create_server(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            defaults = {"data": tmp_path, "secret": "s" * 16, "emulated": True}
            chosen = app.Settings(port=port, **{**defaults, **settings})
            database = app.Database(tmp_path / "videos.sqlite")
            server = app.Server(app.create_app(chosen, database))
            session = aiohttp.ClientSession(f"http://127.0.0.1:{port}")
            await stack.enter_async_context(session)
            backend = Backend(server, session, service, database)
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
            if name == "video" and video["id"] == asked["id"]:
                states.append(video["state"])
                if video["state"] == "done":
                    break
    assert states[-2:] == ["running", "done"]
    async with backend.session.get(video["file"]) as response:
        assert (response.status, response.content_type) == (200, "video/mp4")
        assert b"ftyp" in (await response.read())[:16]


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
    backend = await serve("task:1=fail:NSFW_DETECTED")
    await backend.ask()
    (video,) = (await backend.ended()).values()
    assert video["state"] == "failed"
    error = video["error"]
    assert (error["reason"], error["may_have_charged"]) == ("content", True)
    assert error["ref"] == video["ref"]


@pytest.mark.slow
async def test_failed_submit_says_why(serve: Serve) -> None:
    """A submit that the service refuses ends its video, and no other."""
    backend = await serve("submit:1=402")
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


async def test_no_more_videos_than_there_is_room_for(
    serve: Serve, app: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With as many videos under way as may be, one more is a 503 that says when to come back."""
    monkeypatch.setattr("videos.MAX_RUNNING", 3)
    backend = await serve("task:*=stuck")
    answers = await asyncio.gather(*(backend.session.post("/videos", json=FOX) for _ in range(5)))
    assert Counter(answer.status for answer in answers) == {202: 3, 503: 2}
    full = next(answer for answer in answers if answer.status == 503)
    assert full.headers["Retry-After"] == "10"
    assert full.content_type == "application/problem+json"


async def test_list_has_the_latest(
    serve: Serve, app: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more videos than the list may have, the older ones are found by their ids."""
    monkeypatch.setattr("videos.MAX_LISTED", 2)
    backend = await serve("submit:*=402")
    asked = [(await backend.ask())["id"] for _ in range(3)]
    assert [video["id"] for video in await backend.get("/videos")] == asked[1:]
    assert (await backend.get(f"/videos/{asked[0]}"))["id"] == asked[0]


@pytest.mark.slow
async def test_repeated_request_is_one_video(serve: Serve) -> None:
    """With the same key, the second request finds the first one's video, which is paid once."""
    backend = await serve()
    first, second, other = [await backend.ask(key=key) for key in ("a", "a", "b")]
    assert first["id"] == second["id"] != other["id"]
    await backend.ended(2)
    assert len(backend.service.ledger) == 2


async def test_key_of_another_video_is_refused(serve: Serve) -> None:
    """A key that was used for another input is a 422 that names the header."""
    backend = await serve()
    await backend.ask(key="a")
    other, headers = {**FOX, "duration": 10}, {"Idempotency-Key": "a"}
    async with backend.session.post("/videos", json=other, headers=headers) as response:
        assert response.status == 422
        (problem,) = (await response.json())["problems"]
    assert problem["field"] == "Idempotency-Key"


@pytest.mark.slow
async def test_lost_answer_is_unsure(serve: Serve) -> None:
    """A submit whose answer was lost is unsure, and is not sent again by the next process."""
    backend = await serve("submit:1=lost-answer", emulated=False)
    await backend.ask()
    (unsure,) = (await backend.until("unsure")).values()
    assert unsure["error"]["may_have_charged"]
    await backend.stop()
    backend = await serve(emulated=False)
    (video,) = await backend.get("/videos")
    assert video["state"] == "unsure"
    await asyncio.sleep(300)
    assert len(backend.service.ledger) == 1


@pytest.mark.slow
async def test_callback_finds_what_was_lost(serve: Serve) -> None:
    """With callbacks, an unsure video turns out to run, and is saved when it is ready."""
    backend = await serve("submit:1=lost-answer")
    asked = await backend.ask()
    await backend.until("unsure")
    (video,) = (await backend.until("done")).values()
    assert (video["id"], video["error"]) == (asked["id"], None)
    assert len(backend.service.ledger) == 1


@pytest.mark.slow
async def test_restart_continues(serve: Serve) -> None:
    """The next process waits for what ran, and sends what was not sent yet: once each."""
    backend = await serve("submit:2-4=503")
    await backend.ask()
    await backend.until("running")
    waiting = await backend.ask()
    await asyncio.sleep(0.1)
    await backend.stop()
    assert len(backend.service.ledger) == 1
    backend = await serve()
    ended = await backend.ended(2)
    assert {video["state"] for video in ended.values()} == {"done"}
    assert waiting["id"] in ended
    assert len(backend.service.ledger) == 2


async def test_one_process_has_the_database(serve: Serve, app: ModuleType, tmp_path: Path) -> None:
    """A second process on the same database does not start: it would continue the same videos."""
    await serve()
    with pytest.raises(sqlite3.OperationalError, match=r"videos\.sqlite.*another process"):
        app.Database(tmp_path / "videos.sqlite", timeout=0)


@pytest.mark.slow
async def test_usual_time_is_measured(serve: Serve) -> None:
    """What the last videos of a length took is what the next one is expected to take."""
    backend = await serve()
    assert (await backend.ask())["usual"] == 75
    (done,) = (await backend.until("done")).values()
    assert (await backend.ask())["usual"] == pytest.approx(done["seconds"])
    assert (await backend.ask({**FOX, "duration": 10}))["usual"] == 75


@pytest.mark.slow
async def test_deleted_file_is_not_found(serve: Serve, tmp_path: Path) -> None:
    """A file that is not there, or not yet, is a 404."""
    backend = await serve()
    video = await backend.ask()
    async with backend.session.get(f"/videos/{video['id']}/file") as response:
        assert response.status == 404
    await backend.until("done")
    (tmp_path / f"{video['id']}.mp4").unlink()
    async with backend.session.get(f"/videos/{video['id']}/file") as response:
        assert (response.status, response.content_type) == (404, "application/problem+json")


@pytest.mark.slow
async def test_download_that_fails_is_repeated(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that does not arrive is asked for again a minute later: the video is paid."""
    backend = await serve("file:1-8=500")
    await backend.ask()
    (video,) = (await backend.ended()).values()
    assert video["state"] == "done"
    assert caplog.text.count("trying again") == 1


@pytest.mark.slow
async def test_download_that_always_fails_is_a_failure(
    serve: Serve, app: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an hour the video has failed, and its reference remains."""
    monkeypatch.setattr("videos.SAVE_ATTEMPTS", 2)
    backend = await serve("file:*=500")
    await backend.ask()
    (video,) = (await backend.ended()).values()
    assert video["error"]["type"] == "urn:kling-async:download-failed"
    assert video["ref"] == f"kling-2-1/{backend.service.ledger[0].task_id}"


@pytest.mark.slow
async def test_callbacks_end_the_wait(serve: Serve) -> None:
    """With a public URL the service calls back, and is asked once for each task."""
    backend = await serve()
    for _ in range(3):
        await backend.ask()
    ended = await backend.ended(3)
    assert {video["state"] for video in ended.values()} == {"done"}
    assert [delivery.status for delivery in backend.service.deliveries] == [200] * 3
    kinds = Counter(arrival.kind for arrival in backend.service.requests)
    assert kinds == {"submit": 3, "status": 3, "file": 3}


@pytest.mark.slow
async def test_service_is_asked_where_nothing_reaches_us(serve: Serve) -> None:
    """Without a public URL there is no route for callbacks, and videos end all the same."""
    backend = await serve(emulated=False)
    await backend.ask()
    (video,) = (await backend.ended()).values()
    assert video["state"] == "done"
    assert backend.service.deliveries == ()
    async with backend.session.post("/callbacks/anything") as response:
        assert response.status == 404


@pytest.mark.parametrize("public_url", ["", "https://example.com"])
async def test_sample_pictures_are_where_the_service_fetches_them(
    serve: Serve, public_url: str
) -> None:
    """Samples are offered if the service can fetch them from here, and only then."""
    backend = await serve(emulated=False, public_url=public_url)
    about = await backend.get("/about")
    assert bool(about["samples"]) == bool(public_url)
    assert "charges" in about["text"]
    for url in about["samples"].values():
        async with backend.session.get(url.removeprefix(public_url)) as response:
            assert response.content_type.startswith("image/")


async def test_streams_end_with_the_server(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """A shutdown ends open streams at once, and reports that tasks continue."""
    backend = await serve("task:*=stuck")
    async with backend.session.get(STREAM) as response:
        stream = events(response)
        await anext(stream)
        await backend.ask()
        async for name, video in stream:
            if name == "video" and video["state"] == "running":
                break
        begun = asyncio.get_running_loop().time()
        await backend.stop()
        rest = await response.content.read()  # raises unless the answer has come to its end
    assert rest.strip() == b""
    assert asyncio.get_running_loop().time() - begun < 2
    assert "1 tasks continue; the next start attaches them" in caplog.text


@pytest.mark.slow
async def test_submit_under_way_is_stored_by_a_shutdown(serve: Serve) -> None:
    """What is being sent when the server stops has its reference in the database, and continues."""
    backend = await serve("submit:1=slow:20")
    await backend.ask()
    await backend.until("sending")
    await backend.stop()
    backend = await serve()
    (video,) = (await backend.until("done")).values()
    (paid,) = backend.service.ledger
    assert video["ref"] == f"kling-2-1/{paid.task_id}"


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
    app: ModuleType, connect: Connect, emulate: Emulate, tmp_path: Path
) -> None:
    """A client that has read nothing while ten videos have ended gets ten ends."""
    kling = await connect(await emulate())
    with closing(app.Database(tmp_path / "videos.sqlite")) as database:
        async with asyncio.TaskGroup() as group:
            videos = app.Videos(kling, database, tmp_path, group)
            stream = videos.events()
            assert await anext(stream) == "retry: 1000\n"
            assert await anext(stream) == "event: videos\ndata: []\n\n"
            made = {(await videos.add(MasterTextToVideo("a fox"))).id for _ in range(10)}
            await asyncio.sleep(200)
            sent = "".join([await anext(stream) for _ in made])
            assert set(re.findall('"id":"(.*?)"', sent)) == made
            assert sent.count('"state":"done"') == 10
            videos.close_streams()
            assert [event async for event in stream] == []


async def test_mistake_of_our_own_ends_one_video_only(
    app: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected exception makes its own video unsure, is logged, and no other suffers."""
    sent = 0

    def script(request: Request) -> Response:
        nonlocal sent
        if request.kind == "submit":
            sent += 1
            if sent == 1:
                raise ZeroDivisionError
            return answer({"taskId": "task_1"})
        return answer({"taskId": "task_1", "state": "failed", "failCode": "NSFW_DETECTED"})

    with closing(app.Database(tmp_path / "videos.sqlite")) as database:
        async with (
            KlingClient("a-key", transport=ScriptedTransport(script)) as kling,
            asyncio.TaskGroup() as group,
        ):
            videos = app.Videos(kling, database, tmp_path, group)
            for _ in range(2):
                await videos.add(MasterTextToVideo("a fox"))
        first, second = await videos.latest()
    assert (first.state, second.state) == ("unsure", "failed")
    assert first.error["title"] == "Internal error"
    assert second.error["reason"] == "content"
    assert "ZeroDivisionError" in caplog.text


async def test_full_disk_ends_no_other_video(
    app: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If nothing can be written, nothing is sent, and the next process continues."""
    sent: list[Request] = []

    def script(request: Request) -> Response:
        sent.append(request)
        return answer({"taskId": "task_1"})

    with closing(app.Database(tmp_path / "videos.sqlite")) as database:
        async with (
            KlingClient("a-key", transport=ScriptedTransport(script)) as kling,
            asyncio.TaskGroup() as group,
        ):
            videos = app.Videos(kling, database, tmp_path, group)
            await database.execute(
                "CREATE TRIGGER full BEFORE UPDATE ON videos"
                " BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
            )
            await videos.add(MasterTextToVideo("a fox"))
        (video,) = await videos.latest()
    assert (video.state, sent) == ("waiting", [])
    assert "disk is full" in caplog.text


async def test_schema_shows_what_clients_may_use(serve: Serve) -> None:
    """OpenAPI has the routes for videos, and neither callbacks nor the page."""
    backend = await serve()
    paths = (await backend.get("/openapi.json"))["paths"]
    assert set(paths) == {
        "/videos",
        "/videos/{video_id}",
        "/videos/{video_id}/file",
        "/videos/events",
    }


async def test_page_may_load_nothing_foreign(serve: Serve) -> None:
    """The page comes with a policy that lets no foreign script, style or frame in."""
    backend = await serve()
    async with backend.session.get("/") as response:
        policy = response.headers["Content-Security-Policy"]
        text = await response.text()
    assert "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'" in policy
    assert "unsafe" not in policy
    assert "https://" not in text.replace('placeholder="https://', "")


async def test_large_bodies_are_refused(serve: Serve) -> None:
    """A body of more than 64 KiB is a 413, whatever its length is said to be."""
    backend = await serve()

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1024

    for body in (b" " * 70_000, chunks()):
        headers = {"Content-Type": "application/json"}
        async with backend.session.post("/videos", data=body, headers=headers) as response:
            assert response.status == 413
    assert await backend.get("/videos") == []


async def test_slow_bodies_are_refused(serve: Serve) -> None:
    """A body that is not complete after ten seconds is a 408."""
    backend = await serve()
    loop = asyncio.get_running_loop()
    begun = loop.time()

    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    headers = {"Content-Type": "application/json"}
    async with backend.session.post("/videos", data=never(), headers=headers) as response:
        assert response.status == 408
    assert 10 <= loop.time() - begun < 20


async def test_wrong_json_is_the_callers_fault(serve: Serve) -> None:
    """What is no JSON or no input is a 400 or 422, and nothing is stored."""
    backend = await serve()
    headers = {"Content-Type": "application/json"}
    for body in (b"", b"{", b"[]", b"null", b"\xff", b"[" * 5_000, b'{"mode": 1}'):
        async with backend.session.post("/videos", data=body, headers=headers) as response:
            assert response.status in {400, 422}
    assert await backend.get("/videos") == []


async def test_other_sites_make_no_videos(serve: Serve) -> None:
    """A page of another site can send no JSON, and no name of its own leads here."""
    backend = await serve()
    body = json.dumps(FOX).encode()
    for headers, status in (
        ({"Content-Type": "text/plain"}, 422),
        ({"Content-Type": "application/json", "Host": "evil.example"}, 400),
    ):
        async with backend.session.post("/videos", data=body, headers=headers) as response:
            assert response.status == status
    assert await backend.get("/videos") == []


@pytest.mark.parametrize(
    ("settings", "hosts"),
    [
        ({}, ["127.0.0.1", "localhost"]),
        ({"public_url": "https://example.com"}, ["127.0.0.1", "example.com", "localhost"]),
        ({"host": "0.0.0.0"}, ["*"]),
    ],
)
def test_hosts_that_are_ours(app: ModuleType, settings: dict[str, str], hosts: list[str]) -> None:
    """On loopback, only its names and that of the public URL are accepted."""
    assert sorted(app.Settings(**settings).hosts) == hosts


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "http"), ("APIXO_API_KEY", ""), ("KLING_SECRET", "short")]
)
def test_wrong_setting_is_one_line(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str
) -> None:
    """A setting that makes no sense ends the start with one line."""
    environ = {"APIXO_API_KEY": "key", "APIXO_BASE_URL": "http://127.0.0.1:9", "PORT": "0"}
    for key, text in {**environ, "DATA_DIR": str(tmp_path), name: value}.items():
        monkeypatch.setenv(key, text)
    with pytest.raises(SystemExit, match=r"^The backend cannot start: .+$"):
        app.main()


def test_busy_port_is_one_line(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A port that is in use ends the start with one line."""
    monkeypatch.setenv("APIXO_API_KEY", "key")
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("PORT", str(taken.getsockname()[1]))
        with pytest.raises(SystemExit, match=r"^The backend cannot start: .+$"):
            app.main()


@pytest.mark.slow
def test_interrupt_ends_it_within_seconds(start: Start, service: Service) -> None:
    """Ctrl-C with a connected page and a running video: a report, and a quick, clean end."""
    backend = start(service())
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
    assert "1 tasks continue; the next start attaches them" in said
    assert "Traceback" not in said
