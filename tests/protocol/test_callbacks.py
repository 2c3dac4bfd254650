from __future__ import annotations

import hmac
import json
import re
import string
from base64 import urlsafe_b64encode
from itertools import pairwise
from secrets import token_urlsafe

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from kling_async.errors import ContractError
from kling_async.protocol.callbacks import (
    pack_traceparent,
    parse_callback,
    unpack_traceparent,
    verify_token,
    write_token,
)
from kling_async.results import FailReason, TaskRef, TaskState

# No property depends on how fast the machine is, or on luck.
FREELY = settings(deadline=None, derandomize=True)

MODEL = "kling-2-1"
NONCE = "0123456789abcdef"
SECRET = b"the secret of this test"
OTHER = b"another secret of the test"
TOKEN = write_token(MODEL, NONCE, SECRET)
VIDEO = "https://cdn.example/a.mp4"

FIELDS = ("taskId", "state", "resultJson", "failCode", "createTime", "completeTime", "costTime")
LETTERS = string.ascii_letters + string.digits

models = st.builds(str.__add__, st.sampled_from(LETTERS), st.text(f"{LETTERS}._-", max_size=99))
nonces = st.text(f"{LETTERS}_-", min_size=16, max_size=64)
parents = st.from_regex(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True)
secrets = st.binary(min_size=1, max_size=100)


# --------------------------------------------------------------------------------------- the token


@FREELY
@given(models, nonces, secrets)
def test_a_token_is_read_back(model: str, nonce: str, secret: bytes) -> None:
    """A token gives back the model and the nonce, and a URL carries it as it is."""
    token = write_token(model, nonce, secret)
    assert verify_token(token, [secret]) == (model, nonce)
    assert re.fullmatch(r"[A-Za-z0-9._~-]+", token)


def test_rotation() -> None:
    """Any of the secrets may have signed; one that was dropped is not recognised any more."""
    for secrets in ([SECRET], [SECRET, OTHER], [OTHER, SECRET], [OTHER, OTHER, SECRET]):
        assert verify_token(TOKEN, secrets) == (MODEL, NONCE)
    assert verify_token(TOKEN, [OTHER]) is None
    assert verify_token(TOKEN, []) is None


@FREELY
@given(st.integers(0, len(TOKEN) - 1), st.characters())
def test_any_changed_character(place: int, character: str) -> None:
    """A token with one character changed, in whichever of its parts, is refused."""
    assume(TOKEN[place] != character)
    changed = TOKEN[:place] + character + TOKEN[place + 1 :]
    assert verify_token(changed, [SECRET, OTHER]) is None


def test_any_place() -> None:
    """A token that lacks a character, or has one more, or ends early, is refused."""
    for place in range(len(TOKEN)):
        before, after = TOKEN[:place], TOKEN[place:]
        for changed in (before + after[1:], f"{before}A{after}", before, after[1:]):
            assert verify_token(changed, [SECRET]) is None


@FREELY
@given(models, nonces, st.data())
def test_parts_do_not_run_together(model: str, nonce: str, data: st.DataObject) -> None:
    """A signature is valid for its model and nonce only, even if their letters are the same."""
    proof = write_token(model, nonce, SECRET).rpartition("~")[2]
    letters = model + nonce
    cut = data.draw(st.integers(1, len(letters) - 1))
    assume(cut != len(model))
    for joint in ("", "\0", "~"):
        forged = f"{letters[:cut]}{joint}{letters[cut:]}"
        assert verify_token(f"{forged}~{proof}", [SECRET]) is None
    assert verify_token(f"{letters[:cut]}~{letters[cut:]}~{proof}", [SECRET]) is None


def test_another_use_of_the_secret() -> None:
    """What the same secret signs for other purposes is no proof, however it is joined."""
    model, nonce = MODEL.encode(), NONCE.encode()
    for signed in (
        model + nonce,
        model + b"~" + nonce,
        model + b"\0" + nonce,
        b"\0" + model + b"\0" + nonce,
        b"kling_async callback 2\0" + model + b"\0" + nonce,
        b"kling_async callback 1" + model + nonce,
        b"",
    ):
        whole = hmac.digest(SECRET, signed, "sha256")
        for digest in (whole[:24], whole[-24:]):
            proof = urlsafe_b64encode(digest).decode()
            assert verify_token(f"{MODEL}~{NONCE}~{proof}", [SECRET]) is None


def test_the_proof_is_long_enough() -> None:
    """The proof has 192 bits, which differ from nonce to nonce and from model to model."""
    proofs = [write_token(MODEL, f"{number:016}", SECRET).split("~")[2] for number in range(200)]
    proofs += [write_token(f"m{number}", NONCE, SECRET).split("~")[2] for number in range(200)]
    assert len(set(proofs)) == 400
    assert {len(proof) for proof in proofs} == {24 * 4 // 3}
    assert all(a[:8] != b[:8] for a, b in pairwise(sorted(proofs)))


@FREELY
@given(st.text(st.characters(exclude_categories=())))
@example("")
@example("~")
@example("~~")
@example(f"{TOKEN}\n")
@example(f" {TOKEN}")
@example(f"{TOKEN}\ud800")
@example(f"{TOKEN}~")
@example(f"~{TOKEN}")
@example(TOKEN * 100_000)
@example("a" * 10_000_000)
@example("~".join(["\udfff" * 9, NONCE, TOKEN[-32:]]))
@example(TOKEN.replace("~", "\uff5e"))
@example(TOKEN.replace("0", "\u0660"))  # another zero
def test_any_text(text: str) -> None:
    """Whatever is no token of ours is None, and nothing is raised."""
    assert verify_token(text, [SECRET]) is None


# ---------------------------------------------------------------------------------------- the body


def body(**changes: object) -> bytes:
    """Write a callback after the contract, with some of its data changed."""
    data: dict[str, object] = {
        "taskId": "task_1",
        "state": "success",
        "createTime": 1_000,
        "completeTime": 61_000,
        "costTime": 60_000,
        "resultJson": json.dumps({"resultUrls": [VIDEO]}),
    }
    data |= changes
    return json.dumps({"code": 200, "message": "success", "data": data}).encode()


def test_a_success() -> None:
    """A callback says what a status answer says, of the model that its URL names."""
    said = parse_callback(body(), MODEL)
    assert said.ref == TaskRef(MODEL, "task_1")
    assert said.state is TaskState.SUCCESS
    assert said.result_urls == (VIDEO,)
    assert said.cost_time == 60
    assert said.created_at
    assert said.completed_at
    assert (said.completed_at - said.created_at).total_seconds() == 60
    assert parse_callback(body(resultJson={"resultUrls": [VIDEO]}), "other").ref == TaskRef(
        "other", "task_1"
    )


def test_a_failure() -> None:
    """A failed task's callback has the vendor's words and our reason."""
    said = parse_callback(body(state="failed", failCode="NSFW", failMsg="no"), MODEL)
    assert said.state is TaskState.FAILED
    assert (said.fail_code, said.fail_message) == ("NSFW", "no")
    assert said.reason is FailReason.CONTENT
    assert not said.result_urls


@pytest.mark.parametrize("code", [500, "200", None, "none"])
def test_the_code_beside_it(code: object) -> None:
    """The envelope's code is ignored: the state of the task is in the data."""
    envelope = json.loads(body()) | {"code": code}
    if code is None:
        del envelope["code"]
    assert parse_callback(json.dumps(envelope).encode(), MODEL).state is TaskState.SUCCESS


@pytest.mark.parametrize("state", ["pending", "processing", "processing_r2", "Success", 1])
def test_unfinished(state: object) -> None:
    """Any other state, known or not, is not final."""
    assert not parse_callback(body(state=state), MODEL).state.ended


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_encodings(encoding: str) -> None:
    """JSON may come in any of its encodings."""
    assert parse_callback(body().decode().encode(encoding), MODEL).ref.task_id == "task_1"


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe\xfd", "can't decode"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{}", "its data is not an object"),
        (b'{"data": []}', "its data is not an object"),
        (b'{"data": {}}', "it names no state"),
        (b'{"data": {"taskId": "a"}}', "it names no state"),
        (b'{"data": {"state": "success"}}', "it names no task"),
        (body(taskId=None), "it names no task"),
        (body(taskId="a b"), "it names no task"),
        (body(taskId="a" * 257), "it names no task"),
        (body(taskId="\ud800"), "it names no task"),
        (body(taskId=[]), "text expected"),
        (body(taskId=True), "text expected"),
        (body(resultJson="{"), "Expecting property name"),
        (body(resultJson="[" * 100_000), "too deeply"),
        (body(resultJson='{"resultUrls": ["ftp://a/b"]}'), "not an absolute"),
        (b'{"data": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"data": ' + b"1" * 10_000 + b"}", "."),
        (body()[:-2], "Expecting|delimiter"),
    ],
)
def test_what_is_no_callback(what: bytes, words: str) -> None:
    """What says nothing about a task is a ContractError that says why, with the body's begin."""
    with pytest.raises(ContractError, match=words) as caught:
        parse_callback(what, MODEL)
    assert str(caught.value).startswith("a callback against the contract: ")
    assert len(caught.value.body) <= 800
    assert caught.value.__cause__ is None


values: st.SearchStrategy[object] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.sampled_from(["success", "failed", "processing", "task_1", "{}", '{"resultUrls": [""]}']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.slow
@settings(FREELY, max_examples=200)
@given(
    st.binary()
    | st.dictionaries(
        st.sampled_from(FIELDS),
        values,
    ).map(lambda changes: body(**changes))
)
def test_any_bytes(what: bytes) -> None:
    """Whatever comes is a snapshot of a task of that model, or a ContractError."""
    try:
        said = parse_callback(what, MODEL)
    except ContractError:
        return
    assert said.ref.model == MODEL
    assert said.ref.task_id


# --------------------------------------------------------------------------- the trace context


@FREELY
@given(parents)
def test_a_token_carries_a_trace_context(traceparent: str) -> None:
    """A trace context behind the nonce of a token is read as it was written, and is signed."""
    nonce = token_urlsafe(12) + pack_traceparent(traceparent)
    token = write_token("kling-2-1", nonce, SECRET)
    assert verify_token(token, [SECRET]) == ("kling-2-1", nonce)
    assert unpack_traceparent(nonce) == traceparent


@pytest.mark.parametrize("text", ["", "00-ab-cd-01", "01-" + "a" * 32 + "-" + "b" * 16 + "-01"])
def test_what_is_no_trace_context(text: str) -> None:
    """A nonce has nothing added for what is not a trace context of the known version."""
    assert pack_traceparent(text) == ""


def test_a_nonce_without_a_trace_context() -> None:
    """A nonce of 16 characters, as submits without a trace have, carries no context."""
    assert unpack_traceparent(token_urlsafe(12)) == ""
