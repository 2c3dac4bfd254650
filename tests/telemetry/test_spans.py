from __future__ import annotations

import pytest
from attrs import evolve
from opentelemetry.trace import INVALID_SPAN_CONTEXT, StatusCode

from kling_async.telemetry.spans import (
    Spans,
    below,
    describe_model,
    describe_request,
    format_traceparent,
    parse_traceparent,
)
from tests.telemetry.events import ERROR, INPUT, SECRET, TRACEPARENT, answered
from tests.telemetry.sdk import Sdk


def test_a_trace_context() -> None:
    """A context is written as it is read."""
    context = parse_traceparent(TRACEPARENT)
    assert context is not None
    assert context.is_remote
    assert context.trace_flags.sampled
    assert format_traceparent(context) == TRACEPARENT
    assert parse_traceparent(TRACEPARENT.replace("00-", "cc-") + "-more") == context


@pytest.mark.parametrize("text", ["", "x", f"00-{'0' * 32}-{'cd' * 8}-01", f"{TRACEPARENT}x"])
def test_an_invalid_context(text: str) -> None:
    """What is not a context is ignored."""
    assert parse_traceparent(text) is None
    assert below(None) is None
    assert format_traceparent(None) == format_traceparent(INVALID_SPAN_CONTEXT) == ""


def test_a_request() -> None:
    """The span of a request has lasted as long as the request, and has no secret of its error."""
    sdk = Sdk()
    spans = Spans(sdk.tracers.get_tracer("test"))
    spans.add_request(parse_traceparent(TRACEPARENT), answered(error=ERROR, status=503))
    span = sdk.span("POST")
    assert span.name == "POST /generateTask/{model}"
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time - span.start_time == pytest.approx(500_000_000, rel=0.2)
    assert span.attributes is not None
    assert span.attributes["http.request.resend_count"] == 1
    assert span.attributes["url.full"] == "https://api.apixo.ai/api/v1/generateTask/kling-2-1"
    assert span.status.status_code is StatusCode.ERROR
    assert SECRET not in span.to_json()


def test_a_model() -> None:
    """A generation has the attributes of the GenAI conventions, and its mode if it is known."""
    known = {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": "apixo",
        "gen_ai.request.model": "kling-2-1",
    }
    assert describe_model("kling-2-1", None) == known
    mode = {"kling.mode": "master-text-to-video"}
    assert describe_model("kling-2-1", INPUT) == known | mode


def test_the_attributes_of_a_request() -> None:
    """A request has the attributes of the HTTP conventions."""
    assert describe_request(answered()) == {
        "http.request.method": "POST",
        "url.template": "/generateTask/{model}",
        "server.address": "api.apixo.ai",
        "server.port": 443,
        "http.response.status_code": 200,
    }


def test_a_request_without_an_answer() -> None:
    """A request that failed has its error and port; a transport may have no address."""
    event = answered("status", ERROR, status=None)
    assert describe_request(evolve(event, url="http://host/x")) == {
        "http.request.method": "GET",
        "url.template": "/statusTask/{model}",
        "server.address": "host",
        "server.port": 80,
        "error.type": "ServerError",
    }
    assert describe_request(evolve(event, url="http://host:81/x"))["server.port"] == 81
    assert describe_request(answered("balance"))["url.template"] == "/apikeys/current-balance"
    assert "server.address" not in describe_request(evolve(event, url="/statusTask/x"))
