from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from kling_async.journal.postgres.journal import PostgresJournal
from kling_async.journal.sqlite.journal import SqliteJournal
from kling_async.testing.clock import VirtualLoop

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

UNPRIVILEGED = 65534


class MakeJournal(Protocol):
    def __call__(self, *, read_only: bool = False) -> SqliteJournal | PostgresJournal: ...


@pytest.fixture(params=["sqlite", "postgres"])
def journal_here(request: pytest.FixtureRequest) -> MakeJournal:
    """Make journals of each engine in turn, all of one place, where there is nothing yet."""
    if request.param == "sqlite":
        path = request.getfixturevalue("tmp_path") / "a"
        return lambda *, read_only=False: SqliteJournal(path, read_only=read_only)
    url = request.getfixturevalue("batch_url")
    return lambda *, read_only=False: PostgresJournal(url, read_only=read_only)


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test here on virtual time: nothing waits."""
    return {"virtual": VirtualLoop}


@pytest.fixture
def public() -> Iterator[Path]:
    """Give a folder that others may enter, which those of pytest's are not."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # noqa: PTH101, S103 - others are to read it
        yield Path(folder)


@pytest.fixture
def protected() -> Callable[[Path], AbstractContextManager[None]]:
    """Take away the right to write to a folder and its files, also from root."""
    if os.name == "nt":
        pytest.skip("rights are another matter there")

    @contextmanager
    def protected(folder: Path) -> Iterator[None]:
        rights = {path: path.stat().st_mode for path in (folder, *folder.iterdir())}
        for path in rights:
            path.chmod(0o555 if path == folder else 0o444)
        me = os.geteuid()
        if me == 0:
            os.seteuid(UNPRIVILEGED)
        try:
            yield
        finally:
            os.seteuid(me)
            for path, mode in rights.items():
                path.chmod(mode)

    return protected
