import json
import pickle
import subprocess
import sys
from datetime import UTC
from typing import Annotated, Any

import httpx
import pytest
from attrs import frozen
from fastapi import FastAPI, Query
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from pydantic import BaseModel, TypeAdapter, ValidationError

from kling_async import FailReason, Result, SavedFile, Snapshot, TaskRef, TaskState
from kling_async.results import _Value as Value
from tests.patience import HANGS

# No property depends on how fast the machine is, or on luck.
FREELY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

Written = Result | Snapshot | SavedFile

REF = TaskRef("kling-2-1", "task_12345678")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
URLS = st.builds("https://example.com/{}".format, st.text("abc/?=&", max_size=9))
REFS = st.builds(
    TaskRef,
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True),
    st.text(st.characters(exclude_categories=["Cc", "Cs", "Z"]), min_size=1).filter(str.strip),
)
TIMES = st.none() | st.datetimes(timezones=st.just(UTC))
SECONDS = st.none() | st.floats(0, 1e6)
ANSWERS: dict[type[Written], st.SearchStrategy[Any]] = {
    Result: st.builds(Result, REFS, st.lists(URLS, max_size=3).map(tuple), TIMES, TIMES, SECONDS),
    Snapshot: st.builds(
        Snapshot,
        REFS,
        st.sampled_from(TaskState),
        TEXTS,
        *(TIMES, TIMES, SECONDS),
        st.lists(URLS, max_size=3).map(tuple),
        *(TEXTS, TEXTS),
        st.none() | st.sampled_from(FailReason),
    ),
    SavedFile: st.builds(SavedFile, URLS, TEXTS, st.integers(0), TEXTS),
}

app = FastAPI()


@app.get("/results/{ref:path}")
async def result(ref: TaskRef) -> Result:
    """Return a result by its reference in the path."""
    return Result(ref, ("https://example.com/a.mp4",), cost_time=60.5)


@app.get("/snapshots")
async def snapshots(
    ref: Annotated[list[TaskRef], Query()], last: TaskRef = REF
) -> dict[TaskRef, Snapshot]:
    """Return several tasks by references in the query."""
    return {one: Snapshot(one, TaskState.PENDING) for one in [*ref, last]}


class Stored(BaseModel):
    ref: TaskRef
    result: Result | None = None
    files: list[SavedFile] = []


async def get(path: str, **query: list[str] | str) -> httpx.Response:
    """Ask the application; what it raises is raised here."""
    transport = httpx.ASGITransport(app)
    address = "http://backend"
    async with httpx.AsyncClient(transport=transport, base_url=address, trust_env=False) as client:
        return await client.get(path, params=query)


def printed(code: str, *options: str) -> list[str]:
    """Give the words that some code prints in a new process."""
    command = (sys.executable, *options, "-c", code)
    done = subprocess.run(command, capture_output=True, check=True, text=True, timeout=HANGS)
    return done.stdout.split()


@pytest.mark.slow
@pytest.mark.parametrize("cls", ANSWERS)
def test_answers_come_back(cls: type[Written]) -> None:
    """What is written is `to_dict`, fits the schemas of both ways, and is read again."""
    adapter: TypeAdapter[Written] = TypeAdapter(cls)
    written = Draft202012Validator(adapter.json_schema(mode="serialization"))
    taken = Draft202012Validator(adapter.json_schema(mode="validation"))

    @FREELY
    @given(ANSWERS[cls])
    def come_back(answer: Written) -> None:
        plain = answer.to_dict()
        assert adapter.dump_python(answer) == adapter.dump_python(answer, mode="json") == plain
        text = adapter.dump_json(answer)
        assert json.loads(text) == json.loads(json.dumps(plain)) == plain
        written.validate(plain)
        taken.validate(plain)
        again = adapter.validate_json(text)
        assert again == adapter.validate_python(plain) == answer
        assert hash(again) == hash(answer)
        assert pickle.loads(pickle.dumps(again)) == answer  # noqa: S301 - our own bytes
        assert adapter.validate_python(answer) is answer

    come_back()


@pytest.mark.parametrize("cls", ANSWERS)
def test_every_field_is_written_and_described(cls: type[Written]) -> None:
    """An answer's schema requires every field and has the docstrings' words for each."""
    schema = TypeAdapter(cls).json_schema(mode="serialization")
    assert schema["required"] == list(schema["properties"])
    assert all(plain["description"].endswith(".") for plain in schema["properties"].values())
    assert (schema["title"], schema["type"]) == (cls.__name__, "object")
    assert schema["description"].endswith(".")


def test_what_may_be_left_out_is_not_required() -> None:
    """What is read needs only what has no default."""
    schema = TypeAdapter(Snapshot).json_schema()
    assert schema["required"] == ["ref", "state"]
    assert schema["properties"]["vendor_state"]["default"] == ""
    read = TypeAdapter(Snapshot).validate_python({"ref": str(REF), "state": "pending"})
    assert read == Snapshot(REF, TaskState.PENDING)


def test_kinds_of_fields() -> None:
    """Times, URLs, states and what may be null are written as such."""
    schema = TypeAdapter(Snapshot).json_schema(mode="serialization")
    properties = schema["properties"]
    assert properties["result_urls"]["items"] == {"type": "string", "format": "uri"}
    assert properties["created_at"]["anyOf"] == [
        {"type": "string", "format": "date-time"},
        {"type": "null"},
    ]
    assert properties["cost_time"]["anyOf"] == [{"type": "number"}, {"type": "null"}]
    assert schema["$defs"]["TaskState"]["enum"] == ["pending", "processing", "success", "failed"]
    assert properties["reason"]["anyOf"] == [{"$ref": "#/$defs/FailReason"}, {"type": "null"}]
    saved = TypeAdapter(SavedFile).json_schema()["properties"]
    assert (saved["url"]["format"], saved["size_bytes"]["type"]) == ("uri", "integer")


def test_the_pattern_of_references_is_for_every_reader() -> None:
    """The pattern speaks of no half characters, which not every language can write."""
    assert TypeAdapter(TaskRef).json_schema()["pattern"] == (
        r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}/[^\s\x00-\x1f\x7f-\x9f]{1,256}$"
    )


def test_broken_answers() -> None:
    """What is no answer is refused, each fault at its place."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Result).validate_python({"ref": "x", "result_urls": [1], "cost_time": "long"})
    assert [error["loc"] for error in caught.value.errors()] == [
        ("ref",),
        ("result_urls", 0),
        ("cost_time",),
    ]


# Made once: to make one takes longer than an example.
MAPPINGS: TypeAdapter[dict[TaskRef, TaskRef]] = TypeAdapter(dict[TaskRef, TaskRef])
REFERENCE = TypeAdapter(TaskRef)
PATTERN = Draft202012Validator(REFERENCE.json_schema())


@FREELY
@given(REFS)
def test_references_are_text(ref: TaskRef) -> None:
    """A reference is its text in JSON, by itself and as a key, and comes back from it."""
    text = MAPPINGS.dump_json({ref: ref})
    assert json.loads(text) == {str(ref): str(ref)}
    assert MAPPINGS.validate_json(text) == {ref: ref}
    assert MAPPINGS.dump_python({ref: ref}) == {ref: ref}  # in Python it stays what it is


@FREELY
@given(
    REFS.map(str)
    | st.text(st.characters(exclude_categories=["Cs"])).map(str.strip)
    | st.builds("{}/{}".format, st.text("a-. ü", max_size=102), st.text("x\t\x00\x7f\u3000é/"))
    | st.sampled_from(["a/" + "x" * 256, "a/" + "x" * 257, "a" * 100 + "/x", "a" * 101 + "/x"])
)
def test_the_pattern_of_references(text: str) -> None:
    """The schema of a reference admits what the class takes, but for white space around it."""
    try:
        taken = str(REFERENCE.validate_python(text)) == text
    except ValidationError:
        taken = False
    assert PATTERN.is_valid(text) == taken


NEST: list[object] = []
for _ in range(100_000):
    NEST = [NEST]


@pytest.mark.parametrize(
    "value", ["x", "", "a/b c", "x" * 999, 5, None, {}, ["a/b"], "\ud800/", float("nan"), NEST]
)
def test_what_is_no_reference(value: object) -> None:
    """Anything else is refused with an example of one."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(TaskRef).validate_python(value)
    (error,) = caught.value.errors()
    assert error["msg"] == "must be a reference such as kling-2-1/task_12345678"
    assert len(json.dumps(error, allow_nan=False)) < 300


@pytest.mark.parametrize("value", [REF, 5, "plain", None])
def test_references_beside_others(value: object) -> None:
    """In a union, a reference is written as text and others as what they are."""
    union: TypeAdapter[object] = TypeAdapter(TaskRef | int | str | None)
    assert union.dump_python(value, mode="json") == (str(value) if value is REF else value)


@pytest.mark.parametrize("value", [REF, Result(REF, ()), SavedFile("u", "n", 1, "s"), 5])
def test_answers_beside_others(value: object) -> None:
    """In a union, each answer is written by its own class."""
    union: TypeAdapter[object] = TypeAdapter(SavedFile | Result | TaskRef | int)
    written = union.dump_python(value, mode="json")
    assert written == (value.to_dict() if isinstance(value, Result | SavedFile) else written)
    assert union.validate_python(written) == value


def test_models_hold_answers() -> None:
    """A pydantic model with references and results in it is written and read again."""
    stored = Stored(ref=REF, result=Result(REF, ()), files=[SavedFile("u", "n", 1, "s")])
    assert Stored.model_validate_json(stored.model_dump_json()) == stored
    assert stored.model_dump()["ref"] is REF
    assert stored.model_dump(mode="json")["ref"] == str(REF)


async def test_references_in_paths() -> None:
    """A path holds a reference, and the answer is the result's own JSON."""
    answer = await get(f"/results/{REF}")
    assert answer.json() == {
        "ref": str(REF),
        "result_urls": ["https://example.com/a.mp4"],
        "created_at": None,
        "completed_at": None,
        "cost_time": 60.5,
    }


async def test_references_in_queries() -> None:
    """A query holds references, also with a default; as keys they are text."""
    answer = await get("/snapshots", ref=["a/b", "c/d"])
    assert [*answer.json()] == ["a/b", "c/d", str(REF)]


async def test_broken_references_in_requests() -> None:
    """What is no reference is a 422 that names the parameter."""
    for path, place in ((f"/results/{'x' * 9}", ["path", "ref"]), ("/snapshots?last=x", None)):
        answer = await get(path)
        assert answer.status_code == 422
        assert place is None or answer.json()["detail"][0]["loc"] == place
    answer = await get("/snapshots", ref=["a/b", "x"])
    assert answer.json()["detail"] == [
        {
            "type": "kling_input",
            "loc": ["query", "ref", 1],
            "msg": "must be a reference such as kling-2-1/task_12345678",
            "input": "x",
        }
    ]


def test_document_of_an_application() -> None:
    """An application's document says what references look like and names each answer once."""
    document = app.openapi()
    (parameter,) = document["paths"]["/results/{ref}"]["get"]["parameters"]
    assert parameter["schema"]["type"] == "string"
    assert parameter["schema"]["examples"] == ["kling-2-1/task_12345678"]
    assert {"Result", "Snapshot", "TaskState", "FailReason"} <= {*document["components"]["schemas"]}


def test_pydantic_is_not_imported() -> None:
    """All that pydantic may ask for stands ready, and pydantic is not loaded for it."""
    code = (
        "import sys, kling_async\n"
        "for name in kling_async.__all__: getattr(kling_async, name)\n"
        "kling_async.MasterTextToVideo('x').to_dict()\n"
        "print(*sys.modules)"
    )
    loaded = set(printed(code))
    assert "kling_async.inputs.base" in loaded
    assert loaded.isdisjoint(
        {"pydantic", "pydantic_core", "fastapi", "kling_async.inputs._pydantic"}
    )


@pytest.mark.slow
def test_without_docstrings() -> None:
    """Where Python leaves out docstrings, schemas leave out descriptions, and nothing else."""
    code = (
        "import json, sys\n"
        "from pydantic import TypeAdapter\n"
        "from kling_async import Input, Snapshot\n"
        "for cls in (Input, Snapshot):\n"
        "    schema = TypeAdapter(cls).json_schema(mode='serialization')\n"
        "    print(json.dumps(schema).count('format'), sys.flags.optimize)\n"
    )
    counts = printed(code, "-OO")
    assert counts[1::2] == ["2", "2"]
    assert [int(count) > 0 for count in counts[::2]] == [True, True]


@frozen
class Bare(Value):
    size: int


def test_a_field_without_a_description() -> None:
    """A field that no docstring describes has a schema without a description."""
    schema = TypeAdapter(Bare).json_schema()
    assert schema["properties"] == {"size": {"title": "Size", "type": "integer"}}
