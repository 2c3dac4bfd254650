"""JSON documents of the web: fetched with limits, and kept in the user's cache with their ETags.

Nothing of what is kept or received is trusted. A document that cannot be fetched is replaced by the
one that was kept, and a cache that cannot be read or written is like an empty one.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import aiohttp
from aiohttp import hdrs
from attrs import evolve, frozen
from cattrs.preconf.json import make_converter

from kling_async._network.proxies import through_environment_proxy
from kling_async._utils.files import replacing
from kling_async._utils.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

    Check = Callable[[object], object]

LARGEST: Final = 2_000_000  # bytes of a document
WITHIN: Final = 10.0  # seconds

_LARGEST_FILE: Final = 6 * LARGEST  # a character may take six bytes in JSON text
_LONGEST_ETAG: Final = 200
_OK: Final = 200
_NOT_MODIFIED: Final = 304

_converter = make_converter(detailed_validation=False)


@frozen
class Document:
    """A document: its text, its ETag, when it was last known to be current, and why it is not now.

    ``reason`` is empty if the document is current.
    """

    url: str
    text: str
    etag: str
    checked_at: datetime
    reason: str = ""

    @property
    def value(self) -> object:
        """The value of the JSON text."""
        return _parse_json_text(self.text)


class UnavailableError(Exception):
    """A document can neither be fetched nor be found in the cache."""


def cache_folder() -> Path | None:
    """Return the folder for what may be deleted at any time; None if the user has none."""
    name = "XDG_CACHE_HOME"
    if sys.platform == "win32":
        name = "LOCALAPPDATA"
    if folder := os.environ.get(name):
        return Path(folder) / "kling-async"
    with suppress(RuntimeError):  # no home folder
        place = "Library/Caches" if sys.platform == "darwin" else ".cache"
        return Path.home() / place / "kling-async"
    return None


async def fetch_document(url: str, folder: Path | None, check: Check) -> Document:
    """Return a document of the web, or the one that was kept if it cannot be fetched.

    Args:
        url: Its URL, which is requested directly: redirects are not followed.
        folder: The folder of the cache, or None.
        check: Called with the value of the document; raises `ValueError` with the reason if it is
            not what is wanted, such as the JSON text "under maintenance". It is not kept then.

    Raises:
        UnavailableError: It can neither be fetched nor be found in the cache.
    """
    path = None if folder is None else folder / f"{sha256(url.encode()).hexdigest()[:32]}.json"
    kept = None if path is None else await asyncio.to_thread(_read_kept, url, path, check)
    try:
        async with asyncio.timeout(WITHIN):
            document = await _request(url, kept, check)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, RecursionError) as error:
        reason = str(error) or f"no answer within {WITHIN:g} s"
        if kept is None:
            raise UnavailableError(reason) from None
        return evolve(kept, reason=reason)
    if path is not None:
        await asyncio.to_thread(_keep, path, document)
    return document


async def _request(url: str, kept: Document | None, check: Check) -> Document:
    """Request a document. Raises one of several exceptions, `ValueError` for a wrong answer."""
    headers = {hdrs.USER_AGENT: f"kling-async/{__version__}", hdrs.ACCEPT_ENCODING: "identity"}
    if kept is not None and kept.etag:
        headers[hdrs.IF_NONE_MATCH] = kept.etag
    async with (
        aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            # A small answer must not unfold into a large one.
            auto_decompress=False,
            middlewares=(through_environment_proxy,),
        ) as session,
        session.get(url, headers=headers, allow_redirects=False) as response,
    ):
        if response.status == _NOT_MODIFIED and kept is not None:
            return evolve(kept, checked_at=datetime.now(UTC))
        if response.status != _OK:
            place = response.headers.get(hdrs.LOCATION, "")
            raise ValueError(
                f"HTTP {response.status}" + (f", redirect to {place}" if place else "")
            )
        content = bytearray()
        async for chunk in response.content.iter_any():
            content += chunk
            if len(content) > LARGEST:
                raise ValueError(f"more than {LARGEST:,} bytes")
        etag = response.headers.get(hdrs.ETAG, "")
    text = content.decode()
    check(_parse_json_text(text))  # an error page is not kept
    return Document(url, text, etag if len(etag) <= _LONGEST_ETAG else "", datetime.now(UTC))


def _parse_json_text(text: str) -> object:
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _read_kept(url: str, path: Path, check: Check) -> Document | None:
    """Return the document that was kept; None if it is damaged, or if others could write it."""
    try:
        for place in (path.parent, path):
            status = place.lstat()
            # Windows has neither: a profile's folders are the user's own there.
            shared = hasattr(os, "getuid") and (
                status.st_uid != os.getuid() or bool(status.st_mode & 0o022)
            )
            if shared or stat.S_ISLNK(status.st_mode):
                return None
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            return None
        document = _converter.loads(content, Document)
        check(document.value)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    valid = document.url == url and document.checked_at.utcoffset() is not None
    return document if valid and document.etag.isprintable() else None


def _keep(path: Path, document: Document) -> None:
    """Keep a document if the folder can be written; a reader finds the old or the new one."""
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(path) as file:
            if hasattr(os, "fchmod"):  # pragma: no branch - not on Windows before Python 3.13
                os.fchmod(file.fileno(), 0o600)  # whatever the umask is: see _read_kept
            file.write(_converter.dumps(document).encode())
