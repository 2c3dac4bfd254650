"""Clients whose only way out is a company's proxy: real ones, on loopback, and real TLS.

The hosts end in ``.invalid``, so they do not resolve: what reaches them went through the proxy.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import ssl
import subprocess
import sys
import traceback
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest
import trustme
from aiohttp import web

from kling_async import KlingClient, MasterTextToVideo, Result, Retry, TaskRef
from kling_async._network.proxies import Proxies
from kling_async.download import download
from kling_async.errors import (
    AnswerLostError,
    APIError,
    ConfigurationError,
    ConnectError,
    ContractError,
    DownloadError,
    KlingError,
)
from kling_async.protocol import requests
from kling_async.transport import AiohttpTransport, connector
from tests.engines.http_proxy import HttpProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from kling_async.protocol.requests import Request
    from tests.conftest import Emulate, ServeApp, ServeRaw

pytestmark = pytest.mark.virtual_time

KEY = "sk-very-secret-key-0123456789"
API = "https://api.invalid"
ONCE = Retry(attempts=1)
FOX = MasterTextToVideo("a fox")
SUBMIT = requests.build_submit(FOX)
BALANCE = requests.build_balance()
REF = TaskRef("kling-2-1", "t1")
VIDEO = b"\0\0\0\x18ftypmp42" + b"v" * 100

# A password with what has a meaning of its own in a URL, or is not ASCII.
USER, PASSWORD, QUOTED = "me", "s3cret@:/ü", "me:s3cret%40%3A%2F%C3%BC"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Forget the proxies of the machine that the tests run on."""
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Make the company's certificate authority."""
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """Return what a client uses that trusts the company's authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


class Service:
    """The API and the files behind https, at one port of this machine."""

    def __init__(self) -> None:
        self.requests: list[web.BaseRequest] = []
        self.hosts: dict[str, int] = {}

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        path = request.path
        if path.startswith("/file"):
            return web.Response(body=VIDEO, content_type="video/mp4")
        data: object = 74.87
        if "/generateTask/" in path:
            data = {"taskId": "t1"}
        elif "/statusTask/" in path:
            urls = json.dumps({"resultUrls": ["https://cdn.invalid/file.mp4"]})
            data = {"taskId": "t1", "state": "success", "createTime": 1, "resultJson": urls}
        return web.json_response({"code": 200, "data": data})


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """Return what a server with these names uses."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.fixture
async def service(authority: trustme.CA) -> AsyncIterator[Service]:
    """Start a service with a certificate of the company's authority."""
    made = Service()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    context = server_context(authority, "api.invalid", "cdn.invalid", "localhost")
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    port = runner.addresses[0][1]
    made.hosts = {"api.invalid:443": port, "cdn.invalid:443": port, "localhost:443": port}
    yield made
    await runner.cleanup()


@asynccontextmanager
async def transport(
    base_url: str = API,
    *,
    session: aiohttp.ClientSession | None = None,
    proxies: Proxies | None = None,
) -> AsyncIterator[AiohttpTransport]:
    """Make a transport and close it."""
    made = AiohttpTransport(
        base_url=f"{base_url}/api/v1",
        api_key=KEY,
        connections=10,
        session=session,
        proxies=proxies,
    )
    try:
        yield made
    finally:
        await made.close()


def shown(error: BaseException) -> str:
    """Return all that a traceback or a log would show of an error."""
    return "".join(traceback.format_exception(error)) + repr(error)


# ------------------------------------------------------------------------ through a proxy, with TLS

CHILD = """
import asyncio, sys
from kling_async import KlingClient, MasterTextToVideo, Polling
async def main():
    async with KlingClient(polling=Polling(first=0.05)) as kling:
        result = await (await kling.submit(MasterTextToVideo("x"))).wait()
        print(*await kling.download(result, sys.argv[1]))
asyncio.run(main())
"""


@pytest.fixture
def child_environment(authority: trustme.CA, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a process behind the company's proxy, without the proxy."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    added = {"APIXO_API_KEY": KEY, "SSL_CERT_FILE": str(tmp_path / "ca.pem")}
    return {**os.environ, **added, "APIXO_BASE_URL": API}


async def run(*arguments: str, env: dict[str, str]) -> tuple[int, str]:
    """Run Python in a process of its own; return its exit code and all that it printed."""
    process = await asyncio.to_thread(
        lambda: subprocess.run(
            [sys.executable, *arguments], env=env, capture_output=True, check=False, text=True
        )
    )
    return process.returncode, process.stdout + process.stderr


@pytest.mark.real_time
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
async def test_a_whole_generation(
    name: str, service: Service, child_environment: dict[str, str], tmp_path: Path
) -> None:
    """API and downloads go through tunnels of HTTPS_PROXY; the proxy reads no key and no URL."""
    async with HttpProxy(service.hosts, credentials=(USER, PASSWORD)) as proxy:
        env = {**child_environment, name: proxy.with_credentials(QUOTED)}
        code, said = await run("-c", CHILD, str(tmp_path / "videos"), env=env)
    assert (code, said.strip()) == (0, str(tmp_path / "videos" / "t1.mp4"))
    assert set(proxy.lines) == {"CONNECT api.invalid:443", "CONNECT cdn.invalid:443"}
    assert not any(KEY in head or "Bearer" in head for head in proxy.heads)
    assert {one.headers.get("Authorization") for one in service.requests} == {
        f"Bearer {KEY}",
        None,
    }
    assert not any("Proxy-Authorization" in one.headers for one in service.requests)


@pytest.mark.real_time
async def test_the_command_line(service: Service, child_environment: dict[str, str]) -> None:
    """The command line uses HTTPS_PROXY."""
    async with HttpProxy(service.hosts) as proxy:
        env = {**child_environment, "HTTPS_PROXY": proxy.url}
        code, said = await run("-m", "kling_async", "balance", env=env)
        assert (code, "74.87" in said) == (0, True)
        assert proxy.lines == ["CONNECT api.invalid:443"]


@pytest.mark.parametrize("secure", [False, True])
async def test_a_lent_session_with_a_proxy(
    secure: bool,  # noqa: FBT001 - a column of the table
    service: Service,
    trusting: ssl.SSLContext,
    authority: trustme.CA,
) -> None:
    """Its proxy gets neither the key nor the session's own headers, also a proxy behind TLS."""
    tls = server_context(authority, "127.0.0.1") if secure else None
    async with HttpProxy(service.hosts, credentials=(USER, PASSWORD), tls=tls) as proxy:
        headers = {"X-Mine": "internal", "Authorization": "Bearer mine"}
        async with (
            aiohttp.ClientSession(
                connector=connector(ssl=trusting),
                proxy=proxy.with_credentials(QUOTED),
                headers=headers,
            ) as session,
            transport(session=session) as door,
        ):
            for request in (SUBMIT, BALANCE, BALANCE):
                assert (await door.send(request, 30.0)).status == 200
    assert proxy.lines == ["CONNECT api.invalid:443"] * 2  # one for submits, one for reads
    assert not re.search(f"{KEY}|X-Mine|Bearer", "".join(proxy.heads))
    assert [one.headers["X-Mine"] for one in service.requests] == ["internal"] * 3
    assert {one.headers["Authorization"] for one in service.requests} == {f"Bearer {KEY}"}
    assert not any("Proxy-Authorization" in one.headers for one in service.requests)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
async def test_a_lent_session_with_proxy_auth(
    service: Service, trusting: ssl.SSLContext, tmp_path: Path
) -> None:
    """Its proxy_auth serves requests and downloads."""
    async with (
        HttpProxy(service.hosts, credentials=("me", "secret")) as proxy,
        aiohttp.ClientSession(
            connector=connector(ssl=trusting),
            proxy=proxy.url,
            proxy_auth=aiohttp.BasicAuth("me", "secret"),
        ) as session,
        KlingClient(KEY, base_url=API, session=session) as kling,
    ):
        assert await kling.balance() == pytest.approx(74.87)
        await kling.download(await kling.generate(FOX), tmp_path)
    assert proxy.lines[-1] == "CONNECT cdn.invalid:443"
    assert "Authorization" not in service.requests[-1].headers


async def test_trust_env_of_a_lent_session(
    environment: pytest.MonkeyPatch, service: Service, trusting: ssl.SSLContext
) -> None:
    """With trust_env the environment decides, for https on this machine too: directly."""
    async with HttpProxy(service.hosts) as proxy:
        environment.setenv("HTTPS_PROXY", proxy.url)
        async with aiohttp.ClientSession(
            connector=connector(ssl=trusting), trust_env=True
        ) as session:
            async with transport(session=session) as door:
                assert (await door.send(SUBMIT, 30.0)).status == 200
            assert len(proxy.lines) == 1
            here = f"https://localhost:{service.hosts['localhost:443']}"
            async with transport(here, session=session) as door:
                assert (await door.send(SUBMIT, 30.0)).status == 200
            assert len(proxy.lines) == 1
        async with (
            aiohttp.ClientSession(connector=connector(ssl=trusting)) as session,
            transport(session=session) as door,
        ):
            with pytest.raises(ConnectError):
                await door.send(SUBMIT, 30.0)
    assert len(proxy.lines) == 1


async def test_a_setting(environment: pytest.MonkeyPatch) -> None:
    """``proxy`` comes before the environment; ``trust_env=False`` and NO_PROXY go around it."""
    async with HttpProxy(answer=b"HTTP/1.1 502 Bad Gateway\r\n\r\n") as given, HttpProxy() as other:
        environment.setenv("HTTPS_PROXY", other.url)
        for options in ({"proxy": given.url}, {"trust_env": False}):
            async with KlingClient(KEY, base_url=API, retry=ONCE, **options) as kling:
                with pytest.raises(ConnectError):
                    await kling.balance()
        environment.setenv("NO_PROXY", ".invalid")
        async with KlingClient(KEY, base_url=API, retry=ONCE) as kling:
            with pytest.raises(ConnectError):
                await kling.balance()
    assert given.lines == ["CONNECT api.invalid:443"]
    assert other.lines == []


async def test_downloads_use_the_setting(tmp_path: Path) -> None:
    """The client's ``proxy`` is used for files, too."""
    async with (
        HttpProxy(answer=b"HTTP/1.1 502 Bad Gateway\r\n\r\n") as proxy,
        KlingClient(KEY, base_url=API, retry=ONCE, proxy=proxy.url) as kling,
    ):
        with pytest.raises(DownloadError, match="answered 502 'Bad Gateway'"):
            await kling.download(Result(REF, ("https://cdn.invalid/file.mp4",)), tmp_path)
    assert proxy.lines == ["CONNECT cdn.invalid:443"]


@pytest.mark.parametrize(
    "options",
    [{"proxy": "socks5://one:1"}, {"proxy": "one:1"}, {"proxy": 3}, {"trust_env": "no"}],
)
def test_settings_that_make_no_sense(options: dict[str, object]) -> None:
    """What is no proxy, or no switch, is refused when the client is made."""
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        KlingClient(KEY, base_url=API, **options)  # type: ignore[arg-type]


async def test_a_session_and_a_proxy() -> None:
    """A session that is lent has its own proxy: to give both is refused."""
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ConfigurationError, match="a session or a proxy"):
            KlingClient(KEY, base_url=API, session=session, proxy="http://one:1")


def test_a_proxy_of_the_environment_that_is_none(environment: pytest.MonkeyPatch) -> None:
    """A proxy that cannot be one is refused when the client is made, without its password."""
    environment.setenv("HTTPS_PROXY", "socks5://me:s3cret@one:1")
    with pytest.raises(ConfigurationError, match="https_proxy") as caught:
        KlingClient(KEY, base_url=API)
    assert "s3cret" not in shown(caught.value)


# ------------------------------------------------------------------------------------- clear text


async def test_loopback_is_reached_directly(
    emulate: Emulate, environment: pytest.MonkeyPatch
) -> None:
    """A service on this machine is reached directly, whichever way a proxy was set."""
    emulator = await emulate()
    async with HttpProxy() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            environment.setenv(name, proxy.url)
        for given in (None, proxy.url):
            async with KlingClient(emulator.key, base_url=emulator.base_url, proxy=given) as kling:
                assert await kling.balance() > 0
    assert proxy.heads == []


@pytest.mark.parametrize("given", [True, False])
def test_the_key_in_clear_text(given: bool, environment: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """Plain http to another machine through a proxy is refused before anything is sent."""
    environment.setenv("HTTP_PROXY", "http://one:3128")
    proxy = "http://one:3128" if given else None
    with pytest.raises(ConfigurationError, match="key would be sent to a proxy unencrypted"):
        KlingClient(KEY, base_url="http://service:8080", allow_http=True, proxy=proxy)
    environment.setenv("NO_PROXY", "service")
    KlingClient(KEY, base_url="http://service:8080", allow_http=True)


@pytest.mark.parametrize("base", ["http://127.0.0.1:1", "http://service:1"])
async def test_the_key_in_clear_text_through_a_lent_session(base: str) -> None:
    """A lent session's proxy on another machine does not get the key in clear text either."""
    async with aiohttp.ClientSession(proxy="http://one:3128") as session:
        with pytest.raises(ConfigurationError, match="unencrypted"):
            KlingClient(KEY, base_url=base, session=session, allow_http=True)


async def test_a_lent_session_s_proxy_on_this_machine(emulate: Emulate) -> None:
    """A lent session's proxy is used for loopback, if the proxy is on this machine itself."""
    emulator = await emulate()
    async with (
        HttpProxy(credentials=("me", "secret")) as proxy,
        aiohttp.ClientSession(proxy=proxy.with_credentials("me:secret")) as session,
        KlingClient(emulator.key, base_url=emulator.base_url, session=session) as kling,
    ):
        assert await kling.balance() > 0
    assert proxy.lines == [f"GET {emulator.origin}/api/v1/apikeys/current-balance"]


# ------------------------------------------------------------------------------ proxies that refuse

REFUSALS = [
    pytest.param(b"HTTP/1.1 403 Forbidden\r\n\r\n", "403.*does not allow this host", id="403"),
    pytest.param(b"HTTP/1.1 407 Who?\r\n\r\n", "407.*http://user:password@host:port", id="407"),
    pytest.param(b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "502 'Bad Gateway'", id="502"),
    pytest.param(b"HTTP/1.1 504 Gateway Timeout\r\n\r\n", "504", id="504"),
    pytest.param(b"HTTP/1.1 999999 ?\r\n\r\n", "nothing was sent", id="no status"),
    pytest.param(b"nonsense\r\n\r\n", "nothing was sent", id="no http"),
    pytest.param(b"HTTP/1.1 200", "nothing was sent", id="cut"),
    pytest.param(b"", "nothing was sent", id="silent"),
]


@pytest.mark.parametrize(("answer", "words"), REFUSALS)
async def test_a_submit_that_the_proxy_refuses(answer: bytes, words: str) -> None:
    """Without a tunnel nothing was sent: it cannot have cost money, and no password is shown."""
    begun = asyncio.get_running_loop().time()
    async with HttpProxy(answer=answer) as proxy:
        proxies = Proxies(proxy.with_credentials("me:s3cret"))
        async with transport(proxies=proxies) as door:
            with pytest.raises(ConnectError, match=words) as caught:
                await door.send(SUBMIT, 30.0)
            lasting = "403" in words or "407" in words
            assert caught.value.retryable is not lasting
            assert not caught.value.may_have_charged
            assert "s3cret" not in shown(caught.value)
            with pytest.raises((ConnectError, AnswerLostError)) as read:
                await door.send(BALANCE, 30.0)
            assert read.value.retryable is not lasting
            assert "s3cret" not in shown(read.value)
    assert KEY not in "".join(proxy.heads)
    assert asyncio.get_running_loop().time() - begun < 25


async def test_a_proxy_that_is_not_there() -> None:
    """A refused connection to the proxy proves that nothing was sent, and may pass."""
    async with transport(proxies=Proxies("http://me:s3cret@127.0.0.1:9")) as door:
        with pytest.raises(
            ConnectError, match=r"ClientProxyConnectionError.*127\.0\.0\.1:9"
        ) as caught:
            await door.send(SUBMIT, 30.0)
    assert caught.value.retryable
    assert "s3cret" not in shown(caught.value)


async def test_407_is_not_repeated(
    caplog: pytest.LogCaptureFixture, environment: pytest.MonkeyPatch
) -> None:
    """A proxy that refuses the credentials is asked once, and no log shows them."""
    caplog.set_level(logging.DEBUG)
    async with HttpProxy(credentials=("me", "right")) as proxy:
        environment.setenv("HTTPS_PROXY", proxy.with_credentials("me:wr0ng"))
        async with KlingClient(KEY, base_url=API) as kling:
            with pytest.raises(ConnectError, match="407") as caught:
                await kling.submit(FOX)
    assert len(proxy.heads) == 1
    assert not caught.value.may_have_charged
    assert "wr0ng" not in caplog.text + shown(caught.value)


async def test_407_without_a_tunnel(emulate: Emulate) -> None:
    """A 407 to a request that the proxy would forward is a ConnectError, too."""
    emulator = await emulate()
    async with (
        HttpProxy(credentials=("me", "secret")) as proxy,
        aiohttp.ClientSession(proxy=proxy.url) as session,
        KlingClient(emulator.key, base_url=emulator.base_url, session=session) as kling,
    ):
        with pytest.raises(ConnectError, match="http://user:password@host:port") as caught:
            await kling.submit(FOX)
    assert not caught.value.may_have_charged
    assert len(proxy.heads) == 1
    assert not emulator.requests


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_407_to_a_download(scheme: str, tmp_path: Path) -> None:
    """A download that the proxy refuses is not repeated, says what to do, and shows no password."""
    async with HttpProxy(credentials=("me", "right")) as proxy:
        proxies = Proxies(proxy.with_credentials("me:wr0ng"))
        result = Result(REF, (f"{scheme}://cdn.invalid/file.mp4",))
        with pytest.raises(DownloadError, match="http://user:password@host:port") as caught:
            await download(result, tmp_path, proxies=proxies)
    assert not caught.value.retryable
    assert len(proxy.heads) == 1
    assert "wr0ng" not in shown(caught.value)


# -------------------------------------------------------------------------------- TLS and its lack


async def test_an_unknown_certificate_through_a_tunnel(service: Service, tmp_path: Path) -> None:
    """A certificate of an unknown authority is reported at once, by requests and downloads."""
    async with (
        HttpProxy(service.hosts) as proxy,
        KlingClient(KEY, base_url=API, proxy=proxy.url) as kling,
    ):
        with pytest.raises(ConnectError, match=r"SSL_CERT_FILE.*connector\(ssl=") as caught:
            await kling.submit(FOX)
        assert not caught.value.may_have_charged
        with pytest.raises(DownloadError, match="SSL_CERT_FILE") as failed:
            await kling.download(Result(REF, ("https://cdn.invalid/file.mp4",)), tmp_path)
    assert not failed.value.retryable
    assert len(proxy.heads) == 2
    assert service.requests == []


@pytest.mark.parametrize("tunnel", [False, True])
async def test_https_to_a_port_without_tls(
    tunnel: bool,  # noqa: FBT001 - a column of the table
    emulate: Emulate,
    tmp_path: Path,
) -> None:
    """A real server that speaks plain http is named as such at once, also through a proxy."""
    emulator = await emulate()
    port = int(emulator.origin.rpartition(":")[2])
    async with HttpProxy({"api.invalid:443": port}) as proxy:
        base, given = (API, proxy.url) if tunnel else (f"https://127.0.0.1:{port}", None)
        async with KlingClient(KEY, base_url=base, proxy=given) as kling:
            for call in (kling.submit(FOX), kling.balance()):
                with pytest.raises(ConnectError, match="is the base URL's scheme http") as caught:
                    await call
                assert not caught.value.may_have_charged
            with pytest.raises(DownloadError, match=r"is the URL's scheme http\?"):
                await kling.download(Result(REF, (f"{base}/file.mp4",)), tmp_path)
    assert len(proxy.heads) == (3 if tunnel else 0)


async def test_a_proxy_url_with_the_wrong_scheme(serve_raw: ServeRaw) -> None:
    """An https URL of a proxy that speaks plain http is named as the cause."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    proxies = Proxies((await serve_raw(plain)).replace("http:", "https:"))
    async with transport(proxies=proxies) as door:
        with pytest.raises(ConnectError, match="is the proxy URL's scheme http") as caught:
            await door.send(SUBMIT, 30.0)
    assert not caught.value.retryable


@pytest.mark.parametrize("request_", [SUBMIT, BALANCE])
async def test_messages_about_plain_http(request_: Request, serve_raw: ServeRaw) -> None:
    """What is said of a failed connection without TLS does not mention ssl."""
    async with transport("http://127.0.0.1:9") as door:
        with pytest.raises(ConnectError, match=r"127\.0\.0\.1:9") as caught:
            await door.send(request_, 30.0)
    assert "ssl" not in str(caught.value).lower()


# -------------------------------------------------------------------------------------- ~/.netrc


@pytest.mark.parametrize("trust_env", [True, False])
async def test_netrc(
    trust_env: bool,  # noqa: FBT001 - a column of the table
    environment: pytest.MonkeyPatch,
    serve_app: ServeApp,
    tmp_path: Path,
) -> None:
    """An entry for every host changes nothing: the key is sent to the API, and none to files."""
    (tmp_path / "netrc").write_text("default login me password s3cret\n")
    (tmp_path / "netrc").chmod(0o600)
    environment.setenv("NETRC", str(tmp_path / "netrc"))
    service = Service()
    origin = await serve_app(service.answer)
    async with (
        aiohttp.ClientSession(trust_env=trust_env) as session,
        KlingClient(KEY, base_url=origin, session=session) as kling,
        KlingClient(KEY, base_url=origin) as other,
    ):
        for client in (kling, other):
            await client.submit(FOX)
            await client.balance()
            await client.download(Result(REF, (f"{origin}/file.mp4",)), tmp_path, overwrite=True)
    assert len(service.requests) == 6
    for one in service.requests:
        expected = None if one.path.startswith("/file") else f"Bearer {KEY}"
        assert one.headers.get("Authorization") == expected


async def test_netrc_and_the_proxy(
    environment: pytest.MonkeyPatch, service: Service, trusting: ssl.SSLContext, tmp_path: Path
) -> None:
    """The entry of a proxy's host is not sent to the proxy either."""
    (tmp_path / "netrc").write_text("default login me password s3cret\n")
    (tmp_path / "netrc").chmod(0o600)
    environment.setenv("NETRC", str(tmp_path / "netrc"))
    async with HttpProxy(service.hosts) as proxy:
        environment.setenv("HTTPS_PROXY", proxy.url)
        async with (
            aiohttp.ClientSession(connector=connector(ssl=trusting), trust_env=True) as session,
            transport(session=session) as door,
        ):
            await door.send(SUBMIT, 30.0)
    assert "Authorization" not in proxy.heads[0]
    assert service.requests[0].headers["Authorization"] == f"Bearer {KEY}"


async def test_middlewares_of_a_lent_session(
    environment: pytest.MonkeyPatch, service: Service, trusting: ssl.SSLContext
) -> None:
    """The middlewares that a lent session has are still run."""

    async def mark(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        request.headers["X-Marked"] = "1"
        return await handler(request)

    async with HttpProxy(service.hosts) as proxy:
        environment.setenv("HTTPS_PROXY", proxy.url)
        for options in ({"trust_env": True}, {"proxy": proxy.url}):
            async with (
                aiohttp.ClientSession(
                    connector=connector(ssl=trusting),
                    middlewares=(mark,),
                    **options,
                ) as session,
                transport(session=session) as door,
            ):
                await door.send(SUBMIT, 30.0)
    assert [one.headers["X-Marked"] for one in service.requests] == ["1", "1"]


# ------------------------------------------------------------------------- a wrong path or address


@pytest.mark.parametrize(
    "body",
    [
        {"code": 404, "message": "Not Found"},
        {"code": 404, "message": "404 page not found"},
        {"code": 404},
        {"detail": "Not Found"},
        {"statusCode": 404, "message": "Cannot POST /v2/api/v1/generateTask/kling-2-1"},
    ],
)
async def test_a_wrong_path(body: dict[str, object], serve_app: ServeApp) -> None:
    """An answer for a path that the server does not know points at the base URL."""

    async def unknown(_: web.Request) -> web.Response:
        return web.json_response(body, status=404)

    base = f"{await serve_app(unknown)}/v2"
    async with KlingClient(KEY, base_url=base, retry=ONCE) as kling:
        for call in (kling.submit(FOX), kling.status(REF), kling.balance()):
            with pytest.raises((APIError, ContractError), match="check the base URL") as caught:
                await call
            assert "no such model or task" not in str(caught.value)
            assert not caught.value.may_have_charged


async def test_an_unknown_task(emulate: Emulate) -> None:
    """The service's own words about a model or task are not taken for a wrong address."""
    emulator = await emulate()
    async with KlingClient(emulator.key, base_url=emulator.base_url, retry=ONCE) as kling:
        with pytest.raises(KlingError, match=r"Unknown task.*no such model or task"):
            await kling.status(REF)
