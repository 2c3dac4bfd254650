import copy
import inspect
import pickle
import re

import pytest

from kling_async import errors
from kling_async._base import ErrorFacts
from kling_async.errors import (
    AnswerLostError,
    APIError,
    ClientClosedError,
    ConfigurationError,
    ConnectError,
    ContractError,
    DownloadError,
    InputError,
    KlingError,
    LimiterError,
    MissingExtraError,
    Problem,
    ResultExpiredError,
    ServerError,
    TaskError,
    TaskFailedError,
    TaskTimeoutError,
    copy_for_waiter,
)
from kling_async.results import FailReason, Snapshot, TaskRef, TaskState

REF = TaskRef("kling-2-1", "task_12345678")
SNAPSHOT = Snapshot(REF, TaskState.FAILED, "failed", fail_code="NSFW", reason=FailReason.CONTENT)
PROBLEMS = (Problem("prompt", "must be text", "5"), Problem("duration", "must be 5", "7"))

CLASSES = [getattr(errors, name) for name in vars(errors) if name.endswith("Error")]

# A value for every keyword of any error, none of them its default.
VALUES = {
    "may_have_charged": True,
    "retryable": True,
    "ref": REF,
    "problems": PROBLEMS,
    "status": 503,
    "code": 429,
    "message": "the service's words",
    "body": "<html>",
    "retry_after": 1.5,
    "snapshot": SNAPSHOT,
    "fail_code": "NSFW",
    "fail_message": "no",
    "reason": FailReason.CONTENT,
    "url": "https://example.com/a.mp4",
    "verdict": "busy",
}


def keywords(cls: type[KlingError]) -> set[str]:
    """Return the names of an error's keyword arguments."""
    first, *others = inspect.signature(cls).parameters
    assert first in {"message", "text"}
    facts = ErrorFacts.__annotations__ if others[-1:] == ["facts"] else {}
    return {*others, *facts} - {"facts"}


def full(cls: type[KlingError]) -> KlingError:
    """Return an error with a distinct value for every keyword argument."""
    values = {name: VALUES[name] for name in keywords(cls)}
    return cls("what went wrong", **values)  # type: ignore[arg-type] # each its own keywords


def tree() -> dict[str, str]:
    """Read the tree in the module's docstring: each class and its parent."""
    assert errors.__doc__ is not None
    parents: dict[str, str] = {}
    above: dict[int, str] = {}
    for indent, name, rest in re.findall(r"(?m)^( +)(\w+Error)\b(.*)$", errors.__doc__):
        depth = len(indent) // 2
        above[depth] = name
        also = re.search(r"also (\w+)", rest)
        parents[name] = f"{above.get(depth - 1, 'Exception')} {also[1] if also else ''}".strip()
    return parents


def test_the_tree_is_true() -> None:
    """The tree in the module's docstring names every class, with its parents."""
    bases = {cls.__name__: " ".join(base.__name__ for base in cls.__bases__) for cls in CLASSES}
    assert tree() == bases


def test_every_error_of_the_module_is_public() -> None:
    """No exception class is left out of the public names."""
    found = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    assert found == {cls.__name__ for cls in CLASSES}


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_pickles(cls: type[KlingError], protocol: int) -> None:
    """An error comes back from a pickle with its class, text, verdict and every attribute."""
    error = full(cls)
    error.verdict = "unknown"
    error.add_note("a note")
    again = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301 - our own bytes
    assert type(again) is cls
    assert str(again) == str(error) == "what went wrong"
    assert vars(again) == vars(error)
    assert again.args == error.args


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_copies(cls: type[KlingError]) -> None:
    """An error can be copied, with its text and every attribute."""
    error = full(cls)
    for again in (copy.copy(error), copy.deepcopy(error)):
        assert type(again) is cls
        assert (str(again), vars(again)) == (str(error), vars(error))


@pytest.mark.parametrize("cls", CLASSES)
def test_every_keyword_becomes_an_attribute(cls: type[KlingError]) -> None:
    """What an error is given is what it carries."""
    error = full(cls)
    for name in keywords(cls):
        assert getattr(error, name) == VALUES[name]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_answers_the_three_questions(cls: type[KlingError]) -> None:
    """Even an error built from nothing says what may be repeated and what it may cost."""
    error = cls()
    assert isinstance(error, KlingError)
    assert error.ref is None
    assert error.retryable is issubclass(
        cls, ClientClosedError | ConnectError | DownloadError | LimiterError
    )
    assert error.verdict == ("not sent" if cls is ConnectError else "")
    assert error.may_have_charged is issubclass(cls, TaskError)


def test_an_error_for_each_waiter() -> None:
    """The copy of an error is equal to it; an error that cannot be copied is returned."""
    error = ServerError("busy", status=503, verdict="unavailable")
    error.add_note("a note")
    again = copy_for_waiter(error)
    assert again is not error
    assert (str(again), vars(again)) == (str(error), vars(error))

    class UncopyableError(Exception):
        def __reduce__(self) -> str:
            raise TypeError

    foreign = UncopyableError()
    assert copy_for_waiter(foreign) is foreign


def test_long_bodies_are_cut() -> None:
    """Of an unexpected answer, and of the service's words, 200 characters are kept."""
    text = "é" * 199 + "xyz"
    assert ContractError(body=text).body == "é" * 199 + "x"
    assert APIError(message=text).message == "é" * 199 + "x"


def test_errors_of_the_standard_library() -> None:
    """Callers who know only the standard library catch these as what they are."""
    assert issubclass(ConfigurationError, ValueError)
    assert issubclass(InputError, ValueError)
    assert issubclass(TaskTimeoutError, TimeoutError)
    assert issubclass(MissingExtraError, ImportError)


def test_a_lost_answer_is_as_safe_as_its_maker_says() -> None:
    """A lost answer is not repeatable unless said so: it may have been a submit's."""
    assert not AnswerLostError("x").retryable
    assert AnswerLostError("x", may_have_charged=True).may_have_charged


def test_failed_tasks_may_have_been_billed() -> None:
    """Whether a failed task was billed is unknown, so it may have been."""
    error = TaskFailedError("x", ref=REF, snapshot=SNAPSHOT)
    assert error.may_have_charged
    assert not error.retryable
    assert (error.ref, error.snapshot) == (REF, SNAPSHOT)


def test_expired_results_keep_their_address() -> None:
    """A dead result URL is a download error that names the URL and the task."""
    error = ResultExpiredError("x", url="https://example.com/a.mp4", retryable=False, ref=REF)
    assert isinstance(error, DownloadError)
    assert (error.url, error.retryable, error.ref) == ("https://example.com/a.mp4", False, REF)
