"""The check of a ``postgresql://`` URL, which needs no driver."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from kling_async.errors import ConfigurationError


def split_url(url: str) -> SplitResult:
    """Split a URL that libpq reads in the same way.

    libpq takes what follows the first ``@`` for the host, and shows the host in its errors.

    Raises:
        ConfigurationError: A part of a password could be taken for another part of the URL.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # its text may contain the password
        raise invalid_url() from None
    login = parts.netloc.rpartition("@")[0]
    if "@" in f"{login}{parts.path}{parts.query}" or parts.fragment:
        raise invalid_url()
    return parts


def invalid_url() -> ConfigurationError:
    """Return the error for a URL that cannot be read, without any part of the URL."""
    return ConfigurationError(
        "invalid postgresql:// URL: write an @, /, ? or # in a password as %40, %2F, %3F or %23"
    )
