from __future__ import annotations

import re
import socket

import pytest

from kling_async.testing.emulator.environment import (
    _address_towards,
    client_environment,
    format_exports,
    reachable_origin,
)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://127.0.0.1:5", False),
        ("http://[::1]:5", False),
        ("http://emulator:8080", True),
        ("http://10.0.0.5:8080", True),
    ],
)
def test_plain_http_is_allowed_where_it_must_be(origin: str, allowed: bool) -> None:  # noqa: FBT001
    """The switch is named with addresses that a client refuses without it, and only there."""
    variables = client_environment(origin, "k", 60.0)
    assert variables["APIXO_BASE_URL"] == origin
    assert variables.get("APIXO_ALLOW_HTTP") == ("1" if allowed else None)


def test_the_first_poll_follows_the_speed() -> None:
    """The first poll is named if the tasks do not take the documented time."""
    assert "KLING_FIRST_POLL" not in client_environment("http://127.0.0.1:5", "k", 60.0)
    variables = client_environment("http://127.0.0.1:5", "k", 0.06)
    assert variables["KLING_FIRST_POLL"] == "0.06"


def test_exports_are_quoted() -> None:
    """The shell commands are quoted, a line each."""
    assert format_exports({"A": "1", "B": "the $key"}) == "export A=1\nexport B='the $key'"


@pytest.mark.parametrize("origin", ["http://127.0.0.1:5", "http://[::1]:5", "http://emulator:8080"])
def test_addresses_of_one_interface(origin: str) -> None:
    """An origin without a wildcard stays as it is."""
    assert reachable_origin(origin) == origin


def test_wildcards() -> None:
    """A wildcard is replaced by an address; one of version 6 is put in brackets."""
    assert re.fullmatch(r"http://[0-9.]+:5", reachable_origin("http://0.0.0.0:5"))
    assert re.fullmatch(r"http://\[[0-9a-f:]+\]:5", reachable_origin("http://[::]:5"))


def test_no_network() -> None:
    """Without a route to the other address, it is the loopback address."""
    nowhere = (socket.AF_INET, "255.255.255.255", "127.0.0.1")
    assert _address_towards(*nowhere) == "127.0.0.1"
