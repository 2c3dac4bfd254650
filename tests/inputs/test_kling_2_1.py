import math
from collections.abc import Callable

import attrs
import pytest

from kling_async.errors import InputError
from kling_async.inputs.base import Input
from kling_async.inputs.kling_2_1 import (
    MasterImageToVideo,
    MasterTextToVideo,
    ProImageToVideo,
    StandardImageToVideo,
)

CAT = "https://example.com/cat.jpg"
DOG = "https://example.com/dog.jpg"

IMAGE_CLASSES = [StandardImageToVideo, ProImageToVideo, MasterImageToVideo]
MODES = {
    StandardImageToVideo: "standard-image-to-video",
    ProImageToVideo: "pro-image-to-video",
    MasterTextToVideo: "master-text-to-video",
    MasterImageToVideo: "master-image-to-video",
}

# A maker of each class from keywords, with everything required given.
Maker = Callable[..., Input]


def with_required(cls: type[Input]) -> Maker:
    """Give a function that builds an input of one class from what differs."""
    required = {"prompt": "a fox"} | ({"image_url": CAT} if cls in IMAGE_CLASSES else {})
    return lambda **fields: cls(**{**required, **fields})


MAKERS = [with_required(cls) for cls in MODES]


def broken(make: Maker, **fields: object) -> dict[str, str]:
    """Build an input wrongly and give each field complained of with the value seen."""
    with pytest.raises(InputError) as caught:
        make(**fields)
    for problem in caught.value.problems:
        assert str(problem) in str(caught.value)
    assert not caught.value.may_have_charged
    assert not caught.value.retryable
    return {problem.field: problem.seen for problem in caught.value.problems}


@pytest.mark.parametrize(("cls", "mode"), MODES.items())
def test_model_and_mode(cls: type[Input], mode: str) -> None:
    """Each class is one mode of kling-2-1."""
    assert (cls.model, cls.mode) == ("kling-2-1", mode)


@pytest.mark.parametrize("make", MAKERS)
def test_defaults(make: Maker) -> None:
    """A video takes 5 seconds unless said otherwise, and the other options are unset."""
    fields = attrs.asdict(make())
    assert fields["duration"] == 5
    assert [fields[name] for name in ("negative_prompt", "cfg_scale", "provider")] == [None] * 3


def test_own_fields() -> None:
    """Images come second, the end image and the aspect ratio by name."""
    assert StandardImageToVideo("x", CAT).image_url == CAT
    assert MasterImageToVideo("x", CAT).image_url == CAT
    assert ProImageToVideo("x", CAT).end_image_url is None
    assert ProImageToVideo("x", CAT, end_image_url=DOG).end_image_url == DOG
    assert MasterTextToVideo("x").aspect_ratio == "16:9"


def test_options_have_names() -> None:
    """Options cannot be given by position: which is which would be guesswork."""
    with pytest.raises(TypeError):
        StandardImageToVideo("x", CAT, 10)  # type: ignore[call-arg] # on purpose
    with pytest.raises(TypeError):
        MasterTextToVideo("x", "9:16")  # type: ignore[call-arg,arg-type] # on purpose
    with pytest.raises(TypeError):
        ProImageToVideo("x", CAT, DOG)  # type: ignore[call-arg,arg-type] # on purpose


@pytest.mark.parametrize("make", MAKERS)
def test_inputs_are_frozen(make: Maker) -> None:
    """An input cannot be changed, so it cannot become wrong."""
    one = make()
    for field in attrs.fields(type(one)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(one, field.name, getattr(one, field.name))


@pytest.mark.parametrize("make", MAKERS)
def test_evolved_inputs_are_checked(make: Maker) -> None:
    """A copy with a changed field is checked like any input."""
    change: Maker = attrs.evolve
    assert change(make(), duration=10) == make(duration=10)
    with pytest.raises(InputError):
        change(make(), duration=7)


@pytest.mark.parametrize("make", MAKERS)
def test_empty_prompt(make: Maker) -> None:
    """A prompt must not be empty."""
    assert broken(make, prompt="") == {"prompt": "''"}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("character", ["a", "é", "語", "🦊"])
def test_prompt_length(make: Maker, character: str) -> None:
    """A prompt takes 5,000 characters, of however many bytes, and not 5,001."""
    make(prompt=character)
    make(prompt=character * 5000)
    assert broken(make, prompt=character * 5001) == {
        "prompt": f"'{character * 80}'… (5001 characters)"
    }


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("prompt", [None, 5, b"a fox", ["a fox"], "\ud800"])
def test_prompt_is_text(make: Maker, prompt: object) -> None:
    """A prompt is text that can be sent."""
    assert broken(make, prompt=prompt) == {"prompt": repr(prompt)}


@pytest.mark.parametrize("make", MAKERS)
def test_durations(make: Maker) -> None:
    """A video takes 5 or 10 seconds."""
    assert [attrs.asdict(make(duration=duration))["duration"] for duration in (5, 10)] == [5, 10]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("duration", [7, 0, 1, -5, True, False, 5.0, 10.0, "5", None, math.nan])
def test_wrong_durations(make: Maker, duration: object) -> None:
    """No other duration is taken: not 7, not True, not 5.0."""
    assert broken(make, duration=duration) == {"duration": repr(duration)}


@pytest.mark.parametrize("ratio", ["16:9", "9:16", "1:1"])
def test_aspect_ratios(ratio: str) -> None:
    """A text video has one of three aspect ratios."""
    assert with_required(MasterTextToVideo)(aspect_ratio=ratio).to_dict()["aspect_ratio"] == ratio


@pytest.mark.parametrize("ratio", ["4:3", "", "16/9", "16:9 ", None, 1, (16, 9)])
def test_wrong_aspect_ratios(ratio: object) -> None:
    """No other aspect ratio is taken."""
    make = with_required(MasterTextToVideo)
    assert broken(make, aspect_ratio=ratio) == {"aspect_ratio": repr(ratio)}


@pytest.mark.parametrize("cls", IMAGE_CLASSES)
def test_no_aspect_ratio_for_images(cls: type[Input]) -> None:
    """A video from an image takes its shape from it: no aspect ratio can be given."""
    with pytest.raises(TypeError, match="aspect_ratio"):
        with_required(cls)(aspect_ratio="16:9")


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("tenth", range(11))
def test_cfg_scales(make: Maker, tenth: int) -> None:
    """Every tenth from 0 to 1 is taken as Python writes it, and kept exactly."""
    for value in (tenth / 10, tenth * 0.1, float(f"0.{tenth}") if tenth < 10 else 1):
        assert make(cfg_scale=value).to_dict()["cfg_scale"] == tenth / 10
        assert make(cfg_scale=value) == make(cfg_scale=tenth / 10)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "scale", [0.55, math.nan, 1.1, -0.1, 2, math.inf, -math.inf, True, "0.5", 10**100]
)
def test_wrong_cfg_scales(make: Maker, scale: object) -> None:
    """Nothing between the steps or beyond the ends is taken, nor what is no number."""
    assert list(broken(make, cfg_scale=scale)) == ["cfg_scale"]


@pytest.mark.parametrize("make", MAKERS)
def test_absurd_numbers(make: Maker) -> None:
    """Numbers too large for a float, or to be written, break the rules like any other."""
    assert list(broken(make, cfg_scale=10**400, duration=10**5000)) == ["duration", "cfg_scale"]


@pytest.mark.parametrize("make", MAKERS)
def test_negative_prompts(make: Maker) -> None:
    """A negative prompt takes 500 characters and not 501."""
    for length in (0, 1, 500):
        assert make(negative_prompt="é" * length).to_dict()["negative_prompt"] == "é" * length
    assert list(broken(make, negative_prompt="é" * 501)) == ["negative_prompt"]
    assert broken(make, negative_prompt=5) == {"negative_prompt": "5"}


@pytest.mark.parametrize("make", MAKERS)
def test_providers(make: Maker) -> None:
    """A provider is one of three words."""
    for provider in ("auto", "value", "official"):
        assert make(provider=provider).to_dict()["provider"] == provider
    for wrong in ("", "AUTO", "best", True):
        assert broken(make, provider=wrong) == {"provider": repr(wrong)}


@pytest.mark.parametrize("cls", IMAGE_CLASSES)
@pytest.mark.parametrize(
    "url", ["", "file:///tmp/cat.jpg", "cat.jpg", "/cat.jpg", "//example.com/cat.jpg", None, [CAT]]
)
def test_wrong_image_urls(cls: type[Input], url: object) -> None:
    """An image's URL is absolute, http or https, and one."""
    assert broken(with_required(cls), image_url=url) == {"image_url": repr(url)}


@pytest.mark.parametrize("url", ["", "file:///tmp/cat.jpg", "cat.jpg", [CAT]])
def test_wrong_end_image_urls(url: object) -> None:
    """An end image's URL follows the same rule, where there is one."""
    assert broken(with_required(ProImageToVideo), end_image_url=url) == {"end_image_url": repr(url)}


@pytest.mark.parametrize("cls", [StandardImageToVideo, MasterImageToVideo])
def test_one_image_only(cls: type[Input]) -> None:
    """Only the pro mode takes an end image."""
    with pytest.raises(TypeError, match="end_image_url"):
        with_required(cls)(end_image_url=DOG)


@pytest.mark.parametrize("cls", IMAGE_CLASSES)
def test_an_image_is_due(cls: type[Input]) -> None:
    """A video from an image cannot be described without one."""
    with pytest.raises(TypeError, match="image_url"):
        cls(prompt="a fox")  # type: ignore[call-arg] # on purpose


def test_no_image_for_text() -> None:
    """A video from text takes no image."""
    with pytest.raises(TypeError, match="image_url"):
        with_required(MasterTextToVideo)(image_url=CAT)


def test_all_broken_rules_at_once() -> None:
    """Every broken rule is reported, each with its field, in one error."""
    assert broken(
        with_required(ProImageToVideo),
        prompt="",
        image_url="cat.jpg",
        end_image_url="dog.jpg",
        duration=7,
        negative_prompt="x" * 501,
        cfg_scale=0.55,
        provider="best",
    ) == {
        "prompt": "''",
        "image_url": "'cat.jpg'",
        "end_image_url": "'dog.jpg'",
        "duration": "7",
        "negative_prompt": f"'{'x' * 80}'… (501 characters)",
        "cfg_scale": "0.55",
        "provider": "'best'",
    }
    assert broken(with_required(MasterTextToVideo), duration=7, aspect_ratio="4:3") == {
        "duration": "7",
        "aspect_ratio": "'4:3'",
    }


def test_messages_say_what_is_due() -> None:
    """A message names the field, the rule and the value seen."""
    with pytest.raises(InputError) as caught:
        with_required(StandardImageToVideo)(duration=7, cfg_scale=0.55)
    assert str(caught.value) == (
        "duration: must be one of 5, 10 (seen: 7);"
        " cfg_scale: must be a number from 0 to 1 in steps of 0.1 (seen: 0.55)"
    )
