"""Which proxy a request goes through: one that was set, one of the environment, or none.

The environment is read here and not by aiohttp: with ``trust_env`` that would also read
``~/.netrc``, and send what it finds there to any host that the file has an entry for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.request import getproxies, proxy_bypass

import aiohttp
from attrs import frozen
from yarl import URL

from kling_async.errors import ConfigurationError
from kling_async.protocol.requests import is_loopback

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Proxies"]

_SCHEMES = ("http", "https")


@frozen
class Proxies:
    """How requests leave this machine.

    Attributes:
        proxy: The URL of an HTTP proxy for all requests, which may hold a user and password.
        proxy_auth: User and password for it; those of the URL come first.
        trust_env: Without ``proxy``, heed ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY``, or
            the system's settings on Windows and macOS. Loopback addresses are always reached
            directly then.

    Raises:
        ConfigurationError: The proxy's URL is not an http or https URL.
    """

    proxy: str | URL | None = None
    proxy_auth: aiohttp.BasicAuth | None = None
    trust_env: bool = True

    def __attrs_post_init__(self) -> None:
        self._given()

    @classmethod
    def of(cls, session: aiohttp.ClientSession) -> Self:
        """Return those of a session that was lent."""
        # aiohttp has no public names for them. A version without these has them elsewhere, and
        # then requests must not leave by another way than the session's: so no default.
        proxy, auth = session._default_proxy, session._default_proxy_auth  # noqa: SLF001
        return cls(proxy, auth, session.trust_env)

    def find(self, url: URL) -> URL | None:
        """Return the proxy for a URL; None connects directly.

        It may ask the operating system: call it in a thread.

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
        if auth is None or proxy.user is not None:
            return proxy
        return proxy.with_user(auth.login).with_password(auth.password)


def _checked(proxy: str | URL, source: str) -> URL:
    try:
        url = URL(proxy)
    except (TypeError, ValueError):
        url = URL()
    if url.scheme not in _SCHEMES or not url.host:
        # Not the value: it may hold a password.
        raise ConfigurationError(f"{source} must be the URL of an HTTP proxy: http://host:port")
    return url
