import json
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError  # type: ignore[import-untyped]
from jsonschema.validators import extend  # type: ignore[import-untyped]
from pydantic import TypeAdapter
from pydantic import ValidationError as Refusal

from kling_async.inputs.base import Input, parse_input
from kling_async.inputs.kling_2_1 import (
    MasterImageToVideo,
    MasterTextToVideo,
    ProImageToVideo,
    StandardImageToVideo,
)

# No property depends on how fast the machine is, or on luck.
FREELY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
OFTEN = settings(FREELY, max_examples=250)

CAT = "https://example.com/cat.jpg"
DOG = "https://example.com/dog.jpg"
BARE = {"prompt": "x", "image_url": CAT}

ONES: list[type[Input]] = [
    StandardImageToVideo,
    ProImageToVideo,
    MasterTextToVideo,
    MasterImageToVideo,
]
CLASSES: list[type[Input]] = [Input, *ONES]
FULL: list[Input] = [
    StandardImageToVideo("x", CAT, negative_prompt="", cfg_scale=0.3, provider="auto"),
    ProImageToVideo("x", CAT, end_image_url=DOG, duration=10, cfg_scale=1),
    MasterTextToVideo("x", aspect_ratio="9:16", negative_prompt="y"),
    MasterImageToVideo("x", CAT),
]

URLS: list[object] = [
    *(CAT, "HTTP://EXAMPLE.COM", "https://[::1]:8000/a?b#c", "https://bücher.example/a"),
    *("", "cat.jpg", "//example.com/a", "ftp://example.com/a", "data:image/png;base64,AA"),
    *("https://", "https:///a", "https://?a", "xhttps://example.com", None, 5, [CAT]),
]

# Of each key, values on both sides of every border, and of every type.
VALUES: dict[str, list[object]] = {
    "model": ["kling-2-1", "kling-9-9", "", None, 1],
    "mode": [*(cls.mode for cls in ONES), "pro", "", None, 1, ["pro-image-to-video"]],
    "prompt": ["", "x", "x" * 5000, "x" * 5001, "👩" * 5000, "👩" * 5001, None, 5, ["x"]],
    "duration": [5, 10, 5.0, 10.0, 5.5, 0, 4, 6, 7, 11, -5, "5", True, None, [5], 1e300],
    "negative_prompt": ["", "x" * 500, "x" * 501, "語" * 500, "語" * 501, None, 5, {}],
    "cfg_scale": [
        *(step / 100 for step in range(-15, 116)),
        *(0, 1, 2, -1, -0.0, 1.5, 0.3000001, 0.9999999, 1.0000001, -0.0000001),
        *(True, False, None, "0.5", [0.5], 10**30, 1e300, -1e300),
    ],
    "provider": ["auto", "value", "official", "best", "", None, 1],
    "aspect_ratio": ["16:9", "9:16", "1:1", "4:3", "", None, 1],
    "image_url": URLS,
    "end_image_url": URLS,
    "image_urls": [[CAT], CAT, None],
    "seed": [1, None],
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters()) | st.sampled_from([*VALUES]), inner, max_size=5)
    ),
    max_leaves=8,
)
CHANGES = st.lists(
    st.sampled_from([*VALUES]).flatmap(
        lambda key: st.tuples(st.just(key), st.just(...) | st.sampled_from(VALUES[key]))
    ),
    max_size=3,
)


def changed(one: Input, changes: list[tuple[str, object]]) -> dict[str, object]:
    """Give an input's mapping with some keys put to other values, or left out."""
    body: dict[str, object] = {**one.to_dict()}
    for key, value in changes:
        if value is ...:
            body.pop(key, None)
        else:
            body[key] = value
    return body


BODIES = st.builds(changed, st.sampled_from(FULL), CHANGES)


def multiple_of(
    _validator: object, step: float, number: object, _schema: object
) -> Iterator[ValidationError]:
    """Divide as JSON writes numbers; floats find that 0.3 is no multiple of 0.1."""
    if type(number) in {int, float} and Fraction(repr(number)) % Fraction(repr(step)):
        yield ValidationError("no multiple")


Validator = extend(Draft202012Validator, {"multipleOf": multiple_of})


def schema_of(cls: type[Input], mode: Any = "validation") -> dict[str, Any]:  # noqa: ANN401
    """Give a class's JSON schema, which must itself be a valid one."""
    schema = TypeAdapter(cls).json_schema(mode=mode)
    Draft202012Validator.check_schema(schema)
    return schema


ADAPTERS: dict[type[Input], TypeAdapter[Input]] = {cls: TypeAdapter(cls) for cls in CLASSES}
TAKEN = {cls: Validator(schema_of(cls)) for cls in CLASSES}
WRITTEN = {cls: Validator(schema_of(cls, "serialization")) for cls in CLASSES}


def read(cls: type[Input], body: object, *, as_text: bool = False) -> Input | None:
    """Read a body as pydantic does, from Python's values or from text."""
    try:
        if as_text:
            return ADAPTERS[cls].validate_json(json.dumps(body))
        return ADAPTERS[cls].validate_python(body)
    except Refusal:
        return None


@OFTEN
@pytest.mark.slow
@given(BODIES, st.sampled_from(CLASSES))
@example(BARE, Input)
@example({"prompt": "x"}, Input)
@example({**BARE, "mode": "pro-image-to-video"}, Input)
def test_schema_and_class_agree(body: dict[str, object], cls: type[Input]) -> None:
    """What the schema admits the class takes, and what it does not is refused."""
    taken = TAKEN[cls].is_valid(body)
    assert (read(cls, body) is not None) == taken
    assert (read(cls, body, as_text=True) is not None) == taken


@FREELY
@given(JSON, st.sampled_from(CLASSES))
def test_what_is_taken_is_in_the_schema(body: object, cls: type[Input]) -> None:
    """Nothing is taken that the schema does not admit, and nothing makes the reading stumble."""
    assert read(cls, body) is None or TAKEN[cls].is_valid(body)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("key", VALUES)
def test_every_border(cls: type[Input], key: str) -> None:
    """At each key's borders, one by one, schema and class agree."""
    for one in FULL:
        for value in VALUES[key]:
            body = changed(one, [(key, value)])
            assert (read(cls, body) is not None) == TAKEN[cls].is_valid(body), value


@FREELY
@given(BODIES)
def test_read_as_files_are(body: dict[str, object]) -> None:
    """What is taken becomes the same input as from a line of a file."""
    if (one := read(Input, body)) is not None:
        if body.get("duration") in {5, 10}:
            body["duration"] = int(str(body["duration"]).removesuffix(".0"))
        assert one == parse_input(body)


@FREELY
@given(BODIES, st.sampled_from(CLASSES))
def test_what_is_written(body: dict[str, object], cls: type[Input]) -> None:
    """What is written is `to_dict`, fits both schemas of its class, and comes back."""
    if (one := read(cls, body)) is None:
        return
    written = ADAPTERS[cls].dump_python(one, mode="json")
    assert written == ADAPTERS[cls].dump_python(one) == one.to_dict()
    assert json.loads(ADAPTERS[cls].dump_json(one)) == written
    assert WRITTEN[cls].is_valid(written)
    assert TAKEN[cls].is_valid(written)
    assert read(cls, written) == read(cls, written, as_text=True) == one


@pytest.mark.parametrize("one", [*FULL, MasterTextToVideo("x")])
def test_required_is_what_is_always_written(one: Input) -> None:
    """The fields that are always written are required in the schema of answers."""
    schema = schema_of(type(one), "serialization")
    unset = {"negative_prompt", "cfg_scale", "provider", "end_image_url"}
    assert set(schema["required"]) == set(schema["properties"]) - unset
    assert one.to_dict().keys() >= set(schema["required"])


def test_schema_in_full() -> None:
    """The schema of a class: names, types, borders, defaults, and its docstring's words."""
    schema = schema_of(MasterTextToVideo)
    properties = schema.pop("properties")
    assert schema == {
        "title": "MasterTextToVideo",
        "description": ("A video from text, in 16:9, 9:16 or 1:1, at the highest quality."),
        "type": "object",
        "required": ["prompt"],
        "additionalProperties": False,
    }
    words = {name: plain.pop("description") for name, plain in properties.items()}
    assert words["prompt"] == "What the video shows, 1 to 5000 characters."
    assert words["provider"] == (
        '`"auto"`, `"value"` or `"official"`; not sent unless set, since the vendor\'s newest'
        " pages make it a setting of the key."
    )
    own = {"type": "string"}
    assert properties == {
        "model": {**own, "const": "kling-2-1", "default": "kling-2-1"},
        "mode": {**own, "const": "master-text-to-video", "default": "master-text-to-video"},
        "prompt": {"type": "string", "minLength": 1, "maxLength": 5000},
        "duration": {"type": "integer", "enum": [5, 10], "default": 5},
        "negative_prompt": {
            "anyOf": [{"type": "string", "minLength": 0, "maxLength": 500}, {"type": "null"}],
            "default": None,
        },
        "cfg_scale": {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.1},
                {"type": "null"},
            ],
            "default": None,
        },
        "provider": {
            "anyOf": [
                {"type": "string", "enum": ["auto", "value", "official"]},
                {"type": "null"},
            ],
            "default": None,
        },
        "aspect_ratio": {"type": "string", "enum": ["16:9", "9:16", "1:1"], "default": "16:9"},
    }


@pytest.mark.parametrize("cls", ONES)
def test_every_field_is_described(cls: type[Input]) -> None:
    """Each field of each class has a description, and images are URIs."""
    for name, plain in schema_of(cls)["properties"].items():
        assert plain["description"].endswith("."), name
    urls = [plain for name, plain in schema_of(cls)["properties"].items() if "image_url" in name]
    assert all('"format": "uri"' in json.dumps(plain) for plain in urls)
    assert len(urls) == {ProImageToVideo: 2, MasterTextToVideo: 0}.get(cls, 1)


@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_any_input_is_one_of_all(mode: str) -> None:
    """The schema of `Input` names every class, with the mode as discriminator."""
    schema = schema_of(Input, mode)
    refs = [choice["$ref"] for choice in schema["oneOf"]]
    assert refs == [f"#/$defs/{cls.__name__}" for cls in ONES]
    assert schema["discriminator"] == {
        "propertyName": "mode",
        "mapping": {cls.mode: f"#/$defs/{cls.__name__}" for cls in ONES},
    }
    assert schema["title"] == "Input"
    assert schema["description"] == "A validated description of one video."


@pytest.mark.parametrize("url", ["https://exam ple.com", "https://a:99999/", "https://u@/"])
def test_what_a_pattern_cannot_say(url: str) -> None:
    """The finer rules of URLs are left to the word `uri`; the class knows them."""
    body = {"prompt": "x", "image_url": url}
    assert TAKEN[StandardImageToVideo].is_valid(body)
    assert read(Input, body) is None


@pytest.mark.parametrize("value", [0.1 + 0.2, 1 - 0.9, 0.7 + 0.1, 1.0000000000000002])
def test_tenths_of_binary_fractions(value: float) -> None:
    """What means a tenth is taken for it, though it is no multiple of one in JSON."""
    one = ADAPTERS[MasterTextToVideo].validate_json(f'{{"prompt": "x", "cfg_scale": {value!r}}}')
    assert Decimal(str(one.to_dict()["cfg_scale"])) % Decimal("0.1") == 0
