from __future__ import annotations

import io
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from kling_async.images.check import ImageFault, check_image, find_type
from kling_async.inputs.local_image import MAX_BYTES
from tests.images.pictures import exif, picture

SAMPLES = {
    "JPEG": picture("JPEG"),
    "progressive JPEG": picture("JPEG", progressive=True, exif=exif(orientation=6)),
    "PNG": picture("PNG"),
    "PNG with colors": picture("PNG", mode="P", color=1),
    "WebP": picture("WEBP"),
    "lossless WebP": picture("WEBP", lossless=True),
    "WebP with EXIF": picture("WEBP", exif=exif(orientation=6)),
}


def png(width: int, height: int) -> bytes:
    """Return a PNG that says it is large, and has no pixels."""
    header = b"IHDR" + width.to_bytes(4) + height.to_bytes(4) + bytes((8, 2, 0, 0, 0))
    chunks = [header, b"IDAT" + zlib.compress(b""), b"IEND"]
    parts = [(len(c) - 4).to_bytes(4) + c + zlib.crc32(c).to_bytes(4) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("name", SAMPLES)
def test_accepted(name: str) -> None:
    """A complete JPEG, PNG or WebP is accepted, and its size is known."""
    facts = check_image(SAMPLES[name])
    assert (facts.width, facts.height) == (64, 48)
    assert "64 × 48, less than 1 kB" in str(facts)
    assert facts.size_bytes == len(SAMPLES[name])


@pytest.mark.parametrize("name", SAMPLES)
def test_cut_off(name: str) -> None:
    """A picture that was cut off anywhere is found without decoding it."""
    whole = SAMPLES[name]
    for length in range(len(whole)):
        with pytest.raises(ImageFault):
            check_image(whole[:length])


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (picture("GIF"), "GIF, less than 1 kB"),
        (picture("BMP"), "BMP, 9 kB"),
        (picture("TIFF"), "TIFF, 9 kB"),
        (picture("AVIF"), "AVIF, less"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\0\0\0\x18ftypisom", "a video"),
        (b"%PDF-1.7", "PDF"),
        (b"<?xml version='1.0'?><svg xmlns=''/>", "SVG"),
        (b"<!DOCTYPE html><title>Log in</title>", "a page of HTML"),
        (b"a poem", "an unknown type"),
        (b"", "an empty file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_types(content: bytes, seen: str) -> None:
    """Anything else is refused by its content; pictures among it can be converted."""
    with pytest.raises(ImageFault, match="must be a JPEG, PNG or WebP picture") as caught:
        check_image(content)
    assert caught.value.seen.startswith(seen)
    assert caught.value.fixable is (seen[:3] in {"GIF", "BMP", "TIF", "AVI"})


def test_too_many_bytes() -> None:
    """A picture may have 10 MB, and not a byte more."""
    whole = SAMPLES["WebP"]
    padded = whole + bytes(MAX_BYTES - len(whole))
    assert check_image(padded).size_bytes == MAX_BYTES
    with pytest.raises(ImageFault, match=r"at most 10 MB \(seen: WebP, 64 × 48, 10.0 MB") as caught:
        check_image(padded + b"\0")
    assert caught.value.fixable


def test_decompression_bomb() -> None:
    """A small file that would become a gigantic picture is refused by its header."""
    assert check_image(png(8_000, 10_000)).width == 8_000
    with pytest.raises(ImageFault, match="at most 80 million pixels"):
        check_image(png(60_000, 60_000))


JPEG_START = b"\xff\xd8\xff\xe0\x00\x04ab"


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (b"\xff\xd8\xff\xe0\x00\x01" + bytes(9), "a segment is damaged"),
        (JPEG_START + bytes(9), "a segment is damaged"),
        (JPEG_START + b"\xff\xff\xd0\xff\xc0\x00\x02\xff\xda\x00\x02\xff\xd9", "size is missing"),
        (b"\xff\xd8" + b"\xff\xe0\x00\x02" * 50_001, "too many segments"),
        (png(0, 48), "its size is missing"),
        (png(64, 48).replace(b"IHDR", b"iHDR"), "its size is missing"),
        (png(64, 48).replace(b"\x08\x02", b"\x08\x06"), "a checksum is wrong"),
        (b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0abcd\0\0\0\0", "its size is missing"),
        (png(64, 48)[:33] + b"\0\0\0\0abcd\0\0\0\0" * 50_001, "it was cut off"),
        (picture("PNG").replace(b"IEND", b"aEND") + bytes(600_000), "it was cut off"),
        (b"RIFF\x16\0\0\0WEBPABCD" + bytes(20), "its size is missing"),
    ],
)
def test_damaged(content: bytes, seen: str) -> None:
    """A damaged structure is a fault that says what is wrong; its parts are bounded in number."""
    with pytest.raises(ImageFault, match="must be a complete picture") as caught:
        check_image(content)
    assert seen in caught.value.seen
    assert not caught.value.fixable


@given(
    st.sampled_from(sorted(SAMPLES)),
    st.lists(st.tuples(st.integers(0, 500), st.binary(min_size=1, max_size=4)), max_size=4),
)
def test_hostile(name: str, changes: list[tuple[int, bytes]]) -> None:
    """Whatever a file contains, the check ends with facts or a fault."""
    content = bytearray(SAMPLES[name])
    for place, data in changes:
        content[place : place + len(data)] = data
    with suppress(ImageFault):
        facts = check_image(bytes(content))
        assert facts.width > 0 < facts.height


def test_types_are_those_of_pillow() -> None:
    """The type that is found is the one that a decoder finds."""
    for content in SAMPLES.values():
        kind = Pillow.open(io.BytesIO(content)).get_format_mimetype()
        assert find_type(content) == kind
