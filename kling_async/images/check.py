"""What is known of a picture by its bytes, and what the service would not accept. Pure.

The contract says: JPEG, PNG or WebP, at most 10 MB each. It names no limits of the sides or of
their ratio, so none are checked. Headers and structure are parsed here, so that a picture that was
cut off is found without decoding it. Every length in a hostile file is checked against what is
there, and the number of its parts is bounded.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from attrs import frozen

from kling_async._utils.text import format_size
from kling_async.inputs.local_image import MAX_BYTES, SUFFIXES

MAX_PIXELS: Final = 80_000_000
"""More would take hundreds of megabytes to decode. No camera for films has half of it."""

NAMES: Final[Mapping[str, str]] = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/webp": "WebP",
    "image/gif": "GIF",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
    "image/avif": "AVIF",
    "image/heic": "HEIC",
    "image/svg+xml": "SVG",
    "application/pdf": "PDF",
    "text/html": "a page of HTML",
    "video/mp4": "a video",
}
"""What messages call a type. The contract's three come first."""

# How files of these types begin.
_BEGINNINGS: Final = (
    ("image/jpeg", re.compile(rb"\xff\xd8\xff")),
    ("image/png", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("image/webp", re.compile(rb"RIFF.{4}WEBP", re.DOTALL)),
    ("image/gif", re.compile(rb"GIF8[79]a")),
    ("image/bmp", re.compile(rb"BM.{4}\0{4}", re.DOTALL)),
    ("image/tiff", re.compile(rb"II\*\0|MM\0\*")),
    ("image/avif", re.compile(rb".{4}ftypavi[fs]", re.DOTALL)),
    ("image/heic", re.compile(rb".{4}ftyp(?:hei|hev|mif1|msf1)", re.DOTALL)),
    ("video/mp4", re.compile(rb".{4}ftyp", re.DOTALL)),
    ("application/pdf", re.compile(rb"%PDF-")),
    ("image/svg+xml", re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?<svg[\s>]", re.IGNORECASE)),
    ("text/html", re.compile(rb"\s*<(?:!doctype html|html)", re.IGNORECASE)),
)
HEAD_BYTES: Final = 512
"""How many bytes from the beginning show the type."""

# Segments or chunks that a picture may have. Usual ones have up to some thousands.
_MAX_PARTS: Final = 50_000

_MARKER: Final = 0xFF
# Markers of JPEG without a length, and those that hold the size of the picture (not C4, C8, CC).
_BARE_MARKERS: Final = frozenset({0x01, *range(0xD0, 0xD9)})
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN: Final = 0xDA
_END_OF_IMAGE: Final = b"\xff\xd9"

_PNG_HEADER: Final = 8
_PNG_CHUNK: Final = 12  # its length, type and checksum
_CRITICAL: Final = re.compile(rb"[A-Z]")  # a chunk without which nothing can be shown

_WEBP_FRAMES: Final = (b"VP8 ", b"VP8L", b"VP8X")


class ImageFault(Exception):  # noqa: N818 - a value that is raised and caught, an InputError later
    """Why the service would not accept a picture.

    Attributes:
        rule: The rule that is broken.
        seen: What was found.
        remedy: What the user can do.
        fixable: Pillow may be able to correct it.
    """

    def __init__(self, rule: str, seen: str, remedy: str, *, fixable: bool = False) -> None:
        super().__init__(f"{rule} (seen: {seen})")
        self.rule = rule
        self.seen = seen
        self.remedy = remedy
        self.fixable = fixable


@frozen
class ImageFacts:
    """What a picture is. Without a structure that is parsed here, width and height are 0."""

    media_type: str
    size_bytes: int
    width: int = 0
    height: int = 0

    def __str__(self) -> str:
        name = NAMES.get(self.media_type, "an unknown type")
        sides = f", {self.width} × {self.height}" if self.width else ""
        size = format_size(self.size_bytes) if self.size_bytes >= 1000 else "less than 1 kB"  # noqa: PLR2004
        return f"{name}{sides}, {size}"


def find_type(head: bytes) -> str:
    """Return the media type of a file by its first bytes, or an empty text."""
    return next((kind for kind, start in _BEGINNINGS if start.match(head[:HEAD_BYTES])), "")


def check_image(data: bytes) -> ImageFacts:
    """Return the facts of a picture that the service accepts, as far as its structure shows.

    Raises:
        ImageFault: The service would not accept it.
    """
    media_type = find_type(data)
    facts = ImageFacts(media_type, len(data))
    if media_type not in SUFFIXES:
        raise unsupported(facts)
    try:
        width, height = _SIDES[media_type](data)
    except _DamagedError as error:
        raise ImageFault(
            "must be a complete picture", f"{facts}: {error}", "save or download it again"
        ) from None
    facts = ImageFacts(media_type, len(data), width, height)
    check_pixels(facts)
    if len(data) > MAX_BYTES:
        raise too_large(facts)
    return facts


def check_pixels(facts: ImageFacts) -> None:
    """Raise ImageFault for a picture that has too many pixels."""
    if facts.width * facts.height > MAX_PIXELS:
        rule = f"must have at most {MAX_PIXELS // 1_000_000} million pixels"
        raise ImageFault(rule, str(facts), "make it smaller")


def unsupported(facts: ImageFacts) -> ImageFault:
    """Return the fault of a picture whose type the service does not accept."""
    if not facts.size_bytes:
        return ImageFault("must be a JPEG, PNG or WebP picture", "an empty file", "check the file")
    raster = facts.media_type in {"image/gif", "image/bmp", "image/tiff", "image/avif"}
    return ImageFault(
        "must be a JPEG, PNG or WebP picture", str(facts), "convert it", fixable=raster
    )


def too_large(facts: ImageFacts) -> ImageFault:
    """Return the fault of a picture that has too many bytes."""
    rule = f"must have at most {MAX_BYTES // 1_000_000} MB"
    return ImageFault(rule, str(facts), "make it smaller", fixable=True)


class _DamagedError(Exception):
    """The structure of a picture is damaged, or it was cut off."""


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker, the place and the length of each segment before the pixels."""
    at = 2
    for _ in range(_MAX_PARTS):
        if at + 4 > len(data):
            raise _DamagedError("it was cut off")
        if data[at] != _MARKER:
            raise _DamagedError("a segment is damaged")
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker == _MARKER:  # the first byte was a filler
            at += 1
        elif marker in _BARE_MARKERS:
            at += 2
        elif length < 2:  # noqa: PLR2004 - it counts its own two bytes
            raise _DamagedError("a segment is damaged")
        else:
            yield marker, at, length
            at += 2 + length
    raise _DamagedError("it has too many segments")


def _jpeg_sides(data: bytes) -> tuple[int, int]:
    """Return width and height of a JPEG, of which all segments and the end are there."""
    sides = 0, 0
    for marker, at, length in _jpeg_segments(data):  # pragma: no branch - it raises at the end
        if marker in _FRAMES and length >= 8 and at + 9 <= len(data):  # noqa: PLR2004 - of a frame
            height, width = (int.from_bytes(data[i : i + 2]) for i in (at + 5, at + 7))
            sides = width, height
        if marker == _START_OF_SCAN:
            if data.rfind(_END_OF_IMAGE) < at:
                raise _DamagedError("it was cut off")
            break
    return _positive(*sides)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    view, at = memoryview(data), _PNG_HEADER
    for _ in range(_MAX_PARTS):
        if at + _PNG_CHUNK > len(data):
            break
        length = int.from_bytes(data[at : at + 4])
        kind = data[at + 4 : at + 8]
        end = at + _PNG_CHUNK + length
        if end > len(data):
            break
        critical = _CRITICAL.match(kind) is not None
        checksum = int.from_bytes(data[end - 4 : end])
        if critical and zlib.crc32(view[at + 4 : end - 4]) != checksum:
            raise _DamagedError("a checksum is wrong")
        yield kind, view[at + 8 : end - 4]
        if kind == b"IEND":
            return
        at = end
    raise _DamagedError("it was cut off")


def _png_sides(data: bytes) -> tuple[int, int]:
    """Return width and height of a PNG, of which all chunks are there, with valid checksums."""
    sides = None
    for kind, content in _png_chunks(data):
        if sides is None:
            if kind != b"IHDR" or len(content) != 13:  # noqa: PLR2004 - the format's number
                raise _DamagedError("its size is missing")
            sides = int.from_bytes(content[:4]), int.from_bytes(content[4:8])
    assert sides is not None  # noqa: S101 - there is at least one chunk
    return _positive(*sides)


def _webp_sides(data: bytes) -> tuple[int, int]:
    """Return width and height of a WebP file that is as long as it says."""
    if int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise _DamagedError("it was cut off")
    kind, body = data[12:16], data[20:30]
    if kind not in _WEBP_FRAMES or len(body) < 10:  # noqa: PLR2004 - what is read below
        raise _DamagedError("its size is missing")
    if kind == b"VP8X":
        width, height = (int.from_bytes(body[i : i + 3], "little") + 1 for i in (4, 7))
    elif kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (int.from_bytes(body[i : i + 2], "little") & 0x3FFF for i in (6, 8))
    return _positive(width, height)


def _positive(width: int, height: int) -> tuple[int, int]:
    if not width or not height:
        raise _DamagedError("its size is missing")
    return width, height


_SIDES: Final[Mapping[str, Callable[[bytes], tuple[int, int]]]] = {
    "image/jpeg": _jpeg_sides,
    "image/png": _png_sides,
    "image/webp": _webp_sides,
}
