"""The fields that several models share: their types, and their rules as attrs metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from kling_async.inputs.base import ruled
from kling_async.inputs.rules import IMAGE_SOURCE, WEB_URL, one_of, or_none, tenths

if TYPE_CHECKING:
    from kling_async.inputs.local_image import ImageSource, LocalImage

Duration = Literal[5, 10]
AspectRatio = Literal["16:9", "9:16", "1:1"]
Provider = Literal["auto", "value", "official"]

ImageUrl: TypeAlias = "str | LocalImage"
"""The value of an image field: a URL, or a picture of this machine."""

IMAGE = ruled(IMAGE_SOURCE)
END_IMAGE = ruled(or_none(IMAGE_SOURCE))
VIDEO = ruled(WEB_URL)
DURATION = ruled(one_of(5, 10))
CFG_SCALE = ruled(or_none(tenths(0, 1)))
ASPECT_RATIO = ruled(one_of("16:9", "9:16", "1:1"))
PROVIDER = ruled(or_none(one_of("auto", "value", "official")))


def to_image(value: ImageSource | LocalImage) -> ImageUrl:
    """Return the value of an image field: a path, bytes or an open file as a local image."""
    if isinstance(value, str):
        return value
    from kling_async.inputs.local_image import make_image

    return make_image(value)


def to_end_image(value: ImageSource | LocalImage | None) -> ImageUrl | None:
    """Do as :func:`to_image`, and return None for None."""
    return None if value is None else to_image(value)
