"""The two modes of ``kling-3-0-turbo``, with the rules of their fields from the contract.

The fields, beside those that mean the same for all models (:mod:`kling_async.inputs.base`):

- ``prompt``: what the video shows. The greatest length is unknown.
- ``duration``: 3 to 15, in seconds. It is always sent: the API's default is unknown.
- ``resolution``: ``"720p"`` or ``"1080p"``. Not sent unless set; the default is unknown.
- ``negative_prompt``: what to avoid. Its rule is unknown: any value is sent unchecked.
- ``cfg_scale``: how closely to follow the prompt. Its rule is unknown: any value is sent unchecked.
- ``sound``: whether the video has sound. Its rule is unknown: any value is sent unchecked.

The contract names no default mode: a mapping for ``parse_input`` must have one.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from attrs import field, frozen

from kling_async.inputs import fields
from kling_async.inputs.base import Input, ruled
from kling_async.inputs.extra_rules import UNCHECKED, Unchecked, integers
from kling_async.inputs.rules import one_of, or_none, text

Resolution = Literal["720p", "1080p"]

_PROMPT = ruled(text(1, None))
_DURATION = ruled(integers(3, 15))
_RESOLUTION = ruled(or_none(one_of("720p", "1080p")))
_UNCHECKED = ruled(or_none(UNCHECKED))


@frozen(kw_only=True)
class _Kling30Turbo(Input):
    """The fields that both modes share."""

    model: ClassVar[str] = "kling-3-0-turbo"

    duration: int = field(default=5, metadata=_DURATION)
    resolution: Resolution | None = field(default=None, metadata=_RESOLUTION)
    negative_prompt: Unchecked | None = field(default=None, metadata=_UNCHECKED)
    cfg_scale: Unchecked | None = field(default=None, metadata=_UNCHECKED)
    sound: Unchecked | None = field(default=None, metadata=_UNCHECKED)
    provider: fields.Provider | None = field(default=None, metadata=fields.PROVIDER)


@frozen
class Kling30TurboTextToVideo(_Kling30Turbo):
    """A video from text, in 16:9, 9:16 or 1:1."""

    mode: ClassVar[str] = "text-to-video"

    prompt: str = field(metadata=_PROMPT)
    aspect_ratio: fields.AspectRatio = field(
        default="16:9", kw_only=True, metadata=fields.ASPECT_RATIO
    )


@frozen
class Kling30TurboImageToVideo(_Kling30Turbo):
    """A video from one image."""

    mode: ClassVar[str] = "image-to-video"

    prompt: str = field(metadata=_PROMPT)
    image_url: fields.ImageUrl = field(converter=fields.to_image, metadata=fields.IMAGE)


CLASSES = (Kling30TurboTextToVideo, Kling30TurboImageToVideo)
