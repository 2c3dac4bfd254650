"""Arguments of a client: checked where they are given, or found in the environment."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from datetime import datetime
from inspect import iscoroutinefunction

from kling_async._utils.numbers import is_number
from kling_async._utils.urls import is_unencrypted
from kling_async.errors import ConfigurationError, InputError
from kling_async.inputs.base import Input
from kling_async.policy.polling import Polling
from kling_async.protocol import requests

_log = logging.getLogger("kling_async")

# Seconds. The vendor's figure is two minutes at the most; half an hour is a service in trouble.
DEFAULT_TIMEOUT = 1800.0


def check_kind(name: str, value: object, kind: type) -> None:
    """Raise ConfigurationError unless an argument is None or an instance of a class."""
    if value is not None and not isinstance(value, kind):
        raise ConfigurationError(
            f"{name} must be a {kind.__name__}, as {name}={kind.__name__}(...): {value!r:.80}"
        )


def check_methods(name: str, value: object, *methods: str, optional: bool = True) -> None:
    """Raise ConfigurationError unless an argument is an object with all methods, or None."""
    for method in () if optional and value is None else methods:
        if isinstance(value, type) or not callable(getattr(value, method, None)):
            raise ConfigurationError(f"{name} must be an object with {method}(), not {value!r:.80}")


def check_function(name: str, value: object) -> None:
    """Raise ConfigurationError unless an argument is a function that need not be awaited."""
    if not callable(value) or iscoroutinefunction(value):
        raise ConfigurationError(
            f"{name} must be a function that is not async, as {name}=print, not {value!r:.80}"
        )


def checked_hooks(hooks: Iterable[Callable[..., object]]) -> tuple[Callable[..., object], ...]:
    """Return hooks as a tuple; raise ConfigurationError if they are not functions."""
    if isinstance(hooks, Iterable) and not isinstance(hooks, str | bytes):
        given = tuple(hooks)
        if all(callable(hook) and not iscoroutinefunction(hook) for hook in given):
            return given
    raise ConfigurationError(f"hooks must be functions, not async, as hooks=[print]: {hooks!r:.80}")


def start_log() -> None:
    """Write the log to stderr if ``KLING_LOG`` has its level."""
    if level := os.environ.get("KLING_LOG"):
        from kling_async.telemetry.logs import parse_level, write_to_stderr

        write_to_stderr(parse_level(level))


def check_timeout(timeout: float) -> None:
    """Raise ConfigurationError unless a timeout is a finite, positive number of seconds."""
    if not is_number(timeout) or timeout <= 0:
        raise ConfigurationError(
            f"a timeout must be a finite number of seconds > 0, such as 600.0, not {timeout!r}"
        )


def check_input(value: object) -> None:
    """Raise InputError unless a value is an input."""
    if not isinstance(value, Input):
        raise InputError(f"not an input such as MasterTextToVideo(...): {value!r:.80}")


def check_inputs(inputs: object) -> None:
    """Raise InputError unless a value is an iterable other than a text or a mapping."""
    iterable = isinstance(inputs, Iterable | AsyncIterable) or hasattr(inputs, "__getitem__")
    if iterable and not isinstance(inputs, str | bytes | bytearray | Mapping | type):
        return
    seen = inputs.__name__ if isinstance(inputs, type) else type(inputs).__name__
    raise InputError(
        "pass an iterable of inputs, such as [MasterTextToVideo(...)] or a generator of them,"
        f" not {'the class' if isinstance(inputs, type) else 'an object of type'} {seen}"
    )


def check_aware(name: str, value: object) -> None:
    """Raise InputError unless a value is a datetime with a time zone."""
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InputError(
            f"{name} must be a datetime with a time zone, such as datetime.now(UTC),"
            f" not {value!r:.80}"
        )


def find_base_url(base_url: str | None, *, allow_http: bool | None) -> str:
    """Return the base URL that is given, or that of the environment, or the vendor's."""
    given = base_url or os.environ.get("APIXO_BASE_URL") or requests.DEFAULT_BASE_URL
    if allow_http is None:
        allow_http = _read_switch("APIXO_ALLOW_HTTP")
    normal = requests.normalize_base_url(given, allow_http=allow_http)
    if is_unencrypted(normal):
        _log.warning("the API key is sent unencrypted to %s: for test networks only", normal)
    return normal


def find_polling(polling: Polling | None) -> Polling:
    """Return the schedule that is given, or the default one, as the environment changes it."""
    first = os.environ.get("KLING_FIRST_POLL")
    if polling is not None or not first:
        return polling or Polling()
    from kling_async.policy.scaled_polling import scaled_polling

    try:
        return scaled_polling(float(first))
    except ValueError:  # a ConfigurationError is one
        raise ConfigurationError(
            f"KLING_FIRST_POLL must be a number of seconds, not {first!r}"
        ) from None


def _read_switch(name: str) -> bool:
    """Read an environment variable that is on or off."""
    value = os.environ.get(name, "").strip().lower()
    if value in {"", "0", "false", "no", "off"}:
        return False
    if value in {"1", "true", "yes", "on"}:
        return True
    raise ConfigurationError(f"{name} must be 1 or 0, not {value!r}")


def find_api_key(api_key: str | None) -> str:
    """Return the key that is given, or that of the environment."""
    if api_key is not None and not isinstance(api_key, str):
        raise ConfigurationError(f"api_key must be a text, not of type {type(api_key).__name__}")
    key = (api_key or os.environ.get("APIXO_API_KEY") or "").strip()
    if not key:
        raise ConfigurationError("no API key: pass api_key=, or set APIXO_API_KEY")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigurationError("the API key has invalid characters")
    return key
