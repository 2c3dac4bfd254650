"""Classifies and explains errors of the server, the driver and the network."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import psycopg

ROLLED_BACK: Final = (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected)
"""The server has rolled back the transaction because of another one. It can be repeated."""

BUSY: Final = (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled)
"""The transaction took too long, because of locks or load. It can be repeated later."""

ADVICE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "25006": "cannot be written ({error}): the server is read-only; connect to the primary",
        "42501": "cannot be used ({error}): grant the user that right, or let another user create"
        " the tables",
        "42P01": "has lost a table ({error}): restore it from a backup",
        "53100": "is on a full disk ({error}): free some space, and run again",
        "55P03": "is locked by another program ({error}): wait for it to end",
    }
)
"""What is wrong and what to do, by SQLSTATE. ``{error}`` is the server's message."""

# No attempt to connect succeeds later in these cases. libpq has no code for them.
_REFUSALS = (
    "authentication failed",
    "no password supplied",
    "does not exist",
    "no pg_hba.conf",
    "ProactorEventLoop",  # the default of Windows, on which psycopg cannot work
)


class UnreachableError(Exception):
    """The server could not be connected, the connection was lost, or no answer came in time."""


def describe_error(error: Exception) -> str:
    """Return the error's type and message in one line."""
    message = " ".join(str(error).split())
    return message if isinstance(error, UnreachableError) else f"{type(error).__name__}: {message}"


def is_refusal(error: Exception) -> bool:
    """Return whether the server refuses this user, so that repeating does not help."""
    if isinstance(error, UnreachableError):
        return any(words in str(error) for words in _REFUSALS)
    return isinstance(error, psycopg.errors.InsufficientPrivilege)


def explain_error(error: Exception, advice: Mapping[str, str] = ADVICE) -> str:
    """Return what is wrong and what to do, to follow the name of what is on the server."""
    if isinstance(error, UnreachableError):
        text = "cannot be reached ({error}): check that the server runs and accepts this user"
    else:
        text = advice.get(getattr(error, "sqlstate", None) or "", "cannot be used ({error})")
    return text.format(error=" ".join(str(error).split()))
