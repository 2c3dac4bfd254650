"""What each model of the service accepts, read from the contract, as tables.

What the contract lists as unknown is accepted if JSON can express it as one value; a field that it
does not name for a model, or marks as not applicable, is refused. Where the contract names no
default, the emulator chooses 5 s, and the mode must be given.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from attrs import field, frozen

from kling_async.testing.emulator.checks import (
    Check,
    check_boolean,
    check_cfg_scale,
    check_scalar,
    check_strings,
    integer,
    one_of,
    text,
)

ASPECT_RATIOS: Final = ("16:9", "9:16", "1:1")
PROVIDERS: Final = ("auto", "value", "official")
DURATION: Final = 5
"""The length of a video that is not given, in seconds."""

_NONE: Final = range(1)
_ONE: Final = range(1, 2)
_ONE_OR_TWO: Final = range(1, 3)

_SHORT_OR_LONG: Final = (5, 10)
_UP_TO_15: Final = range(3, 16)


@frozen
class Mode:
    """What one mode accepts besides the fields of its model.

    Attributes:
        images: How many images it needs.
        videos: How many videos it needs.
        has_aspect_ratio: Whether the shape can be chosen.
        without: Fields of the model that do not apply.
        required: Fields without which it is refused.
    """

    images: range = _NONE
    videos: range = _NONE
    has_aspect_ratio: bool = False
    without: Collection[str] = ()
    required: Collection[str] = ("prompt",)


@frozen
class Model:
    """What one model accepts.

    Attributes:
        modes: Its modes.
        default_mode: The mode of a submit that has none; None if the contract names none.
        fields: The fields of all its modes.
    """

    modes: Mapping[str, Mode]
    default_mode: str | None
    fields: Mapping[str, Check] = field(repr=False)

    def checks(self) -> dict[str, Check]:
        """Return the check of every field that any mode accepts."""
        lists = {"image_urls": [mode.images for mode in self.modes.values()]}
        lists["video_urls"] = [mode.videos for mode in self.modes.values()]
        return {
            "mode": one_of(self.modes),
            **self.fields,
            **{name: check_strings for name, counts in lists.items() if {*counts} != {_NONE}},
            "aspect_ratio": one_of(ASPECT_RATIOS),
        }


def _text_and_image(images: range, *required: str) -> dict[str, Mode]:
    needed = ("prompt", *required)
    return {
        "text-to-video": Mode(has_aspect_ratio=True, required=needed),
        "image-to-video": Mode(images, required=needed),
    }


_UNKNOWN: Final = {"negative_prompt": check_scalar, "cfg_scale": check_scalar}

MODELS: Final[Mapping[str, Model]] = {
    "kling-2-1": Model(
        {
            "standard-image-to-video": Mode(_ONE),
            "pro-image-to-video": Mode(_ONE_OR_TWO),
            "master-text-to-video": Mode(has_aspect_ratio=True),
            "master-image-to-video": Mode(_ONE),
        },
        "standard-image-to-video",
        {
            "prompt": text(1, 5000),
            "duration": integer(_SHORT_OR_LONG),
            "negative_prompt": text(longest=500),
            "cfg_scale": check_cfg_scale,
        },
    ),
    "kling-2-5-turbo-pro": Model(
        _text_and_image(_ONE_OR_TWO),
        "text-to-video",
        {
            "prompt": text(1, 2500),
            "duration": integer(_SHORT_OR_LONG),
            "negative_prompt": text(longest=2500),
            "cfg_scale": check_cfg_scale,
        },
    ),
    "kling-2-6": Model(
        _text_and_image(_ONE_OR_TWO, "sound"),
        "text-to-video",
        {
            "prompt": text(1, 1000),
            "duration": integer(_SHORT_OR_LONG),
            "sound": check_boolean,
            **_UNKNOWN,
        },
    ),
    "kling-3-0-std": Model(
        {
            **_text_and_image(_ONE_OR_TWO),
            "motion-control": Mode(_ONE, _ONE, without=("duration",), required=()),
        },
        "text-to-video",
        {
            "prompt": text(1),
            "duration": integer(_UP_TO_15),
            "sound": check_boolean,
            **_UNKNOWN,
        },
    ),
    "kling-3-0-turbo": Model(
        _text_and_image(_ONE),
        None,
        {
            "prompt": text(1),
            "duration": integer(_UP_TO_15),
            "resolution": one_of(("720p", "1080p")),
            "sound": check_scalar,
            **_UNKNOWN,
        },
    ),
}

_SHORT: Final = 5
_USUAL: Final = ((60.0, 90.0), (90.0, 120.0))
# The seconds that a video of up to 5 s takes, and a longer one. Those of others are unknown.
_SECONDS: Final = {"kling-2-1": _USUAL, "kling-2-5-turbo-pro": ((30.0, 45.0), (45.0, 60.0))}


def usual_seconds(model: str, duration: int) -> tuple[float, float]:
    """Return how long a video takes to make, by its model and length."""
    short, long = _SECONDS.get(model, _USUAL)
    return short if duration <= _SHORT else long
