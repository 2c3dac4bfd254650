from __future__ import annotations

import asyncio
import gc
import socket
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from kling_async import KlingClient, Result, Retry, TaskRef
from kling_async.download import Proxies, connections, download
from kling_async.download.connections import MAX_DOWNLOADS
from kling_async.download.save import Downloader
from kling_async.errors import ConfigurationError, DownloadError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.conftest import ServeApp, ServeRaw

REF = TaskRef("kling-2-1", "task_1")
VIDEO = b"\0\0\0\x18ftypmp42" + bytes(5000)
ONCE = Retry(attempts=1)
ELSEWHERE = "https://api.example/api/v1"

pytestmark = pytest.mark.virtual_time


def result(*urls: str, task_id: str = "task_1") -> Result:
    """Make a result with these URLs."""
    return Result(TaskRef("kling-2-1", task_id), urls)


async def video(_: web.Request) -> web.Response:
    """Answer with the video."""
    return web.Response(body=VIDEO, content_type="video/mp4")


@asynccontextmanager
async def downloading(**options: Any) -> AsyncIterator[Downloader]:  # noqa: ANN401
    """Make what a client downloads with."""
    downloader = Downloader(**options)
    try:
        yield downloader
    finally:
        await downloader.close()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Give names the addresses that are written here, as a name server would."""
    known: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def lookup(host: str, *args: Any, **options: Any) -> object:  # noqa: ANN401
        if host not in known:
            return real(host, *args, **options)
        return [one for address in known[host] for one in real(address, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return known


# ---------------------------------------------------------------------------------------- redirects


@pytest.mark.parametrize("query", ["", "?cred=AK%2F2026%2fs3&disp=x%27y&k=a%2Bb%3D&t=%7e()'*!~"])
@pytest.mark.parametrize("path", ["/v/a%7Eb%2f.mp4", "/v/a|b{c}.mp4", "/v/x%e7%8b%90.mp4"])
async def test_urls_are_sent_as_they_were_given(
    path: str, query: str, serve_app: ServeApp, tmp_path: Path
) -> None:
    """What a host signed is what it is asked for, at once and after any kind of redirect."""
    seen: list[str] = []
    locations: list[str] = []

    async def serve(request: web.Request) -> web.Response:
        seen.append(request.raw_path)
        if request.path == "/hop":
            return web.Response(status=302, headers={"Location": locations.pop()})
        return await video(request)

    origin = await serve_app(serve)
    target = f"{path}{query}"
    await download(result(f"{origin}{target}"), tmp_path)
    locations += [f"{origin}{target}", target, target.partition("/")[2]]
    for number in range(3):
        await download(result(f"{origin}/hop", task_id=f"t{number}"), tmp_path)
    assert seen == [target, *["/hop", target] * 3]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_every_kind_of_redirect(status: int, serve_app: ServeApp, tmp_path: Path) -> None:
    """Redirects of all kinds are followed, relative ones too; the answer's body is not saved."""

    async def serve(request: web.Request) -> web.Response:
        if request.path == "/a/b":
            return web.Response(status=status, body=b"x", headers={"Location": "../c?d#e"})
        assert request.raw_path == "/c?d"
        return await video(request)

    await download(result(f"{await serve_app(serve)}/a/b"), tmp_path)
    assert (tmp_path / "task_1.mp4").read_bytes() == VIDEO


async def test_redirects_without_end(serve_app: ServeApp, tmp_path: Path) -> None:
    """A circle of redirects ends after ten."""
    seen = 0

    async def serve(_: web.Request) -> web.Response:
        nonlocal seen
        seen += 1
        return web.Response(status=302, headers={"Location": "/"})

    with pytest.raises(DownloadError, match="TooManyRedirects"):
        await download(result(f"{await serve_app(serve)}/"), tmp_path, retry=ONCE)
    assert seen == 11
    assert list(tmp_path.iterdir()) == []


async def test_a_redirect_without_target(serve_app: ServeApp, tmp_path: Path) -> None:
    """A redirect to nowhere is an error of the host, and may pass."""

    async def serve(_: web.Request) -> web.Response:
        return web.Response(status=302)

    with pytest.raises(DownloadError, match="HTTP 302") as caught:
        await download(result(f"{await serve_app(serve)}/"), tmp_path, retry=ONCE)
    assert caught.value.retryable


async def test_a_long_redirect(serve_app: ServeApp, tmp_path: Path) -> None:
    """A redirect to a URL of sixteen kilobytes is followed."""
    long = "x" * 7000  # that of the request has a limit at the host, not that of the answer

    async def serve(request: web.Request) -> web.Response:
        if request.path == "/":
            return web.Response(status=302, headers={"Location": f"/a?{long}", "X": "y" * 16_000})
        return await video(request)

    await download(result(f"{await serve_app(serve)}/"), tmp_path)
    assert (tmp_path / "task_1.mp4").exists()


# ----------------------------------------------------------------------------------- internal hosts


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254"])
async def test_a_result_on_an_internal_host(host: str, tmp_path: Path) -> None:
    """A service elsewhere cannot have files fetched from this machine or its network."""
    async with downloading(base_url=ELSEWHERE) as downloads:
        with pytest.raises(DownloadError, match=r"internal address.*allow_hosts") as caught:
            await downloads.save(result(f"http://{host}:1/x.mp4"), tmp_path)
    assert not caught.value.retryable
    assert asyncio.get_running_loop().time() < 1


@pytest.mark.parametrize("lend", [False, True])
@pytest.mark.parametrize("allowed", [False, True])
async def test_a_name_of_an_internal_host(
    allowed: bool,  # noqa: FBT001 - a parameter
    lend: bool,  # noqa: FBT001 - a parameter
    names: dict[str, list[str]],
    serve_app: ServeApp,
    tmp_path: Path,
) -> None:
    """A name with an internal address is refused unless allowed, with a lent session, too."""
    names["files.example"] = ["127.0.0.1"]
    url = (await serve_app(video)).replace("127.0.0.1", "files.example")
    async with aiohttp.ClientSession() as session:
        options = {"base_url": ELSEWHERE, "allow_hosts": ["Files.Example"] if allowed else []}
        lent = session if lend else None
        async with downloading(session=lent, **options) as downloads:
            if allowed:
                await downloads.save(result(f"{url}/x.mp4"), tmp_path)
            else:
                with pytest.raises(DownloadError, match=r"files\.example is an internal address"):
                    await downloads.save(result(f"{url}/x.mp4"), tmp_path)
    assert (tmp_path / "task_1.mp4").exists() == allowed


async def test_a_redirect_to_an_internal_host(
    names: dict[str, list[str]], serve_app: ServeApp, tmp_path: Path
) -> None:
    """A redirect to an internal host is refused; nothing is sent there."""
    names["inside.example"] = ["127.0.0.1"]
    seen: list[str] = []
    target = ""

    async def serve(request: web.Request) -> web.Response:
        seen.append(request.host)
        return web.Response(status=302, headers={"Location": target})

    origin = await serve_app(serve)
    async with downloading(base_url=ELSEWHERE, allow_hosts=["127.0.0.1"]) as downloads:
        for host in ("localhost", "127.0.0.2", "[::ffff:127.0.0.1]", "inside.example"):
            target = origin.replace("127.0.0.1", host)
            with pytest.raises(DownloadError, match="internal address"):
                await downloads.save(result(f"{origin}/x.mp4"), tmp_path)
    assert {host.partition(":")[0] for host in seen} == {"127.0.0.1"}


async def test_the_callers_own_urls(
    names: dict[str, list[str]], serve_app: ServeApp, tmp_path: Path
) -> None:
    """Without a client, a URL may be internal, but not lead to an internal host."""
    names["files.example"] = ["127.0.0.1"]

    async def serve(request: web.Request) -> web.Response:
        if request.path == "/hop":
            raise web.HTTPFound(f"{origin}/x.mp4")
        return await video(request)

    origin = await serve_app(serve)
    named = origin.replace("127.0.0.1", "files.example")
    await download(result(f"{named}/x.mp4"), tmp_path)
    with pytest.raises(DownloadError, match="internal address"):
        await download(result(f"{named}/hop", task_id="b"), tmp_path)
    await download(result(f"{named}/hop", task_id="b"), tmp_path, allow_hosts=["127.0.0.1"])
    await download(result(f"{origin}/hop", task_id="c"), tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


async def test_a_client_of_a_service_on_this_machine(serve_app: ServeApp, tmp_path: Path) -> None:
    """A client says where files may be by its base URL and allow_hosts."""
    origin = await serve_app(video)
    here = f"{origin}/x.mp4"
    async with KlingClient("k" * 20, base_url=origin) as kling:
        await kling.download(result(here), tmp_path)
    async with KlingClient("k" * 20, base_url="https://api.example") as kling:
        with pytest.raises(DownloadError, match="internal address"):
            await kling.download(result(here, task_id="b"), tmp_path)
    async with KlingClient("k" * 20, base_url=ELSEWHERE, allow_hosts=["127.0.0.1"]) as kling:
        await kling.download(result(here, task_id="b"), tmp_path)
    with pytest.raises(ConfigurationError, match="allow_hosts"):
        KlingClient("k" * 20, allow_hosts="127.0.0.1")


async def test_files_on_the_services_own_host(
    names: dict[str, list[str]], serve_app: ServeApp, tmp_path: Path
) -> None:
    """A service in a private network may have its files on its own host, and on no other."""
    names["emulator.example"] = names["other.example"] = ["127.0.0.1"]
    origin = await serve_app(video)
    url = origin.replace("127.0.0.1", "emulator.example")
    async with downloading(base_url=f"{url}/api/v1") as downloads:
        await downloads.save(result(f"{url}/x.mp4"), tmp_path)
        for other in (origin, origin.replace("127.0.0.1", "other.example")):
            with pytest.raises(DownloadError, match="internal address"):
                await downloads.save(result(f"{other}/x.mp4", task_id="b"), tmp_path)


async def test_an_unknown_host(tmp_path: Path) -> None:
    """A name that a lent session cannot resolve is trouble that may pass."""
    async with (
        aiohttp.ClientSession() as session,
        downloading(base_url=ELSEWHERE, session=session) as downloads,
    ):
        with pytest.raises(DownloadError, match="DNS") as caught:
            await downloads.save(result("http://x.invalid/"), tmp_path, retry=ONCE)
    assert caught.value.retryable


async def test_a_name_with_addresses_of_both_kinds(names: dict[str, list[str]]) -> None:
    """Of a name's addresses, only those are used that are not internal."""
    names["files.example"] = ["10.0.0.1", "198.18.0.1", "127.0.0.1"]
    resolver = connections._Resolver()  # noqa: SLF001 - connecting to it would leave this machine
    found = await resolver.resolve("files.example", 80)
    await resolver.close()
    assert {one["host"] for one in found} == {"198.18.0.1"}


class Names(AbstractResolver):
    """Resolves every name to this machine, as a lent session may do that knows better."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        here = {"host": "127.0.0.1", "family": family, "proto": 0, "flags": 0}
        return [ResolveResult(hostname=host, port=port, **here)]  # type: ignore[typeddict-item]

    async def close(self) -> None: ...


async def test_a_lent_session_resolves_for_itself(
    names: dict[str, list[str]], serve_app: ServeApp, tmp_path: Path
) -> None:
    """A lent session's own resolver is used, for a name that is not internal elsewhere."""
    names["files.example"] = ["198.18.0.1"]
    url = (await serve_app(video)).replace("127.0.0.1", "files.example")
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=Names())) as session,
        downloading(base_url=ELSEWHERE, session=session) as downloads,
    ):
        await downloads.save(result(url), tmp_path)
    assert (tmp_path / "task_1.mp4").exists()


# ------------------------------------------------------------------------------------------ proxies


@pytest.fixture
async def proxy(serve_raw: ServeRaw) -> tuple[str, list[str]]:
    """Start a proxy that answers each request itself; give its origin and what it was asked."""
    heads: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(VIDEO) + VIDEO)

    return await serve_raw(serve), heads


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the proxies of the machine that the tests run on."""
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def test_the_proxy_of_the_environment(
    proxy: tuple[str, list[str]],
    names: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """HTTP_PROXY is heeded, and the proxy may be internal; names are left to it."""
    names["proxy.example"] = ["127.0.0.1"]
    origin, heads = proxy
    origin = origin.replace("127.0.0.1", "proxy.example")
    monkeypatch.setenv("HTTP_PROXY", origin.replace("http://", "http://me:pass%20word@"))
    async with downloading(base_url=ELSEWHERE) as downloads:
        await downloads.save(result("http://cdn.invalid/a%7E.mp4?b=%2f#c"), tmp_path)
        with pytest.raises(DownloadError, match="internal address"):
            await downloads.save(result("http://10.0.0.1/x.mp4", task_id="b"), tmp_path)
        monkeypatch.setenv("NO_PROXY", "proxy.example")
        with pytest.raises(DownloadError, match="internal address"):  # known or not
            await downloads.save(result(f"{origin}/x.mp4", task_id="b"), tmp_path)
    (head,) = heads
    assert head.startswith("GET http://cdn.invalid/a%7E.mp4?b=%2f HTTP/1.1\r\n")
    assert f"Proxy-Authorization: {aiohttp.encode_basic_auth('me', 'pass word')}\r\n" in head


async def test_loopback_needs_no_proxy(
    proxy: tuple[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    serve_app: ServeApp,
    tmp_path: Path,
) -> None:
    """Files on this machine are fetched directly, whatever the environment says."""
    monkeypatch.setenv("HTTP_PROXY", proxy[0])
    await download(result(f"{await serve_app(video)}/x.mp4"), tmp_path)
    assert proxy[1] == []


async def test_a_proxy_that_is_given(
    proxy: tuple[str, list[str]], serve_app: ServeApp, tmp_path: Path
) -> None:
    """A proxy that is given, or that a lent session has, is used for every host."""
    origin, heads = proxy
    url = f"{await serve_app(video)}/x.mp4"
    await download(result(url, task_id="a"), tmp_path, proxies=Proxies(origin))
    async with aiohttp.ClientSession(proxy=origin) as session:
        await download(result(url, task_id="b"), tmp_path, session=session)
    assert [head.split()[1] for head in heads] == [url, url]


async def test_a_proxy_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A proxy of another kind in the environment is an error of the set-up."""
    monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="http_proxy"):
        await download(result("http://cdn.invalid/x.mp4"), tmp_path)


async def test_no_credentials_of_netrc(
    monkeypatch: pytest.MonkeyPatch, serve_app: ServeApp, tmp_path: Path
) -> None:
    """Nothing of ~/.netrc goes to a file's host, with trust_env neither."""
    (tmp_path / "netrc").write_text("default login me password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    seen: list[str | None] = []

    async def serve(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return await video(request)

    origin = await serve_app(serve)
    await download(result(f"{origin}/x.mp4", task_id="a"), tmp_path)
    async with aiohttp.ClientSession(trust_env=True) as session:
        await download(result(f"{origin}/x.mp4", task_id="b"), tmp_path, session=session)
    assert seen == [None, None]


# ------------------------------------------------------------------------------ sessions and places


@pytest.mark.parametrize(("size", "arrives"), [(8190, False), (30_000, True)])
async def test_header_sizes_of_a_lent_session(
    size: int,
    arrives: bool,  # noqa: FBT001 - a parameter
    serve_app: ServeApp,
    tmp_path: Path,
) -> None:
    """What a lent session allows of headers, it allows of those of downloads."""

    async def serve(_: web.Request) -> web.Response:
        return web.Response(body=VIDEO, headers={"X": "y" * 20_000})

    url = f"{await serve_app(serve)}/x.mp4"
    async with aiohttp.ClientSession(max_field_size=size, max_line_size=size) as session:
        with nullcontext() if arrives else pytest.raises(DownloadError, match="Got more than"):
            await download(result(url), tmp_path, session=session, retry=ONCE)
    assert (tmp_path / "task_1.mp4").exists() == arrives


class Counting:
    """Serves a video, a while after it was asked, and counts requests and connections."""

    def __init__(self, seconds: float = 5.0) -> None:
        self.seconds = seconds
        self.now = self.most = 0
        self.connections: set[object] = set()

    async def serve(self, request: web.Request) -> web.Response:
        self.now += 1
        self.most = max(self.most, self.now)
        self.connections.add(request.transport)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.now -= 1
        return await video(request)


async def test_many_downloads_of_a_client(serve_app: ServeApp, tmp_path: Path) -> None:
    """All calls of a client share one session, and no more than 16 files come at one time."""
    counting = Counting()
    parts: list[int] = []

    async def serve(request: web.Request) -> web.Response:
        parts.append(len(list(tmp_path.glob(".*.part"))))
        return await counting.serve(request)

    origin = await serve_app(serve)
    async with KlingClient("k" * 20, base_url=origin) as kling:
        calls = (kling.download(result(origin, task_id=f"t{n}"), tmp_path) for n in range(50))
        done = await asyncio.gather(*calls)
    assert max(parts) <= MAX_DOWNLOADS
    assert len({path for (path,) in done if path.exists()}) == 50
    assert counting.most == MAX_DOWNLOADS
    assert len(counting.connections) == MAX_DOWNLOADS


async def test_waiting_for_a_lent_connection(serve_app: ServeApp, tmp_path: Path) -> None:
    """To wait for one of a few lent connections, however long, is no failed attempt."""
    counting = Counting(seconds=50.0)
    origin = await serve_app(counting.serve)
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session,
        KlingClient("k" * 20, base_url=origin, session=session, retry=ONCE) as kling,
    ):
        calls = (kling.download(result(origin, task_id=f"t{n}"), tmp_path) for n in range(10))
        await asyncio.gather(*calls)
    assert counting.most == 1
    assert asyncio.get_running_loop().time() == pytest.approx(500, abs=10)


async def test_a_client_on_two_loops(tmp_path: Path) -> None:
    """A client may be used on one loop after another without closing; nothing stays open."""
    downloads = Downloader()

    async def one(number: int) -> None:
        runner = web.AppRunner(app := web.Application(), access_log=None)
        app.router.add_get("/x.mp4", video)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/x.mp4"
        await downloads.save(result(url, task_id=f"t{number}"), tmp_path)
        await runner.cleanup()

    def run() -> None:
        for number in range(3):
            asyncio.run(one(number))

    await asyncio.to_thread(run)
    await downloads.close()
    gc.collect()  # what is not closed complains here
    assert len(list(tmp_path.iterdir())) == 3


async def test_a_session_of_another_loop(tmp_path: Path) -> None:
    """A lent session that belongs to another event loop is refused in words of our own."""

    async def make() -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    loop = asyncio.new_event_loop()
    session = await asyncio.to_thread(loop.run_until_complete, make())
    try:
        with pytest.raises(ConfigurationError, match="lent"):
            await download(result("http://127.0.0.1:1/x.mp4"), tmp_path, session=session)
    finally:
        await asyncio.to_thread(loop.run_until_complete, session.close())
        loop.close()


async def test_closing_the_client_meanwhile(serve_app: ServeApp, tmp_path: Path) -> None:
    """A download whose client is closed ends with an error that says so, and may be repeated."""
    counting = Counting()
    origin = await serve_app(counting.serve)
    kling = KlingClient("k" * 20, base_url=origin)
    task = asyncio.create_task(kling.download(result(origin), tmp_path))
    await asyncio.sleep(1)
    await kling.close()
    with pytest.raises(DownloadError, match="client was closed") as caught:
        await task
    assert caught.value.retryable
    assert list(tmp_path.iterdir()) == []


async def test_other_runtime_errors(tmp_path: Path) -> None:
    """An error that is no one's but the program's is not hidden."""

    class Broken(aiohttp.TCPConnector):
        def connect(self, *_: object, **__: object) -> Any:  # noqa: ANN401
            raise RuntimeError("of another kind")

    async with aiohttp.ClientSession(connector=Broken()) as session:
        with pytest.raises(RuntimeError, match="of another kind"):
            await download(result("http://127.0.0.1:1/x.mp4"), tmp_path, session=session)


async def test_a_place_that_is_free_again(serve_app: ServeApp, tmp_path: Path) -> None:
    """A download that is cancelled while it waits or runs leaves its place to the next."""
    counting = Counting(seconds=1000.0)
    origin = await serve_app(counting.serve)
    async with KlingClient("k" * 20, base_url=origin) as kling:

        def start(name: str) -> asyncio.Task[tuple[Path, ...]]:
            return asyncio.create_task(kling.download(result(origin, task_id=name), tmp_path))

        tasks = [start(f"t{n}") for n in range(MAX_DOWNLOADS + 4)]
        await asyncio.sleep(1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        counting.seconds = 1.0
        await start("last")
    assert (tmp_path / "last.mp4").exists()
