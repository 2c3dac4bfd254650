"""The URL of a PostgreSQL journal: what is told of it, and what is not."""

from __future__ import annotations

from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from attrs import field, frozen

from kling_async._utils.backends import POSTGRES_DEFAULTS
from kling_async.errors import ConfigurationError

SCHEMES = ("postgresql://", "postgres://")

_UNNAMED = "default"

# What is told to others than libpq. Of what is not among these it is not known what it tells.
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

# Enough for any name that somebody gave, and little enough for an error message.
_LONGEST = 200


def is_address(place: object) -> bool:
    """Whether a journal is meant that is on a server, not a file."""
    return isinstance(place, str) and place.lower().startswith(SCHEMES)


@frozen
class Address:
    """Where a batch is: a database, and the batch's name in it.

    ``str(address)`` tells it to people, without the password and whatever else may be secret.

    Raises:
        ConfigurationError: It is none.
    """

    conninfo: str = field(repr=False)
    batch: str
    url: str  # with nothing that may be secret
    _shown: str

    def __str__(self) -> str:
        return self._shown

    @classmethod
    def parse(cls, url: str, batch: str | None = None) -> Address:
        """Read a URL such as ``postgresql://user@host/database?batch=foxes``.

        Args:
            url: As libpq takes it, and the batch's name beside it.
            batch: The batch's name, if it is not in the URL; ``default`` if it is nowhere.
        """
        if not is_address(url):
            raise ConfigurationError("a PostgreSQL journal's URL begins with postgresql://")
        try:
            parts = urlsplit(url)
        except ValueError:  # which may show the password
            raise _unreadable() from None
        login, _, where = parts.netloc.rpartition("@")
        # libpq would take what follows the first @ for the host, and tell it in its errors.
        if "@" in login or "@" in parts.path or "@" in parts.query or parts.fragment:
            raise _unreadable()
        params = parse_qsl(parts.query, keep_blank_values=True)
        named = [value for name, value in params if name == "batch"]
        if batch is not None and named and named != [batch]:
            raise ConfigurationError(f"the batch is named twice: {named[0]!r} and {batch!r}")
        name = batch or (named[0] if named else _UNNAMED)
        if not name.isprintable() or len(name) > _LONGEST or name.strip() != name:
            raise ConfigurationError(f"a batch's name must be printable text, not {name!r:.80}")
        others = [(key, value) for key, value in params if key != "batch"]
        others += [pair for pair in POSTGRES_DEFAULTS.items() if pair[0] not in dict(others)]
        query = urlencode(others, quote_via=quote)  # libpq knows no + for a blank
        conninfo = f"postgresql://{parts.netloc}{parts.path}?{query}"
        user = login.partition(":")[0]
        shown = f"postgresql://{user}{'@' * bool(user)}{where}{parts.path}"
        public = [pair for pair in params if pair[0] in _PUBLIC]
        public += [("batch", name)] if name != _UNNAMED else []
        asked = f"?{urlencode(public, quote_via=quote)}" if public else ""
        return cls(conninfo, name, f"{shown}{asked}", f"{shown} (batch {name})")


def _unreadable() -> ConfigurationError:
    return ConfigurationError(
        "the URL of a PostgreSQL journal cannot be read: write an @, /, ? or # in a password as"
        " %40, %2F, %3F or %23"
    )
