import json
import pickle
from datetime import UTC, datetime

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kling_async.errors import InputError
from kling_async.results import FailReason, Result, Snapshot, TaskRef, TaskState

# No property depends on how fast the machine is, or on luck.
FREELY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

MODELS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True)
TASK_IDS = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Z"]), min_size=1, max_size=256
).filter(str.strip)


def parsed(text: str) -> TaskRef | InputError:
    """Read a reference and give it, or what is said against it."""
    try:
        return TaskRef.parse(text)
    except InputError as error:
        return error


@pytest.mark.parametrize(
    ("state", "ended"),
    [("pending", False), ("processing", False), ("success", True), ("failed", True)],
)
def test_states(state: str, ended: bool) -> None:  # noqa: FBT001 - a fact from a table
    """Success and failure are the two states in which nothing will change any more."""
    assert TaskState(state).ended is ended
    assert str(TaskState(state)) == state


def test_no_other_states() -> None:
    """The contract has four states."""
    assert len(TaskState) == 4


def test_reasons_are_small_words() -> None:
    """The reasons are written as what they are, for logs and JSON."""
    assert json.dumps(list(FailReason)) == (
        '["content", "content_output", "prompt", "image", "media", "timeout", "unavailable",'
        ' "generation", "balance", "unknown"]'
    )


@FREELY
@given(MODELS, TASK_IDS)
def test_refs_come_back_from_text(model: str, task_id: str) -> None:
    """Whatever reference can be built is read back from its text, also amid white space."""
    ref = TaskRef(model, task_id)
    assert TaskRef.parse(str(ref)) == ref
    assert TaskRef.parse(f" {ref}\r\n") == ref
    assert len(str(ref).splitlines()) == 1
    assert str(ref).encode().decode() == str(ref)
    assert pickle.loads(pickle.dumps(ref)) == ref  # noqa: S301 - our own bytes


@FREELY
@given(st.text() | st.builds("{}/{}".format, st.text() | MODELS, st.text()))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    """A text either is a reference, and the same one written again, or an InputError."""
    outcome = parsed(text)
    if isinstance(outcome, TaskRef):
        assert str(outcome) == text.strip()
    else:
        assert outcome.problems
        assert str(outcome).encode()


def test_ref_text_is_stable() -> None:
    """The text of a reference is its model, a slash and its id: stored ones stay readable."""
    assert str(TaskRef("kling-2-1", "task_12345678")) == "kling-2-1/task_12345678"
    assert TaskRef.parse("kling-2-1/a/b?c=d") == TaskRef("kling-2-1", "a/b?c=d")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "/",
        "task_12345678",
        "kling-2-1",
        "kling-2-1/",
        "/task_12345678",
        "kling-2-1/task 1",
        "kling-2-1/task\n1",
        "kling-2-1/task\x001",
        "kling-2-1/task\x7f1",
        "kling-2-1/task\x851",
        "kling-2-1/\ud800",
        "kling-2-1/" + "x" * 257,
        "kling 2-1/x",
        "../x",
        "-m/x",
        "ü/x",
        "x" * 101 + "/x",
        "https://example.com/x",
        None,
        b"kling-2-1/x",
        5,
    ],
)
def test_not_a_reference(text: str) -> None:
    """What is not a reference is an InputError that shows what was seen, not too much of it."""
    with pytest.raises(InputError) as caught:
        TaskRef.parse(text)
    assert all(len(problem.seen) <= 80 for problem in caught.value.problems)
    assert str(caught.value).encode()
    assert caught.value.problems[0].seen[:20] in str(caught.value)


@pytest.mark.parametrize("task_id", ["x", "x" * 256])
@pytest.mark.parametrize("model", ["x", "x" * 100])
def test_longest_and_shortest_refs(model: str, task_id: str) -> None:
    """Models of 1 to 100 characters and ids of 1 to 256 are taken."""
    assert TaskRef.parse(f"{model}/{task_id}") == TaskRef(model, task_id)


def test_all_problems_of_a_ref() -> None:
    """A reference with two wrong parts is told about both."""
    with pytest.raises(InputError) as caught:
        TaskRef("", None)  # type: ignore[arg-type] # on purpose
    assert [problem.field for problem in caught.value.problems] == ["model", "task_id"]


def test_refs_are_values() -> None:
    """References can be compared, hashed and not changed."""
    ref = TaskRef("kling-2-1", "a")
    assert {ref: 1}[TaskRef("kling-2-1", "a")] == 1
    assert ref != TaskRef("kling-2-6", "a")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        ref.task_id = "b"  # type: ignore[misc] # on purpose


def test_snapshots_pickle_and_hash() -> None:
    """A snapshot is a value: it pickles, compares and hashes."""
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    ref = TaskRef("kling-2-1", "a")
    snapshot = Snapshot(ref, TaskState.SUCCESS, "success", moment, moment, 1.5, ("https://x/y",))
    again = pickle.loads(pickle.dumps(snapshot))  # noqa: S301 - our own bytes
    assert again == snapshot
    assert hash(again) == hash(snapshot)


def test_result_as_json() -> None:
    """A result gives plain values: the reference as text, times in ISO 8601, seconds."""
    result = Result(
        TaskRef("kling-2-1", "a"),
        ("https://example.com/a.mp4",),
        created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        completed_at=datetime(2026, 1, 2, 3, 5, 5, 500_000, tzinfo=UTC),
        cost_time=60.5,
    )
    assert json.loads(json.dumps(result.to_dict())) == {
        "ref": "kling-2-1/a",
        "result_urls": ["https://example.com/a.mp4"],
        "created_at": "2026-01-02T03:04:05+00:00",
        "completed_at": "2026-01-02T03:05:05.500000+00:00",
        "cost_time": 60.5,
    }


def test_result_without_times_as_json() -> None:
    """What the service did not say is null."""
    assert Result(TaskRef("kling-2-1", "a"), ()).to_dict() == {
        "ref": "kling-2-1/a",
        "result_urls": [],
        "created_at": None,
        "completed_at": None,
        "cost_time": None,
    }
