"""What a file of rows asks for: checked as a whole, beside what its journal has of it."""

from __future__ import annotations

import asyncio
import pickle
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Self

from attrs import evolve, frozen

from kling_async.batch.decisions import Item, Step, content_key, next_step
from kling_async.cli.row_rules import row_input
from kling_async.cli.text_file import spool
from kling_async.errors import ConfigurationError, InputError, Problem
from kling_async.journal.base import ItemState
from kling_async.journal.opening import journal_at
from kling_async.policy.durations import Kind, vendor_estimate

if TYPE_CHECKING:
    from pathlib import Path

    from kling_async.batch.options import BatchOptions
    from kling_async.limits.base import Limits

# Rows between two looks at what else the loop has to do.
_SLICE = 100

# Seconds, for what the vendor has given no figures of.
_USUAL = 90.0

# Requests for a task: its submit, and what it is asked after when there is little to ask with.
_REQUESTS = 3


@frozen
class Known:
    """What a journal has of an item.

    Attributes:
        content: A checksum of its input.
        state: How it stands.
        step: What comes next.
    """

    content: int
    state: ItemState
    step: Step


async def known(journal: Path | str, options: BatchOptions) -> dict[int, Known]:
    """Read what a journal has, by the hashes of the keys.

    Raises:
        JournalError: It cannot be read.
    """
    found = {}
    async with journal_at(journal, read_only=True) as opened:
        async for entry in opened.entries():
            # As it is as soon as a batch opens it, or its worker has died.
            if entry.state is ItemState.SUBMITTING and not opened.shared:
                entry = evolve(entry, state=ItemState.UNSURE)  # noqa: PLW2901 - the same item
            step = next_step(entry, options, fresh=False)
            found[hash(entry.key)] = Known(hash(content_key(entry.input)), entry.state, step)
    return found


class Plan:
    """The good rows of a file, in a temporary file, so that very many need no memory.

    Use it as a context manager. What is done with the file afterwards changes nothing.

    Attributes:
        rows: How many rows are to be done.
        steps: What they need next.
        states: How those stand that the journal has, and that need nothing more.
        wrong: What is wrong with the others, one line for each.
        without_mode: How many of the rows to be done name no mode.
        strangers: How many items the journal has that are not in the file.
        foreign: How many tasks run of which none is in the file, as if the journal were another
            file's.
    """

    def __init__(self) -> None:
        self.rows: int = 0
        self.steps: Counter[Step] = Counter()
        self.states: Counter[ItemState] = Counter()
        self.wrong: list[str] = []
        self.without_mode: int = 0
        self.strangers: int = 0
        self.foreign: int = 0
        self._problems: list[Problem] = []
        self._work = self._longest = 0.0
        self._spool = spool()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()

    async def read(
        self,
        rows: Iterable[tuple[int, dict[str, object] | InputError]],
        journal: Mapping[int, Known],
        limit: int | None = None,
    ) -> None:
        """Check all rows, and take the good ones, or the first of them.

        Raises:
            InputError: The file cannot be read.
            ConfigurationError: There is no room for temporary files.
        """
        numbers: dict[int, int] = {}
        try:
            for count, (number, row) in enumerate(rows, 1):
                if count % _SLICE == 0:
                    await asyncio.sleep(0)
                self._check(number, row, journal, numbers, limit)
            self._spool.flush()
        except OSError as error:
            told = f"no room for temporary files: {error.strerror or error}; set TMPDIR to a folder"
            raise ConfigurationError(f"{told} that has some") from None
        strangers = [had for key, had in journal.items() if key not in numbers]
        self.strangers = len(strangers)
        if len(strangers) == len(journal):
            self.foreign = sum(had.state is ItemState.SUBMITTED for had in strangers)

    def complaint(self) -> InputError:
        """Return what is wrong with the rows as one error."""
        return InputError("\n".join(self.wrong), problems=self._problems)

    def items(self) -> Iterator[Item]:
        """Go through the good rows, in the order of the file."""
        self._spool.seek(0)
        for _ in range(self.rows):
            item = pickle.load(self._spool)  # noqa: S301 - ours, and nobody else can open it
            assert isinstance(item, Item)  # noqa: S101 - for the type checker
            yield item

    def estimate(self, limits: Limits, in_flight: int | None = None) -> float:
        """Return about how many seconds it will take, by the vendor's word."""
        tasks = self.steps[Step.SUBMIT] + self.steps[Step.RESUBMIT] + self.steps[Step.WAIT]
        slots = min(limits.concurrent_tasks, in_flight or limits.concurrent_tasks)
        waves = self._work / slots if tasks > slots else 0.0
        return max(waves, tasks * _REQUESTS * 60 / limits.requests_per_minute) + self._longest

    def _check(
        self,
        number: int,
        row: dict[str, object] | InputError,
        journal: Mapping[int, Known],
        numbers: dict[int, int],
        limit: int | None,
    ) -> None:
        """Take a row, or complain of it."""
        try:
            item, content = _item(row)
            had = journal.get(hash(item.key))
            first = numbers.setdefault(hash(item.key), number)
            _refuse(item.key, content, had, first if first != number else None)
        except InputError as error:
            self.wrong.append(f"row {number}: {error}")
            self._problems += error.problems
        else:
            if limit is None or self.rows < limit:
                self._take(item, had)
                self.without_mode += isinstance(row, dict) and "mode" not in row

    def _take(self, item: Item, had: Known | None) -> None:
        step = had.step if had else Step.SUBMIT
        self.rows += 1
        self.steps[step] += 1
        if had is not None and step is Step.REPORT:
            self.states[had.state] += 1
        elif step is not Step.SAVE:
            seconds = _usual(item.input.model, getattr(item.input, "duration", None))
            self._work += seconds
            self._longest = max(self._longest, seconds)
        pickle.dump(item, self._spool)


def _item(row: dict[str, object] | InputError) -> tuple[Item, str]:
    """Make the item of a row, and the checksum of its input."""
    if isinstance(row, InputError):
        raise row
    fields = {name: value for name, value in row.items() if name != "key"}
    sent = row_input(fields)
    content = content_key(sent.to_dict())
    return Item(row.get("key", content), sent), content  # type: ignore[arg-type]  # it checks that itself


def _refuse(key: str, content: str, had: Known | None, first: int | None) -> None:
    """Refuse a row that has the key of another, or one that the journal has otherwise."""
    if first is not None and key == content:
        raise InputError(f"the same as row {first}: give it a key of its own to have two videos")
    if first is not None:
        raise InputError(f"key {key!r} is that of row {first}, too")
    if had is not None and had.content != hash(content):
        raise InputError(
            f"the journal has key {key!r} with another input: give it another key, or use"
            " another journal"
        )


@cache
def _usual(model: str, duration: int | None) -> float:
    durations = vendor_estimate(Kind(model, duration=duration))
    return (durations.early + durations.late) / 2 if durations else _USUAL
