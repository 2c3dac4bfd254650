"""The reference of a task, and the base of all errors."""

import pickle

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kling_async._base import InputError, KlingError, Problem, TaskRef

PROBLEMS = (Problem("prompt", "must be text", "5"), Problem("duration", "must be 5", "7"))

# No property depends on how fast the machine is, or on luck.
FREELY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

MODELS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True)
TASK_IDS = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Z"]), min_size=1, max_size=256
).filter(str.strip)


def parsed(text: str) -> TaskRef | InputError:
    """Return the reference of a text, or the error that parsing it raises."""
    try:
        return TaskRef.parse(text)
    except InputError as error:
        return error


def test_an_error_keeps_its_facts() -> None:
    """Facts that are not given have the defaults of the class."""
    ref = TaskRef("kling-2-1", "a")
    error = KlingError("x", ref=ref, retryable=True)
    assert (error.ref, error.retryable) == (ref, True)
    assert (error.may_have_charged, error.verdict) == (False, "")


def test_public_modules() -> None:
    """The classes are shown and pickled under the modules that they are imported from."""
    errors, results = "kling_async.errors", "kling_async.results"
    assert [KlingError.__module__, InputError.__module__, Problem.__module__] == [errors] * 3
    assert TaskRef.__module__ == results
    for value in (TaskRef("kling-2-1", "a"), PROBLEMS[0]):
        assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301 - our own bytes


def test_problems_become_the_message() -> None:
    """The default message of an input error lists every broken rule and the value seen."""
    error = InputError(problems=iter(PROBLEMS))
    assert error.problems == PROBLEMS
    assert str(error) == "prompt: must be text (seen: 5); duration: must be 5 (seen: 7)"
    assert str(InputError("row 3", problems=PROBLEMS)) == "row 3"


def test_problem_is_a_value() -> None:
    """A problem can be compared and hashed."""
    assert Problem("a", "b", "c") == Problem("a", "b", "c")
    assert len({Problem("a", "b", "c"), Problem("a", "b", "c"), Problem("a", "b", "d")}) == 2


@FREELY
@given(MODELS, TASK_IDS)
def test_refs_come_back_from_text(model: str, task_id: str) -> None:
    """Any valid reference is parsed from its text, also with white space around it."""
    ref = TaskRef(model, task_id)
    assert TaskRef.parse(str(ref)) == ref
    assert TaskRef.parse(f" {ref}\r\n") == ref
    assert len(str(ref).splitlines()) == 1
    assert str(ref).encode().decode() == str(ref)
    assert pickle.loads(pickle.dumps(ref)) == ref  # noqa: S301 - our own bytes


@FREELY
@given(st.text() | st.builds("{}/{}".format, st.text() | MODELS, st.text()))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    """A text is a reference that is written as the same text, or raises an InputError."""
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
    """Anything else raises an InputError that shows the start of the value."""
    with pytest.raises(InputError) as caught:
        TaskRef.parse(text)
    assert all(len(problem.seen) <= 80 for problem in caught.value.problems)
    assert str(caught.value).encode()
    assert caught.value.problems[0].seen[:20] in str(caught.value)


@pytest.mark.parametrize("task_id", ["x", "x" * 256])
@pytest.mark.parametrize("model", ["x", "x" * 100])
def test_longest_and_shortest_refs(model: str, task_id: str) -> None:
    """Models of 1 to 100 characters and ids of 1 to 256 are valid."""
    assert TaskRef.parse(f"{model}/{task_id}") == TaskRef(model, task_id)


def test_all_problems_of_a_ref() -> None:
    """A reference with two invalid parts raises one error with both problems."""
    with pytest.raises(InputError) as caught:
        TaskRef("", None)  # type: ignore[arg-type] # on purpose
    assert [problem.field for problem in caught.value.problems] == ["model", "task_id"]


def test_refs_are_values() -> None:
    """References are immutable and can be compared and hashed."""
    ref = TaskRef("kling-2-1", "a")
    assert {ref: 1}[TaskRef("kling-2-1", "a")] == 1
    assert ref != TaskRef("kling-2-6", "a")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        ref.task_id = "b"  # type: ignore[misc] # on purpose
