from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest

from kling_async import InputError, MasterTextToVideo, ProImageToVideo, StandardImageToVideo
from kling_async.images import LocalImage, read_images
from kling_async.images.check import ImageFault
from kling_async.images.reading import (
    fault_error,
    identify,
    inspect_images,
    no_store_error,
    read_content,
)
from tests.images.pictures import picture

CAT = picture()
SHA = sha256(CAT).hexdigest()


@pytest.fixture
def cat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a picture, in the current folder."""
    monkeypatch.chdir(tmp_path)
    path = Path("cat.jpg")
    path.write_bytes(CAT)
    return path


async def test_read_images(cat: Path) -> None:
    """Local images get their checksums, and an absolute path that another process finds."""
    sent = await read_images(ProImageToVideo("pan", cat, end_image_url=CAT))
    assert sent.image_url == LocalImage(Path.cwd() / "cat.jpg", SHA, "image/jpeg")
    assert sent.end_image_url == LocalImage(CAT, SHA, "image/jpeg")
    assert await read_images(sent) is sent
    text = MasterTextToVideo("a fox")
    assert await read_images(text) is text


async def test_unreadable(tmp_path: Path) -> None:
    """What cannot be read is an error with the field, the path and the reason; nothing waits."""
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (
        (tmp_path / "none.jpg", "No such file or directory"),
        (tmp_path, "not a regular file"),
        (tmp_path / "pipe", "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (Path("a\0b"), "null"),
    ):
        with pytest.raises(InputError, match="image_url: must be a file that can be read") as error:
            await read_images(StandardImageToVideo("pan", path))
        assert reason in str(error.value)
    with pytest.raises(InputError, match="must be in the image store or given as a file"):
        read_content("image_url", LocalImage(None, SHA))


def test_too_large(tmp_path: Path) -> None:
    """A file that is too large is not read any further."""
    path = tmp_path / "cat.jpg"
    with path.open("wb") as file:
        file.write(CAT)
        file.truncate(10**12)  # a terabyte, of which nothing is on the disk
    with pytest.raises(InputError, match="at most 10 MB: make it smaller, or let the client"):
        read_content("image_url", LocalImage(path))
    with pytest.raises(InputError, match="seen: 12 bytes: an unknown type"):
        read_content("image_url", LocalImage(bytes(12)), limit=11)


def test_changed() -> None:
    """A picture that is not the one in the journal is refused."""
    with pytest.raises(InputError, match="must not change after it was read"):
        identify("image_url", LocalImage(b"", "0" * 64), CAT)


async def test_inspect_images(cat: Path) -> None:
    """Pictures are checked before anything is sent, unless they can be corrected later."""
    assert (await inspect_images(StandardImageToVideo("pan", cat), fixing=False)).local_images
    cat.write_bytes(picture("GIF"))
    sent = StandardImageToVideo("pan", cat)
    with pytest.raises(InputError, match=r"'cat.jpg': GIF"):
        await inspect_images(sent, fixing=False)
    assert (await inspect_images(sent, fixing=True)).local_images["image_url"].sha256
    cat.write_bytes(CAT[:-20])
    with pytest.raises(InputError, match="must be a complete picture"):
        await inspect_images(sent, fixing=True)


def test_messages() -> None:
    """A message names the field, the rule, what to do, the file and what was found."""
    fault = ImageFault("must be small", "12 MB", "make it smaller", fixable=True)
    assert str(fault_error("image_url", LocalImage(Path("cat.jpg")), fault)) == (
        "image_url: must be small: make it smaller, or let the client do so with fix_images=True"
        " (--fix-images) (seen: 'cat.jpg': 12 MB)"
    )
    assert str(fault_error("image_url", "https://a/b", fault)) == (
        "image_url: must be small: make it smaller (seen: https://a/b: 12 MB)"
    )
    error = no_store_error(StandardImageToVideo("pan", Path("cat.jpg")))
    assert "KlingClient(image_store=…)" in str(error)
    assert "KLING_IMAGE_STORE" in str(error)
