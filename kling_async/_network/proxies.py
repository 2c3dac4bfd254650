"""Which proxy a request goes through: one that was set, one of the environment, or none.

The environment is read here and not by aiohttp: with ``trust_env`` that would also read
``~/.netrc``, and send what it finds there to any host that the file has an entry for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp import hdrs
from attrs import field, frozen
from yarl import URL

from kling_async._utils.urls import is_loopback
from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    from typing import Self

_SCHEMES = ("http", "https")


@frozen
class Proxies:
    """How requests leave this machine.

    Attributes:
        proxy: The URL of an HTTP proxy for all requests, which may hold a user and password.
        proxy_auth: User and password for it; they come before those of the URL.
        trust_env: Without ``proxy``, use ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY``, or
            the system's settings on Windows and macOS. Loopback addresses are always reached
            directly then.

    Raises:
        ConfigurationError: The proxy's URL is not an http or https URL.
    """

    # Not in the repr: they may hold a password.
    proxy: str | URL | None = field(default=None, repr=False)
    proxy_auth: aiohttp.BasicAuth | None = field(default=None, repr=False)
    trust_env: bool = True

    def __attrs_post_init__(self) -> None:
        self._given()

    @classmethod
    def of(cls, session: aiohttp.ClientSession | None) -> Self:
        """Return those of a session that was lent; without one, those of the environment."""
        if session is None:
            return cls()
        # aiohttp has no public names for them. A version without these has them elsewhere, and
        # then requests must not leave by another way than the session's: so no default.
        proxy, auth = session._default_proxy, session._default_proxy_auth  # noqa: SLF001
        return cls(proxy, auth, session.trust_env)

    def find(self, url: URL) -> URL | None:
        """Return the proxy for a URL; None connects directly.

        It may ask the operating system: call it in a thread, or before anything runs.

        Raises:
            ConfigurationError: The proxy that the environment names has no http or https URL.
        """
        if self.proxy is not None or not self.trust_env:
            return self._given()
        host = url.host or ""
        if is_loopback(host):
            return None
        proxy = getproxies().get(url.scheme)
        if proxy is None or proxy_bypass(f"{host}:{url.port}"):
            return None
        return _checked(proxy if "://" in proxy else f"http://{proxy}", f"{url.scheme}_proxy")

    def _given(self) -> URL | None:
        if self.proxy is None:
            return None
        proxy = _checked(self.proxy, "proxy")
        auth = self.proxy_auth
        return proxy if auth is None else proxy.with_user(auth.login).with_password(auth.password)


def route(proxy: URL | None, *, authorization: str | None = None) -> aiohttp.ClientMiddlewareType:
    """Return a middleware that sends requests through a proxy, or directly, whatever was set.

    With the arguments ``proxy`` and ``proxy_headers`` of a request, aiohttp would send the
    session's own headers to the proxy too, unencrypted, and quote the proxy's password in errors.

    Args:
        proxy: Its URL, which may hold a user and password.
        authorization: Replaces the request's header, which may be one of ``~/.netrc``.
    """
    place = None if proxy is None else proxy.with_user(None)
    credentials = {} if proxy is None else _credentials(proxy)

    async def send(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if authorization is not None:
            request.headers[hdrs.AUTHORIZATION] = authorization
        request.update_proxy(place, None, credentials)
        if not request.is_ssl():  # else they are for the CONNECT request alone
            request.headers.update(credentials)
        return await handler(request)

    return send


def _credentials(proxy: URL) -> dict[str, str]:
    if not proxy.raw_user and not proxy.raw_password:
        return {}
    value = aiohttp.encode_basic_auth(proxy.user or "", proxy.password or "")
    return {hdrs.PROXY_AUTHORIZATION: value}


def _checked(proxy: str | URL, source: str) -> URL:
    try:
        url = URL(proxy)
    except (TypeError, ValueError):
        url = URL()
    # A user's name with a colon cannot be distinguished from the password that follows it.
    if url.scheme not in _SCHEMES or not url.host or ":" in (url.user or ""):
        # Not the value: it may hold a password.
        raise ConfigurationError(
            f"{source} must be the URL of an HTTP proxy, http://host:port or"
            " http://user:password@host:port with special characters percent-encoded"
        )
    return url
