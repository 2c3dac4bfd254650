from __future__ import annotations

from kling_async.images import Image
from kling_async.images.base import KnownNames


async def read() -> bytes:
    """Return the content of an image."""
    return b""


def test_known_names() -> None:
    """A name is known for some seconds, from when it was seen last; old ones need no memory."""
    now = 0.0
    names = KnownNames(10, lambda: now)
    names.add("a")
    names.add("b")
    now = 9.0
    names.add("a")
    assert "a" in names
    assert "b" in names
    assert "c" not in names
    now = 10.0
    assert "a" in names
    assert "b" not in names
    names.add("c")
    assert len(names._seen) == 2  # noqa: SLF001 - its size


def test_image() -> None:
    """An image is shown and compared without its content."""
    image = Image("ab.jpg", "image/jpeg", read)
    assert repr(image) == "Image(name='ab.jpg', media_type='image/jpeg')"
    assert image == Image("ab.jpg", "image/jpeg", bytes)  # type: ignore[arg-type]
