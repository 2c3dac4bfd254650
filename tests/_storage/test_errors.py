from __future__ import annotations

import pytest

from kling_async import StorageError
from kling_async._storage.errors import converting_errors

pytestmark = pytest.mark.slow  # they import obstore

NO_ROLE = "no credentials in the environment, and this machine has no role"
DEBUG = '\n\nDebug source:\nGeneric {\n    uri: "https://a/b?sig=SECRET"\n}'
XML = (
    'answered 404: <?xml version="1.0"?>\n<Error><Code>NoSuchBucket</Code><Message>x</Message>'
    "<Code>Other</Code></Error>"
)


def error_of(kind: str, text: str) -> Exception:
    """Return an error as obstore raises it."""
    from obstore import exceptions

    if kind == "FileNotFoundError":
        return FileNotFoundError(text)
    made: Exception = getattr(exceptions, kind)(text)
    return made


@pytest.mark.parametrize(
    ("kind", "text", "message", "retryable"),
    [
        ("GenericError", f"cut: https://a/b?sig=SECRET{DEBUG}", "cut: https://a/b?sig=…", True),
        ("PermissionDeniedError", f"403 Forbidden{DEBUG}", "403 Forbidden", False),
        ("UnauthenticatedError", "no\x1b[31m key", r"no\x1b[31m key", False),
        ("FileNotFoundError", XML + DEBUG, "NoSuchBucket: Other: answered 404", False),
        (
            "GenericError",
            "PUT http://169.254.169.254/",
            f"{NO_ROLE}: PUT http://169.254.169.254/",
            True,
        ),
        ("GenericError", "x" * 999, "x" * 300, True),
    ],
)
def test_conversion(kind: str, text: str, message: str, *, retryable: bool) -> None:
    """An error of a store becomes one line without signatures, and says whether it may pass."""
    with pytest.raises(StorageError) as caught, converting_errors("cannot do it", seconds=9):
        raise error_of(kind, text)
    assert str(caught.value) == f"cannot do it: {message}"
    assert caught.value.retryable is retryable
    assert not caught.value.may_have_charged


def test_timeout() -> None:
    """An operation that takes too long is an error that may pass."""
    with (
        pytest.raises(StorageError, match="cannot do it: no answer in 9 s") as caught,
        converting_errors("cannot do it", seconds=9),
    ):
        raise TimeoutError
    assert caught.value.retryable


def test_other_errors() -> None:
    """Other errors are not changed."""
    with pytest.raises(ZeroDivisionError), converting_errors("cannot do it", seconds=9):
        1 / 0  # noqa: B018
