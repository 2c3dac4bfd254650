from __future__ import annotations

import psycopg
import pytest

from kling_async._postgres.errors import (
    UnreachableError,
    describe_error,
    explain_error,
    is_refusal,
)

UNDEFINED_TABLE = psycopg.errors.UndefinedTable("no\n  table")


def test_descriptions() -> None:
    """A description has the type of the driver's error, and no line breaks."""
    assert describe_error(UNDEFINED_TABLE) == "UndefinedTable: no table"
    assert describe_error(UnreachableError("no answer")) == "no answer"


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (UnreachableError("OperationalError: password authentication failed"), True),
        (UnreachableError("OperationalError: connection refused"), False),
        (psycopg.errors.InsufficientPrivilege("no"), True),
        (psycopg.errors.UndefinedTable("relation does not exist"), False),
    ],
)
def test_refusals(error: Exception, *, answer: bool) -> None:
    """A wrong password or a missing right does not go away."""
    assert is_refusal(error) is answer


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UnreachableError("no answer"), r"cannot be reached \(no answer\): check that"),
        (UNDEFINED_TABLE, r"has lost a table \(no table\): restore it"),
        (psycopg.errors.DivisionByZero("a\nb"), r"cannot be used \(a b\)$"),
        (psycopg.Error("odd"), r"cannot be used \(odd\)$"),
    ],
)
def test_explanations(error: Exception, text: str) -> None:
    """An explanation says what to do, where that is known."""
    with pytest.raises(ValueError, match=text):
        raise ValueError(explain_error(error))


def test_advice_of_the_caller() -> None:
    """A caller may have advice of its own."""
    assert explain_error(UNDEFINED_TABLE, {"42P01": "is empty: {error}"}) == "is empty: no table"
