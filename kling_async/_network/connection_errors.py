"""The meaning of aiohttp's connection errors: pure functions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from yarl import URL

# Errors that prove that a request without a body was not sent.
_NO_CONNECTION = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerFingerprintMismatch,
    aiohttp.ClientHttpProxyError,
    aiohttp.InvalidURL,
)

_CERTIFICATES = (aiohttp.ClientConnectorCertificateError, aiohttp.ServerFingerprintMismatch)

# The messages of OpenSSL versions about data that is not TLS.
_NO_TLS = re.compile("WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|record layer failure")

# aiohttp shows "ssl:default" for every connection, even without TLS.
_SSL = re.compile(r" ssl:.*? \[")

PROXY_AUTHENTICATION = 407
_FORBIDDEN = 403

PROXY_REFUSES_CREDENTIALS = (
    "the proxy requires a user and password, or rejects those that were sent: set them in its"
    " URL, http://user:password@host:port, with special characters percent-encoded"
)


def not_sent(error: BaseException) -> bool:
    """Return whether an error proves that there was no connection, so that nothing was sent."""
    return isinstance(error, _NO_CONNECTION)


def describe(error: BaseException) -> str:
    """Return an error's class and text."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        proxy = error.request_info.real_url.with_user(None)
        said = f"the proxy {proxy} answered {error.status} {error.message!r:.80}"
    elif isinstance(error, aiohttp.ClientConnectorError):
        said = _SSL.sub(" [", str(error), count=1)
    else:
        said = str(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def advice(error: BaseException, proxy: URL | None, *, address: str = "URL") -> str:
    """Return what to do about an error that will not go away by itself; else an empty text.

    Args:
        error: The error of the connection.
        proxy: The proxy that was used.
        address: What the message calls the URL.
    """
    if isinstance(error, aiohttp.ClientHttpProxyError):
        if error.status == PROXY_AUTHENTICATION:
            return PROXY_REFUSES_CREDENTIALS
        if error.status == _FORBIDDEN:
            return "the proxy does not allow this host: allow it there, or add it to NO_PROXY"
        return ""
    if isinstance(error, _CERTIFICATES):
        return (
            "the certificate cannot be verified: set SSL_CERT_FILE to the file of your own"
            " certificate authority, or pass a session with"
            " connector=kling_async.transport.connector(ssl=…)"
        )
    if isinstance(error, aiohttp.ClientConnectorSSLError) and _NO_TLS.search(str(error)):
        at_proxy = proxy is not None and (error.host, error.port) == (proxy.raw_host, proxy.port)
        whose = "proxy URL" if at_proxy else address
        return f"the port does not use TLS: is the {whose}'s scheme http?"
    return ""
