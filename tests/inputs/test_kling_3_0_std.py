from functools import partial

import pytest

from kling_async.errors import InputError
from kling_async.inputs.base import Input
from kling_async.inputs.kling_3_0_std import (
    Kling30StdImageToVideo,
    Kling30StdMotionControl,
    Kling30StdTextToVideo,
)
from tests.inputs.strategies import CAT, DANCE, DOG, broken_fields, refused

TEXT = partial(Kling30StdTextToVideo, "x")
IMAGE = partial(Kling30StdImageToVideo, "x", CAT)
CONTROL = partial(Kling30StdMotionControl, image_url=CAT, video_url=DANCE)


def test_plain_values() -> None:
    """The model, the mode and the defaults; the length of motion control is that of its video."""
    shared = {"model": "kling-3-0-std"}
    text = {"mode": "text-to-video", "prompt": "x", "duration": 5, "aspect_ratio": "16:9"}
    assert TEXT().to_dict() == {**shared, **text}
    image = {"mode": "image-to-video", "prompt": "x", "duration": 5, "image_url": CAT}
    assert IMAGE().to_dict() == {**shared, **image}
    assert IMAGE(end_image_url=DOG).end_image_url == DOG
    control = {"mode": "motion-control", "image_url": CAT, "video_url": DANCE}
    assert CONTROL().to_dict() == {**shared, **control}
    assert CONTROL(prompt="x").prompt == "x"


@pytest.mark.parametrize("make", [TEXT, IMAGE, CONTROL])
def test_edges(make: partial[Input]) -> None:
    """Sound is True, False or unset; what is unknown is sent as it is."""
    taken: dict[str, list[object]] = {
        "sound": [None, True, False],
        "negative_prompt": ["é" * 9000],
        "cfg_scale": [0.55],
    }
    assert refused(make, **taken) == {name: [] for name in taken}
    wrong: dict[str, list[object]] = {
        "sound": [1, "on"],
        "negative_prompt": [["x"]],
        "cfg_scale": [float("nan")],
        "provider": ["best"],
    }
    assert refused(make, **wrong) == wrong


@pytest.mark.parametrize("make", [TEXT, IMAGE])
def test_durations(make: partial[Input]) -> None:
    """A video takes 3 to 15 seconds, as an integer."""
    assert [broken_fields(make, duration=seconds) for seconds in (3, 4, 14, 15)] == [[]] * 4
    for wrong in (2, 16, 5.0, True, "5", None):
        assert broken_fields(make, duration=wrong) == ["duration"]


def test_prompts() -> None:
    """A prompt has at least one character, and no greatest length; motion control needs none."""
    for prompt, broken in (("", ["prompt"]), ("x", []), ("é" * 100_000, []), (5, ["prompt"])):
        assert broken_fields(Kling30StdTextToVideo, prompt=prompt) == broken
        assert broken_fields(CONTROL, prompt=prompt) == broken
    with pytest.raises(InputError, match="prompt: must be text of at least 1 characters"):
        Kling30StdTextToVideo("")


def test_motion_control_needs_an_image_and_a_video() -> None:
    """Motion control takes exactly one image and one video, and neither length nor ratio."""
    with pytest.raises(InputError) as caught:
        Kling30StdMotionControl.from_dict({"duration": 5, "aspect_ratio": "16:9"})
    assert [problem.field for problem in caught.value.problems] == [
        *("duration", "aspect_ratio", "image_url", "video_url")
    ]
    assert broken_fields(CONTROL, video_url="dance.mp4") == ["video_url"]
