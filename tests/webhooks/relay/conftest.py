from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.engines.postgres import Server


@pytest.fixture(scope="module")
def database(postgres_server: Server) -> Iterator[str]:
    """Create one database for all tests of a module: that takes longer than most of them."""
    with postgres_server.database("relay") as url:
        yield url


@pytest.fixture
def postgres_url(database: str) -> Iterator[str]:
    """Return the URL of a database with nothing in it."""
    yield database
    with psycopg.connect(database, autocommit=True) as db:
        db.execute("DROP TABLE IF EXISTS kling_async_callbacks")


@pytest.fixture(params=["redis", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    """Return the URL of each kind of server in turn, with nothing in it."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def db(postgres_url: str) -> Iterator[psycopg.Connection]:
    """Connect to the PostgreSQL as its operator does."""
    with psycopg.connect(postgres_url, autocommit=True) as db:
        yield db
