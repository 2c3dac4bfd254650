import copy
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_async.errors import InputError
from kling_async.inputs.base import Input
from kling_async.inputs.kling_2_1 import (
    MasterImageToVideo,
    MasterTextToVideo,
    ProImageToVideo,
    StandardImageToVideo,
)
from kling_async.inputs.parsing import parse_input
from tests.inputs.strategies import CAT, DOG, FREELY, INPUTS

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(
    [
        "model",
        "mode",
        "prompt",
        "duration",
        "negative_prompt",
        "cfg_scale",
        "provider",
        "image_url",
        "image_urls",
        "end_image_url",
        "video_urls",
        "sound",
        "aspect_ratio",
        "seed",
    ]
)


@FREELY
@given(INPUTS)
def test_round_trips(one: Input) -> None:
    """An input survives plain values, JSON, pickling and copying, equal and of equal hash."""
    line = json.dumps(one.to_dict())
    others = [
        type(one).from_dict(one.to_dict()),
        type(one).from_dict(json.loads(line)),
        parse_input(json.loads(line)),
        pickle.loads(pickle.dumps(one)),  # noqa: S301 - our own bytes
        copy.copy(one),
        copy.deepcopy(one),
    ]
    for other in others:
        assert type(other) is type(one)
        assert other == one
        assert hash(other) == hash(one)
        assert json.dumps(other.to_dict()) == line
    assert set(others) == {one}


@FREELY
@given(INPUTS)
def test_plain_values(one: Input) -> None:
    """The plain values begin with model and mode, and hold just what is set."""
    plain = one.to_dict()
    assert list(plain)[:2] == ["model", "mode"]
    assert (plain["model"], plain["mode"]) == (one.model, one.mode)
    assert None not in plain.values()
    assert "\n" not in json.dumps(plain)


def test_plain_values_of_a_full_input() -> None:
    """Every field has its own name in the plain values."""
    one = ProImageToVideo(
        "x",
        CAT,
        end_image_url=DOG,
        duration=10,
        negative_prompt="y",
        cfg_scale=0.1 + 0.2,
        provider="value",
    )
    assert one.to_dict() == {
        "model": "kling-2-1",
        "mode": "pro-image-to-video",
        "prompt": "x",
        "image_url": CAT,
        "end_image_url": DOG,
        "duration": 10,
        "negative_prompt": "y",
        "cfg_scale": 0.3,
        "provider": "value",
    }


def test_falsy_values_are_kept() -> None:
    """A cfg_scale of 0 and an empty negative prompt are set, not left out."""
    plain = MasterTextToVideo("x", cfg_scale=0, negative_prompt="").to_dict()
    assert (plain["cfg_scale"], plain["negative_prompt"]) == (0.0, "")


def test_inputs_of_two_modes_differ() -> None:
    """Two inputs with the same fields and different modes are not equal."""
    standard: Input = StandardImageToVideo("x", CAT)
    master: Input = MasterImageToVideo("x", CAT)
    assert standard != master
    assert len({standard, master}) == 2


@pytest.mark.slow
@FREELY
@given(INPUTS, st.dictionaries(KEYS | st.text(max_size=3), JSON, max_size=3))
def test_any_mapping_is_an_input_or_refused(one: Input, change: dict[str, object]) -> None:
    """Whatever a JSON object holds, it is an input or an InputError that names fields."""
    mapping = {**one.to_dict(), **change}
    try:
        again = parse_input(mapping)
    except InputError as error:
        named = {problem.field for problem in error.problems}
    else:
        named = set()
        assert parse_input(again.to_dict()) == again
    # Only what was changed is wrong, and what is given twice or missing by the change.
    lists = {"image_url", "end_image_url", "image_urls", "video_url", "video_urls"}
    assert named <= {*change, *lists, "aspect_ratio"} or ({"mode", "model"} & set(change))


def test_repr() -> None:
    """An input is shown as the call that makes it: the prompt first, without default values."""
    sent = ProImageToVideo(
        "a fox", "https://x/a.jpg", end_image_url="https://x/b.jpg", cfg_scale=0.5, duration=10
    )
    assert repr(sent) == (
        "ProImageToVideo('a fox', 'https://x/a.jpg', duration=10, cfg_scale=0.5,"
        " end_image_url='https://x/b.jpg')"
    )
    assert eval(repr(sent)) == sent  # noqa: S307 - our own text


def test_repr_is_short() -> None:
    """A long prompt is shown in part."""
    shown = repr(MasterTextToVideo("river " * 500))
    assert len(shown) < 150
    assert shown.endswith("… (3000 characters))")
