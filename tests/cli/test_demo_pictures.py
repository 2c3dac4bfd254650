from __future__ import annotations

from typing import TYPE_CHECKING

from kling_async.testing.emulator.images import save_images
from kling_async.testing.sample_files import FOLDER
from tests.engines.http_proxy import HttpProxy

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.cli.conftest import Serve


async def test_pictures_are_saved_once(serve: Serve, tmp_path: Path) -> None:
    """Each URL is fetched once and saved under a plain name, with the suffix of its content."""
    origin = (await serve()).origin
    fox, boat = f"{origin}/samples/fox.jpg", f"{origin}/samples/sailboat.webp"
    balloon = f"{origin}/samples/balloon.png"
    names = await save_images([fox, boat, fox, balloon], tmp_path)
    assert names == {fox: "image-01.jpg", boat: "image-02.webp", balloon: "image-03.png"}
    assert (tmp_path / "image-01.jpg").read_bytes() == (FOLDER / "fox.jpg").read_bytes()
    assert len(list(tmp_path.iterdir())) == 3


async def test_what_is_no_picture_is_left_out(serve: Serve, tmp_path: Path) -> None:
    """A missing image, other content and a host that is not there leave no file behind."""
    origin = (await serve()).origin
    urls = [
        f"{origin}/samples/none.jpg",
        f"{origin}/samples/demo.jsonl",
        "http://127.0.0.1:9/refused.jpg",
        "http://[::1",
    ]
    assert await save_images(urls, tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


async def test_picture_that_is_too_large(serve_large: str, tmp_path: Path) -> None:
    """More than 10 MB are not read to the end, and not saved."""
    assert await save_images([serve_large], tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


async def test_folder_that_is_gone(serve: Serve, tmp_path: Path) -> None:
    """A picture that cannot be written is missing in the answer."""
    origin = (await serve()).origin
    assert await save_images([f"{origin}/samples/fox.jpg"], tmp_path / "gone") == {}


async def test_pictures_come_through_the_proxy(
    monkeypatch: pytest.MonkeyPatch, serve: Serve, tmp_path: Path
) -> None:
    """HTTP_PROXY is used for hosts elsewhere, and not for this machine."""
    port = int((await serve()).origin.rpartition(":")[2])
    async with HttpProxy({"pictures.invalid:80": port}) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        urls = [
            f"http://{host}/samples/fox.jpg" for host in ("pictures.invalid", f"127.0.0.1:{port}")
        ]
        assert len(await save_images(urls, tmp_path)) == 2
    assert proxy.lines == [f"GET {urls[0]}"]
