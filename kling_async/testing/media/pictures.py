"""Decoding untrusted pictures into small upright JPEGs."""

from __future__ import annotations

import io
from typing import Final

from PIL import Image, ImageOps

from kling_async.testing.media.film import TooManyPixelsError

LONGEST_SIDE: Final = 832
"""A little more than a video's longest side, so that zooming in stays sharp."""

# 3 bytes each, and twice that while it is converted.
_MOST_PIXELS: Final = 50_000_000
_FORMATS: Final = ("JPEG", "PNG", "WEBP")


def prepare_picture(data: bytes) -> bytes:
    """Decode a picture; return it upright, on white and small, as JPEG. Blocks.

    Raises ValueError for data that cannot be decoded, and `TooManyPixelsError`, one of them, for
    a picture that is too large.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_size(image)
            # JPEGs can be decoded at a fraction of their size; other formats ignore this.
            image.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))
            image.load()
            picture = _flat(ImageOps.exif_transpose(image))
    except TooManyPixelsError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixelsError(str(error)) from error
    except Exception as error:
        # A broken file makes decoders raise exceptions of any class.
        raise ValueError(f"The image cannot be decoded: {error}") from error
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=92)
    return out.getvalue()


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > _MOST_PIXELS:
        raise TooManyPixelsError(f"{image.width} x {image.height} pixels are too many")


def _flat(image: Image.Image) -> Image.Image:
    """Return an RGB picture; transparent pixels become white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    ground = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(ground, layer).convert("RGB")
