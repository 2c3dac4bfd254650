"""Inputs of every class, for hypothesis and for tests with one example of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from kling_async.errors import InputError
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
from kling_async.inputs.kling_3_0_turbo import Kling30TurboImageToVideo, Kling30TurboTextToVideo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kling_async.inputs.base import Input

# No property depends on how fast the machine is, or on luck.
FREELY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

CAT = "https://example.com/cat.jpg"
DOG = "https://example.com/dog.jpg"
DANCE = "https://example.com/dance.mp4"

# One input of each class, with every field set that has no default, and several others.
EXAMPLES: tuple[Input, ...] = (
    StandardImageToVideo("x", CAT, negative_prompt="", cfg_scale=0.3, provider="auto"),
    ProImageToVideo("x", CAT, end_image_url=DOG, duration=10, cfg_scale=1),
    MasterTextToVideo("x", aspect_ratio="9:16", negative_prompt="y"),
    MasterImageToVideo("x", CAT),
    Kling25TurboProTextToVideo("x", aspect_ratio="1:1", cfg_scale=0.3, provider="value"),
    Kling25TurboProImageToVideo("x", CAT, end_image_url=DOG, duration=10, negative_prompt="y"),
    Kling26TextToVideo("x", sound=True, negative_prompt="y", cfg_scale=0.55, provider="official"),
    Kling26ImageToVideo("x", CAT, sound=False, end_image_url=DOG, duration=10),
    Kling30StdTextToVideo("x", duration=3, sound=True, aspect_ratio="9:16", cfg_scale=7),
    Kling30StdImageToVideo("x", CAT, end_image_url=DOG, duration=15, negative_prompt=True),
    Kling30StdMotionControl(image_url=CAT, video_url=DANCE, prompt="x", sound=False),
    Kling30TurboTextToVideo("x", duration=15, resolution="1080p", sound="loud", provider="auto"),
    Kling30TurboImageToVideo("x", CAT, resolution="720p", cfg_scale=0.5, negative_prompt="y"),
)
CLASSES: tuple[type[Input], ...] = tuple(type(example) for example in EXAMPLES)

CHARACTERS = st.characters(exclude_categories=["Cs"])
URLS = st.builds(
    "{}://{}.example/{}".format,
    st.sampled_from(["http", "https"]),
    st.text("abcdefghijklmnopqrstuvwxyz-0123456789", min_size=1, max_size=20),
    st.text(st.characters(categories=["L", "N", "P"]), max_size=20),
)
SCALARS = (
    st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(CHARACTERS, max_size=20)
)
_UNCHECKED = st.none() | SCALARS
_LENGTHS = {"kling-2-1": 5000, "kling-2-5-turbo-pro": 2500, "kling-2-6": 1000}
_NEGATIVE_LENGTHS = {"kling-2-1": 500, "kling-2-5-turbo-pro": 2500}


def _texts(longest: int, shortest: int) -> st.SearchStrategy[str]:
    """Return texts, the longest among them."""
    longest_text = st.builds(str.__mul__, CHARACTERS, st.just(longest))
    return st.text(CHARACTERS, min_size=shortest, max_size=30) | longest_text


def _strategies(model: str, *, control: bool) -> dict[str, st.SearchStrategy[Any]]:
    """Return the values of each field that a model's inputs may have."""
    prompts = _texts(_LENGTHS.get(model, 9000), 1)
    tenths = st.none() | st.integers(0, 10).map(lambda tenth: tenth * 0.1) | st.integers(0, 1)
    negative = _NEGATIVE_LENGTHS.get(model)
    seconds = st.integers(3, 15) if model.startswith("kling-3") else st.sampled_from([5, 10])
    sounds = {"kling-2-6": st.booleans(), "kling-3-0-std": st.none() | st.booleans()}
    return {
        "prompt": st.none() | prompts if control else prompts,
        "image_url": URLS,
        "end_image_url": st.none() | URLS,
        "video_url": URLS,
        "duration": seconds,
        "aspect_ratio": st.sampled_from(["16:9", "9:16", "1:1"]),
        "negative_prompt": st.none() | _texts(negative, 0) if negative else _UNCHECKED,
        "cfg_scale": tenths if negative else _UNCHECKED,
        "sound": sounds.get(model, _UNCHECKED),
        "resolution": st.sampled_from([None, "720p", "1080p"]),
        "provider": st.sampled_from([None, "auto", "value", "official"]),
    }


def _inputs(cls: type[Input]) -> st.SearchStrategy[Input]:
    values = _strategies(cls.model, control=cls is Kling30StdMotionControl)
    return st.builds(cls, **{name: values[name] for name in rules_of(cls)})


def rules_of(cls: type[Input]) -> Mapping[str, Any]:
    """Return the rules of a class's fields."""
    return cls._rules


INPUTS: st.SearchStrategy[Input] = st.one_of(*(_inputs(cls) for cls in CLASSES))


def broken_fields(make: Callable[..., object], **fields: object) -> list[str]:
    """Return the fields that an InputError complains of, in order; none if there is no error."""
    try:
        make(**fields)
    except InputError as error:
        return [problem.field for problem in error.problems]
    return []


def refused(make: Callable[..., object], **values: list[object]) -> dict[str, list[object]]:
    """Return which values of each field are refused, each by one problem of that field."""
    return {
        name: [value for value in tried if broken_fields(make, **{name: value}) == [name]]
        for name, tried in values.items()
    }
