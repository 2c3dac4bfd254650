import json
import re
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import Annotated, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError  # type: ignore[import-untyped]
from jsonschema.validators import extend  # type: ignore[import-untyped]
from pydantic import Field, TypeAdapter
from pydantic import ValidationError as Refusal

from kling_async.inputs.base import Input
from kling_async.inputs.kling_2_1 import MasterTextToVideo, StandardImageToVideo
from kling_async.inputs.kling_2_6 import Kling26TextToVideo
from kling_async.inputs.kling_3_0_std import Kling30StdMotionControl
from kling_async.inputs.parsing import parse_input
from kling_async.inputs.raw import RawInput
from kling_async.inputs.registry import DEFAULT_MODES
from tests.inputs.strategies import CAT, DANCE, EXAMPLES, FREELY
from tests.inputs.strategies import CLASSES as ONES

OFTEN = settings(FREELY, max_examples=250)

BARE = {"prompt": "x", "image_url": CAT}

CLASSES: list[type[Input]] = [Input, *ONES]

URLS: list[object] = [
    *(CAT, "HTTP://EXAMPLE.COM", "https://[::1]:8000/a?b#c", "https://bücher.example/a"),
    *("", "cat.jpg", "//example.com/a", "ftp://example.com/a", "data:image/png;base64,AA"),
    *("https://", "https:///a", "https://?a", "xhttps://example.com", None, 5, [CAT]),
]

# Of each key, values on both sides of every border, and of every type.
VALUES: dict[str, list[object]] = {
    "model": [*DEFAULT_MODES, "kling-9-9", "", None, 1],
    "mode": [*dict.fromkeys(cls.mode for cls in ONES), "pro", "", None, 1, ["text-to-video"]],
    "prompt": [
        *("", "x", None, 5, ["x"]),
        *("👩" * (edge + more) for edge in (1000, 2500, 5000) for more in (0, 1)),
    ],
    "duration": [
        *(2, 3, 4, 5, 6, 10, 11, 15, 16, 0, -5, 5.0, 10.0, 5.5, 1e300),
        *("5", True, None, [5]),
    ],
    "negative_prompt": [
        *("", None, 5, True, {}, ["x"]),
        *("語" * (edge + more) for edge in (500, 2500) for more in (0, 1)),
    ],
    "cfg_scale": [
        *(step / 100 for step in (*range(-15, 16), 25, 30, 55, *range(85, 116))),
        *(0, 1, 2, -1, -0.0, 1.5, 0.3000001, 0.9999999, 1.0000001, -0.0000001),
        *(True, False, None, "0.5", [0.5], 10**30, 1e300, -1e300),
    ],
    "provider": ["auto", "value", "official", "best", "", None, 1],
    "aspect_ratio": ["16:9", "9:16", "1:1", "4:3", "", None, 1],
    "sound": [True, False, None, 0, 1, "on", 0.5, [True]],
    "resolution": ["720p", "1080p", "4k", "", None, 720],
    "image_url": URLS,
    "end_image_url": URLS,
    "video_url": URLS,
    "image_urls": [[CAT], CAT, None],
    "video_urls": [[DANCE], None],
    "fields": [{}, None],
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


BODIES = st.builds(changed, st.sampled_from(EXAMPLES), CHANGES)


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


@cache  # made when they are used: all of them take half a second
def validators(mode: str = "validation") -> dict[type[Input], Any]:
    """Return the validators of the classes' JSON schemas."""
    return {cls: Validator(schema_of(cls, mode)) for cls in CLASSES}


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
    taken = validators()[cls].is_valid(body)
    assert (read(cls, body) is not None) == taken
    assert (read(cls, body, as_text=True) is not None) == taken


@FREELY
@given(JSON, st.sampled_from(CLASSES))
def test_what_is_taken_is_in_the_schema(body: object, cls: type[Input]) -> None:
    """Nothing is taken that the schema does not admit, and nothing makes the reading stumble."""
    assert read(cls, body) is None or validators()[cls].is_valid(body)


@pytest.mark.parametrize("one", EXAMPLES)
def test_every_border(one: Input) -> None:
    """At the borders of each key, one by one, schema and class agree."""
    for key, values in VALUES.items():
        for value in values:
            body = changed(one, [(key, value)])
            for cls in (Input, type(one)) if key in {"model", "mode", "fields"} else (type(one),):
                admitted = validators()[cls].is_valid(body)
                assert (read(cls, body) is not None) == admitted, (key, value)


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
    assert validators("serialization")[cls].is_valid(written)
    assert validators()[cls].is_valid(written)
    assert read(cls, written) == read(cls, written, as_text=True) == one


@pytest.mark.parametrize("one", [*EXAMPLES, MasterTextToVideo("x")])
def test_required_is_what_is_always_written(one: Input) -> None:
    """The fields that are always written are required in the schema of answers."""
    schema = schema_of(type(one), "serialization")
    unset = {"negative_prompt", "cfg_scale", "provider", "end_image_url", "resolution"}
    if one.model != "kling-2-6":
        unset.add("sound")
    if isinstance(one, Kling30StdMotionControl):
        unset.add("prompt")
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
    urls = [plain for name, plain in schema_of(cls)["properties"].items() if "_url" in name]
    assert all('"format": "uri"' in json.dumps(plain) for plain in urls)
    assert bool(urls) == ("text" not in cls.mode)


def test_what_is_unknown_is_marked() -> None:
    """What the contract lists as unknown has a keyword of its own, and the description says so."""
    schemas = [(cls.model, schema_of(cls)) for cls in ONES]
    found = {
        (model, name, mark)
        for model, schema in schemas
        for name, plain in schema["properties"].items()
        for mark in re.findall(r'"x-unknown": "(\w+)"', json.dumps(plain))
        if "unknown" in plain["description"]
    }
    assert found == {
        *((model, "prompt", "maxLength") for model in ("kling-3-0-std", "kling-3-0-turbo")),
        *(
            (model, name, "rule")
            for model in ("kling-2-6", "kling-3-0-std", "kling-3-0-turbo")
            for name in ("negative_prompt", "cfg_scale")
        ),
        ("kling-3-0-turbo", "sound", "rule"),
    }
    assert json.dumps(schemas).count("x-unknown") == 5 + 14 + 2


@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_any_input_is_one_of_all(mode: str) -> None:
    """The schema of `Input` names every class; model and mode select exactly one."""
    schema = schema_of(Input, mode)
    refs = [choice["$ref"] for choice in schema["oneOf"]]
    assert refs == [f"#/$defs/{cls.__name__}" for cls in ONES]
    assert "discriminator" not in schema  # two properties are needed
    assert schema["title"] == "Input"
    assert schema["description"] == "A validated description of one video."


def test_required_tags() -> None:
    """In the union, a model or mode that is not the default is required."""
    required = {
        choice["$ref"].rpartition("/")[2]: choice.get("required", [])
        for choice in schema_of(Input)["oneOf"]
    }
    assert required["StandardImageToVideo"] == []
    assert required["MasterTextToVideo"] == ["mode"]
    assert required["Kling26TextToVideo"] == ["model"]
    assert required["Kling30TurboTextToVideo"] == ["model", "mode"]


def test_unions_by_model() -> None:
    """Classes of different models make a union that the model discriminates."""
    union = Annotated[Kling26TextToVideo | MasterTextToVideo, Field(discriminator="model")]
    adapter: TypeAdapter[Input] = TypeAdapter(union)
    one = Kling26TextToVideo("x", sound=False)
    assert adapter.validate_python(one.to_dict()) == one
    assert adapter.json_schema()["discriminator"]["mapping"].keys() == {"kling-2-6", "kling-2-1"}


@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_raw_inputs(mode: str) -> None:
    """A raw input has a schema of its own, and is no member of the union of all classes."""
    schema = schema_of(RawInput, mode)
    assert schema["required"] == ["model", "fields"]
    assert schema["properties"]["fields"] == {"type": "object", "x-unknown": "rule"}
    raw: TypeAdapter[RawInput] = TypeAdapter(RawInput)
    one = RawInput("kling-9", {"prompt": "x", "deep": [5.0]}, provider="lab")
    assert raw.validate_python(one) is one
    assert raw.validate_json(raw.dump_json(one)) == one
    assert Draft202012Validator(schema).is_valid(raw.dump_python(one))
    bare = RawInput("kling-9", {})
    assert Draft202012Validator(schema).is_valid(bare.to_dict())
    assert read(Input, one.to_dict()) is None
    for wrong in ({"model": "a/b", "fields": {}}, {"model": "a"}, {"model": "a", "fields": 5}):
        with pytest.raises(Refusal):
            raw.validate_python(wrong)
        assert not Draft202012Validator(schema).is_valid(wrong)


@pytest.mark.parametrize("url", ["https://exam ple.com", "https://a:99999/", "https://u@/"])
def test_what_a_pattern_cannot_say(url: str) -> None:
    """The finer rules of URLs are left to the word `uri`; the class knows them."""
    body = {"prompt": "x", "image_url": url}
    assert validators()[StandardImageToVideo].is_valid(body)
    assert read(Input, body) is None


@pytest.mark.parametrize("value", [0.1 + 0.2, 1 - 0.9, 0.7 + 0.1, 1.0000000000000002])
def test_tenths_of_binary_fractions(value: float) -> None:
    """What means a tenth is taken for it, though it is no multiple of one in JSON."""
    one = ADAPTERS[MasterTextToVideo].validate_json(f'{{"prompt": "x", "cfg_scale": {value!r}}}')
    assert Decimal(str(one.to_dict()["cfg_scale"])) % Decimal("0.1") == 0
