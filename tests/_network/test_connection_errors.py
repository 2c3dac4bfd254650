from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from yarl import URL

from kling_async._network.connection_errors import (
    advice,
    describe,
    not_sent,
    request_error,
    too_large_error,
)
from kling_async.errors import AnswerLostError, ConnectError
from kling_async.inputs.kling_2_1 import MasterTextToVideo
from kling_async.protocol.requests import Response, build_balance, build_submit

if TYPE_CHECKING:
    from kling_async.protocol.requests import Request

KEY = "sk-4f9aQ7xw2LmZ8vTb6RkY1cNd3HgJ5sPu"
SUBMIT = build_submit(MasterTextToVideo("a fox"))
BALANCE = build_balance()


def connection_key(tls: ssl.SSLContext | bool = True) -> ConnectionKey:  # noqa: FBT001, FBT002
    """Return the key of a connection to example.com."""
    return ConnectionKey("example.com", 443, True, tls, None, None, None)  # noqa: FBT003


@pytest.mark.parametrize(
    "text",
    [
        "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)",
        "[SSL] record layer failure (_ssl.c:1000)",
        "[SSL: RECORD_LAYER_FAILURE] record layer failure (_ssl.c:1028)",
    ],
)
def test_words_of_openssl(text: str) -> None:
    """However a version of OpenSSL puts it, a port without TLS is recognised."""
    error = aiohttp.ClientConnectorSSLError(connection_key(), ssl.SSLError(1, text))
    assert advice(error, None) == "the port does not use TLS: is the URL's scheme http?"
    assert "is the proxy URL's scheme http?" in advice(error, URL("https://u:p@example.com:443"))


def test_what_may_pass() -> None:
    """Other failures of TLS, and of connections, may pass: there is nothing to do."""
    reset = ssl.SSLError(1, "[SSL: TLSV1_ALERT_INTERNAL_ERROR] internal error")
    for error in (
        aiohttp.ClientConnectorSSLError(connection_key(), reset),
        aiohttp.ClientConnectorError(connection_key(), OSError(111, "refused")),
        TimeoutError(),
    ):
        assert advice(error, None) == ""


def test_descriptions() -> None:
    """A description has the class and the text, without aiohttp's word on the use of TLS."""
    refused = OSError(111, "Connection refused")
    for key in (connection_key(), connection_key(ssl.create_default_context())):
        assert describe(aiohttp.ClientConnectorError(key, refused)) == (
            "ClientConnectorError: Cannot connect to host example.com:443 [Connection refused]"
        )
    assert describe(TimeoutError()) == "TimeoutError"
    assert describe(ValueError("no")) == "ValueError: no"


def test_what_proves_that_nothing_was_sent() -> None:
    """Only the lack of a connection proves it; a timeout or a broken connection does not."""
    assert not_sent(aiohttp.ConnectionTimeoutError())
    assert not_sent(aiohttp.ClientConnectorError(connection_key(), OSError()))
    assert not not_sent(TimeoutError())
    assert not not_sent(aiohttp.ServerDisconnectedError())


@pytest.mark.parametrize(("request_", "charged"), [(SUBMIT, True), (BALANCE, False)])
def test_lost_answers(request_: Request, charged: bool) -> None:  # noqa: FBT001
    """Only a submit may have been charged, and is not repeated; the key is not shown."""
    cause = OSError(f"reset with {KEY}")
    error = request_error(request_, cause, unsent=False, proxy=None, key=KEY)
    assert isinstance(error, AnswerLostError)
    assert (error.may_have_charged, error.retryable) == (charged, not charged)
    assert str(error).endswith("OSError: reset with [API key]")


def test_unsent_requests() -> None:
    """A request that was not sent is repeated, unless there is advice about the failure."""
    error = request_error(SUBMIT, TimeoutError(), unsent=True, proxy=None, key=KEY)
    assert isinstance(error, ConnectError)
    assert error.retryable
    no_tls = aiohttp.ClientConnectorSSLError(
        connection_key(), ssl.SSLError(1, "[SSL] record layer failure (_ssl.c:1000)")
    )
    error = request_error(SUBMIT, no_tls, unsent=True, proxy=None, key=KEY)
    assert "is the base URL's scheme http?" in str(error)
    assert not error.retryable


@pytest.mark.parametrize(("request_", "charged"), [(SUBMIT, True), (BALANCE, False)])
def test_too_large(request_: Request, charged: bool) -> None:  # noqa: FBT001
    """A response that is too large is an error with its beginning."""
    error = too_large_error(request_, Response(200, b"x" * 500), 400)
    assert str(error) == f"{request_.kind} answered with more than 400 bytes"
    assert (error.may_have_charged, error.retryable) == (charged, not charged)
    assert error.body == "x" * 200
