from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kling_async.journal.base import Failure, ItemState, Transition
from kling_async.journal.serialization import format_details, parse_details, to_json
from kling_async.results import FailReason, Result, SavedFile, TaskRef

FREELY = settings(deadline=None, derandomize=True)

# Half characters too: a service may send what it likes.
TEXTS = st.text(st.characters())
TIMES = st.datetimes(timezones=st.just(UTC))
REFS = st.builds(TaskRef, st.just("kling-2-1"), st.from_regex(r"[!-~é]{1,30}", fullmatch=True))
RESULTS = st.builds(
    Result,
    REFS,
    st.lists(TEXTS, max_size=3).map(tuple),
    st.none() | TIMES,
    st.none() | TIMES,
    st.none() | st.floats(allow_nan=False),
)
FAILURES = st.builds(
    Failure,
    *(TEXTS, TEXTS, TEXTS),
    st.none() | st.sampled_from(FailReason),
    st.booleans(),
    st.none() | st.integers(100, 599),
)
FILES = st.lists(
    st.builds(SavedFile, TEXTS, TEXTS, st.integers(0), TEXTS, archive=TEXTS), max_size=3
).map(tuple)


@FREELY
@given(
    st.builds(
        Transition,
        st.just("a"),
        st.just(ItemState.SAVED),
        TIMES,
        st.none() | REFS,
        st.none() | RESULTS,
        st.none() | FAILURES,
        FILES,
    )
)
def test_what_comes_with_a_move(move: Transition) -> None:
    """Whatever came with a move is read as it was written, and the text fits in any database."""
    *texts, trace = format_details(move).values()
    assert trace is None
    assert parse_details(texts) == (move.ref, move.result, move.failure, move.files)
    assert all(text.isprintable() for text in texts if text)


def test_a_failure_of_an_earlier_version() -> None:
    """A failure that was written before there was an HTTP status in it is read without one."""
    text = (
        '{"fail_code":"","kind":"RefusedError","may_have_charged":false,"message":"no",'
        '"reason":null}'
    )
    _, _, failure, _ = parse_details((None, None, text, None))
    assert failure == Failure("RefusedError", "no")
    assert failure.status is None


def test_nothing_is_none() -> None:
    """What did not come with a move takes no room."""
    nothing = format_details(Transition("a", ItemState.PLANNED, datetime.now(UTC)))
    assert nothing == dict.fromkeys(("ref", "result", "failure", "files", "trace"))


def test_equal_values_are_equal_text() -> None:
    """The order of fields, and whether a list is a tuple, make no difference."""
    assert to_json({"b": [1, "é"], "a": None}) == to_json({"a": None, "b": (1, "é")})
    assert json.loads(to_json({"b": [1, "é"]})) == {"b": [1, "é"]}


@pytest.mark.parametrize(
    "texts",
    [
        ("nothing", None, None, None),
        (None, "{}", None, None),
        (None, "[]", None, None),
        (None, None, "{", None),
        (None, None, '{"kind":"a","message":"b","reason":"unheard"}', None),
        (None, None, None, '[{"url":"a"}]'),
        (None, None, None, None, None),
    ],
)
def test_what_something_else_wrote(texts: tuple[str | None, ...]) -> None:
    """Text that makes no sense is one of three ordinary errors."""
    with pytest.raises((KeyError, TypeError, ValueError)):
        parse_details(texts)
