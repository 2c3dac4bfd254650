"""What an outcome proves: every status, code and error has a verdict, and each its consequences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_async import errors
from kling_async.errors import (
    AnswerLostError,
    APIError,
    AuthenticationError,
    BadRequestError,
    BalanceError,
    ClientClosedError,
    ConnectError,
    ContractError,
    InputError,
    KlingError,
    LimiterError,
    RateLimitError,
    ServerError,
    StorageError,
)
from kling_async.protocol.verdicts import (
    CONSEQUENCES,
    ItemFate,
    Verdict,
    envelope_code,
    judge_error,
    judge_response,
)

CLASSES = [getattr(errors, name) for name in vars(errors) if name.endswith("Error")]


def said(code: object, data: object = None) -> dict[str, object]:
    """Make an envelope."""
    return {"code": code, "message": "", "data": data}


# ------------------------------------------------------------------------------------ consequences


@pytest.mark.parametrize(
    ("verdict", "repeated", "charged", "systemic", "fate", "read_repeated"),
    [
        (Verdict.ANSWERED, False, True, False, ItemFate.SUBMITTED, False),
        (Verdict.INPUT_REFUSED, False, False, False, ItemFate.FAILED, False),
        (Verdict.ACCOUNT_REFUSED, False, False, False, ItemFate.STOP, False),
        (Verdict.BUSY, True, False, False, ItemFate.PLANNED, True),
        (Verdict.NOT_SENT, True, False, True, ItemFate.PLANNED, True),
        (Verdict.NOT_THE_SERVICE, True, False, True, ItemFate.PLANNED, True),
        (Verdict.UNAVAILABLE, True, False, True, ItemFate.PLANNED, True),
        (Verdict.UNKNOWN, False, True, False, ItemFate.UNSURE, True),
    ],
)
def test_consequences(
    verdict: Verdict,
    *,
    repeated: bool,
    charged: bool,
    systemic: bool,
    fate: ItemFate,
    read_repeated: bool,
) -> None:
    """What follows from each verdict."""
    follows = CONSEQUENCES[verdict]
    assert (follows.repeated, follows.may_have_charged, follows.systemic) == (
        repeated,
        charged,
        systemic,
    )
    assert (follows.fate, follows.read_repeated) == (fate, read_repeated)
    assert follows.proof


def test_every_verdict_has_its_consequence() -> None:
    """The table is complete, and nothing that may have cost money is sent again."""
    assert set(CONSEQUENCES) == set(Verdict)
    assert not any(one.repeated and one.may_have_charged for one in CONSEQUENCES.values())
    assert all(one.read_repeated for one in CONSEQUENCES.values() if one.repeated)


# ------------------------------------------------------------------------------------ the envelope


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"code": 200}, 200, 200),
        ({"code": "404"}, 200, 404),
        ({"code": "9" * 400}, 200, 999_999_999),
        ({"code": -1}, 200, -1),
        ({"code": True}, 200, None),
        ({"code": 200.0}, 200, None),
        ({"code": "²"}, 200, None),
        ({"code": ""}, 200, None),
        ({}, 200, None),
        ({"data": {"taskId": "a"}}, 202, 202),
        ({"code": None, "data": 0}, 200, 200),
        ({"data": {"taskId": "a"}}, 404, None),
        ({"code": [], "data": 1}, 200, None),
    ],
)
def test_the_envelopes_code(fields: dict[str, object], status: int, code: int | None) -> None:
    """The code is an integer or its digits; a success with data and without one counts by HTTP."""
    assert envelope_code(fields, status) == code


# ----------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        *((status, Verdict.NOT_THE_SERVICE) for status in (300, 302, 308, 400, 401, 402, 403, 404)),
        *((status, Verdict.NOT_THE_SERVICE) for status in (405, 407, 409, 413, 422, 423, 425, 451)),
        (429, Verdict.BUSY),
        *((status, Verdict.UNKNOWN) for status in (100, 200, 204, 299, 408, 499)),
        *((status, Verdict.UNKNOWN) for status in (500, 502, 503, 504, 522, 599, 600, 999)),
    ],
)
def test_pages_in_place_of_the_envelope(status: int, verdict: Verdict) -> None:
    """A page of a gateway proves of a submit by its status alone whether it was forwarded."""
    assert judge_response(status, {}, "", submitting=True) is verdict
    read = Verdict.BUSY if status == 429 else Verdict.NOT_THE_SERVICE
    assert judge_response(status, {}, "", submitting=False) is read


REFUSALS = {
    **dict.fromkeys((400, 403, 404, 413, 422), Verdict.INPUT_REFUSED),
    **dict.fromkeys((401, 402), Verdict.ACCOUNT_REFUSED),
    429: Verdict.BUSY,
    503: Verdict.UNAVAILABLE,
    **dict.fromkeys((302, 405, 408, 409, 410, 423, 499, 500, 502, 504, 1001), Verdict.UNKNOWN),
}


@pytest.mark.parametrize("status", [None, 200, 202])
@pytest.mark.parametrize(("code", "verdict"), REFUSALS.items())
@pytest.mark.parametrize("submitting", [True, False])
def test_refusals(status: int | None, code: int, verdict: Verdict, *, submitting: bool) -> None:
    """The envelope's code refuses, whether HTTP's status says the same or success."""
    http = code if status is None else status
    assert judge_response(http, said(code), "", submitting=submitting) is verdict


@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize("code", [200, "201"])
def test_answered(status: int, code: object) -> None:
    """An answer is a success if status and code both are."""
    assert (
        judge_response(status, said(code, {"taskId": "a"}), "", submitting=True) is Verdict.ANSWERED
    )


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (400, said(200)),
        (503, said(200)),
        (302, said(200)),
        (500, said(400)),
        (400, said(500)),
        (429, said(504)),
        (429, said(429, {"taskId": "a"})),
        (200, said(403, {"taskId": "a"})),
    ],
)
def test_answers_that_contradict_themselves(status: int, fields: dict[str, object]) -> None:
    """Of a submit nothing is known if one part of the answer speaks of a task or of success."""
    assert judge_response(status, fields, "", submitting=True) is Verdict.UNKNOWN


def test_two_failures_that_differ() -> None:
    """Where status and code are different refusals, HTTP's status decides."""
    assert judge_response(401, said(400), "", submitting=True) is Verdict.ACCOUNT_REFUSED
    assert judge_response(400, said(503), "", submitting=True) is Verdict.INPUT_REFUSED
    assert judge_response(503, said(429), "", submitting=True) is Verdict.UNAVAILABLE


def test_a_status_answer_may_name_its_task() -> None:
    """A refused status call that names the task does not contradict itself."""
    fields = said(404, {"taskId": "a"})
    assert judge_response(404, fields, "", submitting=False) is Verdict.INPUT_REFUSED


@pytest.mark.parametrize("words", ["INSUFFICIENT credits", "no permission for this model"])
def test_words_about_the_account(words: str) -> None:
    """A 400 or 403 whose words are about credits or a permission is about the account."""
    for code in (400, 403):
        assert judge_response(200, said(code), words, submitting=True) is Verdict.ACCOUNT_REFUSED
    assert judge_response(404, said(404), words, submitting=True) is Verdict.INPUT_REFUSED


@given(st.integers(0, 999), st.none() | st.integers(-1, 1200), st.booleans())
def test_any_answer(status: int, code: int | None, submitting: bool) -> None:  # noqa: FBT001
    """Only 2xx twice is a success; a submit of which a 5xx other than 503 speaks is never free."""
    fields = {} if code is None else said(code)
    verdict = judge_response(status, fields, "", submitting=submitting)
    success = status in range(200, 300) and code in range(200, 300)
    assert (verdict is Verdict.ANSWERED) is success
    trouble = {one for one in (status, code) if one is not None and 500 <= one < 600} - {503}
    if submitting and trouble:
        assert CONSEQUENCES[verdict].may_have_charged


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("verdict", Verdict)
def test_an_error_that_carries_its_verdict(verdict: Verdict) -> None:
    """The verdict that an error carries counts, whatever its class is."""
    assert judge_error(KlingError("x", verdict=verdict)) is verdict


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (ConnectError("x"), Verdict.NOT_SENT),
        (AnswerLostError("x", retryable=True), Verdict.UNKNOWN),
        (RateLimitError("x", retryable=True), Verdict.BUSY),
        (AuthenticationError("x"), Verdict.ACCOUNT_REFUSED),
        (BalanceError("x"), Verdict.ACCOUNT_REFUSED),
        (BadRequestError("x"), Verdict.INPUT_REFUSED),
        (ServerError("x", may_have_charged=True), Verdict.UNKNOWN),
        (ContractError("x", may_have_charged=True), Verdict.UNKNOWN),
        (ServerError("x", retryable=True), Verdict.UNAVAILABLE),
        (InputError("x"), Verdict.INPUT_REFUSED),
        (LimiterError("x"), Verdict.NOT_THE_SERVICE),
        (StorageError("x"), Verdict.NOT_THE_SERVICE),
        (ClientClosedError("x"), Verdict.NOT_THE_SERVICE),
        (APIError("x", verdict="of a later version"), Verdict.NOT_THE_SERVICE),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_without_a_verdict(error: KlingError, verdict: Verdict) -> None:
    """An error of a transport of the user's is judged by its class and by what it says."""
    if not isinstance(error, ConnectError):
        assert error.verdict not in set(Verdict)
    assert judge_error(error) is verdict


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_has_a_verdict(cls: type[KlingError]) -> None:
    """Whatever error it is, what follows from it agrees with what it says about money."""
    error = cls()
    if error.may_have_charged:
        assert CONSEQUENCES[judge_error(error)].may_have_charged
