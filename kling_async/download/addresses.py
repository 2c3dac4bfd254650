"""URLs of files, which are sent unchanged, and the check for internal hosts.

A result URL is signed, often byte by byte. So it is opaque: only characters that could not be sent
are quoted, and redirects are resolved as RFC 3986 defines, without normalization.

The service and every redirect choose a host that this machine connects to. Addresses of this
machine and of private networks are refused: a response from there might be saved, and shown, as a
video.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import quote_from_bytes

from attrs import frozen
from yarl import URL

from kling_async._utils.urls import is_loopback
from kling_async.errors import ConfigurationError

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# What browsers quote, too. Other characters that RFC 3986 does not allow are sent as they are.
_UNSENDABLE = re.compile(r'[^!-~]|["<>]')
_PARTS = re.compile(r"(https?)://([^/?#\s\\]+)((?:[/?][^#]*)?)(?:#.*)?", re.IGNORECASE | re.DOTALL)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")

# The C library accepts these as addresses, too: 127.1, 0x7f000001, 2130706433.
_NUMERIC = re.compile(r"[0-9a-fx.]+", re.IGNORECASE)

# Reserved for benchmarks, and used by local proxies that give every name an address of its own.
_BENCHMARK = ip_network("198.18.0.0/15")
# IPv6 addresses that contain an IPv4 address.
_NAT64 = ip_network("64:ff9b::/96")
_IPV4_COMPATIBLE = ip_network("::/96")


class InternalHostError(ValueError):
    """A URL leads to this machine or into a private network."""

    def __init__(self, host: str) -> None:
        super().__init__(f"{host} is an internal address, which allow_hosts does not name")


def parse_url(text: str) -> URL:
    """Parse an absolute http or https URL so that it is sent unchanged, else `ValueError`."""
    if _CONTROL.search(text):
        raise ValueError("a URL has no control characters")
    match = _PARTS.fullmatch(text.strip(" "))
    if match is None:
        raise ValueError("not an absolute http or https URL")
    scheme, authority, rest = match.groups()
    origin = URL(f"{scheme}://{authority}")  # checks the port, and encodes international names
    rest = _UNSENDABLE.sub(
        lambda found: quote_from_bytes(found[0].encode("utf-8", "surrogateescape")), rest
    )
    return URL(f"{origin.scheme}://{origin.raw_authority}{rest}", encoded=True)


def resolve_redirect(url: URL, location: str) -> URL:
    """Resolve the ``Location`` of a redirect (RFC 3986, section 5.2), else `ValueError`."""
    # Not with urljoin: that merges consecutive slashes.
    if _SCHEME.match(location):
        return parse_url(location)
    if location.startswith("//"):
        return parse_url(f"{url.scheme}:{location}")
    path, mark, query = location.partition("#")[0].partition("?")
    if not path:
        path = url.raw_path
        query = query if mark else url.raw_query_string
    elif not path.startswith("/"):
        path = f"{url.raw_path.rpartition('/')[0]}/{path}"
    target = f"{url.scheme}://{url.raw_authority}{_remove_dot_segments(path)}"
    return parse_url(f"{target}?{query}" if query else target)


def _remove_dot_segments(path: str) -> str:
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
    """Return whether a host is an address, or name, of this machine or a private network.

    Other names have to be resolved; then check each of their addresses.
    """
    host = host.partition("%")[0].rstrip(".").lower()  # without the zone of fe80::1%eth0
    try:
        return _is_internal_address(ip_address(host))
    except ValueError:
        pass
    if _NUMERIC.fullmatch(host):
        try:
            return _is_internal_address(IPv4Address(socket.inet_aton(host)))
        except OSError:
            pass
    return host == "localhost" or host.endswith(".localhost")


def _is_internal_address(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and (address in _NAT64 or address in _IPV4_COMPATIBLE):
            inner = IPv4Address(address.packed[-4:])
        if inner is not None:
            return _is_internal_address(inner)
    return (not address.is_global or address.is_multicast) and address not in _BENCHMARK


@frozen
class HostPolicy:
    """The internal hosts that files may be fetched from.

    Attributes:
        any_host: All of them, because the service itself is on this machine: an emulator.
        loopback: Loopback addresses, because the caller's own URLs are there.
        allowed: These hosts, in lower case.
    """

    any_host: bool = False
    loopback: bool = False
    allowed: frozenset[str] = frozenset()

    @classmethod
    def of_service(cls, base_url: str | None, allow_hosts: Iterable[str]) -> HostPolicy:
        """Return the policy of a client: all hosts are allowed if its service is on this machine.

        Args:
            base_url: The URL of the service, if it is known.
            allow_hosts: Names or addresses of other hosts that are allowed.
        """
        several = isinstance(allow_hosts, Iterable) and not isinstance(allow_hosts, str)
        given = [*allow_hosts] if several else []
        if not several or not all(isinstance(host, str) for host in given):
            raise ConfigurationError("allow_hosts must be several hosts, such as ['10.0.0.7']")
        service = "" if base_url is None else parse_url(base_url).raw_host or ""
        # The client connects to the service's own host anyway.
        hosts = {host.strip("[]").lower() for host in given} | {service}
        return cls(any_host=is_loopback(service), allowed=frozenset(hosts))

    def permits_internal(self, host: str) -> bool:
        """Return whether this host may be one of this machine or of a private network."""
        host = host.lower()
        return self.any_host or host in self.allowed or (self.loopback and is_loopback(host))

    def trusting(self, urls: tuple[str, ...]) -> HostPolicy:
        """Return the policy for URLs that the caller has given, and not a service.

        Their own hosts are allowed. If one of them is on this machine, all loopback addresses are.
        """
        hosts: set[str] = set()
        for url in urls:
            try:
                hosts.add(parse_url(url).raw_host or "")
            except ValueError:  # reported when it is fetched
                continue
        return HostPolicy(self.any_host, any(map(is_loopback, hosts)), self.allowed | hosts)
