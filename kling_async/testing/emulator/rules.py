"""What the service accepts as a submit for ``kling-2-1``, read from the contract, as tables.

Whatever the contract does not name is refused. Whether the service is as strict is unknown; a
client that passes here does not depend on its leniency.

Image URLs are checked later: one that cannot be fetched, or is not http(s), starts a task that
fails, with ``INVALID_IMAGE_URL`` for example, as documented.
"""

from __future__ import annotations

import ipaddress
import json
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Final, NoReturn, TypeAlias, cast
from urllib.parse import urlsplit

from attrs import frozen

MODEL: Final = "kling-2-1"

Check: TypeAlias = Callable[[str, object], None]
"""Raises `Refusal` if the named field has a wrong value."""


class Refusal(Exception):  # noqa: N818 - a value that is raised, not an error of ours
    """A request that is answered with `status` and `message`; `error` goes into ``data.error``."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        error: str | None = None,
        has_data: bool = True,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.error = error
        self.has_data = has_data
        self.retry_after = retry_after

    def envelope(self) -> dict[str, object]:
        """Return the body of the answer."""
        body: dict[str, object] = {"code": self.status, "message": self.message}
        if self.has_data:
            body["data"] = None if self.error is None else {"error": self.error}
        return body


# How many images each mode needs.
MODES: Final[Mapping[str, range]] = {
    "standard-image-to-video": range(1, 2),
    "pro-image-to-video": range(1, 3),
    "master-text-to-video": range(1),
    "master-image-to-video": range(1, 2),
}
_WITH_ASPECT_RATIO: Final = frozenset({"master-text-to-video"})
_DEFAULT_MODE: Final = "standard-image-to-video"
_ASPECT_RATIOS: Final = ("16:9", "9:16", "1:1")
_DURATIONS: Final = (5, 10)
_PROVIDERS: Final = ("auto", "value", "official")
_REQUEST_TYPES: Final = ("async", "callback")
_PROMPT_MAX: Final = 5000
_NEGATIVE_PROMPT_MAX: Final = 500
# 0.1 + 0.2 is one of the steps; 0.3001 is not.
_CFG_TOLERANCE: Final = 1e-9


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


def read_order(raw: bytes) -> Order:
    """Parse the body of a submit. Raises `Refusal` (400) that names the first thing wrong."""
    body = _parse_object(raw)
    _check_fields("", body, _BODY, required="input")
    fields = cast("Mapping[str, object]", body["input"])
    _check_fields("input.", fields, _INPUT, required="prompt")
    mode = str(fields.get("mode", _DEFAULT_MODE))
    return Order(
        mode=mode,
        prompt=str(fields["prompt"]),
        duration=cast("int", fields.get("duration", _DURATIONS[0])),
        image_urls=_images_for_mode(mode, fields),
        aspect_ratio=_aspect_ratio_for_mode(mode, fields),
        callback_url=_callback_url(body),
        input=dict(fields),
    )


def _parse_object(raw: bytes) -> Mapping[str, object]:
    try:
        body: object = json.loads(raw, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        _reject(f"Request body is not valid JSON: {error}")
    if not isinstance(body, dict):
        _reject("Request body must be a JSON object")
    return body


def _reject_constant(name: str) -> NoReturn:
    message = f"{name} is not a JSON number"
    raise ValueError(message)


def _check_fields(
    prefix: str, found: Mapping[str, object], checks: Mapping[str, Check], *, required: str
) -> None:
    for name in found:
        if name not in checks:
            _reject(f"Unknown field: {prefix}{name} (allowed: {', '.join(checks)})")
    if required not in found:
        _reject_missing(f"{prefix}{required}")
    for name, check in checks.items():
        if name in found:
            check(f"{prefix}{name}", found[name])


def _images_for_mode(mode: str, fields: Mapping[str, object]) -> tuple[str, ...]:
    counts = MODES[mode]
    if "image_urls" not in fields:
        if 0 not in counts:
            _reject_missing("input.image_urls")
        return ()
    if 1 not in counts:
        _reject(f"input.image_urls does not apply to mode {mode}")
    urls = tuple(cast("list[str]", fields["image_urls"]))
    if len(urls) not in counts:
        expected = " to ".join(str(count) for count in sorted({counts[0], counts[-1]}))
        _reject(f"input.image_urls: mode {mode} takes {expected}, got {len(urls)}")
    return urls


def _aspect_ratio_for_mode(mode: str, fields: Mapping[str, object]) -> str | None:
    if mode in _WITH_ASPECT_RATIO:
        return str(fields.get("aspect_ratio", _ASPECT_RATIOS[0]))
    if "aspect_ratio" in fields:
        _reject(f"input.aspect_ratio does not apply to mode {mode}")
    return None


def _callback_url(body: Mapping[str, object]) -> str | None:
    if body.get("request_type", "async") != "callback":
        return None
    if "callback_url" not in body:
        _reject_missing("callback_url")
    url = str(body["callback_url"])
    try:
        parts = urlsplit(url)
        host, scheme = parts.hostname or "", parts.scheme
    except ValueError:
        host, scheme = "", ""
    allowed = scheme == "https" or (scheme == "http" and _is_loopback(host))
    if not (host and allowed):
        _reject_value("callback_url", url, "an https URL (http only for loopback hosts)")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _one_of(allowed: Collection[str]) -> Check:
    def check(name: str, value: object) -> None:
        if not isinstance(value, str) or value not in allowed:
            _reject_value(name, value, f"one of {', '.join(allowed)}")

    return check


def _text(shortest: int = 0, longest: int = sys.maxsize) -> Check:
    def check(name: str, value: object) -> None:
        if not isinstance(value, str):
            _reject_value(name, value, "a string")
        if not shortest <= len(value) <= longest:
            _reject(
                f"Invalid value for {name}: {len(value)} characters"
                f" (expected {shortest} to {longest})"
            )

    return check


def _object(name: str, value: object) -> None:
    if not isinstance(value, dict):
        _reject_value(name, value, "an object")


def _duration(name: str, value: object) -> None:
    # True and 5.0 are equal to allowed numbers, but are not integers in JSON.
    if type(value) is not int or value not in _DURATIONS:
        _reject_value(name, value, "the integer 5 or 10")


def _cfg_scale(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _reject_value(name, value, "a number")
    # Infinity (1e999 is JSON) and integers too large for a float fail the first comparison.
    in_range = -_CFG_TOLERANCE <= value <= 1 + _CFG_TOLERANCE
    if not in_range or abs(value - round(value * 10) / 10) > _CFG_TOLERANCE:
        _reject_value(name, value, "0 to 1 in steps of 0.1")


def _strings(name: str, value: object) -> None:
    if not isinstance(value, list) or not all(isinstance(url, str) and url for url in value):
        _reject_value(name, value, "an array of strings")


_BODY: Final[Mapping[str, Check]] = {
    "request_type": _one_of(_REQUEST_TYPES),
    "callback_url": _text(),
    "provider": _one_of(_PROVIDERS),
    "input": _object,
}
_INPUT: Final[Mapping[str, Check]] = {
    "mode": _one_of(MODES),
    "prompt": _text(1, _PROMPT_MAX),
    "duration": _duration,
    "negative_prompt": _text(longest=_NEGATIVE_PROMPT_MAX),
    "cfg_scale": _cfg_scale,
    "image_urls": _strings,
    "aspect_ratio": _one_of(_ASPECT_RATIOS),
}


def _reject_missing(name: str) -> NoReturn:
    _reject(f"Missing required field: {name}")


def _reject_value(name: str, value: object, expected: str) -> NoReturn:
    shown = repr(value)
    if len(shown) > 80:  # noqa: PLR2004 - the number is the rule
        shown = f"{shown[:77]}..."
    _reject(f"Invalid value for {name}: {shown} (expected {expected})")


def _reject(error: str) -> NoReturn:
    raise Refusal(400, "Invalid request", error=error)
