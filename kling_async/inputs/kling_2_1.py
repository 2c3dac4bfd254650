"""The four modes of ``kling-2-1``, and the rules of their fields as the API's contract has them.

The fields, beside those that mean the same for all models (:mod:`kling_async.inputs.base`):

- ``prompt``: what the video shows, 1 to 5000 characters.
- ``duration``: 5 or 10, in seconds.
- ``negative_prompt``: what to avoid, at most 500 characters.
- ``cfg_scale``: how closely to follow the prompt, 0 to 1 in steps of 0.1; the vendor
  recommends 0.3 to 0.7 and names no default.
"""

from __future__ import annotations

from typing import ClassVar

from attrs import field, frozen

from kling_async.inputs import fields
from kling_async.inputs.base import Input, ruled
from kling_async.inputs.rules import or_none, text, to_tenth

_PROMPT = ruled(text(1, 5000))
_NEGATIVE_PROMPT = ruled(or_none(text(0, 500)))


@frozen(kw_only=True)
class _Kling21(Input):
    """The fields that all four modes share."""

    model: ClassVar[str] = "kling-2-1"

    duration: fields.Duration = field(default=5, metadata=fields.DURATION)
    negative_prompt: str | None = field(default=None, metadata=_NEGATIVE_PROMPT)
    cfg_scale: float | None = field(default=None, converter=to_tenth, metadata=fields.CFG_SCALE)
    provider: fields.Provider | None = field(default=None, metadata=fields.PROVIDER)


@frozen
class StandardImageToVideo(_Kling21):
    """A video from one image, at standard quality."""

    mode: ClassVar[str] = "standard-image-to-video"

    prompt: str = field(metadata=_PROMPT)
    image_url: fields.ImageUrl = field(converter=fields.to_image, metadata=fields.IMAGE)


@frozen
class ProImageToVideo(_Kling21):
    """A video from one image, or from a first to a last image, at professional quality."""

    mode: ClassVar[str] = "pro-image-to-video"

    prompt: str = field(metadata=_PROMPT)
    image_url: fields.ImageUrl = field(converter=fields.to_image, metadata=fields.IMAGE)
    end_image_url: fields.ImageUrl | None = field(
        default=None, kw_only=True, converter=fields.to_end_image, metadata=fields.END_IMAGE
    )


@frozen
class MasterTextToVideo(_Kling21):
    """A video from text, in 16:9, 9:16 or 1:1, at the highest quality."""

    mode: ClassVar[str] = "master-text-to-video"

    prompt: str = field(metadata=_PROMPT)
    aspect_ratio: fields.AspectRatio = field(
        default="16:9", kw_only=True, metadata=fields.ASPECT_RATIO
    )


@frozen
class MasterImageToVideo(_Kling21):
    """A video from one image, at the highest quality."""

    mode: ClassVar[str] = "master-image-to-video"

    prompt: str = field(metadata=_PROMPT)
    image_url: fields.ImageUrl = field(converter=fields.to_image, metadata=fields.IMAGE)


CLASSES = (StandardImageToVideo, ProImageToVideo, MasterTextToVideo, MasterImageToVideo)
