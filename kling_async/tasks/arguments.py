"""Checks of arguments: where they are given, before anything is sent."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from datetime import datetime
from math import inf

from kling_async.errors import ConfigurationError, InputError
from kling_async.inputs.base import Input

# Seconds. The vendor's figure is two minutes at the most; half an hour is a service in trouble.
DEFAULT_TIMEOUT = 1800.0


def check_kind(name: str, value: object, kind: type) -> None:
    """Raise ConfigurationError unless an argument is None or an instance of a class."""
    if value is not None and not isinstance(value, kind):
        raise ConfigurationError(
            f"{name} must be a {kind.__name__}, as {name}={kind.__name__}(...): {value!r:.80}"
        )


def check_methods(name: str, value: object, *methods: str) -> None:
    """Raise ConfigurationError unless an argument is None or an object with all methods."""
    for method in methods if value is not None else ():
        if isinstance(value, type) or not callable(getattr(value, method, None)):
            raise ConfigurationError(f"{name} must be an object with {method}(), not {value!r:.80}")


def checked_hooks(hooks: Iterable[Callable[..., object]]) -> tuple[Callable[..., object], ...]:
    """Return hooks as a tuple; raise ConfigurationError if they are not functions."""
    if isinstance(hooks, Iterable) and not isinstance(hooks, str | bytes):
        given = tuple(hooks)
        if all(map(callable, given)):
            return given
    raise ConfigurationError(f"hooks must be functions, as hooks=[print], not {hooks!r:.80}")


def check_timeout(timeout: float) -> None:
    """Raise ConfigurationError unless a timeout is a finite, positive number of seconds."""
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not number or not 0 < timeout < inf:
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
