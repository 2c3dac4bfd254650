from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from kling_async.errors import ConfigurationError
from kling_async.journal.address import Address, is_postgres_url

SECRET = "s3cret"


def test_the_conninfo() -> None:
    """Everything in the URL but the batch goes to libpq, and what it does not say is filled in."""
    address = Address.parse("postgresql://me:s3cret@h:5433/db?batch=foxes&sslmode=require")
    parameters = conninfo_to_dict(address.conninfo)
    assert (
        parameters.items()
        >= {
            "user": "me",
            "password": SECRET,
            "host": "h",
            "port": "5433",
            "dbname": "db",
            "sslmode": "require",
        }.items()
    )


def test_what_the_url_says_counts() -> None:
    """What the URL says of a connection is not overruled, and blanks reach libpq as such."""
    address = Address.parse("postgresql://h/db?connect_timeout=3&application_name=a+b%20c")
    parameters = conninfo_to_dict(address.conninfo)
    assert (parameters["connect_timeout"], parameters["application_name"]) == ("3", "a b c")


@pytest.mark.parametrize(
    ("url", "name", "batch"),
    [
        ("postgresql://h/db", None, "default"),
        ("postgres://h/db", "a b", "a b"),
        ("postgresql://h/db?batch=a%20b", None, "a b"),
        ("postgresql://h/db?batch=a", "a", "a"),
        ("POSTGRESQL://h/db?batch=ä", None, "ä"),
    ],
)
def test_the_batch(url: str, name: str | None, batch: str) -> None:
    """The batch's name is in the URL or beside it, or it is the usual one."""
    assert Address.parse(url, name).batch == batch


def test_what_is_shown() -> None:
    """An address is shown without its password, in words and as a value."""
    address = Address.parse("postgresql://me:s3cret@h:5433/db?batch=foxes&password=s3cret")
    assert str(address) == "postgresql://me@h:5433/db (batch foxes)"
    assert address.url == "postgresql://me@h:5433/db?batch=foxes"
    again = Address.parse("postgres://h/db?sslpassword=s3cret&sslmode=require&batch=a%26b")
    assert again.url == "postgresql://h/db?sslmode=require&batch=a%26b"
    hidden = "scram_client_key=s3cret&sslcert=s3cret&options=s3cret&new=s3cret"
    public = "dbname=db&port=5433&connect_timeout=3&keepalives=1&keepalives_idle=2"
    many = Address.parse(f"postgresql://h?{hidden}&{public}&target_session_attrs=any")
    assert many.url == f"postgresql://h?{public}&target_session_attrs=any"
    assert SECRET not in repr(many)
    assert Address.parse("postgresql://h").url == "postgresql://h"
    assert SECRET not in repr(address)
    assert str(Address.parse("postgresql:///db")) == "postgresql:///db (batch default)"


@pytest.mark.parametrize(
    ("url", "name", "message"),
    [
        ("postgresql://me:s3cret@x@h/db", None, "%40"),
        ("postgresql://me:s3cret/x@h/db", None, "%40"),
        ("postgresql://me:s3cret?x@h/db", None, "%40"),
        ("postgresql://me:s3cret#x@h/db", None, "%40"),
        ("postgresql://me:s3cret[@h/db", None, "%40"),
        ("mysql://me:s3cret@h/db", None, "begins with postgresql://"),
        ("postgresql://me:s3cret@h/db?batch=a", "b", "two names: 'a' and 'b'"),
        ("postgresql://me:s3cret@h/db?batch=a%0A", None, "printable"),
        ("postgresql://me:s3cret@h/db", " a", "printable"),
        ("postgresql://me:s3cret@h/db", "x" * 201, "printable"),
    ],
)
def test_what_is_none(url: str, name: str | None, message: str) -> None:
    """What cannot be an address is refused, without showing the password."""
    with pytest.raises(ConfigurationError, match=message) as raised:
        Address.parse(url, name)
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize(
    ("place", "answer"),
    [
        ("postgresql://h/db", True),
        ("postgres://", True),
        ("Postgresql://h", True),
        ("postgresql", False),
        ("a/postgresql://h", False),
        ("run.sqlite", False),
        (b"postgresql://h", False),
    ],
)
def test_what_is_one(place: object, *, answer: bool) -> None:
    """What begins as a URL of PostgreSQL's is meant as one."""
    assert is_postgres_url(place) is answer
