"""The two modes of ``kling-2-6``, with the rules of their fields from the contract.

The fields, beside those that mean the same for all models (:mod:`kling_async.inputs.base`):

- ``prompt``: what the video shows, 1 to 1000 characters.
- ``sound``: whether the video has sound. There is no default: the API requires it.
- ``duration``: 5 or 10, in seconds. It is always sent: the API's default is unknown.
- ``negative_prompt``: what to avoid. Its rule is unknown: any value is sent unchecked.
- ``cfg_scale``: how closely to follow the prompt. Its rule is unknown: any value is sent unchecked.
- ``end_image_url``: the second image. Elsewhere it is the one that the video ends with; for this
  model the contract does not name its meaning.
"""

from __future__ import annotations

from typing import ClassVar

from attrs import field, frozen

from kling_async.inputs import fields
from kling_async.inputs.base import Input, ruled
from kling_async.inputs.extra_rules import BOOLEAN, UNCHECKED, Unchecked
from kling_async.inputs.rules import or_none, text

_PROMPT = ruled(text(1, 1000))
_SOUND = ruled(BOOLEAN)
_UNCHECKED = ruled(or_none(UNCHECKED))


@frozen(kw_only=True)
class _Kling26(Input):
    """The fields that both modes share."""

    model: ClassVar[str] = "kling-2-6"

    sound: bool = field(metadata=_SOUND)
    duration: fields.Duration = field(default=5, metadata=fields.DURATION)
    negative_prompt: Unchecked | None = field(default=None, metadata=_UNCHECKED)
    cfg_scale: Unchecked | None = field(default=None, metadata=_UNCHECKED)
    provider: fields.Provider | None = field(default=None, metadata=fields.PROVIDER)


@frozen
class Kling26TextToVideo(_Kling26):
    """A video from text, in 16:9, 9:16 or 1:1, with or without sound."""

    mode: ClassVar[str] = "text-to-video"

    prompt: str = field(metadata=_PROMPT)
    aspect_ratio: fields.AspectRatio = field(
        default="16:9", kw_only=True, metadata=fields.ASPECT_RATIO
    )


@frozen
class Kling26ImageToVideo(_Kling26):
    """A video from one or two images, with or without sound."""

    mode: ClassVar[str] = "image-to-video"

    prompt: str = field(metadata=_PROMPT)
    image_url: fields.ImageUrl = field(converter=fields.to_image, metadata=fields.IMAGE)
    end_image_url: fields.ImageUrl | None = field(
        default=None, kw_only=True, converter=fields.to_end_image, metadata=fields.END_IMAGE
    )


CLASSES = (Kling26TextToVideo, Kling26ImageToVideo)
