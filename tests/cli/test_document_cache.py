from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from attrs import define, field

from kling_async.cli.document_cache import (
    LARGEST,
    UnavailableError,
    cache_folder,
    fetch_document,
)

if TYPE_CHECKING:
    from tests.conftest import ServeApp


def accept(_: object) -> None:
    """Accept any document."""


@define
class Site:
    """A server of one document, which counts requests, and what it answers."""

    url: str = ""
    body: bytes = b"[1]"
    etag: str = '"one"'
    status: int = 200
    headers: dict[str, str] = field(factory=dict)
    delay: float = 0.0
    seen: list[str | None] = field(factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.seen.append(request.headers.get("If-None-Match"))
        assert "Authorization" not in request.headers
        await asyncio.sleep(self.delay)
        headers = {**self.headers, **({"ETag": self.etag} if self.etag else {})}
        if self.etag and self.seen[-1] == self.etag:
            return web.Response(status=304)
        return web.Response(status=self.status, body=self.body, headers=headers)


@pytest.fixture
async def site(serve_app: ServeApp) -> Site:
    """Start a server of one document."""
    site = Site()
    site.url = f"{await serve_app(site.answer)}/index.json"
    return site


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder that does not exist yet."""
    return tmp_path / "cache" / "kling-async"


async def test_a_document_is_kept(site: Site, folder: Path) -> None:
    """A document is requested each time, and sent only if it has changed."""
    first = await fetch_document(site.url, folder, accept)
    assert (first.value, first.etag, first.reason) == ([1], '"one"', "")
    again = await fetch_document(site.url, folder, accept)
    assert again.value == [1]
    assert again.checked_at >= first.checked_at
    site.body, site.etag = b"[2]", '"two"'
    assert (await fetch_document(site.url, folder, accept)).value == [2]
    assert site.seen == [None, '"one"', '"one"']
    if os.name == "posix":
        assert folder.stat().st_mode & 0o777 == 0o700
    assert len([*folder.iterdir()]) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": 503}, "HTTP 503"),
        ({"status": 302, "headers": {"Location": "http://127.0.0.1:9/"}}, "redirect to http://"),
        ({"body": b"<html>maintenance</html>"}, "Expecting value"),
        ({"body": b"[NaN]"}, "NaN is not a JSON number"),
        ({"body": b"\xff"}, "utf-8"),
        ({"body": b"[" * 100_000}, "recursion"),
        ({"body": b"1" * (LARGEST + 1)}, "more than 2,000,000 bytes"),
        ({"delay": 11.0}, "no answer within 10 s"),
    ],
)
async def test_the_kept_document_is_used(
    site: Site, folder: Path, changes: dict[str, object], reason: str
) -> None:
    """If a document is not available, the kept one is returned, with the reason; or none is."""
    site.etag = ""
    kept = await fetch_document(site.url, folder, accept)
    for name, value in changes.items():
        setattr(site, name, value)
    again = await fetch_document(site.url, folder, accept)
    assert (again.value, again.checked_at) == ([1], kept.checked_at)
    assert reason.lower() in again.reason.lower()
    for other in (None, folder / "other"):
        with pytest.raises(UnavailableError, match=f"(?i){reason}"):
            await fetch_document(site.url, other, accept)


async def test_nothing_listens(folder: Path) -> None:
    """Without a network there is no document."""
    with pytest.raises(UnavailableError, match="Cannot connect"):
        await fetch_document("http://127.0.0.1:1/index.json", folder, accept)


async def test_small_answers_stay_small(site: Site, folder: Path) -> None:
    """What is compressed, though it was not asked for, is not unfolded."""
    site.headers = {"Content-Encoding": "gzip"}
    site.body = b"\x1f\x8b\x08\x00"
    with pytest.raises(UnavailableError, match="utf-8"):
        await fetch_document(site.url, folder, accept)


def _change(path: Path, **changes: object) -> None:
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "https://example.com/other"},
        {"text": "{"},
        {"text": "[" * 100_000},
        {"text": None},
        {"etag": "a\r\nAuthorization: x"},
        {"checked_at": "yesterday"},
        {"checked_at": "2026-01-01T00:00:00"},
        {"checked_at": 5},
        {"text": json.dumps("x" * 6 * LARGEST)},
    ],
)
async def test_damaged_files(site: Site, folder: Path, changes: dict[str, object]) -> None:
    """A file of the cache that is damaged or of another URL is ignored, and replaced."""
    await fetch_document(site.url, folder, accept)
    (path,) = folder.iterdir()
    _change(path, **changes)
    assert (await fetch_document(site.url, folder, accept)).value == [1]
    assert site.seen == [None, None]
    assert json.loads(path.read_text())["url"] == site.url


@pytest.mark.parametrize("content", [b"", b"5", b"[]", b"{}", b"\xff", b"[" * 100_000])
async def test_files_of_another_form(site: Site, folder: Path, content: bytes) -> None:
    """A file that is no document is ignored, and replaced."""
    await fetch_document(site.url, folder, accept)
    (path,) = folder.iterdir()
    path.write_bytes(content)
    assert (await fetch_document(site.url, folder, accept)).value == [1]
    assert site.seen == [None, None]


@pytest.mark.skipif(os.name != "posix", reason="modes and links of POSIX")
async def test_files_that_others_could_write(site: Site, folder: Path, tmp_path: Path) -> None:
    """A file or folder that others may write, or a link, is not read."""
    await fetch_document(site.url, folder, accept)
    (path,) = folder.iterdir()
    path.chmod(0o666)
    await fetch_document(site.url, folder, accept)
    assert site.seen == [None, None]
    folder.chmod(0o777)
    await fetch_document(site.url, folder, accept)
    assert site.seen == [None, None, None]
    folder.chmod(0o700)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    await fetch_document(site.url, folder, accept)
    assert site.seen == [None] * 4
    assert not path.is_symlink()


async def test_a_folder_that_cannot_be_written(site: Site, tmp_path: Path) -> None:
    """Without a usable folder, documents are fetched and not kept."""
    assert (await fetch_document(site.url, None, accept)).value == [1]
    (tmp_path / "file").write_text("x")
    assert (await fetch_document(site.url, tmp_path / "file" / "cache", accept)).value == [1]
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    document = await fetch_document(site.url, folder, accept)
    (path,) = folder.iterdir()
    path.unlink()
    path.mkdir()  # so that the file cannot replace it
    assert await fetch_document(site.url, folder, accept) != document
    assert [*folder.iterdir()] == [path]  # the temporary file is removed


async def test_long_etags_are_not_kept(site: Site, folder: Path) -> None:
    """An ETag of any length is accepted, and a long one is not sent back."""
    site.etag = f'"{"x" * 300}"'
    await fetch_document(site.url, folder, accept)
    await fetch_document(site.url, folder, accept)
    assert site.seen == [None, None]


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/c"}, "/c/kling-async"),
        ("linux", {"HOME": "/home/fox"}, "/home/fox/.cache/kling-async"),
        ("darwin", {"HOME": "/home/fox"}, "/home/fox/Library/Caches/kling-async"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/kling-async"),
    ],
)
def test_folder_of_the_cache(
    monkeypatch: pytest.MonkeyPatch, platform: str, environment: dict[str, str], expected: str
) -> None:
    """The folder is the user's own, as the system has it."""
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_folder() == Path(expected)


def test_no_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home folder has no cache."""

    def no_home() -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(Path, "home", no_home)
    assert cache_folder() is None
