import json
import math
from enum import IntEnum, StrEnum
from types import MappingProxyType

import pytest

from kling_async.errors import InputError
from kling_async.inputs.json_text import DEEPEST, LONGEST, to_json_text


class Word(StrEnum):
    A = "a"


class Number(IntEnum):
    ONE = 1


def nested(depth: int) -> dict[str, object]:
    """Return a mapping with lists inside it, of a depth."""
    inner: object = 1
    for _ in range(depth - 1):
        inner = [inner]
    return {"a": inner}


def test_equal_values_are_equal_text() -> None:
    """Keys are sorted, tuples are lists, any mapping is an object; 1, 1.0 and True differ."""
    text = to_json_text({"b": (1, None), "a": {"y": Word.A, "x": Number.ONE}})
    assert text == '{"a":{"x":1,"y":"a"},"b":[1,null]}'
    assert text == to_json_text(MappingProxyType(json.loads(text)))
    assert len({to_json_text({"a": value}) for value in (1, 1.0, True, "1")}) == 4
    assert to_json_text(text) is text


def test_the_value_is_copied() -> None:
    """Later changes of a value have no effect on its text."""
    value: dict[str, object] = {"a": [1]}
    text = to_json_text(value)
    value["a"] = 2
    assert text == '{"a":[1]}'


@pytest.mark.parametrize(
    ("value", "field", "rule"),
    [
        ([1], "fields", "must be a mapping such as a JSON object"),
        ('{"a": 1}', "fields", "must be a mapping such as a JSON object"),
        (None, "fields", "must be a mapping such as a JSON object"),
        ({"a": [{"b": math.nan}]}, "fields.a[0].b", "must be a finite number"),
        ({"a": -math.inf}, "fields.a", "must be a finite number"),
        ({"a": 10**400}, "fields.a", "must be a finite number"),
        ({"a": b"x"}, "fields.a", "must be a value of JSON"),
        ({"a": {1, 2}}, "fields.a", "must be a value of JSON"),
        ({"a": "\ud800"}, "fields.a", "must be valid Unicode, without lone surrogates"),
        ({"a": {5: 1}}, "fields.a", "must have keys that are valid text"),
        ({"\ud800": 1}, "fields", "must have keys that are valid text"),
        (
            nested(DEEPEST + 1),
            f"fields.a{'[0]' * (DEEPEST - 1)}",
            "must not be nested deeper than 32",
        ),
    ],
)
def test_what_is_not_json(value: object, field: str, rule: str) -> None:
    """What JSON cannot express is refused, with its place."""
    with pytest.raises(InputError) as caught:
        to_json_text(value)
    (problem,) = caught.value.problems
    assert (problem.field, problem.rule) == (field, rule)


def test_depth() -> None:
    """The greatest depth is accepted."""
    to_json_text(nested(DEEPEST))


def test_sizes() -> None:
    """Text up to a million characters is accepted, however it is distributed."""
    room = LONGEST - len('{"a":"",}')
    assert len(to_json_text({"a": "x" * room})) == LONGEST - 1
    for value in ({"a": "x" * (room + 1)}, {"a": "é" * 200_000}, {"k" * LONGEST: 1, "a": 1}):
        with pytest.raises(InputError, match="at most 1,000,000 characters"):
            to_json_text(value)


def test_values_that_contain_themselves() -> None:
    """A value in itself, or one value very many times, is refused at once."""
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(InputError, match="deeper"):
        to_json_text({"a": loop})
    many: object = "x" * 1000
    for _ in range(25):
        many = [many] * 10
    with pytest.raises(InputError, match="at most 1,000,000 characters"):
        to_json_text({"a": many})
