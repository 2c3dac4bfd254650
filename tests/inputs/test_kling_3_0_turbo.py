from functools import partial

import pytest

from kling_async.errors import InputError
from kling_async.inputs.base import Input
from kling_async.inputs.kling_3_0_turbo import Kling30TurboImageToVideo, Kling30TurboTextToVideo
from tests.inputs.strategies import CAT, broken_fields, refused

TEXT = partial(Kling30TurboTextToVideo, "x")
IMAGE = partial(Kling30TurboImageToVideo, "x", CAT)


def test_plain_values() -> None:
    """The model, the mode and the defaults."""
    shared = {"model": "kling-3-0-turbo", "prompt": "x", "duration": 5}
    assert TEXT().to_dict() == {**shared, "mode": "text-to-video", "aspect_ratio": "16:9"}
    assert IMAGE().to_dict() == {**shared, "mode": "image-to-video", "image_url": CAT}


@pytest.mark.parametrize("make", [TEXT, IMAGE])
def test_edges(make: partial[Input]) -> None:
    """Lengths and resolutions have rules; what is unknown is sent as it is."""
    taken: dict[str, list[object]] = {
        "duration": [3, 15],
        "resolution": [None, "720p", "1080p"],
        "sound": [None, True, "loud"],
        "negative_prompt": ["é" * 9000],
        "cfg_scale": [0.55],
    }
    assert refused(make, **taken) == {name: [] for name in taken}
    wrong: dict[str, list[object]] = {
        "duration": [2, 16, 5.0, True, None],
        "resolution": ["4k", 720, ""],
        "sound": [["x"]],
        "provider": ["best"],
    }
    assert refused(make, **wrong) == wrong


def test_prompts() -> None:
    """A prompt has at least one character, and no greatest length."""
    for prompt, broken in (("", ["prompt"]), ("x", []), ("é" * 100_000, []), (None, ["prompt"])):
        assert broken_fields(Kling30TurboTextToVideo, prompt=prompt) == broken


def test_exactly_one_image() -> None:
    """A video from an image has no second one."""
    with pytest.raises(TypeError, match="end_image_url"):
        IMAGE(end_image_url=CAT)  # type: ignore[call-arg] # on purpose
    with pytest.raises(InputError, match="image-to-video takes exactly 1 URL"):
        Kling30TurboImageToVideo.from_dict({"prompt": "x", "image_urls": [CAT, CAT]})
