from functools import partial

import pytest

from kling_async.errors import InputError
from kling_async.inputs.base import Input
from kling_async.inputs.kling_2_5_turbo_pro import (
    Kling25TurboProImageToVideo,
    Kling25TurboProTextToVideo,
)
from tests.inputs.strategies import CAT, DOG, broken_fields, refused

TEXT = partial(Kling25TurboProTextToVideo, "x")
IMAGE = partial(Kling25TurboProImageToVideo, "x", CAT)


def test_plain_values() -> None:
    """The model, the mode and the defaults: 5 seconds, and 16:9 for a video from text."""
    shared = {"model": "kling-2-5-turbo-pro", "prompt": "x", "duration": 5}
    assert TEXT().to_dict() == {**shared, "mode": "text-to-video", "aspect_ratio": "16:9"}
    assert IMAGE().to_dict() == {**shared, "mode": "image-to-video", "image_url": CAT}
    assert IMAGE(end_image_url=DOG).end_image_url == DOG


@pytest.mark.parametrize("make", [TEXT, IMAGE])
def test_edges(make: partial[Input]) -> None:
    """The rules of the contract: 2,500 characters, 5 or 10 seconds, tenths from 0 to 1."""
    taken: dict[str, list[object]] = {
        "negative_prompt": ["", "é" * 2500, None],
        "duration": [5, 10],
        "cfg_scale": [0, 0.1 + 0.2, 1, None],
        "provider": ["auto", "value", "official", None],
    }
    assert refused(make, **taken) == {name: [] for name in taken}
    wrong: dict[str, list[object]] = {
        "negative_prompt": ["é" * 2501, 5],
        "duration": [4, 7, 15, 5.0, True, None],
        "cfg_scale": [0.55, -0.1, 1.1, True, "0.5"],
        "provider": ["best"],
    }
    assert refused(make, **wrong) == wrong


def test_prompts() -> None:
    """A prompt has 1 to 2,500 characters."""
    for cls, rest in ((Kling25TurboProTextToVideo, ()), (Kling25TurboProImageToVideo, (CAT,))):
        for length, broken in ((0, ["prompt"]), (1, []), (2500, []), (2501, ["prompt"])):
            assert broken_fields(partial(cls, "é" * length, *rest)) == broken


def test_what_a_mode_does_not_have() -> None:
    """Images, ratios and sound that do not apply are no fields."""
    for cls, name in (
        (Kling25TurboProTextToVideo, "image_url"),
        (Kling25TurboProImageToVideo, "aspect_ratio"),
        (Kling25TurboProTextToVideo, "sound"),
    ):
        with pytest.raises(InputError, match=f"{name}: unknown key"):
            cls.from_dict({name: "16:9"})
    assert broken_fields(TEXT, aspect_ratio="4:3") == ["aspect_ratio"]
    with pytest.raises(InputError, match="image-to-video takes 1 or 2 URLs"):
        Kling25TurboProImageToVideo.from_dict({"prompt": "x", "image_urls": [CAT] * 3})
