"""The two modes of ``kling-2-5-turbo-pro``, with the rules of their fields from the contract.

The fields, beside those that mean the same for all models (:mod:`kling_async.inputs.base`):

- ``prompt``: what the video shows, 1 to 2500 characters.
- ``duration``: 5 or 10, in seconds. It is always sent: the API's default is unknown.
- ``negative_prompt``: what to avoid, at most 2500 characters.
- ``cfg_scale``: how closely to follow the prompt, 0 to 1 in steps of 0.1; the default is unknown.
"""

from __future__ import annotations

from typing import ClassVar

from attrs import field, frozen

from kling_async.inputs import fields
from kling_async.inputs.base import Input, ruled
from kling_async.inputs.rules import or_none, text, to_tenth

_PROMPT = ruled(text(1, 2500))
_NEGATIVE_PROMPT = ruled(or_none(text(0, 2500)))


@frozen(kw_only=True)
class _Kling25TurboPro(Input):
    """The fields that both modes share."""

    model: ClassVar[str] = "kling-2-5-turbo-pro"

    duration: fields.Duration = field(default=5, metadata=fields.DURATION)
    negative_prompt: str | None = field(default=None, metadata=_NEGATIVE_PROMPT)
    cfg_scale: float | None = field(default=None, converter=to_tenth, metadata=fields.CFG_SCALE)
    provider: fields.Provider | None = field(default=None, metadata=fields.PROVIDER)


@frozen
class Kling25TurboProTextToVideo(_Kling25TurboPro):
    """A video from text, in 16:9, 9:16 or 1:1."""

    mode: ClassVar[str] = "text-to-video"

    prompt: str = field(metadata=_PROMPT)
    aspect_ratio: fields.AspectRatio = field(
        default="16:9", kw_only=True, metadata=fields.ASPECT_RATIO
    )


@frozen
class Kling25TurboProImageToVideo(_Kling25TurboPro):
    """A video from one image, or from a first to a last image."""

    mode: ClassVar[str] = "image-to-video"

    prompt: str = field(metadata=_PROMPT)
    image_url: fields.ImageUrl = field(converter=fields.to_image, metadata=fields.IMAGE)
    end_image_url: fields.ImageUrl | None = field(
        default=None, kw_only=True, converter=fields.to_end_image, metadata=fields.END_IMAGE
    )


CLASSES = (Kling25TurboProTextToVideo, Kling25TurboProImageToVideo)
