"""The proxies that requests are sent through.

The environment is read here and not by aiohttp: with ``trust_env``, aiohttp would also read
``~/.netrc`` and send its credentials to any host in that file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp import hdrs
from attrs import field, frozen
from yarl import URL

from kling_async._utils.shielding import run_in_thread
from kling_async._utils.urls import is_loopback
from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    from typing import Self

_SCHEMES = ("http", "https")


@frozen
class Proxies:
    """Which proxy requests are sent through.

    Attributes:
        proxy: The URL of an HTTP proxy for all requests, which may contain a user and password.
        proxy_auth: The user and password for it. They override those of the URL.
        trust_env: If ``proxy`` is None, use ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY``, or
            the system's settings on Windows and macOS, except for loopback addresses.

    Raises:
        ConfigurationError: ``proxy`` is not an http or https URL.
    """

    # Not in the repr: they may contain a password.
    proxy: str | URL | None = field(default=None, repr=False)
    proxy_auth: aiohttp.BasicAuth | None = field(default=None, repr=False)
    trust_env: bool = True

    def __attrs_post_init__(self) -> None:
        self._explicit()

    @classmethod
    def of_session(cls, session: aiohttp.ClientSession | None) -> Self:
        """Return the proxies of a session, or those of the environment if it is None."""
        if session is None:
            return cls()
        # aiohttp has no public names for these. If a version has other names, this must fail:
        # requests must not bypass the session's proxy.
        proxy, auth = session._default_proxy, session._default_proxy_auth  # noqa: SLF001
        return cls(proxy, auth, session.trust_env)

    def find(self, url: URL) -> URL | None:
        """Return the proxy for a URL, or None to connect directly.

        This may call the operating system and block.

        Raises:
            ConfigurationError: The environment's proxy is not an http or https URL.
        """
        if self.proxy is not None or not self.trust_env:
            return self._explicit()
        host = url.host or ""
        if is_loopback(host):
            return None
        proxy = getproxies().get(url.scheme)
        if proxy is None or proxy_bypass(f"{host}:{url.port}"):
            return None
        return _proxy_url(proxy if "://" in proxy else f"http://{proxy}", f"{url.scheme}_proxy")

    def _explicit(self) -> URL | None:
        if self.proxy is None:
            return None
        proxy, auth = _proxy_url(self.proxy, "proxy"), self.proxy_auth
        return proxy if auth is None else proxy.with_user(auth.login).with_password(auth.password)


def route(proxy: URL | None, *, authorization: str | None = None) -> aiohttp.ClientMiddlewareType:
    """Return a middleware that sends requests through a proxy, or directly if it is None.

    With aiohttp's own ``proxy`` and ``proxy_headers``, the session's headers would be sent to the
    proxy unencrypted, and errors would show the proxy's password.

    Args:
        proxy: The URL of the proxy, which may contain a user and password.
        authorization: Replaces the request's header, which may be from ``~/.netrc``.
    """
    place, credentials = None, {}
    if proxy is not None:
        place = proxy.with_user(None)
        if proxy.raw_user or proxy.raw_password:
            value = aiohttp.encode_basic_auth(proxy.user or "", proxy.password or "")
            credentials = {hdrs.PROXY_AUTHORIZATION: value}

    async def send(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if authorization is not None:
            request.headers[hdrs.AUTHORIZATION] = authorization
        request.update_proxy(place, None, credentials)
        if not request.is_ssl():  # otherwise they are for the CONNECT request only
            request.headers.update(credentials)
        return await handler(request)

    return send


async def through_environment_proxy(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Send a request through the proxy that the environment names for it: a middleware."""
    proxy = await run_in_thread(lambda: Proxies().find(request.url))
    return await route(proxy)(request, handler)


def _proxy_url(proxy: str | URL, source: str) -> URL:
    try:
        url = URL(proxy)
    except (TypeError, ValueError):
        url = URL()
    # A colon in the user's name cannot be distinguished from the one before the password.
    if url.scheme not in _SCHEMES or not url.host or ":" in (url.user or ""):
        # The message does not show the value, which may contain a password.
        raise ConfigurationError(
            f"{source} must be the URL of an HTTP proxy, http://host:port or"
            " http://user:password@host:port with special characters percent-encoded"
        )
    return url


def proxy_for_key(base: URL, proxy: URL | None, *, lent: bool) -> URL | None:
    """Return the proxy for requests that carry the API key.

    Args:
        base: The base URL.
        proxy: The proxy that was found for it.
        lent: The session is the caller's.

    Raises:
        ConfigurationError: The key would be sent to the proxy unencrypted.
    """
    if proxy is None or base.scheme == "https":
        return proxy
    if is_loopback(base.host or ""):
        if not lent:
            return None
        if is_loopback(proxy.host or ""):  # the settings of a lent session are kept
            return proxy
    raise ConfigurationError(
        f"the API key would be sent to a proxy unencrypted, with the base URL {base}: use https,"
        " or reach it without the proxy (NO_PROXY, or trust_env=False)"
    )
