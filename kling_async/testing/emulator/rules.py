"""How the service reads a submit: the fields around the input, and the input by its model.

Whatever the contract does not name is refused. Whether the service is as strict is unknown; a
client that passes here does not depend on its leniency. Of a model that the contract does not
describe, any input is accepted.

Image and video URLs are checked later: one that cannot be fetched, or is not http(s), starts a task
that fails, with ``INVALID_IMAGE_URL`` for example, as documented.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Collection, Mapping
from typing import Final, NoReturn, cast
from urllib.parse import urlsplit

from attrs import frozen

from kling_async.testing.emulator.checks import (
    Check,
    check_object,
    one_of,
    reject,
    reject_missing,
    reject_value,
    text,
)
from kling_async.testing.emulator.models import (
    ASPECT_RATIOS,
    DURATION,
    MODELS,
    PROVIDERS,
    Mode,
    Model,
)

_LONGEST_VIDEO: Final = 15  # of those that a model without rules makes

_BODY: Final[Mapping[str, Check]] = {
    "request_type": one_of(("async", "callback")),
    "callback_url": text(),
    "provider": one_of(PROVIDERS),
    "input": check_object,
}


@frozen
class Order:
    """A valid submit, with the defaults filled in."""

    mode: str
    prompt: str
    duration: int
    image_urls: tuple[str, ...]
    aspect_ratio: str | None
    callback_url: str | None
    input: Mapping[str, object]
    video_urls: tuple[str, ...] = ()
    model: str = "kling-2-1"


def read_order(raw: bytes, model: str = "kling-2-1") -> Order:
    """Parse the body of a submit. Raises `Refusal` (400) that names the first thing wrong."""
    body = _parse_object(raw)
    rules = MODELS.get(model)
    # The providers of other models are an open set.
    checks = _BODY if rules else {**_BODY, "provider": text(1)}
    _check_names("", body, checks)
    _check_required("", body, ["input"])
    _check_values("", body, checks)
    fields = cast("Mapping[str, object]", body["input"])
    mode = _read_mode(rules, fields) if rules else fields.get("mode", "")
    duration, ratio = fields.get("duration"), fields.get("aspect_ratio")
    if rules and rules.modes[str(mode)].has_aspect_ratio:
        ratio = ratio or ASPECT_RATIOS[0]
    # Of a model without rules, a value of any type may come.
    known = type(duration) is int and 1 <= duration <= _LONGEST_VIDEO
    return Order(
        mode=str(mode),
        prompt=str(fields.get("prompt", "")),
        duration=cast("int", duration) if known else DURATION,
        image_urls=_read_urls(fields.get("image_urls")),
        video_urls=_read_urls(fields.get("video_urls")),
        aspect_ratio=str(ratio) if ratio in ASPECT_RATIOS else None,
        callback_url=_callback_url(body),
        input=dict(fields),
        model=model,
    )


def _parse_object(raw: bytes) -> Mapping[str, object]:
    try:
        body: object = json.loads(raw, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        reject(f"Request body is not valid JSON: {error}")
    if not isinstance(body, dict):
        reject("Request body must be a JSON object")
    return body


def _reject_constant(name: str) -> NoReturn:
    message = f"{name} is not a JSON number"
    raise ValueError(message)


def _read_mode(model: Model, fields: Mapping[str, object]) -> str:
    """Check the fields of an input by the rules of its model and mode; return the mode."""
    checks = model.checks()
    _check_names("input.", fields, checks)
    if "mode" not in fields and model.default_mode is None:
        reject_missing("input.mode")
    name = fields.get("mode", model.default_mode)
    checks["mode"]("input.mode", name)
    mode = model.modes[str(name)]
    _check_required("input.", fields, mode.required)
    _check_values("input.", fields, checks)
    without = (*mode.without, *(() if mode.has_aspect_ratio else ("aspect_ratio",)))
    for field in without:
        if field in fields:
            reject(f"input.{field} does not apply to mode {name}")
    _check_counts(str(name), mode, fields)
    return str(name)


def _check_names(prefix: str, found: Mapping[str, object], checks: Mapping[str, Check]) -> None:
    for name in found:
        if name not in checks:
            reject(f"Unknown field: {prefix}{name} (allowed: {', '.join(checks)})")


def _check_required(prefix: str, found: Mapping[str, object], names: Collection[str]) -> None:
    for name in names:
        if name not in found:
            reject_missing(f"{prefix}{name}")


def _check_values(prefix: str, found: Mapping[str, object], checks: Mapping[str, Check]) -> None:
    for name, check in checks.items():
        if name in found:
            check(f"{prefix}{name}", found[name])


def _check_counts(name: str, mode: Mode, fields: Mapping[str, object]) -> None:
    for field, counts in (("image_urls", mode.images), ("video_urls", mode.videos)):
        if field not in fields:
            if 0 not in counts:
                reject_missing(f"input.{field}")
        elif 1 not in counts:
            reject(f"input.{field} does not apply to mode {name}")
        elif (count := len(_read_urls(fields[field]))) not in counts:
            expected = " to ".join(str(each) for each in sorted({counts[0], counts[-1]}))
            reject(f"input.{field}: mode {name} takes {expected}, got {count}")


def _read_urls(value: object) -> tuple[str, ...]:
    return tuple(str(url) for url in value) if isinstance(value, list) else ()


def _callback_url(body: Mapping[str, object]) -> str | None:
    if body.get("request_type", "async") != "callback":
        return None
    if "callback_url" not in body:
        reject_missing("callback_url")
    url = str(body["callback_url"])
    try:
        parts = urlsplit(url)
        host, scheme = parts.hostname or "", parts.scheme
    except ValueError:
        host, scheme = "", ""
    allowed = scheme == "https" or (scheme == "http" and _is_loopback(host))
    if not (host and allowed):
        reject_value("callback_url", url, "an https URL (http only for loopback hosts)")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
