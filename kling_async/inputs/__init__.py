"""The inputs: one class for each mode of each model, and one for any other model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kling_async._utils.lazy import lazy_names

if TYPE_CHECKING:
    from collections.abc import Callable

    from kling_async.inputs.base import Input
    from kling_async.inputs.fields import AspectRatio, Duration, Provider
    from kling_async.inputs.kling_2_1 import (
        MasterImageToVideo,
        MasterTextToVideo,
        ProImageToVideo,
        StandardImageToVideo,
    )
    from kling_async.inputs.kling_2_5_turbo_pro import (
        Kling25TurboProImageToVideo,
        Kling25TurboProTextToVideo,
    )
    from kling_async.inputs.kling_2_6 import Kling26ImageToVideo, Kling26TextToVideo
    from kling_async.inputs.kling_3_0_std import (
        Kling30StdImageToVideo,
        Kling30StdMotionControl,
        Kling30StdTextToVideo,
    )
    from kling_async.inputs.kling_3_0_turbo import (
        Kling30TurboImageToVideo,
        Kling30TurboTextToVideo,
        Resolution,
    )
    from kling_async.inputs.parsing import parse_input
    from kling_async.inputs.raw import RawInput

__all__ = [
    "AspectRatio",
    "Duration",
    "Input",
    "Kling25TurboProImageToVideo",
    "Kling25TurboProTextToVideo",
    "Kling26ImageToVideo",
    "Kling26TextToVideo",
    "Kling30StdImageToVideo",
    "Kling30StdMotionControl",
    "Kling30StdTextToVideo",
    "Kling30TurboImageToVideo",
    "Kling30TurboTextToVideo",
    "MasterImageToVideo",
    "MasterTextToVideo",
    "ProImageToVideo",
    "Provider",
    "RawInput",
    "Resolution",
    "StandardImageToVideo",
    "parse_input",
]

__getattr__: Callable[[str], object]
__dir__: Callable[[], list[str]]
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "base": ("Input",),
        "fields": ("AspectRatio", "Duration", "Provider"),
        "kling_2_1": (
            "MasterImageToVideo",
            "MasterTextToVideo",
            "ProImageToVideo",
            "StandardImageToVideo",
        ),
        "kling_2_5_turbo_pro": ("Kling25TurboProImageToVideo", "Kling25TurboProTextToVideo"),
        "kling_2_6": ("Kling26ImageToVideo", "Kling26TextToVideo"),
        "kling_3_0_std": (
            "Kling30StdImageToVideo",
            "Kling30StdMotionControl",
            "Kling30StdTextToVideo",
        ),
        "kling_3_0_turbo": ("Kling30TurboImageToVideo", "Kling30TurboTextToVideo", "Resolution"),
        "parsing": ("parse_input",),
        "raw": ("RawInput",),
    },
)
