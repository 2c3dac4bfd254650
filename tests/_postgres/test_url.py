from __future__ import annotations

import pytest

from kling_async._postgres.url import split_url
from kling_async.errors import ConfigurationError

SECRET = "s3cret"


def test_split() -> None:
    """A valid URL is split like any other."""
    parts = split_url("postgresql://me:a%40b@h:5433/db?sslmode=require")
    assert (parts.hostname, parts.port, parts.path, parts.query) == (
        "h",
        5433,
        "/db",
        "sslmode=require",
    )


@pytest.mark.parametrize("password", ["s3cret@x", "s3cret/x", "s3cret?x", "s3cret#x", "s3cret["])
def test_a_password_that_is_not_quoted(password: str) -> None:
    """A URL is invalid if a part of the password could be another part of it."""
    with pytest.raises(ConfigurationError, match="%40") as raised:
        split_url(f"postgresql://me:{password}@h/db")
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None
