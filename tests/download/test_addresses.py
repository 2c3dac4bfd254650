from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_async.download.addresses import HostPolicy, is_internal, parse_url, resolve_redirect

BASE = "http://a/b/c/d;p?q"


@given(path=st.text("abz09-._~%2F7e!$&'()*+,;=:@[]|{}^`\\/", max_size=30))
@pytest.mark.parametrize("scheme", ["http", "HTTPS"])
def test_urls_are_opaque(scheme: str, path: str) -> None:
    """Path and query are sent byte for byte, whatever is quoted in them and how."""
    url = parse_url(f"{scheme}://cdn.example:8080/{path}?x={path}#fragment")
    assert url.raw_path_qs == f"/{path}?x={path}"
    assert (url.scheme, url.raw_host, url.port) == (scheme.lower(), "cdn.example", 8080)


def test_what_cannot_be_sent_is_quoted() -> None:
    """Spaces, quotes, angle brackets and other scripts are quoted, and nothing beside them."""
    url = parse_url(' https://bücher.example/a b/é%2f"<>?q=狐 ')
    assert str(url) == ("https://xn--bcher-kva.example/a%20b/%C3%A9%2f%22%3C%3E?q=%E7%8B%90")
    assert parse_url("http://h/\udce9").raw_path == "/%E9"  # a byte of a header that is no UTF-8


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x.mp4",
        "//host/x",
        "file:///etc/passwd",
        "ftp://h/x",
        "http://",
        "http:///x",
        "http://h\\@evil/x",
        "http://h h/x",
        "http://h:99999/",
        "http://[x",
        "http://h/a\nb",
        "http://h/\0",
        "http://h/\x7f",
        "http://h/\ud800",
    ],
)
def test_what_is_no_url(text: str) -> None:
    """What is not an absolute http or https URL, or has control characters, is refused."""
    with pytest.raises(ValueError, match=r"."):
        parse_url(text)


@pytest.mark.parametrize(
    ("location", "target"),
    [  # RFC 3986, section 5.4, without what has another scheme
        ("g", "http://a/b/c/g"),
        ("./g", "http://a/b/c/g"),
        ("g/", "http://a/b/c/g/"),
        ("/g", "http://a/g"),
        ("//g", "http://g"),
        ("?y", "http://a/b/c/d;p?y"),
        ("g?y", "http://a/b/c/g?y"),
        ("#s", "http://a/b/c/d;p?q"),
        ("g#s", "http://a/b/c/g"),
        (";x", "http://a/b/c/;x"),
        ("g;x?y", "http://a/b/c/g;x?y"),
        ("", "http://a/b/c/d;p?q"),
        (".", "http://a/b/c/"),
        ("./", "http://a/b/c/"),
        ("..", "http://a/b/"),
        ("../g", "http://a/b/g"),
        ("../..", "http://a/"),
        ("../../../../g", "http://a/g"),
        ("/./g", "http://a/g"),
        ("/../g", "http://a/g"),
        ("g.", "http://a/b/c/g."),
        ("..g", "http://a/b/c/..g"),
        ("./g/.", "http://a/b/c/g/"),
        ("g/../h", "http://a/b/c/h"),
        ("g;x=1/../y", "http://a/b/c/y"),
        ("g?y/../x", "http://a/b/c/g?y/../x"),
        ("https://c/%7E/../d?e=%2f", "https://c/%7E/../d?e=%2f"),
        ("/x%2Fy?sig=a%2Bb%3D", "http://a/x%2Fy?sig=a%2Bb%3D"),
    ],
)
def test_redirects_are_resolved(location: str, target: str) -> None:
    """A Location is resolved as the RFC says, and quoted as it was."""
    assert str(resolve_redirect(parse_url(BASE), location)) == target


@pytest.mark.parametrize("location", ["file:///etc/passwd", "javascript:1", "http:g", "a\r\nb"])
def test_redirects_out_of_the_web(location: str) -> None:
    """A Location that is no web address leads nowhere."""
    with pytest.raises(ValueError, match=r"."):
        resolve_redirect(parse_url(BASE), location)


INTERNAL = [
    "127.0.0.1",
    "127.9.9.9",
    "127.1",
    "0x7f.1",
    "2130706433",
    "017700000001",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.100.100.200",
    "224.0.0.1",
    "255.255.255.255",
    "localhost",
    "LOCALHOST.",
    "a.localhost",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:10.0.0.1",
    "fe80::1%eth0",
    "fc00::1",
    "ff02::1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
]


@pytest.mark.parametrize("host", INTERNAL)
def test_internal_hosts(host: str) -> None:
    """Loopback, private, link-local and unspecified addresses are internal, however written."""
    assert is_internal(host)


@pytest.mark.parametrize(
    "host",
    [
        "8.8.8.8",
        "172.32.0.1",
        "198.18.0.5",  # made up by a local proxy for a name
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "cdn.example",
        "localhost.example",
        "0xcafe.example",
        "1.2.3.4.5",
    ],
)
def test_other_hosts(host: str) -> None:
    """Public addresses, and names that must be resolved first, are not."""
    assert not is_internal(host)


def test_guards() -> None:
    """Hosts that are allowed may be internal; with a service on this machine all may be."""
    guard = HostPolicy(allowed=frozenset({"10.0.0.7"}))
    assert guard.permits_internal("10.0.0.7")
    assert not guard.permits_internal("10.0.0.8")
    assert HostPolicy(any_host=True).permits_internal("10.0.0.8")


def test_the_guard_of_a_caller_s_own_urls() -> None:
    """The hosts of a caller's own URLs are good; if on this machine, all of the machine is."""
    guard = HostPolicy().trusting(("https://10.0.0.7/x.mp4", "no URL"))
    assert guard.permits_internal("10.0.0.7")
    assert not guard.permits_internal("10.0.0.8")
    assert not guard.permits_internal("127.0.0.1")
    here = HostPolicy().trusting(("http://127.0.0.1:1/x",))
    assert here.permits_internal("127.0.0.2")
    assert here.permits_internal("LOCALHOST")
    assert not here.permits_internal("10.0.0.8")
