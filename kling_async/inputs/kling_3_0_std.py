"""The three modes of ``kling-3-0-std``, with the rules of their fields from the contract.

The fields, beside those that mean the same for all models (:mod:`kling_async.inputs.base`):

- ``prompt``: what the video shows, optional for motion control. The greatest length is unknown.
- ``sound``: whether the video has sound. Not sent unless set; the default is unknown.
- ``negative_prompt``: what to avoid. Its rule is unknown: any value is sent unchecked.
- ``cfg_scale``: how closely to follow the prompt. Its rule is unknown: any value is sent unchecked.
- ``duration``: 3 to 15, in seconds. With motion control it is that of the video.
- ``end_image_url``: the second image. Elsewhere it is the one that the video ends with; for this
  model the contract does not name its meaning.
- ``video_url``: the video whose motion is used: MP4, MOV or M4V of at most 30 s.
"""

from __future__ import annotations

from typing import ClassVar

from attrs import field, frozen

from kling_async.inputs import fields
from kling_async.inputs.base import Input, ruled
from kling_async.inputs.extra_rules import BOOLEAN, UNCHECKED, Unchecked, integers
from kling_async.inputs.rules import or_none, text

_PROMPT = ruled(text(1, None))
_OPTIONAL_PROMPT = ruled(or_none(text(1, None)))
_DURATION = ruled(integers(3, 15))
_SOUND = ruled(or_none(BOOLEAN))
_UNCHECKED = ruled(or_none(UNCHECKED))


@frozen(kw_only=True)
class _Kling30Std(Input):
    """The fields that all three modes share."""

    model: ClassVar[str] = "kling-3-0-std"

    sound: bool | None = field(default=None, metadata=_SOUND)
    negative_prompt: Unchecked | None = field(default=None, metadata=_UNCHECKED)
    cfg_scale: Unchecked | None = field(default=None, metadata=_UNCHECKED)
    provider: fields.Provider | None = field(default=None, metadata=fields.PROVIDER)


@frozen
class Kling30StdTextToVideo(_Kling30Std):
    """A video from text, in 16:9, 9:16 or 1:1."""

    mode: ClassVar[str] = "text-to-video"

    prompt: str = field(metadata=_PROMPT)
    duration: int = field(default=5, kw_only=True, metadata=_DURATION)
    aspect_ratio: fields.AspectRatio = field(
        default="16:9", kw_only=True, metadata=fields.ASPECT_RATIO
    )


@frozen
class Kling30StdImageToVideo(_Kling30Std):
    """A video from one or two images."""

    mode: ClassVar[str] = "image-to-video"

    prompt: str = field(metadata=_PROMPT)
    image_url: fields.ImageUrl = field(converter=fields.to_image, metadata=fields.IMAGE)
    end_image_url: fields.ImageUrl | None = field(
        default=None, kw_only=True, converter=fields.to_end_image, metadata=fields.END_IMAGE
    )
    duration: int = field(default=5, kw_only=True, metadata=_DURATION)


@frozen(kw_only=True)
class Kling30StdMotionControl(_Kling30Std):
    """A video in which what an image shows moves as in another video, and for as long."""

    mode: ClassVar[str] = "motion-control"

    prompt: str | None = field(default=None, metadata=_OPTIONAL_PROMPT)
    image_url: fields.ImageUrl = field(converter=fields.to_image, metadata=fields.IMAGE)
    video_url: str = field(metadata=fields.VIDEO)


CLASSES = (Kling30StdTextToVideo, Kling30StdImageToVideo, Kling30StdMotionControl)
