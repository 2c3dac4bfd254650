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
    """Check that an argument is None or an instance of a class.

    Raises:
        ConfigurationError: It is something else.
    """
    if value is not None and not isinstance(value, kind):
        example = f"{kind.__name__}(...)"
        raise ConfigurationError(
            f"{name} must be a {kind.__name__}, as {name}={example}: {value!r:.80}"
        )


def check_methods(name: str, value: object, *methods: str) -> None:
    """Check that an argument is None or an object with the methods of a protocol.

    Raises:
        ConfigurationError: It lacks one, or is a class.
    """
    if value is None:
        return
    for method in methods:
        if isinstance(value, type) or not callable(getattr(value, method, None)):
            raise ConfigurationError(f"{name} must be an object with {method}(), not {value!r:.80}")


def checked_hooks(hooks: Iterable[Callable[..., object]]) -> tuple[Callable[..., object], ...]:
    """Return hooks as a tuple.

    Raises:
        ConfigurationError: It is not an iterable of functions.
    """
    if isinstance(hooks, Iterable) and not isinstance(hooks, str | bytes):
        given = tuple(hooks)
        if all(map(callable, given)):
            return given
    raise ConfigurationError(f"hooks must be functions, as hooks=[print], not {hooks!r:.80}")


def check_timeout(timeout: float) -> None:
    """Check a timeout.

    Raises:
        ConfigurationError: It is not a finite, positive number of seconds.
    """
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not number or not 0 < timeout < inf:
        raise ConfigurationError(
            f"a timeout must be a finite number of seconds > 0, such as 600.0, not {timeout!r}"
        )


def check_input(value: object) -> None:
    """Check the input of a submit.

    Raises:
        InputError: It is not an input.
    """
    if not isinstance(value, Input):
        raise InputError(f"not an input such as MasterTextToVideo(...): {value!r:.80}")


def check_inputs(inputs: object) -> None:
    """Check an iterable of inputs.

    Raises:
        InputError: It is a single input, a text, a mapping, a class, or not iterable.
    """
    iterable = isinstance(inputs, Iterable | AsyncIterable) or hasattr(inputs, "__getitem__")
    if iterable and not isinstance(inputs, str | bytes | bytearray | Mapping | type):
        return
    seen = inputs.__name__ if isinstance(inputs, type) else type(inputs).__name__
    raise InputError(
        "pass an iterable of inputs, such as [MasterTextToVideo(...)] or a generator of them,"
        f" not {'the class' if isinstance(inputs, type) else 'an object of type'} {seen}"
    )


def check_aware(name: str, value: object) -> None:
    """Check a moment.

    Raises:
        InputError: It is not a datetime with a time zone.
    """
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InputError(
            f"{name} must be a datetime with a time zone, such as datetime.now(UTC),"
            f" not {value!r:.80}"
        )
