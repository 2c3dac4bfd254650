"""The addresses of this machine."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

# The addresses that mean all addresses of this machine: their family, an address elsewhere
# (reserved for documentation), and the loopback address.
_WILDCARDS = {
    "0.0.0.0": (socket.AF_INET, "192.0.2.1", "127.0.0.1"),  # noqa: S104 - users may choose it
    "::": (socket.AF_INET6, "2001:db8::1", "::1"),
}


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
