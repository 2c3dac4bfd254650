"""The four modes of ``kling-2-1`` and their rules, as the contract gives them.

Every class takes:

- ``prompt``: what the video shows, 1 to 5000 characters.
- ``duration``: 5 or 10, in seconds.
- ``negative_prompt``: what to avoid, at most 500 characters.
- ``cfg_scale``: how closely to follow the prompt, 0 to 1 in steps of 0.1; the vendor
  recommends 0.3 to 0.7 and names no default.
- ``provider``: ``"auto"``, ``"value"`` or ``"official"``; left out unless set, since the
  vendor's newest pages make it a setting of the key.

Some of them take:

- ``image_url``: the image that the video begins with. Image URLs must be reachable by the
  service: JPEG, PNG or WebP of at most 10 MB.
- ``end_image_url``: the image that the video ends with.
- ``aspect_ratio``: ``"16:9"``, ``"9:16"`` or ``"1:1"``.

Each of these lines also describes its field in JSON schemas.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from attrs import field, frozen

from kling_async.inputs.base import Input, Provider, register, ruled
from kling_async.inputs.rules import OneOf, OrNone, Tenths, Text, WebUrl, to_tenth

Duration = Literal[5, 10]
AspectRatio = Literal["16:9", "9:16", "1:1"]

_PROMPT = ruled(Text(1, 5000))
_IMAGE = ruled(WebUrl())
_DURATION = ruled(OneOf((5, 10)))
_NEGATIVE_PROMPT = ruled(OrNone(Text(0, 500)))
_CFG_SCALE = ruled(OrNone(Tenths(0, 1)))
_PROVIDER = ruled(OrNone(OneOf(("auto", "value", "official"))))


@frozen(kw_only=True)
class _Kling21(Input):
    """The fields that all four modes share."""

    model: ClassVar[str] = "kling-2-1"

    duration: Duration = field(default=5, metadata=_DURATION)
    negative_prompt: str | None = field(default=None, metadata=_NEGATIVE_PROMPT)
    cfg_scale: float | None = field(default=None, converter=to_tenth, metadata=_CFG_SCALE)
    provider: Provider | None = field(default=None, metadata=_PROVIDER)


@frozen
class StandardImageToVideo(_Kling21):
    """Bring one image to life, at standard quality.

    Raises:
        InputError: One or more rules of this module are broken; all are named.
    """

    mode: ClassVar[str] = "standard-image-to-video"

    prompt: str = field(metadata=_PROMPT)
    image_url: str = field(metadata=_IMAGE)


@frozen
class ProImageToVideo(_Kling21):
    """Bring one image to life, or lead from it to an end image, at professional quality.

    Raises:
        InputError: One or more rules of this module are broken; all are named.
    """

    mode: ClassVar[str] = "pro-image-to-video"

    prompt: str = field(metadata=_PROMPT)
    image_url: str = field(metadata=_IMAGE)
    end_image_url: str | None = field(default=None, kw_only=True, metadata=ruled(OrNone(WebUrl())))


@frozen
class MasterTextToVideo(_Kling21):
    """Make a video from text alone, in 16:9, 9:16 or 1:1, at the highest quality.

    Raises:
        InputError: One or more rules of this module are broken; all are named.
    """

    mode: ClassVar[str] = "master-text-to-video"

    prompt: str = field(metadata=_PROMPT)
    aspect_ratio: AspectRatio = field(
        default="16:9", kw_only=True, metadata=ruled(OneOf(("16:9", "9:16", "1:1")))
    )


@frozen
class MasterImageToVideo(_Kling21):
    """Bring one image to life, at the highest quality.

    Raises:
        InputError: One or more rules of this module are broken; all are named.
    """

    mode: ClassVar[str] = "master-image-to-video"

    prompt: str = field(metadata=_PROMPT)
    image_url: str = field(metadata=_IMAGE)


register(StandardImageToVideo, ProImageToVideo, MasterTextToVideo, MasterImageToVideo)
