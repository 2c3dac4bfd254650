from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def db(batch_url: str) -> Iterator[psycopg.Connection]:
    """Connect to the database."""
    with psycopg.connect(batch_url.partition("?")[0], autocommit=True) as db:
        yield db
