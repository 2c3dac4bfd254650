"""The requests of the API, built from values, and their responses. Nothing is sent here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import attrs
from attrs import field, frozen

from kling_async._utils.text import redact
from kling_async._utils.urls import is_unencrypted, split_web_url
from kling_async.errors import BODY_EXCERPT, ConfigurationError, InputError, Problem
from kling_async.inputs.rules import VENDOR_LISTS
from kling_async.results import TaskRef

if TYPE_CHECKING:
    from kling_async.inputs.base import Input

DEFAULT_BASE_URL = "https://api.apixo.ai/api/v1"


@frozen
class Request:
    """One request, relative to the base URL.

    Attributes:
        kind: What it is for. Only a ``submit`` costs money.
        path: The quoted path, with its query. It begins with a slash.
        body: The JSON body of a submit. None as long as its input has local images without URLs.
        ref: The task concerned, if there is one.
        submit_id: Identifies a submit in events; 0 if there are no hooks.
    """

    kind: Literal["submit", "status", "balance"]
    path: str
    body: bytes | None = field(default=None, repr=False)
    ref: TaskRef | None = None
    submit_id: int = field(default=0, eq=False, repr=False)

    @property
    def method(self) -> Literal["GET", "POST"]:
        """The HTTP method: POST for a submit, GET for everything else."""
        return "POST" if self.kind == "submit" else "GET"


@frozen
class Response:
    """A complete HTTP response.

    Attributes:
        status: The HTTP status.
        body: The decompressed body.
        headers: Names to values; looked up by lower-case names.
        secret: The API key, which is never shown if the response contains it.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = {}
    secret: str = field(default="", repr=False)

    @property
    def excerpt(self) -> str:
        """The first 200 characters of the body, without the API key."""
        # The key is replaced first: an excerpt could end in a part of it.
        return redact(self.body.decode("utf-8", "replace"), self.secret)[:BODY_EXCERPT]


def build_submit(sent: Input, callback_url: str | None = None, submit_id: int = 0) -> Request:
    """Build the request that submits an input.

    Args:
        sent: The input.
        callback_url: The URL that the service calls when the task ends.
        submit_id: Identifies the submit in events.

    Raises:
        InputError: The callback URL is not a public https URL.
    """
    body: dict[str, object] = {"request_type": "async"}
    if callback_url is not None:
        # The emulator calls back by plain http on this machine.
        if split_web_url(callback_url) is None or is_unencrypted(callback_url):
            rule = "must be an absolute https URL (plain http on loopback only)"
            raise InputError(problems=[Problem("callback_url", rule, repr(callback_url)[:80])])
        body = {"request_type": "callback", "callback_url": callback_url}
    fields: dict[str, Any] = {"mode": sent.mode}
    for one in attrs.fields(type(sent)):
        if (value := getattr(sent, one.name)) is not None:
            fields[one.name] = value
    if "provider" in fields:
        body["provider"] = fields.pop("provider")
    if "json" in fields:  # of a RawInput
        fields = json.loads(fields["json"])
    else:
        for key, names in VENDOR_LISTS.items():
            for name in names:
                if name in fields:
                    fields.setdefault(key, []).append(fields.pop(name))
    path = f"/generateTask/{_quote(sent.model)}"
    is_complete = "image_urls" not in fields or not sent.local_images
    content = json.dumps({**body, "input": fields}).encode() if is_complete else None
    return Request("submit", path, content, submit_id=submit_id)


def build_status(ref: TaskRef) -> Request:
    """Build the request for the state of a task."""
    path = f"/statusTask/{_quote(ref.model)}?taskId={quote(ref.task_id, safe='')}"
    return Request("status", path, ref=ref)


def build_balance() -> Request:
    """Build the request for the account's balance."""
    return Request("balance", "/apikeys/current-balance")


def normalize_base_url(url: str, *, allow_http: bool = False) -> str:
    """Return a base URL in the form that paths can be appended to.

    Args:
        url: The URL, with or without ``/api/v1``.
        allow_http: Allow plain http to other machines.

    Raises:
        ConfigurationError: The URL is invalid, or the key would be sent unencrypted.
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
        raise ConfigurationError("the base URL must not contain a user name or password")
    if not allow_http and is_unencrypted(bare):
        raise ConfigurationError(
            f"the base URL {url!r} would send the API key unencrypted: use https"
            " (plain http is for loopback addresses only; in a test network, allow it with"
            " APIXO_ALLOW_HTTP=1 or KlingClient(allow_http=True))"
        )
    return f"{bare}/api/v1"


@lru_cache
def _quote(model: str) -> str:
    return quote(model, safe="")
