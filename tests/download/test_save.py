from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from kling_async import KlingClient, MasterTextToVideo, Polling, Result, Retry, TaskRef
from kling_async.errors import DownloadError, JournalError, ResultExpiredError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.conftest import ServeApp

REF = TaskRef("kling-2-1", "task_1")
VIDEO = b"\0\0\0\x18ftypmp42" + bytes(1000)

pytestmark = pytest.mark.virtual_time


class Service:
    """A service whose URLs are good for a day, and the host of its files.

    Attributes:
        day: The day that it is.
        renews: Whether a status has the URLs of today.
        answer: The status of a status call's answer.
        completed: When tasks have ended, in milliseconds; 0 leaves it out.
        late: Until when, in the loop's time, no file is there.
        cut: Whether the next file is cut after 600 bytes.
    """

    def __init__(self) -> None:
        self.day, self.files, self.renews, self.answer = 1, 1, True, 200
        self.completed, self.late, self.cut = 1000, 0.0, False
        self.asked: list[str] = []
        self.origin = ""

    async def serve(self, request: web.Request) -> web.Response:
        self.asked.append(request.path.split("/")[3] if "v1" in request.path else "file")
        if "generateTask" in request.path:
            return web.json_response({"code": 200, "data": {"taskId": "task_1"}})
        if "statusTask" in request.path:
            data: dict[str, object] = {
                "taskId": "task_1",
                "state": "success",
                "createTime": 1,
                "resultJson": json.dumps({"resultUrls": self.urls(self.renews * self.day or 1)}),
            }
            if self.completed:
                data["completeTime"] = self.completed
            code = self.answer
            return web.json_response({"code": code, "message": "x", "data": data}, status=code)
        if asyncio.get_running_loop().time() < self.late:
            return web.Response(status=404)
        if request.query["day"] != str(self.day):
            return web.Response(status=403)
        if self.cut:
            self.cut = False
            head = f'HTTP/1.1 200 OK\r\nETag: "one"\r\nContent-Length: {len(VIDEO)}\r\n\r\n'
            assert request.transport is not None
            request.transport.write(head.encode() + VIDEO[:600])
            await asyncio.sleep(1)
            request.transport.close()
        if asked := request.headers.get("Range"):
            self.asked[-1] = asked
            span = f"bytes 600-{len(VIDEO) - 1}/{len(VIDEO)}"
            headers = {"ETag": '"one"', "Content-Range": span}
            return web.Response(status=206, headers=headers, body=VIDEO[600:])
        return web.Response(body=VIDEO + request.path.encode())

    def urls(self, day: int) -> list[str]:
        """Return the URLs of a day."""
        return [f"{self.origin}/{n}.mp4?day={day}" for n in range(self.files)]


@pytest.fixture
async def service(serve_app: ServeApp) -> Service:
    """Start a service."""
    service = Service()
    service.origin = await serve_app(service.serve)
    return service


@pytest.fixture
async def kling(service: Service) -> AsyncIterator[KlingClient]:
    """Make a client of it."""
    async with KlingClient(
        "k" * 20, base_url=service.origin, polling=Polling(first=0.05), retry=Retry(attempts=2)
    ) as kling:
        yield kling


async def test_a_fresh_link_is_asked_for(
    service: Service, kling: KlingClient, tmp_path: Path
) -> None:
    """If a URL is dead, one status call gives those of all files, and they are fetched."""
    service.files = 3
    old = Result(REF, tuple(service.urls(1)))
    service.day = 2
    renewed: list[tuple[str, ...]] = []

    async def note(urls: tuple[str, ...]) -> None:
        renewed.append(urls)

    files = await kling.save(old, tmp_path, on_renewed=note)
    assert [file.url for file in files] == service.urls(2)
    assert [file.name for file in files] == ["task_1.mp4", "task_1+2.mp4", "task_1+3.mp4"]
    assert renewed == [tuple(service.urls(2))]
    assert service.asked == ["file", "statusTask", "file", "file", "file"]
    assert len(await kling.download(old, tmp_path)) == 3  # they are there: nothing is asked
    assert len(service.asked) == 5


async def test_files_that_are_there_stay(
    service: Service, kling: KlingClient, tmp_path: Path
) -> None:
    """Fresh URLs are used for what is missing only."""
    service.files = 2
    old = Result(REF, tuple(service.urls(1)))
    (tmp_path / "task_1.mp4").write_bytes(VIDEO)
    service.day = 2
    first, second = await kling.save(old, tmp_path)
    assert (first.url, second.url) == (service.urls(1)[0], service.urls(2)[1])
    assert service.asked == ["file", "statusTask", "file"]


async def test_no_fresh_link(service: Service, kling: KlingClient, tmp_path: Path) -> None:
    """If the service has no other URL, the error is that of the dead one."""
    old = Result(REF, tuple(service.urls(1)))
    service.day, service.renews = 2, False
    with pytest.raises(ResultExpiredError, match="15 days") as caught:
        await kling.download(old, tmp_path)
    assert caught.value.url == old.result_urls[0]
    assert not caught.value.retryable
    assert service.asked == ["file", "statusTask"]


async def test_a_fresh_link_that_is_dead(
    service: Service, kling: KlingClient, tmp_path: Path
) -> None:
    """A second dead URL is not asked about again, and not waited for."""
    old = Result(REF, tuple(service.urls(7)))
    service.day = 2
    service.late = 1000.0
    with pytest.raises(ResultExpiredError):
        await kling.download(old, tmp_path)
    assert service.asked == ["file", "statusTask", "file"]
    assert asyncio.get_running_loop().time() < 5


async def test_a_young_link_that_stays_dead(
    service: Service, kling: KlingClient, tmp_path: Path
) -> None:
    """A young result's file is waited for once, by its old URL; then the status is asked."""
    old = Result(REF, tuple(service.urls(1)), completed_at=datetime.now(UTC))
    service.day, service.late = 2, 1000.0
    with pytest.raises(ResultExpiredError):
        await kling.download(old, tmp_path)
    assert service.asked[-2:] == ["statusTask", "file"]
    assert service.asked.count("statusTask") == 1
    assert 60 <= asyncio.get_running_loop().time() <= 90


@pytest.mark.parametrize("renews", [True, False])
async def test_what_had_come_by_the_old_link(
    renews: bool,  # noqa: FBT001 - a parameter
    service: Service,
    kling: KlingClient,
    tmp_path: Path,
) -> None:
    """A part that came by the old link is gone on with by the fresh one, or is removed."""
    old = Result(REF, tuple(service.urls(1)))
    service.cut, service.day = True, 1
    with pytest.raises(DownloadError, match="600 bytes of 1 kB are kept"):
        async with KlingClient("k", base_url=service.origin, retry=Retry(attempts=1)) as other:
            await other.download(old, tmp_path)
    service.day, service.renews = 2, renews
    if renews:
        (path,) = await kling.download(old, tmp_path)
        assert path.read_bytes() == VIDEO
        assert service.asked == ["file", "file", "statusTask", "bytes=600-"]
    else:
        with pytest.raises(ResultExpiredError):
            await kling.download(old, tmp_path)
        assert list(tmp_path.iterdir()) == []


async def test_fewer_links_than_before(
    service: Service, kling: KlingClient, tmp_path: Path
) -> None:
    """Other URLs than as many as there were are not taken for those of the same files."""
    service.files = 2
    old = Result(REF, tuple(service.urls(1)))
    service.day, service.files = 2, 1
    with pytest.raises(ResultExpiredError):
        await kling.download(old, tmp_path)


@pytest.mark.parametrize(("answer", "retryable"), [(404, False), (503, True)])
async def test_a_service_that_cannot_be_asked(
    answer: int,
    retryable: bool,  # noqa: FBT001 - a parameter
    service: Service,
    kling: KlingClient,
    tmp_path: Path,
) -> None:
    """If the status call fails, the error says so, and whether a later one may succeed."""
    old = Result(REF, tuple(service.urls(1)))
    service.day, service.answer = 2, answer
    with pytest.raises(ResultExpiredError, match=rf"15 days.*no new one: .*{answer}") as caught:
        await kling.download(old, tmp_path)
    assert caught.value.retryable is retryable


async def test_a_journal_that_fails_meanwhile(
    service: Service, kling: KlingClient, tmp_path: Path
) -> None:
    """An error of who notes the fresh URLs is raised as it is."""
    old = Result(REF, tuple(service.urls(1)))
    service.day = 2

    async def fail(_: tuple[str, ...]) -> None:
        raise JournalError("full")

    with pytest.raises(JournalError, match="full"):
        await kling.save(old, tmp_path, on_renewed=fail)


@pytest.mark.parametrize("completed", [0, 1000])
async def test_what_this_process_has_seen_running(
    completed: int, service: Service, kling: KlingClient, tmp_path: Path
) -> None:
    """A task that this client has submitted has just ended, whatever the service's times say."""
    service.completed, service.late = completed, 30.0
    result = await kling.generate(MasterTextToVideo("a fox"))
    await kling.download(result, tmp_path)
    assert asyncio.get_running_loop().time() >= 30
    assert service.asked.count("statusTask") == 1


async def test_a_folder_is_no_folder(service: Service, kling: KlingClient, tmp_path: Path) -> None:
    """A folder that cannot be made is an error that names the task."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="cannot create the folder") as caught:
        await kling.download(Result(REF, tuple(service.urls(1))), tmp_path / "file" / "x")
    assert caught.value.ref == REF
    assert service.asked == []


# ------------------------------------------------------------------------------ a folder of several

MINE = b"\0\0\0\x18ftypmp42 mine"


async def test_a_file_that_others_have(
    service: Service, kling: KlingClient, tmp_path: Path
) -> None:
    """With `previous`, any file that has the name stays, and each try has the same other name."""
    result = Result(REF, tuple(service.urls(1)))
    (tmp_path / "fox.mp4").write_bytes(MINE)
    (file,) = await kling.save(result, tmp_path, name="fox", previous=())
    assert file.name.startswith("fox+")
    (again,) = await kling.save(result, tmp_path, name="fox", previous=())
    assert again == file
    assert (tmp_path / "fox.mp4").read_bytes() == MINE
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / file.name).write_bytes(MINE)
    (third,) = await kling.save(result, tmp_path, name="fox", previous=())
    assert third.name not in {"fox.mp4", file.name}


@pytest.mark.parametrize(
    ("there", "replaced"), [(None, True), (b"cut off", True), (b"<html>", True), (MINE, False)]
)
async def test_a_file_of_an_earlier_call(
    there: bytes | None,
    replaced: bool,  # noqa: FBT001 - a parameter
    service: Service,
    kling: KlingClient,
    tmp_path: Path,
) -> None:
    """An earlier file is replaced, whole or broken, unless another video has its name by now."""
    first = await kling.save(Result(REF, tuple(service.urls(1))), tmp_path, previous=())
    path = tmp_path / first[0].name
    if there is not None:
        path.write_bytes(there)
    service.files = 2
    other = Result(REF, (service.urls(1)[1],))  # under the same name
    (second,) = await kling.save(other, tmp_path, previous=first)
    assert (second.name == first[0].name) is replaced
    assert (tmp_path / second.name).read_bytes() == VIDEO + b"/1.mp4"
    assert path.read_bytes() == (VIDEO + b"/1.mp4" if replaced else MINE)


async def test_a_folder_that_has_the_name(
    service: Service, kling: KlingClient, tmp_path: Path
) -> None:
    """A folder that has the name does no harm if another name may be used."""
    (tmp_path / "task_1.mp4").mkdir()
    (file,) = await kling.save(Result(REF, tuple(service.urls(1))), tmp_path, previous=())
    assert file.name != "task_1.mp4"
