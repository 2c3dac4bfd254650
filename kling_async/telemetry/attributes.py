"""Attributes of spans and metrics: those of OpenTelemetry's semantic conventions, and our own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from kling_async.events import RequestAnswered
    from kling_async.inputs.base import Input

PROVIDER: Final = "apixo"
OPERATION: Final = "generate_content"

# The path of each kind of request, without what differs from task to task.
_TEMPLATES = {
    "submit": "/generateTask/{model}",
    "status": "/statusTask/{model}",
    "balance": "/apikeys/current-balance",
}


def describe_model(model: str, sent: Input | None) -> dict[str, str]:
    """Return the attributes of a generation, for spans and metrics."""
    found = {
        "gen_ai.operation.name": OPERATION,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": model,
    }
    return {**found, "kling.mode": sent.mode} if sent is not None and sent.mode else found


def template(event: RequestAnswered) -> str:
    """Return the path of a request with placeholders."""
    return _TEMPLATES[event.kind]


def describe_request(event: RequestAnswered) -> dict[str, str | int]:
    """Return the attributes of a request, for spans and metrics."""
    server = urlsplit(event.url)
    found: dict[str, str | int] = {
        "http.request.method": event.method,
        "url.template": template(event),
    }
    if server.hostname:
        found["server.address"] = server.hostname
        found["server.port"] = server.port or (443 if server.scheme == "https" else 80)
    if event.status is not None:
        found["http.response.status_code"] = event.status
    if event.error is not None:
        found["error.type"] = type(event.error).__name__
    return found
