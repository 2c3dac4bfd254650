from __future__ import annotations

import asyncio
import io
import json
import random
from typing import TYPE_CHECKING, Any

import av
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kling_async.testing import sample_files as samples
from kling_async.testing.emulator.files import NOT_SATISFIABLE, requested_part
from kling_async.testing.media import film as media

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.conftest import ServeApp
    from tests.testing.emulator.conftest import Peer, Start


async def url_of(peer: Peer, **fields: Any) -> str:  # noqa: ANN401
    """Run a task to its end and give its result URL."""
    task_id = await peer.submit(**fields)
    await asyncio.sleep(120)
    data = await peer.status(task_id)
    (url,) = json.loads(data["resultJson"])["resultUrls"]
    assert isinstance(url, str)
    return url


async def get(
    peer: Peer, url: str, method: str = "GET", **headers: str
) -> tuple[int, bytes, Mapping[str, str]]:
    """Fetch a file: status, body, headers."""
    async with peer.session.request(method, url, headers=headers) as response:
        return response.status, await response.read(), response.headers


def size_of(video: bytes) -> tuple[int, int, float]:
    """Give width, height and seconds of a video."""
    with av.open(io.BytesIO(video), "r") as container:
        stream = container.streams.video[0]
        assert container.duration is not None
        return stream.width, stream.height, container.duration / 1_000_000


async def test_the_small_video(start: Start) -> None:
    """Without rendering, every result is the clip that the package ships; no key is needed."""
    peer = await start(video="small")
    url = await url_of(peer)
    assert url.startswith(f"{peer.emulator.origin}/files/task_")
    status, body, headers = await get(peer, url)
    assert (status, body) == (200, media.SMALL_VIDEO.read_bytes())
    assert headers["Content-Type"] == "video/mp4"
    assert headers["Accept-Ranges"] == "bytes"


@pytest.mark.slow
async def test_rendered_text(start: Start) -> None:
    """A text-to-video result has the asked ratio and length."""
    peer = await start(video="rendered")
    url = await url_of(peer, mode="master-text-to-video", prompt="x", aspect_ratio="9:16")
    assert size_of((await get(peer, url))[1]) == (360, 640, 5.0)


@pytest.mark.slow
async def test_rendered_picture(start: Start) -> None:
    """An image-to-video result has the picture's ratio."""
    peer = await start(samples=samples.FOLDER)
    image = f"{peer.emulator.origin}/samples/balloon.png"
    url = await url_of(peer, prompt="x", image_urls=[image])
    assert size_of((await get(peer, url))[1]) == (640, 640, 5.0)


@pytest.mark.slow
async def test_a_picture_that_has_gone(start: Start, serve_app: ServeApp) -> None:
    """If a picture was dropped and cannot be read again, the prompt alone makes the video."""
    gone = False
    noise = io.BytesIO()
    pixels = random.Random(1).randbytes(832 * 832)  # noqa: S311 - any bytes
    Image.frombytes("L", (832, 832), pixels).save(noise, "JPEG", quality=97)

    async def handler(request: web.Request) -> web.Response:
        if gone and request.path == "/first":
            return web.Response(status=404)
        return web.Response(body=noise.getvalue())

    peer = await start()
    origin = await serve_app(handler)
    url = await url_of(peer, prompt="x", image_urls=[f"{origin}/first"])
    gone = True
    # Enough other pictures to push the first one out of the memory.
    for number in range(100):
        await peer.submit(prompt="x", image_urls=[f"{origin}/{number}"])
    await asyncio.sleep(200)
    assert size_of((await get(peer, url))[1]) == (640, 360, 5.0)


async def test_parts(start: Start) -> None:
    """A range, a suffix and the rest of a file come as 206 and say where they belong."""
    peer = await start(video="small")
    url = await url_of(peer)
    whole = media.SMALL_VIDEO.read_bytes()
    size = len(whole)
    for header, part in (
        ("bytes=10-19", whole[10:20]),
        (f"bytes={size - 5}-", whole[-5:]),
        ("bytes=-7", whole[-7:]),
    ):
        status, body, headers = await get(peer, url, Range=header)
        assert (status, body) == (206, part)
        first = whole.index(part)
        assert headers["Content-Range"] == f"bytes {first}-{first + len(part) - 1}/{size}"


async def test_a_part_beyond_the_end(start: Start) -> None:
    """A range that holds nothing is 416 with the size."""
    peer = await start(video="small")
    status, body, headers = await get(peer, await url_of(peer), Range="bytes=99999999-")
    assert (status, body) == (416, b"")
    assert headers["Content-Range"] == f"bytes */{len(media.SMALL_VIDEO.read_bytes())}"


async def test_if_range(start: Start) -> None:
    """A part is given only of the file that the client knows."""
    peer = await start(video="small")
    url = await url_of(peer)
    etag = (await get(peer, url))[2]["ETag"]
    known = await get(peer, url, **{"Range": "bytes=0-9", "If-Range": etag})
    other = await get(peer, url, **{"Range": "bytes=0-9", "If-Range": '"other"'})
    assert (known[0], other[0]) == (206, 200)


async def test_head(start: Start) -> None:
    """HEAD returns the size and sends no body."""
    peer = await start(video="small")
    status, body, headers = await get(peer, await url_of(peer), method="HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) == len(media.SMALL_VIDEO.read_bytes())


async def test_same_orders_share_a_file(start: Start) -> None:
    """Two tasks that look the same have the same file."""
    peer = await start()
    one, two = await url_of(peer), await url_of(peer)
    assert one != two
    assert (await get(peer, one))[2]["ETag"] == (await get(peer, two))[2]["ETag"]


async def test_no_file_before_the_end(start: Start) -> None:
    """There is no file of a running, failed or unknown task, nor of an old one."""
    peer = await start("task:2=fail:NSFW", video="small")
    task_id = await peer.submit()
    url = f"{peer.emulator.origin}/files/{task_id}.mp4"
    assert (await get(peer, url))[0] == 404
    failed = await peer.submit()
    await asyncio.sleep(100)
    assert (await get(peer, url))[0] == 200
    assert (await get(peer, url.replace(task_id, failed)))[0] == 404
    assert (await get(peer, url.replace(task_id, "task_x")))[0] == 404
    await asyncio.sleep(15 * 24 * 3600)
    assert (await get(peer, url))[0] == 404


async def test_a_file_that_changes(start: Start) -> None:
    """A changed file has other content, which still plays, and an ETag that fits it."""
    peer = await start("file:2=changed", video="small")
    url = await url_of(peer)
    _, old, before = await get(peer, url)
    part = {"Range": "bytes=10-19", "If-Range": before["ETag"]}
    status, new, after = await get(peer, url, **part)
    assert status == 200
    assert new != old
    assert after["ETag"] != before["ETag"]
    assert size_of(new) == size_of(old)
    assert (await get(peer, url, **part))[:2] == (206, old[10:20])


async def test_ranges_that_are_ignored(start: Start) -> None:
    """Without ranges the whole file comes, also for a range that it does not have."""
    peer = await start("file:*=no-range", video="small")
    url = await url_of(peer)
    for header in ("bytes=10-19", "bytes=99999999-"):
        status, body, headers = await get(peer, url, Range=header)
        assert (status, body) == (200, media.SMALL_VIDEO.read_bytes())
        assert "Content-Range" not in headers


async def test_a_weak_etag(start: Start) -> None:
    """A weak ETag proves no part, though it is the same."""
    peer = await start("file:*=weak-etag", video="small")
    url = await url_of(peer)
    _, _, headers = await get(peer, url)
    etag = headers["ETag"]
    assert etag.startswith('W/"')
    for known in (etag, etag[2:]):
        assert (await get(peer, url, **{"Range": "bytes=0-9", "If-Range": known}))[0] == 200


async def test_faults_of_files_meet_nothing_else(start: Start) -> None:
    """A fault of a file that comes to another request changes nothing."""
    peer = await start("any:*=changed", video="small")
    assert (await peer.balance())[1]["data"] == 1000


@pytest.mark.parametrize("rule", ["503", "cut"])
async def test_faults_meet_files_too(rule: str, start: Start) -> None:
    """The Nth download can go wrong, and the next one is whole."""
    peer = await start(f"file:1={rule}", video="small")
    url = await url_of(peer)
    results = await asyncio.gather(get(peer, url), return_exceptions=True)
    first = results[0]
    assert isinstance(first, BaseException) or first[0] == 503
    assert (await get(peer, url))[1] == media.SMALL_VIDEO.read_bytes()


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (None, None),
        ("bytes=0-9", slice(0, 10)),
        ("bytes=90-", slice(90, 100)),
        ("bytes=90-1000", slice(90, 100)),
        ("Bytes = 5-5", slice(5, 6)),
        ("bytes=-10", slice(90, 100)),
        ("bytes=-1000", slice(0, 100)),
        ("bytes=100-", NOT_SATISFIABLE),
        ("bytes=-0", NOT_SATISFIABLE),
        ("bytes=9-5", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=0-1,3-4", None),
        ("items=0-1", None),
        ("bytes", None),
    ],
)
def test_requested_part(header: str | None, part: slice | None) -> None:
    """A header asks for a part, the whole or nothing that is there."""
    assert requested_part(header, 100) == part


@given(st.text(), st.integers(0, 1000))
def test_any_text_is_survived(text: str, size: int) -> None:
    """No header leads out of the file."""
    part = requested_part(f"bytes={text}", size)
    assert part is None or 0 <= part.start <= part.stop <= size
