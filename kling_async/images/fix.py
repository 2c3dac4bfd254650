"""Decoding pictures, and correcting those that the service would not accept. Needs Pillow.

Everything here blocks, and the pictures are hostile: call it in a thread. The size of a picture is
known, and bounded, before its pixels are decoded.
"""

from __future__ import annotations

import io
from importlib.util import find_spec
from math import sqrt
from typing import TYPE_CHECKING, Final

from attrs import field, frozen

from kling_async._utils.extras import missing_extra
from kling_async.errors import ConfigurationError
from kling_async.images.check import (
    ImageFacts,
    ImageFault,
    check_image,
    check_pixels,
    find_type,
)
from kling_async.inputs.local_image import MAX_BYTES, SUFFIXES

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

# What is decoded: no format whose decoder starts other programs or reads other files.
_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_FORMAT_OF: Final = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}

_ORIENTATION: Final = 0x0112  # the tag of EXIF
_UPRIGHT: Final = 1

# A picture that is too large becomes smaller, at least by this factor each time, until it fits.
_STEP: Final = 0.9
_SMALLEST_SIDE: Final = 64
_QUALITY: Final = 92

# Metadata that can hold a place, other than EXIF: XMP, and comments of any kind.
_METADATA: Final = ("xmp", "XML:com.adobe.xmp", "photoshop", "comment", "Comment", "Description")


@frozen(kw_only=True)
class ImageFix:
    """How pictures are corrected before they are uploaded.

    A picture of another type becomes a JPEG, one with too many bytes smaller, and one that is
    stored sideways upright. Other pictures are uploaded as they are, byte for byte. A corrected
    picture keeps its colour profile and no other metadata.

    Attributes:
        remove_location: Remove the metadata of pictures that contain a place, by encoding them
            again.
        longest_side: Pixels that the longer side may have; None for any number.

    Raises:
        ConfigurationError: The number is out of range.
        MissingExtraError: Pillow is not installed.
    """

    remove_location: bool = False
    longest_side: int | None = field(default=None)

    def __attrs_post_init__(self) -> None:
        side = self.longest_side
        if side is not None and (type(side) is not int or side < _SMALLEST_SIDE):
            raise ConfigurationError(
                f"longest_side must be at least {_SMALLEST_SIDE} pixels, not {side!r}"
            )
        if not can_decode():
            raise missing_extra("images", "fix_images needs Pillow")

    @property
    def tag(self) -> str:
        """What distinguishes the names of images that were corrected in this way."""
        parts = ("-fix", "-nl" if self.remove_location else "", f"-{self.longest_side or ''}")
        return "".join(parts).removesuffix("-")


def can_decode() -> bool:
    """Return whether Pillow is installed."""
    return find_spec("PIL") is not None


def check_decoded(data: bytes) -> None:
    """Check a picture, and decode it if Pillow is installed.

    Raises:
        ImageFault: The service would not accept it, or it cannot be decoded.
    """
    check_image(data)
    if not can_decode():
        return
    image = _open(data)
    # A JPEG is decoded at an eighth of its size, from all of its bytes; others ignore this.
    image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
    _load(image, data)


def fix_image(data: bytes, fix: ImageFix) -> bytes:
    """Return a picture that the service accepts: the same bytes, if nothing is to be corrected.

    Raises:
        ImageFault: It cannot be corrected.
    """
    try:
        check_image(data)
    except ImageFault as fault:
        if not fault.fixable:
            raise
        accepted = False
    else:
        accepted = True
    image = _open(data)
    if fix.longest_side is not None:
        image.draft("RGB", (fix.longest_side, fix.longest_side))  # to save memory
        accepted &= max(image.size) <= fix.longest_side
    _load(image, data)  # the metadata of a PNG may be behind its pixels
    if accepted and _is_upright(image) and not (fix.remove_location and _has_metadata(image)):
        return data
    media_type = output_type(find_type(data))
    profile = image.info.get("icc_profile")
    upright = _upright(image)
    factor = min(1.0, (fix.longest_side or max(upright.size)) / max(upright.size))
    while True:
        size = tuple(max(1, round(side * factor)) for side in upright.size)
        encoded = _encode(upright if factor == 1 else upright.resize(size), media_type, profile)
        if len(encoded) <= MAX_BYTES:
            return encoded
        # The number of bytes grows about with the number of pixels.
        factor *= min(_STEP, sqrt(MAX_BYTES / len(encoded)))


def output_type(media_type: str) -> str:
    """Return the type of a picture after it was corrected."""
    return media_type if media_type in SUFFIXES else "image/jpeg"


def _open(data: bytes) -> PillowImage:
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Exception as error:  # noqa: BLE001 - broken files raise exceptions of any class
        raise _undecodable(data, error) from None
    check_pixels(ImageFacts(find_type(data), len(data), image.width, image.height))
    return image


def _load(image: PillowImage, data: bytes) -> None:
    try:
        image.load()
    except Exception as error:  # noqa: BLE001 - broken files raise exceptions of any class
        raise _undecodable(data, error) from None


def _undecodable(data: bytes, error: Exception) -> ImageFault:
    facts = ImageFacts(find_type(data), len(data))
    seen = f"{facts}: {str(error)[:100] or type(error).__name__}"
    return ImageFault("must be a picture that can be decoded", seen, "save or download it again")


def _is_upright(image: PillowImage) -> bool:
    return bool(image.getexif().get(_ORIENTATION, _UPRIGHT) == _UPRIGHT)


def _has_metadata(image: PillowImage) -> bool:
    return bool(image.getexif()) or any(name in image.info for name in _METADATA)


def _upright(image: PillowImage) -> PillowImage:
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _encode(image: PillowImage, media_type: str, profile: bytes | None) -> bytes:
    from PIL import Image

    if media_type == "image/jpeg":
        if image.has_transparency_data:  # on white, as in most programs
            layer = image.convert("RGBA")
            ground = Image.new("RGBA", layer.size, "white")
            image = Image.alpha_composite(ground, layer)
        if image.mode != "L":
            profile = profile if image.mode != "CMYK" else None  # it is that of the other colours
            image = image.convert("RGB")
    out = io.BytesIO()
    image.save(out, _FORMAT_OF[media_type], quality=_QUALITY, icc_profile=profile, exif=b"")
    return out.getvalue()
