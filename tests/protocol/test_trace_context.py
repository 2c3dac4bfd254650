from __future__ import annotations

from secrets import token_urlsafe

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_async.protocol.callbacks import verify_token, write_token
from kling_async.protocol.trace_context import pack_traceparent, unpack_traceparent

PARENTS = st.from_regex(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True)
SECRET = b"a secret of the tests"


@given(PARENTS)
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
