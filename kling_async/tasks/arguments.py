"""Arguments are checked where they are given, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from kling_async.errors import ConfigurationError, InputError
from kling_async.inputs.base import Input


def check_kind(name: str, value: object, kind: type) -> None:
    """Check that an argument is of a class, unless it is None.

    Raises:
        ConfigurationError: It is something else.
    """
    if value is not None and not isinstance(value, kind):
        example = f"{kind.__name__}(...)"
        raise ConfigurationError(
            f"{name} must be a {kind.__name__}, as {name}={example}: {value!r:.80}"
        )


def check_methods(name: str, value: object, *methods: str) -> None:
    """Check that an argument has the methods of a protocol, unless it is None.

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


def check_input(value: object) -> None:
    """Check what is to be submitted.

    Raises:
        InputError: It is not an input.
    """
    if not isinstance(value, Input):
        raise InputError(f"not an input such as MasterTextToVideo(...): {value!r:.80}")


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
