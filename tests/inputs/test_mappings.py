import copy

import pytest

from kling_async.errors import InputError
from kling_async.inputs.base import Input
from kling_async.inputs.kling_2_1 import (
    MasterImageToVideo,
    MasterTextToVideo,
    ProImageToVideo,
    StandardImageToVideo,
)
from kling_async.inputs.kling_3_0_std import Kling30StdMotionControl
from kling_async.inputs.local_image import FOR_PROGRAMS
from tests.inputs.strategies import CAT, DANCE, DOG

GOOD: dict[str, object] = {"prompt": "x", "image_url": CAT}


def problems(cls: type[Input], mapping: dict[str, object]) -> dict[str, str]:
    """Read a wrong mapping and give what is said of each field."""
    with pytest.raises(InputError) as caught:
        cls.from_dict(mapping)
    found = caught.value.problems
    assert len(found) == len({problem.field for problem in found})
    return {problem.field: f"{problem.rule} / {problem.seen}" for problem in found}


def test_from_dict_knows_its_own_model_and_mode() -> None:
    """Model and mode may be left out; given, they must be the class's own."""
    assert StandardImageToVideo.from_dict(GOOD) == StandardImageToVideo("x", CAT)
    wrong = {"model": "kling-2-6", "mode": "pro-image-to-video", **GOOD}
    assert problems(StandardImageToVideo, wrong) == {
        "model": "must be 'kling-2-1' / 'kling-2-6'",
        "mode": "must be 'standard-image-to-video' / 'pro-image-to-video'",
    }


def test_unknown_keys_are_named() -> None:
    """Every key that the mode does not know is named, with its value."""
    wrong = {**GOOD, "aspect_ratio": "16:9", "seed": 5}
    assert problems(StandardImageToVideo, wrong) == {
        "aspect_ratio": "unknown key for standard-image-to-video / '16:9'",
        "seed": "unknown key for standard-image-to-video / 5",
    }


def test_keys_that_are_no_text() -> None:
    """Even a key that is no text is just an unknown one."""
    wrong = dict[object, object](GOOD) | {5: 6}
    with pytest.raises(InputError, match=r"^5: unknown key for .* \(seen: 6\)$"):
        StandardImageToVideo.from_dict(wrong)  # type: ignore[arg-type] # on purpose


def test_missing_fields_are_named() -> None:
    """Every field that is due and not given is named."""
    assert problems(StandardImageToVideo, {}) == {
        "prompt": "is required / nothing",
        "image_url": "is required / nothing",
    }
    assert problems(MasterTextToVideo, {}) == {"prompt": "is required / nothing"}


def test_everything_wrong_is_said_at_once() -> None:
    """Wrong mode, unknown key, missing and broken fields are all in one error."""
    wrong: dict[str, object] = {"mode": "x", "seed": 1, "duration": 7, "cfg_scale": 0.55}
    assert list(problems(StandardImageToVideo, wrong)) == [
        "mode",
        "seed",
        "prompt",
        "image_url",
        "duration",
        "cfg_scale",
    ]


def test_rounding_in_a_mapping() -> None:
    """A number that a class takes for a tenth is taken in a mapping too."""
    for scale in (0.1 + 0.2, 1.0000000000000002, -0.0, 1):
        made = MasterTextToVideo("x", cfg_scale=scale)
        assert MasterTextToVideo.from_dict({"prompt": "x", "cfg_scale": scale}) == made


def test_the_mapping_is_left_alone() -> None:
    """Reading a mapping does not change it."""
    mapping: dict[str, object] = {"mode": "pro-image-to-video", "prompt": "x", "image_urls": [CAT]}
    before = copy.deepcopy(mapping)
    ProImageToVideo.from_dict(mapping)
    assert mapping == before


@pytest.mark.parametrize("urls", [[CAT], (CAT,)])
def test_the_vendors_list_of_images(urls: object) -> None:
    """The vendor's `image_urls` are understood in place of `image_url`."""
    mapping: dict[str, object] = {"prompt": "x", "image_urls": urls}
    assert StandardImageToVideo.from_dict(mapping) == StandardImageToVideo("x", CAT)
    assert MasterImageToVideo.from_dict(mapping) == MasterImageToVideo("x", CAT)
    assert ProImageToVideo.from_dict(mapping) == ProImageToVideo("x", CAT)


def test_the_vendors_list_of_two_images() -> None:
    """In the pro mode the second of `image_urls` is the end image."""
    mapping = {"prompt": "x", "image_urls": [CAT, DOG]}
    assert ProImageToVideo.from_dict(mapping) == ProImageToVideo("x", CAT, end_image_url=DOG)


@pytest.mark.parametrize("cls", [StandardImageToVideo, MasterImageToVideo])
@pytest.mark.parametrize("urls", [[], [CAT, DOG], CAT, None, {"0": CAT}, {CAT}])
def test_exactly_one_image(cls: type[Input], urls: object) -> None:
    """No image or two, where one is due, is said once, under the name that was used."""
    assert problems(cls, {"prompt": "x", "image_urls": urls}) == {
        "image_urls": f"{cls.mode} takes exactly 1 URL / {urls!r}"
    }


@pytest.mark.parametrize("urls", [[], [CAT, CAT, CAT], CAT])
def test_one_or_two_images(urls: object) -> None:
    """No image or three, where one or two are due, is said once."""
    found = problems(ProImageToVideo, {"prompt": "x", "image_urls": urls})
    assert list(found) == ["image_urls"]
    assert found["image_urls"].startswith("pro-image-to-video takes 1 or 2 URLs / ")


def test_wrong_urls_in_the_list() -> None:
    """A wrong URL inside `image_urls` is complained of as the field that it becomes."""
    assert problems(ProImageToVideo, {"prompt": "x", "image_urls": ["ftp://cat", 5]}) == {
        "image_url": "must be one absolute http(s) URL / 'ftp://cat'",
        "end_image_url": f"must be one absolute http(s) URL{FOR_PROGRAMS} / 5",
    }


@pytest.mark.parametrize("beside", [{"image_url": CAT}, {"end_image_url": DOG}])
def test_images_given_twice(beside: dict[str, object]) -> None:
    """Images in both spellings would be a guess, and are refused."""
    wrong: dict[str, object] = {"prompt": "x", "image_urls": [CAT], **beside}
    assert problems(ProImageToVideo, wrong) == {
        "image_urls": f"give either image_urls or image_url, not both / {[CAT]!r}"
    }


def test_the_vendors_list_of_videos() -> None:
    """The vendor's `video_urls` are accepted in place of `video_url`: exactly one."""
    lists: dict[str, object] = {"image_urls": [CAT], "video_urls": [DANCE]}
    one = Kling30StdMotionControl(image_url=CAT, video_url=DANCE)
    assert Kling30StdMotionControl.from_dict(lists) == one
    assert problems(Kling30StdMotionControl, {**lists, "video_urls": []}) == {
        "video_urls": "motion-control takes exactly 1 URL / []"
    }
    assert list(problems(Kling30StdMotionControl, {"image_urls": 5, "video_urls": 5})) == [
        "image_urls",
        "video_urls",
    ]


def test_no_images_for_text() -> None:
    """Where no image is due, `image_urls` is an unknown key."""
    assert problems(MasterTextToVideo, {"prompt": "x", "image_urls": [CAT]}) == {
        "image_urls": f"unknown key for master-text-to-video / {[CAT]!r}"
    }


def test_wrong_images_hide_nothing_else() -> None:
    """With a wrong list of images, other missing fields are reported, but not image_url."""
    with pytest.raises(InputError) as caught:
        StandardImageToVideo.from_dict({"image_urls": []})
    assert [problem.field for problem in caught.value.problems] == ["image_urls", "prompt"]
