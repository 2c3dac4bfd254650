from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from kling_async._network.proxies import Proxies, proxy_for_key, through_environment_proxy
from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    from tests.conftest import ServeApp

PLAIN = URL("http://cdn.example/x")
SECURE = URL("https://cdn.example/x")
HERE = URL("http://127.0.0.1:8080/x")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Forget the proxies of the machine that the tests run on."""
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "request_method"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def test_no_proxy_is_set() -> None:
    """Without any setting, connections are direct."""
    assert Proxies().find(SECURE) is None


@pytest.mark.parametrize("upper", [True, False])
def test_the_environment(environment: pytest.MonkeyPatch, upper: bool) -> None:  # noqa: FBT001
    """Each scheme has its proxy, in either spelling; a proxy needs no scheme of its own."""
    for name, value in (("https_proxy", "http://u:p@one:3128"), ("http_proxy", "two:3128")):
        environment.setenv(name.upper() if upper else name, value)
    assert Proxies().find(SECURE) == URL("http://u:p@one:3128")
    assert Proxies().find(PLAIN) == URL("http://two:3128")
    assert Proxies().find(HERE) is None
    assert Proxies(trust_env=False).find(PLAIN) is None


@pytest.mark.parametrize(
    ("value", "direct"),
    [("cdn.example", True), (".example", True), ("*", True), ("cdn.example:443", True),
     ("cdn.example:444", False), ("other.example", False), ("", False)],
)  # fmt: skip
def test_hosts_without_proxy(
    environment: pytest.MonkeyPatch,
    value: str,
    direct: bool,  # noqa: FBT001 - a parameter
) -> None:
    """NO_PROXY names hosts, domains, and ports."""
    environment.setenv("HTTPS_PROXY", "http://one:3128")
    environment.setenv("NO_PROXY", value)
    assert (Proxies().find(SECURE) is None) is direct


def test_a_proxy_that_is_given(environment: pytest.MonkeyPatch) -> None:
    """A proxy that is given comes before the environment, and is used for loopback, too."""
    environment.setenv("HTTPS_PROXY", "http://one:3128")
    given = Proxies("http://two:3128")
    assert given.find(SECURE) == given.find(HERE) == URL("http://two:3128")


@pytest.mark.filterwarnings("ignore:.*BasicAuth:DeprecationWarning")
def test_credentials() -> None:
    """User and password may be given beside the URL, and come before its own, as in aiohttp."""
    auth = aiohttp.BasicAuth("me@x", "p:w")
    assert Proxies("http://two:3128", auth).find(PLAIN) == URL("http://me%40x:p%3Aw@two:3128")
    assert Proxies("http://u:p@two:3128", auth).find(PLAIN) == URL("http://me%40x:p%3Aw@two:3128")
    assert Proxies("http://u:p@two:3128").find(PLAIN) == URL("http://u:p@two:3128")


@pytest.mark.filterwarnings("ignore:.*BasicAuth:DeprecationWarning")
def test_credentials_are_not_shown() -> None:
    """Neither the repr nor an error shows the password of a proxy."""
    auth = aiohttp.BasicAuth("me", "secret-1")
    assert "secret" not in repr(Proxies("http://u:secret-2@two:3128", auth))
    with pytest.raises(ConfigurationError) as caught:
        Proxies("socks5://u:secret-2@two:3128")
    assert "secret" not in str(caught.value)


async def test_those_of_a_session() -> None:
    """A lent session's proxy and trust_env are used; without a session, the environment."""
    async with aiohttp.ClientSession(proxy="http://two:3128", trust_env=True) as session:
        assert Proxies.of_session(session) == Proxies("http://two:3128")
    async with aiohttp.ClientSession() as session:
        assert Proxies.of_session(session) == Proxies(trust_env=False)
    assert Proxies.of_session(None) == Proxies()


@pytest.mark.parametrize(
    "proxy", ["", "two:3128", "socks5://two", "http://", "http://[", "http://a%3Ab:c@two", 3]
)
def test_what_is_no_proxy(environment: pytest.MonkeyPatch, proxy: str) -> None:
    """What is no URL of an HTTP proxy is refused: at once, or when the environment is read."""
    with pytest.raises(ConfigurationError, match="HTTP proxy"):
        Proxies(proxy)
    if "://" in str(proxy):
        environment.setenv("HTTPS_PROXY", proxy)
        with pytest.raises(ConfigurationError, match="https_proxy must be"):
            Proxies().find(SECURE)


@pytest.mark.parametrize(
    ("base", "proxy", "lent", "used"),
    [
        ("https://api.example.com", "http://two:3128", False, True),
        ("http://127.0.0.1:8000", "http://two:3128", False, False),
        ("http://127.0.0.1:8000", "http://127.0.0.1:3128", True, True),
    ],
)
def test_proxies_for_the_key(base: str, proxy: str, lent: bool, used: bool) -> None:  # noqa: FBT001
    """The key is sent through a proxy with https, or from a given session on this machine."""
    found = proxy_for_key(URL(base), URL(proxy), lent=lent)
    assert found == (URL(proxy) if used else None)


@pytest.mark.parametrize(
    ("base", "lent"), [("http://example.com", False), ("http://127.0.0.1", True)]
)
def test_the_key_unencrypted(base: str, lent: bool) -> None:  # noqa: FBT001
    """The key is not sent to a proxy on another machine unencrypted."""
    with pytest.raises(ConfigurationError, match="unencrypted"):
        proxy_for_key(URL(base), URL("http://two:3128"), lent=lent)
    assert proxy_for_key(URL(base), None, lent=lent) is None


async def test_a_middleware_finds_the_proxy_of_the_environment(
    environment: pytest.MonkeyPatch, serve_app: ServeApp
) -> None:
    """A request for another machine is sent to the proxy; one for this machine is not."""
    seen = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(str(request.url))
        return web.Response()

    origin = await serve_app(handler)
    environment.setenv("HTTP_PROXY", origin)
    async with aiohttp.ClientSession(middlewares=(through_environment_proxy,)) as session:
        for url in ("http://kling.invalid/a", f"{origin}/b"):
            async with session.get(url) as response:
                assert response.status == 200
    assert [url.rpartition("/")[2] for url in seen] == ["a", "b"]
