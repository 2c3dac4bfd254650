"""The URL of a PostgreSQL journal, and the parts of it that may be shown."""

from __future__ import annotations

from typing import TypeGuard
from urllib.parse import parse_qsl, quote, urlencode

from attrs import field, frozen

from kling_async._postgres.url import split_url
from kling_async.errors import ConfigurationError

SCHEMES = ("postgresql://", "postgres://")

_DEFAULT_BATCH = "default"

# What may be shown. Of other parameters it is not known what they reveal.
_PUBLIC = frozenset(
    {
        "host",
        "port",
        "dbname",
        "user",
        "sslmode",
        "application_name",
        "connect_timeout",
        "keepalives",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_count",
        "target_session_attrs",
    }
)

# Enough for any name, and short enough for an error message.
_LONGEST = 200


def is_postgres_url(location: object) -> TypeGuard[str]:
    """Return whether a journal's location is the URL of a server."""
    return isinstance(location, str) and location.lower().startswith(SCHEMES)


@frozen
class Address:
    """A database, and the name of a batch in it.

    ``str(address)`` contains neither the password nor other secrets.

    Attributes:
        conninfo: The URL for libpq.
        batch: The name of the batch.
        url: The URL of the batch without secrets.
    """

    conninfo: str = field(repr=False)
    batch: str
    url: str
    _shown: str

    def __str__(self) -> str:
        return self._shown

    @classmethod
    def parse(cls, url: str, batch: str | None = None) -> Address:
        """Parse a URL such as ``postgresql://user@host/database?batch=foxes``.

        Args:
            url: As libpq takes it, with the batch's name as another parameter.
            batch: The batch's name, if the URL does not contain it. Without both it is
                ``default``.

        Raises:
            ConfigurationError: The URL or the name is invalid.
        """
        if not is_postgres_url(url):
            raise ConfigurationError("a PostgreSQL journal's URL begins with postgresql://")
        parts = split_url(url)
        login, _, host = parts.netloc.rpartition("@")
        params = parse_qsl(parts.query, keep_blank_values=True)
        names = [value for key, value in params if key == "batch"]
        if batch is not None and names and names != [batch]:
            raise ConfigurationError(f"the batch has two names: {names[0]!r} and {batch!r}")
        name = batch or (names[0] if names else _DEFAULT_BATCH)
        if not name.isprintable() or len(name) > _LONGEST or name.strip() != name:
            raise ConfigurationError(f"a batch's name must be printable text, not {name!r:.80}")
        others = [(key, value) for key, value in params if key != "batch"]
        query = urlencode(others, quote_via=quote)  # to libpq, + is not a blank
        user = login.partition(":")[0]
        shown = f"postgresql://{user}{'@' * bool(user)}{host}{parts.path}"
        public = [pair for pair in params if pair[0] in _PUBLIC]
        public += [("batch", name)] if name != _DEFAULT_BATCH else []
        suffix = f"?{urlencode(public, quote_via=quote)}" if public else ""
        return cls(
            f"postgresql://{parts.netloc}{parts.path}?{query}",
            name,
            f"{shown}{suffix}",
            f"{shown} (batch {name})",
        )
