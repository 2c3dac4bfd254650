from __future__ import annotations

import contextlib
import io
import random
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kling_async.testing.media.film import TooManyPixelsError
from kling_async.testing.media.pictures import LONGEST_SIDE, prepare_picture


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """Encode a picture."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def noise(width: int, height: int) -> Image.Image:
    """Give a picture that is hard to compress, always the same."""
    pixels = random.Random(1).randbytes(width * height)  # noqa: S311 - any bytes
    return Image.frombytes("L", (width, height), pixels)


def prepared(data: bytes) -> Image.Image:
    """Prepare a picture and open the outcome."""
    return Image.open(io.BytesIO(prepare_picture(data)))


def pixel(image: Image.Image, spot: tuple[int, int]) -> tuple[int, ...]:
    """Give a roughly rounded pixel."""
    value = image.getpixel(spot)
    assert isinstance(value, tuple)
    return tuple(round(part / 64) * 64 for part in value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_large_pictures_become_small(kind: str) -> None:
    """A picture comes out as a JPEG no larger than needed, in its ratio."""
    image = prepared(encoded(Image.new("RGB", (3000, 1500), "teal"), kind))
    assert image.format == "JPEG"
    assert image.size == (LONGEST_SIDE, LONGEST_SIDE // 2)


def test_small_pictures_stay() -> None:
    """A small picture is not enlarged."""
    assert prepared(encoded(Image.new("RGB", (20, 10)), "PNG")).size == (20, 10)


def test_the_camera_was_turned() -> None:
    """A photograph that was taken upright is shown upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (64, 32), "red")
    image.paste("blue", (0, 0, 32, 32))
    upright = prepared(encoded(image, "JPEG", exif=exif))
    assert upright.size == (32, 64)
    assert pixel(upright, (16, 8))[2] > 128
    assert pixel(upright, (16, 56))[0] > 128


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_every_kind_of_pixel(mode: str) -> None:
    """Grey, palette, deep and printing colours can be shown."""
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert prepared(encoded(Image.new(mode, (8, 8)), kind)).mode == "RGB"


def test_what_is_transparent_becomes_white() -> None:
    """A transparent picture stands on white."""
    image = prepared(encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "PNG"))
    assert pixel(image, (4, 4)) == (256, 256, 256)


def chunk(name: bytes, data: bytes) -> bytes:
    """Give a chunk of a PNG."""
    checksum = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + checksum


@pytest.mark.parametrize("side", [8000, 10_000, 60_000])
def test_bombs_are_not_unpacked(side: int) -> None:
    """A few bytes that claim to be a huge picture are refused by their size."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000)))
    with pytest.raises(TooManyPixelsError):
        prepare_picture(bomb)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_cut_pictures(kind: str) -> None:
    """Half a picture cannot be decoded, and says so."""
    data = encoded(noise(200, 200), kind)
    with pytest.raises(ValueError, match="cannot be decoded"):
        prepare_picture(data[: len(data) // 2])


def test_other_formats() -> None:
    """A GIF is no input, though it could be decoded."""
    with pytest.raises(ValueError, match="cannot be decoded"):
        prepare_picture(encoded(Image.new("RGB", (8, 8)), "GIF"))


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(["JPEG", "PNG", "WEBP"]), st.data())
def test_damaged_pictures_are_survived(kind: str, data: st.DataObject) -> None:
    """Whatever is wrong with the bytes, the answer is a picture or a ValueError."""
    body = bytearray(encoded(noise(40, 30), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        assert prepare_picture(bytes(body))
