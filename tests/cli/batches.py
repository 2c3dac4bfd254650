"""Files of rows, and what a batch has printed of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kling_async.journal.sqlite.journal import SqliteJournal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kling_async.journal.base import Summary
    from tests.cli.conftest import Ended

TEXT = {"mode": "master-text-to-video", "prompt": "a fox"}


def write_rows(folder: Path, count: int = 3, **more: object) -> Path:
    """Write a file of rows with the keys a, b, c and so on."""
    path = folder / "clips.jsonl"
    rows = [{**TEXT, "key": "abcdefghijklmnopqrstuvwxyz"[n], **more} for n in range(count)]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def keys_of(ended: Ended) -> list[str]:
    """Return the keys of the rows that a batch has printed."""
    return keys_in(ended.out)


def keys_in(out: str) -> list[str]:
    """Return the keys of the rows in the output of a batch."""
    return sorted(line.split("\t")[0] for line in out.splitlines())


def counts_of(ended: Ended) -> Mapping[str, int]:
    """Read the table of states that the summary has."""
    pairs = [line.split() for line in ended.err.splitlines() if line.startswith("  ")]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


async def summary_of(folder: Path) -> Summary:
    """Return the summary of the journal beside the rows."""
    async with SqliteJournal(folder / "clips.jsonl.journal.sqlite", read_only=True) as journal:
        return await journal.summary()
