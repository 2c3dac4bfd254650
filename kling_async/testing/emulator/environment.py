"""The environment variables with which a client uses an emulator, and the address in them."""

from __future__ import annotations

import shlex
import socket
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from kling_async._utils.urls import is_unencrypted

if TYPE_CHECKING:
    from collections.abc import Mapping

USUAL_FIRST_POLL: Final = 60.0
"""Seconds. A client polls then without a setting, since the quickest tasks take as long."""

# The addresses that mean all addresses of this machine: their family, an address elsewhere
# (reserved for documentation), and the loopback address.
_WILDCARDS = {
    "0.0.0.0": (socket.AF_INET, "192.0.2.1", "127.0.0.1"),  # noqa: S104 - users may choose it
    "::": (socket.AF_INET6, "2001:db8::1", "::1"),
}


def client_environment(
    origin: str, key: str, first_poll: float, *, image_store: str | None = None
) -> dict[str, str]:
    """Return the variables, by name.

    Args:
        origin: The emulator's address.
        key: A valid key.
        first_poll: Seconds that the quickest tasks take.
        image_store: The path of its image store, if it has one.
    """
    variables = {"APIXO_BASE_URL": origin, "APIXO_API_KEY": key}
    if is_unencrypted(origin):
        variables["APIXO_ALLOW_HTTP"] = "1"
    if image_store is not None:
        variables["KLING_IMAGE_STORE"] = f"{origin}{image_store}"
    if first_poll != USUAL_FIRST_POLL:
        variables["KLING_FIRST_POLL"] = f"{first_poll:g}"
    return variables


def format_exports(variables: Mapping[str, str]) -> str:
    """Return shell commands that set environment variables, a line each."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())


def reachable_origin(origin: str) -> str:
    """Return an origin with an address of this machine in place of a wildcard."""
    parts = urlsplit(origin)
    host = parts.hostname or ""
    if host in _WILDCARDS:
        host = _address_towards(*_WILDCARDS[host])
    return f"http://[{host}]:{parts.port}" if ":" in host else f"http://{host}:{parts.port}"


def _address_towards(family: int, elsewhere: str, loopback: str) -> str:
    """Return this machine's address on the route to another, or the loopback address."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))  # sends nothing, but selects the route
            return str(probe.getsockname()[0])
    except OSError:  # there is no network
        return loopback
