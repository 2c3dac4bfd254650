"""Where a file is: URLs that are sent as they were given, and hosts that no service may name.

A result URL is signed, often over its very bytes. So it is opaque: only what could not be sent at
all is quoted, and a redirect is resolved as RFC 3986 says without any other change.

A result URL, and every redirect, is also what another party wants this machine to connect to. The
addresses of this machine and of the networks that it is in are not for others to name: an answer
from there might be saved, and shown, as a video.
"""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import quote_from_bytes

from attrs import frozen
from yarl import URL

from kling_async._utils.urls import is_loopback

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# What browsers quote, too. Other characters that RFC 3986 does not allow are sent as they are.
_UNSENDABLE = re.compile(r'[^!-~]|["<>]')
_PARTS = re.compile(r"(https?)://([^/?#\s\\]+)((?:[/?][^#]*)?)(?:#.*)?", re.IGNORECASE | re.DOTALL)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")

# What the C library reads as an address, too: 127.1, 0x7f000001, 2130706433.
_NUMERIC = re.compile(r"[0-9a-fx.]+", re.IGNORECASE)

# Reserved for benchmarks, and used by local proxies that give every name an address of its own.
_MADE_UP = ip_network("198.18.0.0/15")
_NAT64 = ip_network("64:ff9b::/96")
_IPV4_COMPATIBLE = ip_network("::/96")


class InternalHostError(ValueError):
    """A URL leads into this machine, or into a private network."""

    def __init__(self, host: str) -> None:
        super().__init__(f"{host} is an internal address, which allow_hosts does not name")


def web_url(text: str) -> URL:
    """Return a URL that is sent as it was given, but for what cannot be sent.

    Raises:
        ValueError: It is not an absolute http or https URL, or has control characters.
    """
    if _CONTROL.search(text):
        raise ValueError("a URL has no control characters")
    match = _PARTS.fullmatch(text.strip(" "))
    if match is None:
        raise ValueError("not an absolute http or https URL")
    scheme, authority, rest = match.groups()
    place = URL(f"{scheme}://{authority}")  # checks the port, and encodes names in other scripts
    rest = _UNSENDABLE.sub(
        lambda one: quote_from_bytes(one[0].encode("utf-8", "surrogateescape")), rest
    )
    return URL(f"{place.scheme}://{place.raw_authority}{rest}", encoded=True)


def follow(url: URL, location: str) -> URL:
    """Resolve the ``Location`` of a redirect, by RFC 3986, section 5.2.

    Raises:
        ValueError: It does not lead to an http or https URL.
    """
    if _SCHEME.match(location):
        return web_url(location)
    if location.startswith("//"):
        return web_url(f"{url.scheme}:{location}")
    path, mark, query = location.partition("#")[0].partition("?")
    if not path:
        path = url.raw_path
        query = query if mark else url.raw_query_string
    elif not path.startswith("/"):
        path = f"{url.raw_path.rpartition('/')[0]}/{path}"
    place = f"{url.scheme}://{url.raw_authority}{_without_dots(path)}"
    return web_url(f"{place}?{query}" if query else place)


def _without_dots(path: str) -> str:
    """Remove the segments ``.`` and ``..`` from an absolute path (section 5.2.4)."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in {".", ".."}:
        kept.append("")
    return "/" + "/".join(kept)


def is_internal(host: str) -> bool:
    """Whether a host is written as an address, or a name, of this machine or a private network.

    Other names have to be resolved first; then ask about each of their addresses.
    """
    host = host.partition("%")[0].rstrip(".").lower()  # without the zone of fe80::1%eth0
    try:
        return _is_internal(ip_address(host))
    except ValueError:
        pass
    if _NUMERIC.fullmatch(host):
        try:
            return _is_internal(IPv4Address(socket.inet_aton(host)))
        except OSError:
            pass
    return host == "localhost" or host.endswith(".localhost")


def _is_internal(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and (address in _NAT64 or address in _IPV4_COMPATIBLE):
            inner = IPv4Address(address.packed[-4:])
        if inner is not None:
            return _is_internal(inner)
    return (not address.is_global or address.is_multicast) and address not in _MADE_UP


@frozen
class Guard:
    """Which hosts files may be fetched from.

    Attributes:
        open: All of them, because the service itself is on this machine: an emulator.
        loopback: Loopback addresses, because the caller's own URLs are there.
        allowed: Hosts, in lower case, that may be internal.
    """

    open: bool = False
    loopback: bool = False
    allowed: frozenset[str] = frozenset()

    def permits_internal(self, host: str) -> bool:
        """Whether this host may be one of this machine, or of a private network."""
        host = host.lower()
        return self.open or host in self.allowed or (self.loopback and is_loopback(host))

    def for_own(self, urls: tuple[str, ...]) -> Guard:
        """Return the guard of files whose URLs were given by the caller, not by a service.

        Their own hosts are as good as the caller. If they are on this machine, they may lead to
        other places on it.
        """
        hosts: set[str] = set()
        for url in urls:
            try:
                hosts.add(web_url(url).raw_host or "")
            except ValueError:  # an error of its own, when it is fetched
                continue
        return Guard(self.open, any(map(is_loopback, hosts)), self.allowed | hosts)
