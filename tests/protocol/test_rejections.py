import math
from datetime import timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_async.errors import (
    APIError,
    AuthenticationError,
    BadRequestError,
    BalanceError,
    ContractError,
    KlingError,
    NotFoundError,
    RateLimitError,
    RefusedError,
    ServerError,
)
from kling_async.protocol.rejections import parse_retry_after
from kling_async.protocol.requests import Response
from tests.protocol.answers import (
    FAR,
    FREELY,
    NOW,
    READERS,
    REF,
    answer,
    envelope,
    refusal,
)

# ------------------------------------------------------------------------------------- money

# What a submit means by its HTTP status (down) and the code in its envelope (across); "-" is no
# code, and so no envelope. The word is the error's class; "$": a task may have been started and
# charged; "+": nothing was started, so it may be sent again; neither: refused by the service.
# HTTP's status decides which error it is, and any doubt costs the right to repeat it.
MONEY = """
HTTP  -     200   201   0     302   400   401   402   403   404   409   429   500   502   503   504   1001
200   odd$  odd$  odd$  odd$  odd$  bad   key   pay   ban   nil   bad$  wait+ ill$  ill$  ill+  ill$  odd$
202   odd$  odd$  odd$  odd$  odd$  bad   key   pay   ban   nil   bad$  wait+ ill$  ill$  ill+  ill$  odd$
302   odd+  odd$  odd$  odd$  odd$  odd$  odd$  odd$  odd$  odd$  odd$  odd$  odd$  odd$  odd$  odd$  odd$
400   odd+  bad$  bad$  bad   bad   bad   bad   bad   bad   bad   bad   bad   bad$  bad$  bad   bad$  bad
401   odd+  key$  key$  key   key   key   key   key   key   key   key   key   key$  key$  key   key$  key
402   odd+  pay$  pay$  pay   pay   pay   pay   pay   pay   pay   pay   pay   pay$  pay$  pay   pay$  pay
403   odd+  ban$  ban$  ban   ban   ban   ban   ban   ban   ban   ban   ban   ban$  ban$  ban   ban$  ban
404   odd+  nil$  nil$  nil   nil   nil   nil   nil   nil   nil   nil   nil   nil$  nil$  nil   nil$  nil
408   odd$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$
409   odd+  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$
429   wait+ wait$ wait$ wait+ wait+ wait+ wait+ wait+ wait+ wait+ wait+ wait+ wait$ wait$ wait+ wait$ wait+
499   odd$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$  bad$
500   ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$
502   ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$
503   ill$  ill$  ill$  ill+  ill+  ill+  ill+  ill+  ill+  ill+  ill+  ill+  ill$  ill$  ill+  ill$  ill+
504   ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$
599   ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$  ill$
600   odd$  odd$  odd$  odd$  odd$  odd$  odd$  odd$  odd$  odd$  odd$  odd$  odd$  odd$  odd$  odd$  odd$
"""  # noqa: E501 - a table
WORDS: dict[str, type[KlingError]] = {
    "odd": ContractError,
    "bad": BadRequestError,
    "key": AuthenticationError,
    "pay": BalanceError,
    "ban": RefusedError,
    "nil": NotFoundError,
    "wait": RateLimitError,
    "ill": ServerError,
}


def money() -> list[tuple[int, dict[int | None, str]]]:
    """Give the rows of the table: a status, and what is expected of each code."""
    head, *rows = (row.split() for row in MONEY.strip().splitlines())
    codes = [None if code == "-" else int(code) for code in head[1:]]
    return [(int(row[0]), dict(zip(codes, row[1:], strict=True))) for row in rows]


def cell_of(error: KlingError) -> str:
    """Write an error as a cell of the table."""
    (word,) = (word for word, kind in WORDS.items() if type(error) is kind)
    assert not (error.may_have_charged and error.retryable)
    return word + "$" * error.may_have_charged + "+" * error.retryable


@pytest.mark.parametrize(("status", "row"), money())
def test_money(status: int, row: dict[int | None, str]) -> None:
    """A failed submit is classified by what the wire proves."""
    for as_said in (lambda code: code, lambda code: None if code is None else str(code)):
        errors = {code: refusal("submit", answer(envelope(as_said(code)), status)) for code in row}
        assert {code: cell_of(error) for code, error in errors.items()} == row
        for error in errors.values():
            warned = "a task may have been started and charged" in str(error)
            assert warned is error.may_have_charged


@pytest.mark.parametrize(("status", "row"), money())
@pytest.mark.parametrize("kind", ["status", "balance"])
def test_reads_cost_nothing(kind: str, status: int, row: dict[int | None, str]) -> None:
    """A failed read is classified the same, may be repeated where waiting helps, and is free."""
    data = {"taskId": "task_1"} if kind == "balance" else None
    errors = {code: refusal(kind, answer(envelope(code, data=data), status)) for code in row}
    expected = {}
    for code, cell in row.items():
        word = cell.rstrip("$+")
        refused = cell == word and word != "odd"  # by the service
        expected[code] = word + "+" * (not refused)
    assert {code: cell_of(error) for code, error in errors.items()} == expected
    assert {error.ref for error in errors.values()} == {REF if kind == "status" else None}


@pytest.mark.parametrize("status", [200, 400, 401, 402, 403, 404, 429, 500, 503])
def test_a_refusal_that_names_a_task(status: int) -> None:
    """A submit that is refused and names a task all the same may have been charged."""
    body = envelope(503 if status == 200 else status, data={"taskId": "task_1"})
    error = refusal("submit", answer(body, status))
    assert error.may_have_charged
    assert not error.retryable


@pytest.mark.parametrize("body", [b"", b"<html>trouble</html>", b"[1]", b'{"code": tru'])
@pytest.mark.parametrize(
    ("status", "kind", "charged"),
    [
        (200, ContractError, True),
        (302, ContractError, False),
        (403, ContractError, False),
        (404, ContractError, False),
        (405, ContractError, False),
        (408, ContractError, True),
        (413, ContractError, False),
        (429, RateLimitError, False),
        (499, ContractError, True),
        (500, ServerError, True),
        (502, ServerError, True),
        (503, ServerError, True),
        (522, ServerError, True),
    ],
)
def test_gateways(status: int, kind: type[KlingError], charged: bool, body: bytes) -> None:  # noqa: FBT001 - from a table
    """A page without an envelope is no verdict by the service, whatever its status is."""
    error = refusal("submit", answer(body, status))
    assert type(error) is kind
    assert (error.may_have_charged, error.retryable) == (charged, not charged)
    asked = refusal("status", answer(body, status))
    assert type(asked) is kind
    assert (asked.may_have_charged, asked.retryable) == (False, True)


@pytest.mark.parametrize("code", [True, 1.5, "x", [], {}, "٣", "²", "-1", -1])
def test_codes_that_are_none(code: object) -> None:
    """A code that is no number under a good status breaks the contract; else HTTP decides."""
    body = {"code": code, "data": {"taskId": "a"}}
    assert isinstance(refusal("submit", answer(body)), ContractError)
    assert isinstance(refusal("submit", answer({"code": code}, 429)), RateLimitError)


@pytest.mark.parametrize("where", ["message", "data"])
@pytest.mark.parametrize("words", ["Insufficient credits", "INSUFFICIENT BALANCE"])
def test_low_balance(where: str, words: str) -> None:
    """A 400 that speaks of credits is a low balance, not a wrong request."""
    body = (
        envelope(400, message=words) if where == "message" else envelope(400, data={"error": words})
    )
    for status in (200, 400):
        error = refusal("submit", answer(body, status))
        assert type(error) is BalanceError
        assert not error.may_have_charged
        assert "top up the account" in str(error)


def test_low_balance_after_many_words() -> None:
    """Where the service speaks of credits only at the end, it is understood too."""
    error = refusal(
        "submit", answer(envelope(400, message="x" * 300 + " insufficient credits"), 400)
    )
    assert type(error) is BalanceError


def test_insufficient_elsewhere() -> None:
    """The word alone does not make a 403 a matter of the balance."""
    error = refusal("submit", answer(envelope(403, message="Insufficient permission"), 403))
    assert type(error) is RefusedError


def test_the_message_of_an_error() -> None:
    """An error carries status, code, the service's words with the detail, and what to do."""
    body = {
        "code": 400,
        "message": "Invalid request",
        "data": {"error": "Missing required field: input.prompt"},
    }
    error = refusal("submit", answer(body, 422))
    assert isinstance(error, BadRequestError)
    words = "Invalid request: Missing required field: input.prompt"
    assert (error.status, error.code, error.message) == (422, 400, words)
    assert str(error) == f"submit answered 422: {words} (change the request)"


@pytest.mark.parametrize("message", [None, 5, [], {"a": 1}, ""])
@pytest.mark.parametrize("data", [None, 5, [], {"error": 5}, {"error": ""}, "x"])
def test_words_that_are_none(message: object, data: object) -> None:
    """A message or detail that is no text is left out."""
    error = refusal("status", answer({"code": 401, "message": message, "data": data}, 401))
    assert str(error) == "status answered 401 (check the API key)"


def test_words_are_one_printable_line() -> None:
    """Line breaks, escape sequences and lone surrogates do not reach a terminal."""
    body = envelope(401, message="a\nb\x1b[31mc\ud800d\u202ee")
    error = refusal("status", answer(body, 401))
    assert isinstance(error, APIError)
    assert error.message == "a b [31mc d e"


def test_long_words_are_cut() -> None:
    """Of the service's message, 200 characters are shown."""
    error = refusal("status", answer(envelope(401, message="x" * 10_000), 401))
    assert isinstance(error, APIError)
    assert error.message == "x" * 200
    assert str(error) == f"status answered 401: {'x' * 200} (check the API key)"


# ------------------------------------------------------------------------------- Retry-After


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("5", 5.0),
        (" 120 ", 120.0),
        ("007", 7.0),
        ("999999999999999999999999", 999_999_999.0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW, usegmt=True), 0.0),
        (format_datetime(NOW - timedelta(days=400), usegmt=True), 0.0),
        ("Fri, 02 Jan 2026 04:05:05 +0100", 60.0),
        ("Fri, 02 Jan 2026 03:05:05 -0000", 60.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", (FAR - NOW).total_seconds()),
        ("Mon, 01 Jan 0001 00:00:00 GMT", 0.0),
    ],
)
def test_retry_after(value: str, seconds: float) -> None:
    """Retry-After is read as seconds or as a date; a date in the past asks for no wait."""
    assert parse_retry_after(Response(429, b"", {"retry-after": value}), NOW) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "-5",
        "+5",
        "1.5",
        "5 s",
        "soon",
        "nan",
        "inf",
        "٣",
        "²",
        "0x10",
        "Fri, 99 Jan 2026 00:00:00 GMT",
        "Fri, 02 Foo 2026 00:00:00 GMT",
        "Fri, 02 Jan 2026 25:00:00 GMT",
        "Fri, 02 Jan 99999 00:00:00 GMT",
        "Fri, 02 Jan 2026 00:00:00 +9999",
        "Fri, 02 Jan 2026 00:00:00 +99999999999999999999",
        "2026-01-02T00:00:00Z",
        "\x00",
        "\ud800",
    ],
)
def test_nonsense_in_retry_after(value: str) -> None:
    """A Retry-After that says nothing is as good as none."""
    assert parse_retry_after(Response(429, b"", {"retry-after": value}), NOW) is None
    assert parse_retry_after(Response(429, b""), NOW) is None


@pytest.mark.slow
@FREELY
@given(
    st.text()
    | st.lists(
        st.sampled_from(
            [
                *("Mon,", "1", "Jan", "2024", "00:00:00", "1.2.3", "+0000", "-9999", "GMT"),
                *("(", ",", ";", "²", "٣", "", ":", "-", "1-Jan-2024", "9" * 20, "+" + "9" * 20),
            ]
        )
    ).map(" ".join)
)
def test_any_retry_after(value: str) -> None:
    """Whatever the header holds, it is a finite wait that is not negative, or none."""
    read = parse_retry_after(Response(429, b"", {"retry-after": value}), NOW)
    assert read is None or 0 <= read < math.inf


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("status", [200, 400, 429, 503])
def test_errors_carry_retry_after(kind: str, status: int) -> None:
    """Any error has the service's Retry-After."""
    body = envelope(429 if status == 200 else status)
    error = refusal(kind, answer(body, status, headers={"retry-after": "7"}))
    assert isinstance(error, APIError)
    assert error.retry_after == 7.0
    silent = refusal(kind, answer(body, status))
    assert isinstance(silent, APIError)
    assert silent.retry_after is None
