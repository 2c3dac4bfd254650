import asyncio
import sys
from typing import Any

import pytest

from kling_async.errors import ConfigurationError, InputError, MissingExtraError
from kling_async.inputs._schema_check import LARGEST
from kling_async.inputs.raw import RawInput

FIELDS: dict[str, object] = {
    "mode": "omni",
    "prompt": "a" * 1000,
    "duration": 7,
    "images": [1] * 20,
    "deep": {"a": [{"b": 1}], "c": {}},
}
ONE = RawInput("kling-9", FIELDS)

DRAFT_7 = "http://json-schema.org/draft-07/schema#"

# Such a pattern on such a prompt takes longer than the universe exists.
BOMB = "^(a+)+$b"


def problems(schema: dict[str, Any]) -> dict[str, str]:
    """Check the fields and return the problems by field."""
    with pytest.raises(InputError) as caught:
        ONE.check(schema)
    return {problem.field: problem.rule for problem in caught.value.problems}


def test_fields_that_satisfy_a_schema() -> None:
    """Fields that satisfy a schema are accepted, also by references within it."""
    integer = {"type": "integer", "minimum": 3, "maximum": 15}
    ONE.check({"type": "object", "required": ["prompt"], "properties": {"duration": integer}})
    ONE.check({"$defs": {"d": integer}, "properties": {"duration": {"$ref": "#/$defs/d"}}})
    ONE.check({})


def test_fields_that_break_a_schema() -> None:
    """Each broken keyword is a problem, with its place and a short message."""
    schema: dict[str, object] = {
        "additionalProperties": False,
        "properties": {
            "mode": {"const": "x"},
            "prompt": {"maxLength": 5},
            "duration": {"enum": [5, 10]},
            "deep": {"properties": {"a": {"items": {"type": "string"}}}},
        },
    }
    assert problems(schema) == {
        "fields": "Additional properties are not allowed ('images' was unexpected)",
        "fields.mode": "'x' was expected",
        "fields.prompt": f"'{'a' * 80}'… (1000 characters) is too long",
        "fields.duration": "7 is not one of [5, 10]",
        "fields.deep.a[0]": "{'b': 1} is not of type 'string'",
    }


@pytest.mark.parametrize(
    ("value", "valid"),
    [(0.3, True), (0.7, True), (1, True), (0.35, False), (1e300, True), (True, True), ("x", True)],
)
def test_multiples(value: object, *, valid: bool) -> None:
    """0.3 is a multiple of 0.1, though binary fractions say otherwise."""
    schema = {"properties": {"cfg_scale": {"multipleOf": 0.1}}}
    one = RawInput("kling-9", {"cfg_scale": value})
    if valid:
        one.check(schema)
    else:
        with pytest.raises(InputError, match=r"0.35 is not a multiple of 0.1"):
            one.check(schema)


def test_missing_fields() -> None:
    """A required field that is missing is named."""
    assert problems({"required": ["seed"]}) == {"fields": "'seed' is a required property"}


def test_messages_are_short() -> None:
    """Messages show the beginning of what is large, and at most twenty problems."""
    rule = problems({"properties": {"images": {"maxItems": 1}}})["fields.images"]
    assert rule == "[1, 1, 1, 1, 1, 1, 1, 1, …] is too long"
    rule = problems({"properties": {"deep": {"maxProperties": 1}}})["fields.deep"]
    assert rule == "{'a': […], 'c': {…}} has too many properties"
    many = RawInput("kling-9", {f"key{index}": index for index in range(50)})
    with pytest.raises(InputError) as caught:
        many.check({"additionalProperties": {"type": "string"}})
    assert len(caught.value.problems) == 20
    with pytest.raises(InputError) as caught:
        many.check({"additionalProperties": False})
    assert len(caught.value.problems[0].rule) == 201


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"prompt": {"pattern": BOMB}}},
        {"properties": {"prompt": {"pattern": "(", "format": "regex"}}},
        {"properties": {"prompt": {"$schema": DRAFT_7, "pattern": BOMB}}},
        {"patternProperties": {BOMB: False}, "additionalProperties": False},
        {"unevaluatedProperties": False},
        {"properties": {"images": {"uniqueItems": True, "unevaluatedItems": False}}},
        {"$dynamicRef": "http://127.0.0.1:9/schema"},
    ],
)
def test_keywords_that_are_ignored(schema: dict[str, object]) -> None:
    """Regular expressions, and keywords whose work cannot be counted, are ignored."""
    ONE.check(schema)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "strin"}, "SchemaError"),
        ({"properties": 5}, "SchemaError"),
        ({"$ref": "#/nowhere"}, "PointerToNowhere"),
        ({"$ref": "#"}, "RecursionError"),
        ({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}, "RecursionError"),
        ({"$ref": "#anchor", "$defs": {"a": {"$anchor": "anchor"}}}, "another document"),
        ({"type": [*range(101), {}]}, "a long list of mixed values"),
        ({"enum": ["x" * LARGEST]}, "too large"),
        ({"enum": [float("nan")]}, "not a JSON schema: schema.enum"),
        (True, "not a JSON schema"),
    ],
)
def test_schemas_that_cannot_be_used(schema: Any, reason: str) -> None:  # noqa: ANN401
    """A broken schema, or one that is too large, is an error of the schema, not of the input."""
    with pytest.raises(ConfigurationError, match=reason):
        ONE.check(schema)


def test_long_lists_of_one_kind() -> None:
    """Long lists of texts or numbers are allowed: schemas list voices."""
    voices = [f"voice-{index}" for index in range(500)]
    ONE.check({"properties": {"voice": {"enum": voices}, "duration": {"enum": [*range(500)]}}})


@pytest.mark.slow
def test_work_is_bounded() -> None:
    """A small schema that asks for 2**40 evaluations is refused."""
    defs: dict[str, object] = {
        f"a{index}": {"allOf": [{"$ref": f"#/$defs/a{index + 1}"}] * 2} for index in range(40)
    }
    with pytest.raises(ConfigurationError, match="too much work"):
        ONE.check({"$defs": {**defs, "a40": {}}, "$ref": "#/$defs/a0"})


def test_older_drafts() -> None:
    """A schema says of which draft it is; one that is older than draft 7 is read as the latest."""
    definitions = {"definitions": {"d": {"enum": [1]}}}
    schema = {**definitions, "properties": {"duration": {"$ref": "#/definitions/d"}}}
    assert problems({"$schema": DRAFT_7, **schema}) == {"fields.duration": "7 is not one of [1]"}
    assert problems({"$schema": DRAFT_7, "properties": {"images": {"items": [{"const": 2}]}}})
    with pytest.raises(ConfigurationError, match="SchemaError"):
        ONE.check({"$schema": DRAFT_7.replace("07", "04"), "exclusiveMinimum": True})


@pytest.mark.parametrize("ref", ["http://127.0.0.1:{}/x", "//127.0.0.1:{}/x", "file:///etc/passwd"])
async def test_nothing_is_fetched(ref: str) -> None:
    """A reference to another document is refused, and nothing connects to its address."""
    connections = []
    server = await asyncio.start_server(lambda *pair: connections.append(pair), "127.0.0.1", 0)
    async with server:
        url = ref.format(server.sockets[0].getsockname()[1])
        for schema in (
            {"$ref": url},
            {"$id": url, "$ref": "other.json"},
            {"$id": url, "properties": {"deep": {"$id": f"{url}/y", "$ref": "z"}}},
        ):
            with pytest.raises(ConfigurationError, match="another document"):
                await asyncio.to_thread(ONE.check, schema)
        # With an own name, the schema is complete.
        await asyncio.to_thread(ONE.check, {"$id": url, "$ref": "#/$defs/a", "$defs": {"a": {}}})
    assert not connections


def test_the_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without jsonschema, the error names the extra."""
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(MissingExtraError, match=r"\[schema\]"):
        ONE.check({})
