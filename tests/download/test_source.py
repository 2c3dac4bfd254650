from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from kling_async import KlingClient, Result, Retry, TaskRef
from kling_async.download import download
from kling_async.download.source import is_young
from kling_async.errors import DownloadError, ResultExpiredError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import ServeApp, ServeRaw

REF = TaskRef("kling-2-1", "task_1")
VIDEO = b"\0\0\0\x18ftypmp42" + bytes(5000)
ONCE = Retry(attempts=1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)

pytestmark = pytest.mark.virtual_time


def result(url: str, completed_at: datetime | None = None) -> Result:
    """Make a result with this URL."""
    return Result(REF, (url,), completed_at=completed_at)


def ago(**past: float) -> datetime:
    """Return a moment in the past of this machine."""
    return datetime.now(UTC) - timedelta(**past)


# ------------------------------------------------------------------------------------- what it is


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html", b"<!DOCTYPE html><title>Maintenance</title>"),
        ("text/html", b"come back later"),
        ("video/mp4", b"<html>Please log in</html>"),
        ("application/octet-stream", b'{"code": 404}'),
        ("application/json", b'{"code": 404}'),
        ("application/xml", b"<?xml version='1.0'?><Error/>"),
        ("text/plain", b"error code: 1015"),
        ("video/mp4", b" " * 100 + b"<html>" + b"x" * 1_000_000),
        ("text/plain", b"x" * 1_000_000),
    ],
)
async def test_a_page_in_place_of_the_file(
    kind: str, body: bytes, serve_app: ServeApp, tmp_path: Path
) -> None:
    """A page or a message that is sent with 200 is no file, and may pass."""

    async def serve(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind)

    with pytest.raises(DownloadError, match="which is not a video") as caught:
        await download(result(f"{await serve_app(serve)}/x.mp4"), tmp_path, retry=ONCE)
    assert caught.value.retryable
    assert type(caught.value) is DownloadError
    assert list(tmp_path.iterdir()) == []


async def test_a_page_that_passes(serve_app: ServeApp, tmp_path: Path) -> None:
    """After a page, the file is asked for again under the policy."""
    bodies = [b"<html>", VIDEO]

    async def serve(_: web.Request) -> web.Response:
        return web.Response(body=bodies.pop(0), headers={"ETag": '"one"'})

    await download(result(f"{await serve_app(serve)}/x.mp4"), tmp_path)
    assert (tmp_path / "task_1.mp4").read_bytes() == VIDEO


async def test_a_page_that_is_cut(serve_raw: ServeRaw, tmp_path: Path) -> None:
    """Nothing of a page is kept for the next try, also if it was not downloaded completely."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nETag: "one"\r\nContent-Length: 1000\r\n\r\n<html>')
        await writer.drain()
        await asyncio.sleep(1)  # what is not read when the connection ends is lost

    with pytest.raises(DownloadError):
        await download(result(f"{await serve_raw(cut)}/x.mp4"), tmp_path, retry=ONCE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["application/octet-stream", "text/plain", "x", "image/png"])
async def test_types_that_hosts_give(kind: str, serve_app: ServeApp, tmp_path: Path) -> None:
    """A video is one whatever type its host gives."""

    async def serve(_: web.Request) -> web.Response:
        return web.Response(body=VIDEO, headers={"Content-Type": kind})

    await download(result(f"{await serve_app(serve)}/x.mp4"), tmp_path)
    assert (tmp_path / "task_1.mp4").read_bytes() == VIDEO


# ----------------------------------------------------------------------- what waiting does not help


async def test_a_port_without_tls(serve_app: ServeApp, tmp_path: Path) -> None:
    """A failure that no attempt would overcome is raised at once, with what to do."""

    async def serve(_: web.Request) -> web.Response:
        return web.Response(body=VIDEO)

    url = (await serve_app(serve)).replace("http://", "https://")
    with pytest.raises(DownloadError, match="does not use TLS") as caught:
        await download(result(f"{url}/x.mp4"), tmp_path)
    assert not caught.value.retryable
    assert asyncio.get_running_loop().time() < 1


async def test_a_proxy_that_requires_a_password(serve_app: ServeApp, tmp_path: Path) -> None:
    """407 is the answer of a proxy that was given no credentials, or wrong ones."""

    async def serve(_: web.Request) -> web.Response:
        return web.Response(status=407)

    with pytest.raises(DownloadError, match=r"the proxy .* user and password") as caught:
        await download(result(f"{await serve_app(serve)}/x.mp4"), tmp_path)
    assert not caught.value.retryable


# ------------------------------------------------------------------------------ not there, or dead


class Late:
    """Answers with a status for some time, and then with the video."""

    def __init__(self, status: int, seconds: float, clock: datetime | None = None) -> None:
        self.status, self.seconds, self.asked = status, seconds, 0
        self.headers = {} if clock is None else {"Date": format_datetime(clock)}

    async def serve(self, _: web.Request) -> web.Response:
        self.asked += 1
        if asyncio.get_running_loop().time() < self.seconds:
            return web.Response(status=self.status, headers=self.headers)
        return web.Response(body=VIDEO)


@pytest.mark.parametrize("status", [403, 404])
async def test_a_file_that_is_not_there_yet(
    status: int, serve_app: ServeApp, tmp_path: Path
) -> None:
    """A file of a young result may take a minute to be there, whatever the policy."""
    late = Late(status, 60.0)
    young = result(f"{await serve_app(late.serve)}/x.mp4", ago(minutes=1))
    await download(young, tmp_path, retry=ONCE)
    assert (tmp_path / "task_1.mp4").read_bytes() == VIDEO
    assert 8 <= late.asked <= 25


async def test_a_file_that_does_not_come(serve_app: ServeApp, tmp_path: Path) -> None:
    """After a bit more than a minute a young result's file is given up, in other words."""
    late = Late(404, 1000.0)
    young = result(f"{await serve_app(late.serve)}/x.mp4", ago(minutes=1))
    with pytest.raises(ResultExpiredError, match=r"404.*just ended.*later") as caught:
        await download(young, tmp_path)
    assert caught.value.retryable
    assert "15 days" not in str(caught.value)
    assert 60 <= asyncio.get_running_loop().time() <= 90
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "completed_at"),
    [(410, ago(seconds=1)), (403, ago(minutes=11)), (404, None), (404, datetime(2026, 1, 1))],  # noqa: DTZ001
)
async def test_a_dead_url_is_dead_at_once(
    status: int, completed_at: datetime | None, serve_app: ServeApp, tmp_path: Path
) -> None:
    """What is gone, or old, or of unknown age, is dead without any waiting."""
    late = Late(status, 1000.0)
    dead = result(f"{await serve_app(late.serve)}/x.mp4", completed_at)
    with pytest.raises(ResultExpiredError, match="15 days") as caught:
        await download(dead, tmp_path)
    assert not caught.value.retryable
    assert late.asked == 1


async def test_the_clock_of_the_host(serve_app: ServeApp, tmp_path: Path) -> None:
    """A result is young if it is by the host's clock, whatever this machine's clock says."""
    late = Late(404, 10.0, NOW)
    url = f"{await serve_app(late.serve)}/x.mp4"
    await download(result(url, NOW - timedelta(minutes=9)), tmp_path)
    assert late.asked > 1


@pytest.mark.slow
async def test_a_place_is_not_held_by_what_is_not_there(
    serve_app: ServeApp, tmp_path: Path
) -> None:
    """While some files are waited for, others come."""
    late = Late(404, 60.0)
    origin = await serve_app(late.serve)

    async def other(_: web.Request) -> web.Response:
        return web.Response(body=VIDEO)

    there = await serve_app(other)
    async with KlingClient("k" * 20, base_url=origin) as kling:
        waiting = [
            asyncio.create_task(
                kling.download(
                    Result(TaskRef("kling-2-1", f"t{n}"), (origin,), completed_at=ago(seconds=1)),
                    tmp_path,
                )
            )
            for n in range(40)
        ]
        await asyncio.sleep(1)
        await kling.download(result(there), tmp_path)
        assert asyncio.get_running_loop().time() < 10
        await asyncio.gather(*waiting)


@pytest.mark.parametrize("date", ["", "nonsense", "Thu, 01 Jan 2026 00:00:00 -0000"])
async def test_dates_that_make_no_sense(date: str, serve_raw: ServeRaw, tmp_path: Path) -> None:
    """A host's date may be missing or wrong."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        line = f"Date: {date}\r\n" if date else ""
        writer.write(f"HTTP/1.1 403 No\r\n{line}Content-Length: 0\r\n\r\n".encode())
        await writer.drain()

    with pytest.raises(ResultExpiredError):
        await download(result(f"{await serve_raw(serve)}/x.mp4", ago(days=2)), tmp_path)


@pytest.mark.parametrize(
    ("ended", "now", "young"),
    [
        ([], [0], False),
        ([0], [9], True),
        ([0], [11], False),
        ([0], [11, 9], True),
        ([0, 5], [11], True),
        ([100], [0], True),  # a clock that is slow
    ],
)
def test_youth(ended: list[int], now: list[int], young: bool) -> None:  # noqa: FBT001
    """A result is young if one clock says so; times here are in minutes."""

    def times(minutes: list[int]) -> list[datetime]:
        return [NOW + timedelta(minutes=one) for one in minutes]

    assert is_young(times(ended), times(now)) is young
