from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kling_async.errors import InputError
from kling_async.inputs.parsing import parse_input
from kling_async.inputs.rules import VENDOR_LISTS
from kling_async.protocol.requests import build_submit
from kling_async.testing.emulator.checks import Refusal
from kling_async.testing.emulator.models import MODELS, usual_seconds
from kling_async.testing.emulator.rules import read_order
from tests.inputs.strategies import CAT, DANCE, EXAMPLES, FREELY, INPUTS, SCALARS

if TYPE_CHECKING:
    from kling_async.inputs.base import Input

# Of each class, and values of every type near the borders of the rules.
NAMES = (
    *("model", "mode", "prompt", "duration", "negative_prompt", "cfg_scale", "sound"),
    *("resolution", "aspect_ratio", "provider", "image_urls", "video_urls", "seed"),
)
VALUES = (
    st.just(...)
    | SCALARS
    | st.integers(-1, 17)
    | st.integers(-20, 120).map(lambda number: number / 100)
    | st.integers(490, 5010).map("x".__mul__)
    | st.sampled_from(["720p", "1080p", "16:9", "1:1", "auto", "value", "", *MODELS])
    | st.sampled_from(sorted({mode for model in MODELS.values() for mode in model.modes}))
    | st.lists(st.sampled_from([CAT, DANCE]), max_size=4)
)


def is_input(fields: dict[str, object]) -> bool:
    """Whether the package accepts a mapping."""
    try:
        parse_input(fields)
    except InputError:
        return False
    return True


def is_order(fields: dict[str, Any]) -> bool:
    """Whether the emulator accepts the submit of a mapping."""
    model = fields.pop("model", None)
    body: dict[str, object] = {"input": fields}
    if "provider" in fields:
        body["provider"] = fields.pop("provider")
    if not isinstance(model, str) or model not in MODELS:
        return False
    try:
        read_order(json.dumps(body).encode(), model)
    except Refusal:
        return False
    return True


def wire_fields(one: Input) -> dict[str, Any]:
    """Return the fields of an input, with the vendor's lists."""
    fields: dict[str, Any] = one.to_dict()
    for key, names in VENDOR_LISTS.items():
        if urls := [fields.pop(name) for name in names if name in fields]:
            fields[key] = urls
    return fields


@FREELY
@given(INPUTS)
def test_every_input_is_accepted(one: Input) -> None:
    """What a class accepts, the emulator accepts, and understands in the same way."""
    body = build_submit(one).body
    assert body is not None
    order = read_order(body, one.model)
    plain = one.to_dict()
    assert (order.model, order.mode) == (one.model, one.mode)
    assert order.prompt == plain.get("prompt", "")
    assert order.duration == plain.get("duration", 5)
    assert order.aspect_ratio == plain.get("aspect_ratio")
    urls = [plain[name] for name in ("image_url", "end_image_url") if name in plain]
    assert [*order.image_urls] == urls
    assert [*order.video_urls] == [plain[name] for name in ("video_url",) if name in plain]


@FREELY
@given(st.sampled_from(EXAMPLES), st.sampled_from(NAMES), VALUES)
@example(EXAMPLES[-1], "mode", ...)
@example(EXAMPLES[-2], "video_urls", [DANCE])
@example(EXAMPLES[6], "sound", ...)
def test_both_readers_agree(one: Input, name: str, value: object) -> None:
    """An input in which one field is changed or missing is accepted by both, or refused by both."""
    fields = wire_fields(one)
    if value is ...:
        fields.pop(name, None)
        if name == "model":  # which is the default only of our own mappings
            fields["model"] = "kling-2-1"
    else:
        fields[name] = value
    assert is_input(dict(fields)) == is_order(dict(fields))


@pytest.mark.parametrize("one", EXAMPLES)
def test_every_field_is_compared(one: Input) -> None:
    """Of each field, a value of a wrong type is refused by both."""
    for name in wire_fields(one):
        fields = {**wire_fields(one), name: [{}]}
        assert not is_input(dict(fields)), name
        assert not is_order(dict(fields)), name


@pytest.mark.parametrize(
    ("index", "name", "value"),
    [
        *((index, "negative_prompt", "é" * 501) for index in range(4)),
        *((index, "negative_prompt", "é" * 2501) for index in (4, 5)),
        *((index, "prompt", "é" * 5001) for index in range(4)),
        *((index, "prompt", "é" * 2501) for index in (4, 5)),
        *((index, "prompt", "é" * 1001) for index in (6, 7)),
        *((index, "duration", seconds) for index in range(8) for seconds in (3, 6, 15)),
        *((index, "duration", seconds) for index in (8, 9, 11, 12) for seconds in (2, 16)),
        (10, "duration", 5),
        *((index, "image_urls", [CAT] * 2) for index in (0, 3, 10, 12)),
        *((index, "image_urls", [CAT] * 3) for index in (1, 5, 7, 9)),
        *((index, "image_urls", [CAT]) for index in (2, 4, 6, 8, 11)),
    ],
)
def test_just_beyond_the_border(index: int, name: str, value: object) -> None:
    """What is just beyond the border of a rule is refused by both."""
    fields = {**wire_fields(EXAMPLES[index]), name: value}
    assert not is_input(dict(fields))
    assert not is_order(dict(fields))


def test_other_models() -> None:
    """Of a model without rules any input is accepted, and what can be shown of it is read."""
    fields = {"mode": 5, "prompt": ["x"], "duration": 99, "aspect_ratio": "4:3", "deep": {"a": [1]}}
    order = read_order(json.dumps({"provider": "lab", "input": fields}).encode(), "kling-9")
    assert (order.mode, order.prompt, order.duration) == ("5", "['x']", 5)
    assert (order.aspect_ratio, order.image_urls) == (None, ())
    assert order.input == fields
    fields = {"mode": "omni", "duration": 7, "aspect_ratio": "9:16", "image_urls": [CAT] * 3}
    order = read_order(json.dumps({"input": fields}).encode(), "kling-9")
    assert (order.mode, order.prompt, order.duration) == ("omni", "", 7)
    assert (order.aspect_ratio, order.image_urls) == ("9:16", (CAT,) * 3)
    with pytest.raises(Refusal):
        read_order(b'{"provider": "", "input": {}}', "kling-9")


@pytest.mark.parametrize(
    ("model", "duration", "seconds"),
    [
        ("kling-2-1", 5, (60.0, 90.0)),
        ("kling-2-1", 10, (90.0, 120.0)),
        ("kling-2-5-turbo-pro", 5, (30.0, 45.0)),
        ("kling-2-5-turbo-pro", 10, (45.0, 60.0)),
        ("kling-3-0-std", 3, (60.0, 90.0)),
        ("kling-3-0-std", 15, (90.0, 120.0)),
        ("kling-9", 5, (60.0, 90.0)),
    ],
)
def test_times(model: str, duration: int, seconds: tuple[float, float]) -> None:
    """A video takes the documented time; where none is documented, that of kling-2-1."""
    assert usual_seconds(model, duration) == seconds
