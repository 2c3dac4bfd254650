import json
from collections import OrderedDict
from types import MappingProxyType

import pytest

from kling_async import inputs
from kling_async.errors import InputError
from kling_async.inputs.base import Input
from kling_async.inputs.kling_2_1 import ProImageToVideo, StandardImageToVideo
from kling_async.inputs.kling_2_6 import Kling26TextToVideo
from kling_async.inputs.parsing import parse_input
from kling_async.inputs.raw import RawInput
from tests.inputs.strategies import CAT, EXAMPLES


def refusal(mapping: object) -> tuple[str, str, str]:
    """Read what is no input and give the one problem: field, rule and value seen."""
    with pytest.raises(InputError) as caught:
        parse_input(mapping)  # type: ignore[arg-type] # on purpose
    (problem,) = caught.value.problems
    return problem.field, problem.rule, problem.seen


@pytest.mark.parametrize("one", EXAMPLES)
def test_class_by_model_and_mode(one: Input) -> None:
    """The model and the mode select the class; kling-2-1 may be omitted."""
    plain = one.to_dict()
    assert parse_input(plain) == one
    if plain.pop("model") == "kling-2-1":
        assert parse_input(plain) == one


def test_default_modes_of_models() -> None:
    """A mapping without a mode has the model's default mode; without a default, it is required."""
    sent = {"model": "kling-2-6", "prompt": "x", "sound": True}
    assert parse_input(sent) == Kling26TextToVideo("x", sound=True)
    assert refusal({"model": "kling-3-0-turbo", "prompt": "x"}) == (
        "mode",
        "is required for kling-3-0-turbo, and must be one of text-to-video, image-to-video",
        "nothing",
    )


def test_fields_make_a_raw_input() -> None:
    """A mapping with `fields` is a raw input, whatever its model."""
    for model in ("kling-2-1", "kling-9"):
        one = RawInput(model, {"prompt": "x"})
        assert parse_input(one.to_dict()) == one


def test_the_default_mode() -> None:
    """A mapping without a mode means what the API takes it for: standard-image-to-video."""
    assert parse_input({"prompt": "x", "image_url": CAT}) == StandardImageToVideo("x", CAT)


@pytest.mark.parametrize("make", [dict, OrderedDict, MappingProxyType])
def test_any_mapping(make: type[dict[str, object]]) -> None:
    """Any mapping will do."""
    assert parse_input(make({"prompt": "x", "image_url": CAT})) == StandardImageToVideo("x", CAT)


def test_the_vendors_own_spelling() -> None:
    """The `input` of the vendor's documentation is understood as it stands."""
    row = '{"mode": "pro-image-to-video", "prompt": "x", "duration": 10, "image_urls": ["%s"]}'
    assert parse_input(json.loads(row % CAT)) == ProImageToVideo("x", CAT, duration=10)


@pytest.mark.parametrize("value", [None, [], [1], "x", 5, True, [("prompt", "x")]])
def test_no_mapping(value: object) -> None:
    """What is no JSON object is refused with the value seen."""
    assert refusal(value) == ("input", "must be a mapping such as a JSON object", repr(value))


@pytest.mark.parametrize("model", ["kling-9", "", None, 5, ["kling-2-1"], {}, "KLING-2-1"])
def test_unknown_model(model: object) -> None:
    """A model that is not known is refused with those that are."""
    wrong = {"model": model, "prompt": "x"}
    rule = (
        "must be one of kling-2-1, kling-2-5-turbo-pro, kling-2-6, kling-3-0-std, kling-3-0-turbo;"
        " or give any other model its fields"
    )
    assert refusal(wrong) == ("model", rule, repr(model))


@pytest.mark.parametrize("mode", ["text-to-video", "", None, 5, ["master-text-to-video"], {}])
def test_unknown_mode(mode: object) -> None:
    """A mode that is not known is refused with those that are."""
    modes = (
        "standard-image-to-video, pro-image-to-video, master-text-to-video, master-image-to-video"
    )
    wrong = {"mode": mode, "prompt": "x"}
    assert refusal(wrong) == ("mode", f"must be one of {modes}", repr(mode))


def test_unknown_key() -> None:
    """A key that is not known is named."""
    wrong = {"mode": "master-text-to-video", "prompt": "x", "promt": "y"}
    assert refusal(wrong) == ("promt", "unknown key for master-text-to-video", "'y'")


def test_names() -> None:
    """Every public name of the inputs is there, and they are sorted."""
    assert all(hasattr(inputs, name) for name in inputs.__all__)
    assert inputs.__all__ == sorted(inputs.__all__)
