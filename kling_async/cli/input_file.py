"""The rows of an input file: checked as a whole, and compared with the items of a journal."""

from __future__ import annotations

import asyncio
import os
import pickle
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Self

from attrs import evolve, frozen

from kling_async._utils.files import format_os_error
from kling_async._utils.text import format_count
from kling_async.batch.decisions import Item, Step, content_key, next_step
from kling_async.cli.row_values import DEFAULT_MODE, InvalidRows, has_default_mode, row_input
from kling_async.cli.text_file import temporary_file
from kling_async.errors import ConfigurationError, InputError
from kling_async.journal.base import ItemState
from kling_async.journal.opening import journal_at
from kling_async.policy.durations import Kind, vendor_estimate
from kling_async.tasks.task_registry import kind_of

if TYPE_CHECKING:
    from kling_async.batch.options import BatchOptions
    from kling_async.inputs.base import Input
    from kling_async.limits.base import Limits

# Rows that are checked before other tasks of the loop may run.
_SLICE = 100

# Seconds, where the vendor gives no figures.
_USUAL = 90.0

# Requests for a task: its submit, and the fewest polls.
_REQUESTS = 3


@frozen
class JournaledItem:
    """An item of a journal: a checksum of its input, its state, and its next step."""

    content: int
    state: ItemState
    step: Step


async def read_journal(journal: Path | str, options: BatchOptions) -> dict[int, JournaledItem]:
    """Return the items of a journal by the hashes of their keys."""
    found = {}
    async with journal_at(journal, read_only=True) as opened:
        async for entry in opened.entries():
            # As soon as a batch opens the journal, or the item's worker has died.
            if entry.state is ItemState.SUBMITTING and not opened.shared:
                entry = evolve(entry, state=ItemState.UNSURE)  # noqa: PLW2901 - the same item
            step = next_step(entry, options, fresh=False)
            content = hash(content_key(entry.input))
            found[hash(entry.key)] = JournaledItem(content, entry.state, step)
    return found


class InputFile:
    """The valid rows of a file, as items in a temporary file: very many need no memory.

    Use it as a context manager. Later changes of the input file have no effect.

    Args:
        folder: The folder of the file: paths of images are relative to it.
        fix_images: Images that can be corrected are valid.
    """

    def __init__(self, folder: str | Path = "", *, fix_images: bool = False) -> None:
        self.rows: int = 0
        self.invalid: InvalidRows = InvalidRows()
        self.without_mode: int = 0
        # By what the journal has: rows by their next step; those that need none by their state.
        self.steps: Counter[Step] = Counter()
        self.states: Counter[ItemState] = Counter()
        # Items of the journal that are not in the file, and if that is all of them, running tasks:
        # it may be the journal of another file.
        self.not_in_file: int = 0
        self.foreign: int = 0
        self._work = self._longest = 0.0
        self._items = temporary_file()
        self._folder = Path(folder)
        self._fix_images = fix_images

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._items.close()

    async def read(
        self,
        rows: Iterable[tuple[int, dict[str, object] | InputError]],
        journal: Mapping[int, JournaledItem],
        limit: int | None = None,
    ) -> None:
        """Check all rows and store the valid ones, or the first ``limit`` of them."""
        numbers: dict[int, int] = {}
        try:
            for count, (number, row) in enumerate(rows, 1):
                if count % _SLICE == 0:
                    await asyncio.sleep(0)
                try:
                    if isinstance(row, InputError):
                        raise row
                    item = _check_row(number, row, await self._parse(row), journal, numbers)
                except InputError as error:
                    self.invalid.add(number, error)
                    continue
                if limit is None or self.rows < limit:
                    self._add(item, journal.get(hash(item.key)))
                    self.without_mode += has_default_mode(row)
            self._items.flush()
        except OSError as error:
            raise ConfigurationError(
                f"no room for temporary files: {format_os_error(error)}; set TMPDIR to a folder"
                " that has some"
            ) from None
        missing = [item for key, item in journal.items() if key not in numbers]
        self.not_in_file = len(missing)
        if len(missing) == len(journal):
            self.foreign = sum(item.state is ItemState.SUBMITTED for item in missing)

    def items(self) -> Iterator[Item]:
        """Yield the items in the order of the file."""
        self._items.seek(0)
        for _ in range(self.rows):
            item = pickle.load(self._items)  # noqa: S301 - no other process can open this file
            assert isinstance(item, Item)  # noqa: S101 - for the type checker
            yield item

    def remarks(self) -> Iterator[str]:
        """Yield what the user may not have intended."""
        if self.without_mode:
            rows = format_count(self.without_mode, "row")
            yield f"{rows} without a mode: {DEFAULT_MODE} is assumed"
        if self.not_in_file:
            yield f"{format_count(self.not_in_file, 'item')} of the journal not in the file"

    def estimate(self, limits: Limits, in_flight: int | None = None) -> float:
        """Return how many seconds all rows will take, according to the vendor's figures."""
        tasks = self.steps[Step.SUBMIT] + self.steps[Step.RESUBMIT] + self.steps[Step.WAIT]
        slots = min(limits.concurrent_tasks, in_flight or limits.concurrent_tasks)
        waves = self._work / slots if tasks > slots else 0.0
        return max(waves, tasks * _REQUESTS * 60 / limits.requests_per_minute) + self._longest

    async def _parse(self, row: Mapping[str, object]) -> Input:
        """Return the input of a row; its local images have been read and checked."""
        fields = {name: value for name, value in row.items() if name != "key"}
        sent = row_input(fields, self._folder)
        if not sent.local_images:
            return sent
        from kling_async.images.reading import inspect_images, no_store_error

        if not os.environ.get("KLING_IMAGE_STORE"):
            raise no_store_error(sent)
        return await inspect_images(sent, fixing=self._fix_images)

    def _add(self, item: Item, journaled: JournaledItem | None) -> None:
        step = journaled.step if journaled else Step.SUBMIT
        self.rows += 1
        self.steps[step] += 1
        if journaled is not None and step is Step.REPORT:
            self.states[journaled.state] += 1
        elif step is not Step.SAVE:
            seconds = _usual_duration(kind_of(item.input))
            self._work += seconds
            self._longest = max(self._longest, seconds)
        pickle.dump(item, self._items)


def _check_row(
    number: int,
    row: Mapping[str, object],
    sent: Input,
    journal: Mapping[int, JournaledItem],
    numbers: dict[int, int],
) -> Item:
    """Return the item of a row, and store the row's number under the hash of its key."""
    content = content_key(sent.to_dict())
    item = Item(row.get("key", content), sent)  # type: ignore[arg-type]  # Item checks the key
    key = hash(item.key)
    first = numbers.setdefault(key, number)
    if first != number and item.key == content:
        raise InputError(f"the same as row {first}: give it a key of its own to have two videos")
    if first != number:
        raise InputError(f"row {first} has the key {item.key!r}, too")
    if key in journal and journal[key].content != hash(content):
        raise InputError(
            f"the journal has key {item.key!r} with another input: give it another key, or use"
            " another journal"
        )
    return item


@cache
def _usual_duration(kind: Kind) -> float:
    durations = vendor_estimate(kind)
    return durations.mean if durations else _USUAL
