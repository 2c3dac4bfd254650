import asyncio
import json
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Body, FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from kling_async.errors import InputError
from kling_async.inputs.base import Input
from kling_async.inputs.kling_2_1 import (
    MasterImageToVideo,
    MasterTextToVideo,
    ProImageToVideo,
    StandardImageToVideo,
)
from kling_async.inputs.kling_2_6 import Kling26TextToVideo
from kling_async.inputs.parsing import parse_input
from kling_async.inputs.raw import RawInput
from kling_async.inputs.registry import DEFAULT_MODES
from tests.inputs.strategies import CAT, CLASSES, DOG, EXAMPLES

# No property depends on how fast the machine is, or on luck.
FREELY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
OFTEN = settings(FREELY, max_examples=250)

MODELS = f"must be one of {', '.join(DEFAULT_MODES)}; or give any other model its fields"

BARE = {"prompt": "x", "image_url": CAT}

ONES: list[type[Input]] = [
    StandardImageToVideo,
    ProImageToVideo,
    MasterTextToVideo,
    MasterImageToVideo,
]
FULL: list[Input] = [
    StandardImageToVideo("x", CAT, negative_prompt="", cfg_scale=0.3, provider="auto"),
    ProImageToVideo("x", CAT, end_image_url=DOG, duration=10, cfg_scale=1),
    MasterTextToVideo("x", aspect_ratio="9:16", negative_prompt="y"),
    MasterImageToVideo("x", CAT),
]

KEYS = ["model", "mode", "prompt", "duration", "cfg_scale", "image_url", "seed"]
VALUES = st.sampled_from(["kling-2-1", *(cls.mode for cls in ONES), "x", CAT, 5, 10, 0.3, None])
JSON = st.recursive(
    VALUES | st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters()) | st.sampled_from([*KEYS]), inner, max_size=5)
    ),
    max_leaves=8,
)


def entries(cls: Any, body: object) -> list[tuple[tuple[int | str, ...], str, object]]:  # noqa: ANN401
    """Give what pydantic says of a body that is refused: place, words and value."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(cls).validate_python(body)
    return [(error["loc"], error["msg"], error["input"]) for error in caught.value.errors()]


app = FastAPI()


class Order(BaseModel):
    videos: list[Input] = []
    one: MasterTextToVideo | None = None


Picked = Annotated[
    MasterTextToVideo | ProImageToVideo | StandardImageToVideo, Field(discriminator="mode")
]


@app.post("/videos")
async def post_video(video: Annotated[Input, Body()]) -> Input:
    """Give back what was understood."""
    return video


@app.post("/texts")
async def post_text(video: Annotated[MasterTextToVideo, Body()]) -> MasterTextToVideo:
    """Give back what was understood."""
    return video


@app.post("/pros")
async def post_pro(video: Annotated[ProImageToVideo, Body()]) -> ProImageToVideo:
    """Give back what was understood."""
    return video


@app.post("/either")
async def post_either(
    video: Annotated[MasterTextToVideo | ProImageToVideo, Body()],
) -> MasterTextToVideo | ProImageToVideo:
    """Give back what was understood."""
    return video


@app.post("/picked")
async def post_picked(video: Annotated[Picked, Body()]) -> Picked:
    """Give back what was understood."""
    return video


@app.post("/orders")
async def post_order(order: Order) -> Order:
    """Give back what was understood."""
    return order


# Where the body as a whole is ours, not pydantic's to complain of.
OURS = ["/videos", "/texts", "/pros", "/either"]


async def post(path: str, body: object) -> httpx.Response:
    """Send a body to the application as it stands; what it raises is raised here."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    transport = httpx.ASGITransport(app)
    address = "http://backend"
    async with httpx.AsyncClient(transport=transport, base_url=address, trust_env=False) as client:
        headers = {"content-type": "application/json"}
        return await client.post(path, content=content, headers=headers)


@pytest.mark.parametrize("one", FULL)
def test_instances_pass(one: Input) -> None:
    """An input is taken as it is, also in strict mode, by its own class and by `Input`."""
    for cls in (type(one), Input):
        assert TypeAdapter(cls).validate_python(one) is one
        assert TypeAdapter(cls).validate_python(one, strict=True) is one


def test_other_instances_do_not() -> None:
    """An input of another class is refused."""
    ((place, words, value),) = entries(MasterTextToVideo, FULL[0])
    assert (place, words) == ((), "must be a JSON object")
    assert str(value).startswith("StandardImageToVideo(")


def test_strict_mode_takes_mappings() -> None:
    """Strict mode takes mappings as it takes those of models: no rule ever converts a type."""

    class Strict(BaseModel):
        model_config = ConfigDict(strict=True)
        video: MasterTextToVideo

    assert Strict(video={"prompt": "x"}).video == MasterTextToVideo("x")  # type: ignore[arg-type] # what strict is about
    assert Strict.model_validate_json('{"video": {"prompt": "x"}}').video == MasterTextToVideo("x")


def test_models_hold_inputs() -> None:
    """A pydantic model with inputs in it is read, written and read again."""
    order = Order(videos=FULL, one=MasterTextToVideo("x"))
    plain = order.model_dump(mode="json")
    assert plain == {
        "videos": [one.to_dict() for one in FULL],
        "one": MasterTextToVideo("x").to_dict(),
    }
    assert Order.model_validate(plain) == order
    assert Order.model_validate_json(order.model_dump_json()) == order
    assert entries(Order, {"videos": [{"prompt": ""}], "one": 5}) == [
        (("videos", 0, "image_url"), "is required", None),
        (("videos", 0, "prompt"), "must be text of 1 to 5000 characters", ""),
        (("one",), "must be a JSON object", 5),
    ]


@pytest.mark.parametrize("value", [*FULL, "plain", 5])
def test_unions_write_their_members(value: object) -> None:
    """In a union, each value is written by its own member, without a warning."""
    union: TypeAdapter[object] = TypeAdapter(
        MasterTextToVideo | ProImageToVideo | Input | str | int
    )
    written = union.dump_python(value, mode="json")
    assert written == (value.to_dict() if isinstance(value, Input) else value)
    assert union.validate_python(written) == value


def test_unions_by_mode() -> None:
    """In a union with a discriminator, only the selected class reports errors."""
    body = {"mode": "pro-image-to-video", "prompt": "x", "image_url": CAT, "duration": 7}
    place = ("pro-image-to-video", "duration")
    assert entries(Picked, body) == [(place, "must be one of 5, 10", 7)]
    assert TypeAdapter(Picked).validate_python(FULL[1]) is FULL[1]


def test_unions_name_their_members() -> None:
    """In any other union, each class's complaints stand under its name."""
    body = {"mode": "pro-image-to-video", "prompt": "x", "image_url": CAT, "duration": 7}
    places = [place for place, _, _ in entries(MasterTextToVideo | ProImageToVideo, body)]
    assert all("MasterTextToVideo" in str(place[0]) for place in places[:-1])
    assert "ProImageToVideo" in str(places[-1][0])


def test_subclasses_are_classes_too() -> None:
    """A subclass that a user makes is read as itself."""

    class Mine(MasterTextToVideo):
        __slots__ = ()

    assert type(TypeAdapter(Mine).validate_python({"prompt": "x"})) is Mine


@pytest.mark.parametrize("path", ["/videos", "/picked"])
@pytest.mark.parametrize("one", FULL[:3])
async def test_requests(path: str, one: Input) -> None:
    """An input travels through an application and comes back as it was."""
    answer = await post(path, one.to_dict())
    assert (answer.status_code, answer.json()) == (200, one.to_dict())


@pytest.mark.parametrize("one", EXAMPLES)
async def test_requests_for_every_model(one: Input) -> None:
    """An input of any model is a body, and is answered as it was sent."""
    answer = await post("/videos", one.to_dict())
    assert (answer.status_code, answer.json()) == (200, one.to_dict())


async def test_raw_inputs_are_no_input_of_a_body() -> None:
    """A raw input costs what an unknown model costs: only an application that names it has it."""
    answer = await post("/videos", RawInput("kling-2-6", {"prompt": "x"}).to_dict())
    assert [entry["loc"][1] for entry in answer.json()["detail"]] == ["fields", "sound", "prompt"]
    answer = await post("/videos", RawInput("kling-9", {}).to_dict())
    assert [entry["loc"][1] for entry in answer.json()["detail"]] == ["model"]
    body = {"model": "kling-9", "fields": {"a": ["\ud800"]}}
    assert entries(RawInput, body)[0][0] == ("fields.a[0]",)
    one = RawInput("kling-9", {"prompt": "x"})
    union: TypeAdapter[object] = TypeAdapter(Kling26TextToVideo | RawInput)
    assert union.validate_python(one.to_dict()) == one


async def test_every_broken_rule_has_its_entry() -> None:
    """A refusal has an entry for each broken rule: its place, our words, the value seen."""
    body: dict[str, object] = {
        **BARE,
        "mode": "pro-image-to-video",
        "prompt": "",
        "image_url": "cat.jpg",
    }
    body |= {
        "negative_prompt": "x" * 501,
        "duration": "5",
        "cfg_scale": 0.55,
        "aspect_ratio": "1:1",
    }
    answer = await post("/videos", body)
    assert answer.status_code == 422
    assert answer.json()["detail"] == [
        {"type": "kling_input", "loc": ["body", place], "msg": words, "input": value}
        for place, words, value in [
            ("aspect_ratio", "unknown key for pro-image-to-video", "1:1"),
            ("duration", "must be one of 5, 10", "5"),
            (
                "negative_prompt",
                "must be text of 0 to 500 characters",
                f"{'x' * 80!r}… (501 characters)",
            ),
            ("cfg_scale", "must be a number from 0 to 1 in steps of 0.1", 0.55),
            ("prompt", "must be text of 1 to 5000 characters", ""),
            ("image_url", "must be one absolute http(s) URL", "cat.jpg"),
        ]
    ]


@pytest.mark.parametrize(
    ("body", "place", "words", "value"),
    [
        ({"prompt": "x"}, "image_url", "is required", None),
        ({**BARE, "model": "sora"}, "model", MODELS, "sora"),
        ({**BARE, "model": ["sora"]}, "model", MODELS, "['sora']"),
        ({**BARE, "seed": 1}, "seed", "unknown key for standard-image-to-video", 1),
        ({**BARE, "\ud800": {}}, "\\ud800", "unknown key for standard-image-to-video", "{}"),
        ({**BARE, "k" * 81: 1}, "k" * 80 + "…", "unknown key for standard-image-to-video", None),
        ({**BARE, "prompt": True}, "prompt", "must be text of 1 to 5000 characters", True),
        ({**BARE, "prompt": None}, "prompt", "must be text of 1 to 5000 characters", None),
        ([BARE], None, "must be a JSON object", f"[{BARE}]"),
        ("x", None, "must be a JSON object", "x"),
        (7.5, None, "must be a JSON object", 7.5),
    ],
)
async def test_refusals(body: object, place: str | None, words: str, value: object) -> None:
    """What is wrong is named where it stands; what is missing, unknown or no object as well."""
    (entry,) = (await post("/videos", body)).json()["detail"]
    assert entry["loc"] == (["body", place] if place else ["body"])
    assert entry["msg"] == words
    if place != "k" * 80 + "…":
        assert entry["input"] == value


async def test_unknown_modes_are_written_the_known_ones() -> None:
    """An unknown mode is answered with those there are."""
    (entry,) = (await post("/videos", {"mode": "pro"})).json()["detail"]
    assert entry["loc"] == ["body", "mode"]
    assert all(cls.mode in entry["msg"] for cls in ONES)


async def test_the_vendors_list_is_no_field_of_a_body() -> None:
    """A body with the vendor's `image_urls` has errors for the unknown key and the missing one."""
    answer = await post("/pros", {"prompt": "x", "image_urls": [CAT]})
    assert [(entry["loc"][1], entry["msg"]) for entry in answer.json()["detail"]] == [
        ("image_urls", "unknown key for pro-image-to-video"),
        ("image_url", "is required"),
    ]


@pytest.mark.parametrize("path", OURS)
@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": "x", "cfg_scale": NaN}',
        b'{"prompt": "x", "cfg_scale": -Infinity, "seed": 1e999}',
        b'{"prompt": "\\ud800", "\\udfff": "\\udfff", "seed": {"\\ud800": NaN}}',
        b'{"mode": "\\ud800"}',
        b'{"model": {}, "mode": []}',
        b'"\\ud800"',
        b"NaN",
        b"null",
        b"[]",
        b"",
        b"{",
        b"\xff",
        b"9" * 4300,
        b'{"prompt": "x", "cfg_scale": %s}' % (b"9" * 4300),
        b'{"prompt": "x", "seed": %s}' % (b"9" * 309),
        b'{"prompt": "x", "duration": 5e307}',
    ],
)
async def test_nasty_bodies(path: str, body: bytes) -> None:
    """Whatever JSON is sent, or nearly JSON, is answered by a refusal."""
    answer = await post(path, body)
    assert answer.status_code in {400, 422}
    assert answer.json()["detail"]


@pytest.mark.parametrize("path", ["/videos", "/texts"])
async def test_deep_bodies(path: str) -> None:
    """Nests as deep as Python reads them, and deeper ones, are refused."""
    for depth in range(10, 1500, 10):
        nest = b"[" * depth + b"]" * depth
        answer = await post(
            path, b'{"prompt": "x", "mode": "master-text-to-video", "seed": %s}' % nest
        )
        assert answer.status_code in {400, 422}


@pytest.mark.slow
def test_any_body_is_answered() -> None:
    """No JSON makes an application stumble: it is taken or refused."""
    with asyncio.Runner() as runner:

        @OFTEN
        @given(JSON, st.sampled_from(OURS))
        def answer(body: object, path: str) -> None:
            assert runner.run(post(path, body)).status_code in {200, 422}

        answer()


def test_document_of_an_application() -> None:
    """An application's document names each class once for each way, and resolves."""
    document = app.openapi()
    schemas = document["components"]["schemas"]
    body = document["paths"]["/videos"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"] == {"$ref": "#/components/schemas/Input-Input"}
    refs = [choice["$ref"] for choice in schemas["Input-Input"]["oneOf"]]
    assert refs == [f"#/components/schemas/{cls.__name__}-Input" for cls in CLASSES]
    refs = [part.split('"')[0] for part in json.dumps(document).split('"#/components/schemas/')[1:]]
    assert {*refs} <= {*schemas}
    whole = {"$ref": "#/components/schemas/Input-Input", "components": {"schemas": schemas}}
    assert Draft202012Validator(whole).is_valid({**BARE, "mode": "pro-image-to-video"})
    assert not Draft202012Validator(whole).is_valid({**BARE, "mode": "master-text-to-video"})


@pytest.mark.parametrize("one", FULL)
def test_errors_are_the_same_as_in_python(one: Input) -> None:
    """A refusal says what the `InputError` of the same mapping says, rule by rule."""
    body = {**one.to_dict(), "prompt": "", "duration": 7, "cfg_scale": 5, "seed": 1}
    with pytest.raises(InputError) as caught:
        parse_input(body)
    assert [(place, words) for place, words, _ in entries(Input, body)] == [
        ((problem.field,), problem.rule) for problem in caught.value.problems
    ]
