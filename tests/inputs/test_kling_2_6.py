from functools import partial

import pytest

from kling_async.errors import InputError
from kling_async.inputs.base import Input
from kling_async.inputs.kling_2_6 import Kling26ImageToVideo, Kling26TextToVideo
from tests.inputs.strategies import CAT, DOG, broken_fields, refused

TEXT = partial(Kling26TextToVideo, "x", sound=True)
IMAGE = partial(Kling26ImageToVideo, "x", CAT, sound=False)


def test_plain_values() -> None:
    """The model, the mode and the defaults."""
    shared = {"model": "kling-2-6", "prompt": "x", "duration": 5}
    text = {"mode": "text-to-video", "aspect_ratio": "16:9", "sound": True}
    assert TEXT().to_dict() == {**shared, **text}
    image = {"mode": "image-to-video", "image_url": CAT, "sound": False}
    assert IMAGE().to_dict() == {**shared, **image}
    assert IMAGE(end_image_url=DOG).end_image_url == DOG


def test_sound_is_required() -> None:
    """Whether the video has sound must be given, as True or False."""
    with pytest.raises(TypeError, match="sound"):
        Kling26TextToVideo("x")  # type: ignore[call-arg] # on purpose
    with pytest.raises(InputError, match="sound: is required"):
        Kling26ImageToVideo.from_dict({"prompt": "x", "image_url": CAT})
    for wrong in (None, 1, "on"):
        assert broken_fields(TEXT, sound=wrong) == ["sound"]


@pytest.mark.parametrize("make", [TEXT, IMAGE])
def test_edges(make: partial[Input]) -> None:
    """Durations and providers have rules; what is unknown is sent as it is, if JSON can say it."""
    taken: dict[str, list[object]] = {
        "duration": [5, 10],
        "negative_prompt": [None, "", "é" * 9000, 5, True],
        "cfg_scale": [None, 0.55, -7, 10**300, "high", False],
    }
    assert refused(make, **taken) == {name: [] for name in taken}
    plain = make(cfg_scale=0.55, negative_prompt="").to_dict()
    assert (plain["cfg_scale"], plain["negative_prompt"]) == (0.55, "")
    wrong: dict[str, list[object]] = {
        "duration": [3, 15, True],
        "negative_prompt": [["x"], b"x", "\ud800"],
        "cfg_scale": [float("nan"), float("inf"), 10**400, {}],
        "provider": ["best"],
    }
    assert refused(make, **wrong) == wrong


def test_prompts() -> None:
    """A prompt has 1 to 1,000 characters."""
    for length, broken in ((0, ["prompt"]), (1, []), (1000, []), (1001, ["prompt"])):
        assert broken_fields(partial(Kling26TextToVideo, "é" * length, sound=True)) == broken
        assert broken_fields(partial(Kling26ImageToVideo, "é" * length, CAT, sound=True)) == broken
