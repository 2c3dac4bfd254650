"""What to send: values to requests, nothing sent yet."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from attrs import define, field

from kling_async._utils.urls import is_unencrypted, split_web_url
from kling_async.errors import ConfigurationError, InputError, Problem
from kling_async.protocol.converter import input_to_wire
from kling_async.results import TaskRef

if TYPE_CHECKING:
    from kling_async.inputs.base import Input

DEFAULT_BASE_URL = "https://api.apixo.ai/api/v1"

# What needs no quoting: to see that is much less work than to quote it.
_PLAIN = re.compile(r"[A-Za-z0-9_.~-]+")


@define  # a frozen one would take twice as long to make
class Request:
    """One call of the API, relative to the base URL.

    Attributes:
        kind: What it is for; ``submit`` alone costs money.
        path: Begins with a slash; already quoted, with its query.
        body: JSON, for a submit.
        ref: The task it is about, if any.
    """

    kind: Literal["submit", "status", "balance"]
    path: str
    body: bytes | None = field(default=None, repr=False)
    ref: TaskRef | None = None

    @property
    def method(self) -> Literal["GET", "POST"]:
        """The HTTP method: only a submit is a POST."""
        return "POST" if self.kind == "submit" else "GET"


def submit(request: Input, callback_url: str | None = None) -> Request:
    """Ask for a video; the service may call ``callback_url`` when the task has ended.

    Raises:
        InputError: The callback URL is not public HTTPS.
    """
    body: dict[str, object] = {"request_type": "async"}
    if callback_url is not None:
        _check_callback_url(callback_url)
        body = {"request_type": "callback", "callback_url": callback_url}
    if (provider := getattr(request, "provider", None)) is not None:
        body["provider"] = provider
    body["input"] = input_to_wire(request)
    return Request("submit", f"/generateTask/{_quoted(request.model)}", json.dumps(body).encode())


def status(ref: TaskRef) -> Request:
    """Ask where a task stands; the model must be the one it was submitted to."""
    task_id = ref.task_id if _PLAIN.fullmatch(ref.task_id) else quote(ref.task_id, safe="")
    return Request("status", f"/statusTask/{_quoted(ref.model)}?taskId={task_id}", ref=ref)


def balance() -> Request:
    """Ask for the account's balance."""
    return Request("balance", "/apikeys/current-balance")


def normal_base_url(url: str, *, allow_http: bool = False) -> str:
    """Bring a base URL, given with or without ``/api/v1``, into the form that paths follow.

    Args:
        url: The URL.
        allow_http: Allow plain http to other machines than this one.

    Raises:
        ConfigurationError: It is not an absolute URL, or would send the key in the clear.
    """
    if not isinstance(url, str):
        raise ConfigurationError(f"the base URL must be a text such as {DEFAULT_BASE_URL}: {url!r}")
    bare = url.strip().rstrip("/").removesuffix("/api/v1")
    parts = split_web_url(bare)
    if parts is None or "?" in bare or "#" in bare:
        raise ConfigurationError(
            f"the base URL must be an absolute http(s) URL such as {DEFAULT_BASE_URL}, not {url!r}"
        )
    if "@" in parts.netloc:
        raise ConfigurationError("the base URL must not hold a user name or password")
    if not allow_http and is_unencrypted(bare):
        raise ConfigurationError(
            f"the base URL {url!r} would send the API key unencrypted: use https"
            " (plain http is for loopback addresses only; in a test network, allow it with"
            " APIXO_ALLOW_HTTP=1 or KlingClient(allow_http=True))"
        )
    return f"{bare}/api/v1"


@lru_cache
def _quoted(model: str) -> str:
    return quote(model, safe="")


def _check_callback_url(url: str) -> None:
    # Plain http to this machine is what the emulator calls back in tests.
    if split_web_url(url) is None or is_unencrypted(url):
        rule = "must be an absolute https URL (plain http on loopback only)"
        raise InputError(problems=[Problem("callback_url", rule, repr(url)[:80])])
