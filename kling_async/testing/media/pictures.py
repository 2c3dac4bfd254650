"""Decoding pictures that may be anything, into small upright JPEGs."""

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


def prepare(data: bytes) -> bytes:
    """Decode a picture, set it upright, put it on white and make it small, as JPEG.

    Raises ValueError for what cannot be decoded, `TooManyPixelsError` for what is too large to be.
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
        # Decoders raise whatever a broken file leads them to.
        raise ValueError(f"The image cannot be decoded: {error}") from error
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=92)
    return out.getvalue()


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > _MOST_PIXELS:
        raise TooManyPixelsError(f"{image.width} x {image.height} pixels are too many")


def _flat(image: Image.Image) -> Image.Image:
    """Give an RGB picture; what is transparent becomes white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    ground = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(ground, layer).convert("RGB")
