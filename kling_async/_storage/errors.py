"""The errors of object stores, as errors of this package. Signatures of URLs are not shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from kling_async._utils.text import printable
from kling_async._utils.urls import redact_signatures
from kling_async.errors import StorageError

_LONGEST: Final = 300

# What a server's XML says is wrong.
_CODE: Final = re.compile(r"<Code>([^<]{1,100})</Code>|\"message\": *\"([^\"]{1,200})")

# Where machines of clouds get credentials, which is the last thing that is tried.
_METADATA: Final = re.compile(r"169\.254\.169\.254|metadata\.google\.internal")


@contextmanager
def converting_errors(action: str, *, seconds: float) -> Iterator[None]:
    """Raise :class:`StorageError` for what an object store raises.

    Args:
        action: What failed, at the beginning of the message, such as ``cannot store a.jpg``.
        seconds: The time limit within which the block runs, for the message.
    """
    from obstore import exceptions

    # What waiting does not change; any other failure may be one of the network or the server.
    final = (
        exceptions.PermissionDeniedError,
        exceptions.UnauthenticatedError,
        exceptions.NotSupportedError,
        exceptions.InvalidPathError,
        FileNotFoundError,  # the bucket does not exist
    )
    try:
        yield
    except TimeoutError:
        raise StorageError(f"{action}: no answer in {seconds:g} s", retryable=True) from None
    except (exceptions.BaseError, OSError) as error:
        retryable = not isinstance(error, final)
        raise StorageError(f"{action}: {_reason(error)}", retryable=retryable) from None


def _reason(error: Exception) -> str:
    """Return what a store says in one line."""
    text = str(error).partition("\n\nDebug source:")[0]
    codes = [one or other for one, other in _CODE.findall(text)]
    if _METADATA.search(text):
        codes.append("no credentials in the environment, and this machine has no role")
    line = text.partition("\n")[0].partition("<?xml")[0].rstrip(" :")
    return redact_signatures(printable(": ".join((*codes, line))))[:_LONGEST]
