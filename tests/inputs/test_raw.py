import copy
import json
import pickle
from typing import TYPE_CHECKING

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_async.errors import InputError
from kling_async.inputs.parsing import parse_input
from kling_async.inputs.raw import RawInput
from tests.inputs.strategies import CHARACTERS, FREELY, SCALARS, broken_fields

if TYPE_CHECKING:
    from kling_async.inputs.base import Input

TEXTS = st.text(CHARACTERS, max_size=10)
JSON = st.recursive(
    st.none() | SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
FIELDS = {"mode": "omni", "prompt": "x", "duration": 7, "image_urls": ["a", "b"]}
ONE = RawInput("kling-9", FIELDS)


@pytest.mark.slow
@FREELY
@given(st.dictionaries(TEXTS, JSON, max_size=5), st.none() | st.text(CHARACTERS, min_size=1))
def test_round_trips(fields: dict[str, object], provider: str | None) -> None:
    """A raw input survives plain values, JSON, pickling and copying, equal and of equal hash."""
    one = RawInput("kling-9.1_x", fields, provider and provider[:100])
    assert one.fields == fields
    others: list[Input] = [
        parse_input(one.to_dict()),
        parse_input(json.loads(json.dumps(one.to_dict()))),
        pickle.loads(pickle.dumps(one)),  # noqa: S301 - our own bytes
        copy.deepcopy(one),
        attrs.evolve(one),
    ]
    assert {one, *others} == {one}
    assert all(type(other) is RawInput for other in others)


def test_equality() -> None:
    """The order of keys does not matter; the model, the provider and the types do."""
    assert RawInput("kling-9", dict(reversed(FIELDS.items()))) == ONE
    others = [
        RawInput("kling-8", FIELDS),
        RawInput("kling-9", FIELDS, "value"),
        RawInput("kling-9", {**FIELDS, "duration": 7.0}),
    ]
    assert len({ONE, *others}) == 4


def test_inputs_are_immutable() -> None:
    """Neither the attributes nor the fields of a raw input can be changed."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        ONE.model = "x"  # type: ignore[misc] # on purpose
    ONE.fields["prompt"] = "y"
    assert ONE.fields["prompt"] == "x"
    changed = attrs.evolve(ONE, fields={**ONE.fields, "prompt": "y"})
    assert changed == RawInput("kling-9", {**FIELDS, "prompt": "y"})


def test_repr() -> None:
    """The repr begins with the model, and is an expression."""
    assert repr(ONE).startswith("RawInput('kling-9', {")
    for one in (ONE, RawInput("kling-9", {}, provider="lab")):
        assert eval(repr(one)) == one  # noqa: S307 - our own text


@pytest.mark.parametrize(
    ("fields", "mode", "duration"),
    [
        (FIELDS, "omni", 7),
        ({}, "", None),
        ({"mode": 5, "duration": "7"}, "", None),
        ({"mode": None, "duration": True}, "", None),
        ({"mode": "a\nb"}, "", None),
        ({"mode": "a" * 100}, "a" * 100, None),
        ({"mode": "a" * 101}, "", None),
    ],
)
def test_mode_and_duration(fields: dict[str, object], mode: str, duration: int | None) -> None:
    """The mode and the duration are those of the fields, if they are usual values."""
    one = RawInput("kling-9", fields)
    assert (one.mode, one.duration) == (mode, duration)


@pytest.mark.parametrize("model", ["", "a/b", "ä", "a b", "a" * 101, None, 5, "-a", "a\n"])
def test_models(model: object) -> None:
    """A model has a name that a task's reference can have."""
    assert broken_fields(RawInput, model=model, fields={}, provider="x" * 101) == [
        *("model", "provider")
    ]
    assert broken_fields(RawInput, model="a" * 100, fields={}, provider="x" * 100) == []


def test_problems_of_a_mapping() -> None:
    """Unknown and missing keys are named at once."""
    with pytest.raises(InputError) as caught:
        RawInput.from_dict({"mode": "x", "prompt": "y"})
    assert [problem.field for problem in caught.value.problems] == [
        *("mode", "prompt", "model", "fields")
    ]
    assert "belongs into fields" in str(caught.value)
