from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest

from kling_async import Batch, KlingClient, Outcome
from kling_async.journal.sqlite.journal import SqliteJournal

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable
    from pathlib import Path

    from kling_async import Item
    from kling_async.inputs.base import Input
    from kling_async.journal.base import ItemState, Journal


class RunBatch(Protocol):
    async def __call__(
        self,
        kling: KlingClient,
        items: Iterable[Input | Item] | None,
        journal: str | os.PathLike[str] | Journal | None = None,
        **options: Any,  # noqa: ANN401
    ) -> list[Outcome]: ...


class ReadHistories(Protocol):
    async def __call__(self) -> dict[str, list[ItemState]]: ...


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Say where the journal is."""
    return tmp_path / "run.sqlite"


@pytest.fixture
def run(path: Path) -> RunBatch:
    """Open a batch, run it to its end, and give the outcomes as they came."""

    async def run(
        kling: KlingClient,
        items: Iterable[Input | Item] | None,
        journal: str | os.PathLike[str] | Journal | None = None,
        **options: Any,  # noqa: ANN401
    ) -> list[Outcome]:
        async with Batch(kling, journal=journal or path, **options) as batch:
            return [outcome async for outcome in batch.run(items)]

    return run


@pytest.fixture
def histories(path: Path) -> ReadHistories:
    """Read what the journal says of each item: all its states, the last is where it stands."""

    async def histories() -> dict[str, list[ItemState]]:
        async with SqliteJournal(path, read_only=True) as journal:
            keys = [entry.key async for entry in journal.entries()]
            return {key: [move.state for move in await journal.history(key)] for key in keys}

    return histories
