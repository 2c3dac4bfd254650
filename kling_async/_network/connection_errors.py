"""What aiohttp's errors about a connection prove, and what to do about them: pure functions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from yarl import URL

# What proves of a request without a body that it was never sent: there was no connection.
_NOT_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerFingerprintMismatch,
    aiohttp.ClientHttpProxyError,
    aiohttp.InvalidURL,
)

_CERTIFICATES = (aiohttp.ClientConnectorCertificateError, aiohttp.ServerFingerprintMismatch)

# How versions of OpenSSL say that what came is no TLS.
_NO_TLS = re.compile("WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|record layer failure")

# aiohttp says "ssl:default" of every connection, also of those without TLS.
_SSL = re.compile(r" ssl:.*? \[")

PROXY_AUTHENTICATION = 407
_FORBIDDEN = 403

PROXY_REFUSES_CREDENTIALS = (
    "the proxy demands a user and password, or refuses those that it was given: set them in its"
    " URL, http://user:password@host:port, with special characters percent-encoded"
)


def not_sent(error: BaseException) -> bool:
    """Whether an error proves by itself that there was no connection to send anything on."""
    return isinstance(error, _NOT_SENT)


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
    """Return what to do about a failure that waiting does not help; empty for any other.

    Args:
        error: What the connection failed with.
        proxy: What it was to go through.
        address: What to call the address that was asked for.
    """
    if isinstance(error, aiohttp.ClientHttpProxyError):
        if error.status == PROXY_AUTHENTICATION:
            return PROXY_REFUSES_CREDENTIALS
        if error.status == _FORBIDDEN:
            return "the proxy does not allow this host: have it allowed, or name it in NO_PROXY"
        return ""
    if isinstance(error, _CERTIFICATES):
        return (
            "the certificate cannot be verified: set SSL_CERT_FILE to the file of your own"
            " certificate authority, or lend a session with"
            " connector=kling_async.transport.connector(ssl=…)"
        )
    if isinstance(error, aiohttp.ClientConnectorSSLError) and _NO_TLS.search(str(error)):
        at_proxy = proxy is not None and (error.host, error.port) == (proxy.raw_host, proxy.port)
        whose = "proxy URL" if at_proxy else address
        return f"the port does not speak TLS: is the {whose}'s scheme http?"
    return ""
