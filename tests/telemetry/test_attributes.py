from __future__ import annotations

from attrs import evolve

from kling_async.telemetry.attributes import describe_model, describe_request, template
from tests.telemetry.events import ERROR, INPUT, answered


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


def test_a_request() -> None:
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
    assert "server.address" not in describe_request(evolve(event, url="/statusTask/x"))


def test_templates() -> None:
    """No template has what differs from task to task."""
    assert template(answered("balance")) == "/apikeys/current-balance"
