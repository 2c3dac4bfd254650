from __future__ import annotations

import asyncio
import io
import json
import time
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from PIL import Image
from yarl import URL

from kling_async.testing import sample_files as samples

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import ServeApp
    from tests.testing.emulator.conftest import Peer, Start

TEXT = {"input": {"mode": "master-text-to-video", "prompt": "a fox"}}


async def test_a_task_from_submit_to_success(start: Start) -> None:
    """A submit answers with a task id, and the task goes through its states in its time."""
    peer = await start()
    task_id = await peer.submit()
    assert (await peer.status(task_id))["state"] == "pending"
    await asyncio.sleep(30)
    assert (await peer.status(task_id))["state"] == "processing"
    await asyncio.sleep(30)
    data = await peer.status(task_id)
    assert data["state"] == "success"
    assert data["costTime"] == 60_000
    assert data["completeTime"] - data["createTime"] == 60_000
    assert abs(data["createTime"] / 1000 - time.time()) < 60


async def test_the_key_comes_first(start: Start) -> None:
    """Without a key even a wrong body to an unknown model is 401, and no window is used."""
    peer = await start(requests_per_minute=1, api_key="right")
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        for method, path in (
            ("POST", "/generateTask/nope"),
            ("GET", "/statusTask/kling-2-1"),
            ("GET", "/apikeys/current-balance"),
            ("GET", "/nowhere"),
        ):
            status, body, _ = await peer.call(method, path, headers=headers, data=b"")
            assert status == 401
            assert body == {"code": 401, "message": "Invalid or missing API key"}
    assert (await peer.balance())[0] == 200
    assert (await peer.balance())[0] == 429


async def test_the_window_comes_before_the_body(start: Start) -> None:
    """Over the rate a wrong body is not looked at; status and balance count, too."""
    peer = await start(requests_per_minute=3)
    task_id = await peer.submit()
    await peer.status(task_id)
    await peer.balance()
    status, body, response = await peer.post({})
    assert status == body["code"] == 429
    assert "Retry-After" not in response.headers
    await asyncio.sleep(60)
    assert (await peer.post({}))[0] == 400


async def test_retry_after_when_wanted(start: Start) -> None:
    """With retry_after both kinds of 429 name the seconds to wait."""
    peer = await start(requests_per_minute=3, concurrent_tasks=1, retry_after=True)
    await peer.submit()
    assert (await peer.post(TEXT))[2].headers["Retry-After"] == "5"
    await asyncio.sleep(10)
    assert "Retry-After" not in (await peer.post({}))[2].headers
    assert (await peer.balance())[2].headers["Retry-After"] == "50"


async def test_concurrent_tasks(start: Start) -> None:
    """One task more than allowed is 429 until one has ended."""
    peer = await start(concurrent_tasks=2)
    await peer.submit()
    await peer.submit()
    assert (await peer.post(TEXT))[0] == 429
    await asyncio.sleep(60)
    assert (await peer.post(TEXT))[0] == 200


async def test_failed_images_make_room(start: Start) -> None:
    """A task that failed early does not count any more."""
    peer = await start(concurrent_tasks=1)
    await peer.submit(prompt="x", image_urls=["nope"])
    await asyncio.sleep(2)
    assert (await peer.post(TEXT))[0] == 200


async def test_unknown_things(start: Start) -> None:
    """Unknown models, tasks and paths are 404 in the envelope, wrong methods 405."""
    peer = await start()
    task_id = await peer.submit()
    for method, path, expected in (
        ("POST", "/generateTask/kling-9", 404),
        ("GET", "/statusTask/kling-2-1?taskId=task_none", 404),
        ("GET", f"/statusTask/kling-2-6?taskId={task_id}", 404),
        ("GET", "/nowhere", 404),
        ("DELETE", "/apikeys/current-balance", 405),
        ("GET", "/statusTask/kling-2-1", 400),
        ("GET", "/statusTask/kling-2-1?taskId=", 400),
    ):
        status, body, response = await peer.call(method, path)
        assert status == body["code"] == expected
        assert set(body) == {"code", "message", "data"}
        assert ("Allow" in response.headers) == (expected == 405)


async def test_bodies_beyond_one_mebibyte(start: Start) -> None:
    """A body over 1 MiB is refused."""
    peer = await start()

    async def long() -> tuple[int, int]:
        async with peer.session.post(
            f"{peer.emulator.base_url}/generateTask/kling-2-1",
            headers=peer.headers,
            data=io.BytesIO(b" " * (1024 * 1024 + 1)),
        ) as response:
            return response.status, json.loads(await response.read())["code"]

    assert await long() == (413, 413)
    assert peer.emulator.ledger == ()


async def test_images_are_read(start: Start, serve_app: ServeApp) -> None:
    """A good image lets the task start, a bad one fails it about a second later."""
    good = io.BytesIO()
    Image.new("RGB", (16, 9)).save(good, "PNG")

    async def handler(request: web.Request) -> web.Response:
        body = {"/good": good.getvalue(), "/gif": b"GIF89a"}.get(request.path)
        return web.Response(body=body) if body else web.Response(status=404)

    peer = await start()
    origin = await serve_app(handler)
    codes = {}
    for path in ("/good", "/gif", "/none"):
        task_id = await peer.submit(prompt="x", image_urls=[origin + path])
        assert (await peer.status(task_id))["state"] == "pending"
        await asyncio.sleep(2)
        data = await peer.status(task_id)
        codes[path] = data.get("failCode")
        if codes[path]:
            assert data["state"] == "failed"
            assert data["failMsg"]
            assert data["completeTime"] - data["createTime"] == pytest.approx(1000, abs=100)
    assert codes == {"/good": None, "/gif": "UNSUPPORTED_FORMAT", "/none": "IMAGE_DOWNLOAD_FAILED"}


async def test_the_end_image_is_read_too(start: Start) -> None:
    """A bad end image fails the task as a bad first one does."""
    peer = await start(samples=samples.FOLDER)
    good = f"{peer.emulator.origin}/samples/fox.jpg"
    task_id = await peer.submit(
        mode="pro-image-to-video", prompt="x", image_urls=[good, "file:///x"]
    )
    await asyncio.sleep(2)
    assert (await peer.status(task_id))["failCode"] == "INVALID_IMAGE_URL"


async def test_samples(start: Start, tmp_path: Path) -> None:
    """Samples are served by name with their type, and nothing else of the disk is."""
    folder = tmp_path / "samples"
    folder.mkdir()
    (folder / "a.webp").write_bytes(b"picture")
    (folder / "notes.txt").write_bytes(b"private")
    (tmp_path / "b.png").write_bytes(b"outside")
    peer = await start(samples=folder)

    async def get(name: str) -> tuple[int, bytes, str]:
        url = f"{peer.emulator.origin}/samples/{name}"
        async with peer.session.get(URL(url, encoded=True)) as response:
            return response.status, await response.read(), response.content_type

    assert await get("a.webp") == (200, b"picture", "image/webp")
    for name in ("none.png", "notes.txt", "..%2Fb.png", "%2e%2e%2Fb.png", "..", "%00"):
        assert (await get(name))[0] == 404


async def test_no_samples_by_default(start: Start) -> None:
    """Without a folder there are no samples."""
    peer = await start()
    async with peer.session.get(f"{peer.emulator.origin}/samples/fox.jpg") as response:
        assert response.status == 404


async def test_requests_are_recorded(start: Start) -> None:
    """Every request is noted with its time, method, path, kind and status."""
    peer = await start(video="small")
    await asyncio.sleep(5)
    task_id = await peer.submit()
    await peer.status(task_id)
    await peer.balance()
    await peer.call("GET", "/nowhere")
    notes = [(a.method, a.kind, a.status) for a in peer.emulator.requests]
    assert notes == [
        ("POST", "submit", 200),
        ("GET", "status", 200),
        ("GET", "balance", 200),
        ("GET", "other", 404),
    ]
    assert peer.emulator.requests[1].path == f"/api/v1/statusTask/kling-2-1?taskId={task_id}"
    assert peer.emulator.requests[0].at == pytest.approx(5, abs=0.5)


async def test_urls_follow_the_host_header(start: Start) -> None:
    """Result URLs name the host under which the emulator was asked."""
    peer = await start()
    task_id = await peer.submit()
    await asyncio.sleep(60)
    _, body, _ = await peer.call(
        "GET",
        f"/statusTask/kling-2-1?taskId={task_id}",
        headers=peer.headers | {"Host": "service.test:8080"},
    )
    assert f"http://service.test:8080/files/{task_id}.mp4" in body["data"]["resultJson"]


async def submit_forever(peer: Peer) -> int:
    """Submit every half second for three minutes and count what was admitted."""
    admitted = 0
    for _ in range(360):
        admitted += (await peer.post(TEXT))[0] == 200
        await asyncio.sleep(0.5)
    return admitted


@pytest.mark.slow
async def test_limits_hold_under_load(start: Start) -> None:
    """A client that never stops sending gets no more than the window's share."""
    peer = await start(requests_per_minute=20)
    assert await submit_forever(peer) == 60
    at = [submission.at for submission in peer.emulator.ledger]
    assert max(sum(0 <= b - a < 60 for b in at) for a in at) == 20
