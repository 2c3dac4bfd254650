"""Pictures for the tests, made by Pillow, and stores for them."""

from __future__ import annotations

import io
import random
from typing import TYPE_CHECKING, Any

from PIL import Image as Pillow

if TYPE_CHECKING:
    from kling_async.images import Image

GPS = 0x8825  # the tag of EXIF with the place
ORIENTATION = 0x0112


def picture(
    kind: str = "JPEG",
    size: tuple[int, int] = (64, 48),
    *,
    mode: str = "RGB",
    color: str | int | tuple[int, ...] = "orange",
    **options: Any,  # noqa: ANN401 - of Pillow
) -> bytes:
    """Return a picture of one color as a file."""
    out = io.BytesIO()
    Pillow.new(mode, size, color).save(out, kind, **options)
    return out.getvalue()


def noise(kind: str, side: int, **options: Any) -> bytes:  # noqa: ANN401 - of Pillow
    """Return a square picture that cannot be compressed."""
    content = random.Random(side).randbytes(side * side * 3)  # noqa: S311 - a picture
    out = io.BytesIO()
    Pillow.frombytes("RGB", (side, side), content).save(out, kind, **options)
    return out.getvalue()


def exif(**tags: Any) -> bytes:  # noqa: ANN401 - values of any type
    """Return EXIF data with an orientation, and a place if ``gps`` is given."""
    data = Pillow.Exif()
    if "orientation" in tags:
        data[ORIENTATION] = tags["orientation"]
    if "gps" in tags:
        data.get_ifd(GPS)[1] = tags["gps"]
    return data.tobytes()


def opened(content: bytes) -> Pillow.Image:
    """Return a picture, decoded."""
    image = Pillow.open(io.BytesIO(content))
    image.load()
    return image


class MemoryStore:
    """An image store in memory, with URLs of a web server that serves them, if there is one."""

    def __init__(self, origin: str = "https://pictures.example") -> None:
        self.origin = origin
        self.images: dict[str, bytes] = {}
        self.puts = 0
        self.closed = False

    async def put(self, image: Image) -> str:
        self.puts += 1
        if image.name not in self.images:
            self.images[image.name] = await image.read()
        return f"{self.origin}/{image.name}?sig=secret{self.puts}"

    async def close(self) -> None:
        self.closed = True
