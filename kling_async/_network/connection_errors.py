"""Our errors for those of aiohttp's connections: pure functions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import aiohttp

from kling_async._utils.text import format_size, redact
from kling_async.errors import AnswerLostError, ConnectError, ContractError
from kling_async.protocol.verdicts import Verdict

if TYPE_CHECKING:
    from yarl import URL

    from kling_async.protocol.requests import Request, Response

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


def request_error(
    request: Request, error: BaseException, *, unsent: bool, proxy: URL | None, key: str
) -> ConnectError | AnswerLostError:
    """Return our error for a request that failed.

    Args:
        request: The request.
        error: The error of the connection.
        unsent: It is certain that nothing was sent.
        proxy: The proxy that was used.
        key: The API key, which is not shown.
    """
    reason = redact(describe(error), key)
    if unsent:
        hint = advice(error, proxy, address="base URL")
        return ConnectError(
            f"no connection, nothing was sent: {reason}{hint and f'; {hint}'}",
            retryable=not hint,
            ref=request.ref,
        )
    submitting = request.kind == "submit"
    charged = "a task may have been started and charged" if submitting else "it may be repeated"
    return AnswerLostError(
        f"the answer to the {request.kind} was lost ({charged}): {reason}",
        may_have_charged=submitting,
        retryable=not submitting,
        ref=request.ref,
        verdict=Verdict.UNKNOWN,
    )


def too_large_error(request: Request, start: Response, limit: int) -> ContractError:
    """Return the error for a response of which more than ``limit`` bytes were read."""
    submitting = request.kind == "submit"
    return ContractError(
        f"{request.kind} answered with more than {format_size(limit)}",
        status=start.status,
        body=start.excerpt,
        may_have_charged=submitting,
        retryable=not submitting,
        ref=request.ref,
        verdict=Verdict.UNKNOWN,
    )
