"""``kling-async report``: the state of every item of a journal."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from attrs import evolve

from kling_async._display.contact_sheet import Card, Fact, Video, render_page
from kling_async._display.result_cards import input_pictures, relative_path
from kling_async._utils.files import format_os_error
from kling_async._utils.text import printable
from kling_async.cli import exit_codes
from kling_async.cli.outcomes import STATE_NAMES, state_lines
from kling_async.cli.output import Output
from kling_async.cli.process import failure_of
from kling_async.cli.row_files import write_csv_row
from kling_async.cli.row_values import COLUMNS
from kling_async.errors import ConfigurationError
from kling_async.journal.base import Entry, ItemState
from kling_async.journal.opening import journal_at, redact_location

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import AsyncIterator, Iterator

    from kling_async.journal.base import Journal
    from kling_async.results import SavedFile

# The order of the table and the page, which show only the first items.
_ORDER = (
    ItemState.UNSURE,
    ItemState.FAILED,
    ItemState.SUBMITTING,
    ItemState.SUBMITTED,
    ItemState.PLANNED,
    ItemState.FINISHED,
    ItemState.SAVED,
)
_MAX_LINES = 100
_MAX_CARDS = 1000

_BAD = (ItemState.FAILED, ItemState.UNSURE)


def _place_of(file: SavedFile) -> str:
    """Return the URL of a file in an archive, or its name in a folder."""
    return f"{file.archive}/{file.name}" if file.archive else file.name


# The state of an item as plain values, which are columns of the CSV too.
_FIELDS: Mapping[str, Callable[[Entry], object]] = {
    "state": lambda entry: entry.state.value,
    "attempt": lambda entry: entry.attempt,
    "changed_at": lambda entry: entry.changed_at.isoformat(),
    "ref": lambda entry: entry.ref and str(entry.ref),
    "result_urls": lambda entry: list(entry.result.result_urls) if entry.result else [],
    "cost_time": lambda entry: entry.result and entry.result.cost_time,
    "files": lambda entry: [_place_of(file) for file in entry.files],
    "problems": lambda entry: [
        problem.value for file in entry.files if file.media for problem in file.media.problems
    ],
    "error": lambda entry: entry.failure and entry.failure.message,
    "fail_code": lambda entry: entry.failure and entry.failure.fail_code,
    "reason": lambda entry: entry.failure and entry.failure.reason and entry.failure.reason.value,
    "may_have_charged": lambda entry: bool(entry.failure and entry.failure.may_have_charged),
}


async def run_report(args: Namespace) -> int:
    """Write the report in its format; of a page, print the path."""
    form = "json" if args.json and args.format == "table" else args.format
    async with journal_at(args.journal, read_only=True) as journal:
        if args.format == "html":
            page = str(await _write_html(args, journal))
            Output(json=args.json).print_result([page], {"page": page})
        else:
            write = {"table": _write_table, "csv": _write_csv, "json": _write_json}[form]
            with _open_output(args.output, is_csv=form == "csv") as stream:
                await write(journal, stream)
    return exit_codes.OK


async def _write_table(journal: Journal, stream: TextIO) -> None:
    summary = await journal.summary()
    stream.writelines(f"{line}\n" for line in state_lines(summary.counts))
    stream.write(f"Tasks that may have cost money: {summary.attempts:,}\n\n")
    async for entry in _first_entries(journal, _MAX_LINES):
        key, text = printable(entry.key), printable(_describe(entry))
        stream.write(f"{key:<32} {STATE_NAMES[entry.state]:<10} {text}".rstrip() + "\n")
    if (more := sum(summary.counts.values()) - _MAX_LINES) > 0:
        stream.write(f"and {more:,} more; --format csv has all of them\n")


async def _write_csv(journal: Journal, stream: TextIO) -> None:
    write_csv_row(stream, [*COLUMNS, *_FIELDS])
    async for entry in journal.entries():
        fields = (entry.input.get(name) for name in COLUMNS[1:])
        given = (json.dumps(value) if isinstance(value, dict) else value for value in fields)
        values = [value_of(entry) for value_of in _FIELDS.values()]
        cells = (" ".join(value) if isinstance(value, list) else value for value in values)
        write_csv_row(stream, [entry.key, *given, *cells])
        if failure_of(stream):
            return


async def _write_json(journal: Journal, stream: TextIO) -> None:
    async for entry in journal.entries():
        state = {name: value_of(entry) for name, value_of in _FIELDS.items()}
        fields = {"key": entry.key, "input": entry.input, **state}
        stream.write(f"{json.dumps(fields)}\n")
        if failure_of(stream):
            return


async def _write_html(args: Namespace, journal: Journal) -> Path:
    is_file = isinstance(args.journal, Path)
    name = args.journal.name if is_file else redact_location(args.journal)
    videos: Path = args.videos or (args.journal.parent if is_file else Path())
    place: Path = args.output or videos / "index.html"
    entries = [entry async for entry in _first_entries(journal, _MAX_CARDS)]
    counts = (await journal.summary()).counts
    total = sum(counts.values())
    facts = [
        Fact(f"{counts[state]:,}", name, bad=state in _BAD)
        for state, name in STATE_NAMES.items()
        if counts[state]
    ]
    if len(entries) < total:
        facts.append(Fact(f"{len(entries):,}", "are shown", before=f"of {total:,}"))

    def write_page() -> Path:
        cards = [card for entry in entries for card in _cards_of(entry, videos, place.parent)]
        with _open_output(place) as stream:
            stream.write(render_page(cards, facts, f"Made from {name}."))
        return place.resolve()

    return await asyncio.to_thread(write_page)


async def _first_entries(journal: Journal, limit: int) -> AsyncIterator[Entry]:
    """Yield the first items, those that need attention before the others."""
    for state in _ORDER:
        async for entry in journal.entries(state):
            yield entry
            limit -= 1
            if not limit:
                return


def _describe(entry: Entry) -> str:
    """Return the files, the URLs, the reference or the error of an item."""
    if entry.state in _BAD and entry.failure is not None:
        return entry.failure.message
    if entry.files:
        return " ".join(map(_place_of, entry.files))
    if entry.result is not None:
        return " ".join(entry.result.result_urls)
    return str(entry.ref or "")


def _cards_of(entry: Entry, videos: Path, folder: Path) -> Iterator[Card]:
    """Yield a card for each file of an item, or one with its state."""
    card = Card(
        entry.key,
        entry.input,
        input_pictures(entry.input, folder),
        cost_time=entry.result.cost_time if entry.result else None,
        state=STATE_NAMES[entry.state].capitalize(),
    )
    if not entry.files:
        yield evolve(card, failure=_describe(entry), ended=entry.state in _BAD)
    for number, file in enumerate(entry.files, 1):
        label = entry.key if number == 1 else f"{entry.key} ({number})"
        path = None if file.archive else relative_path(videos / file.name, folder)
        if path is None:
            missing = f"{file.name} is not in {videos}: see --videos"
            yield evolve(card, label=label, failure=_place_of(file) if file.archive else missing)
        else:
            media = None if file.media is None else file.media.to_dict()
            yield evolve(card, label=label, video=Video(path, file.size_bytes, media=media))


@contextmanager
def _open_output(place: Path | None, *, is_csv: bool = False) -> Iterator[TextIO]:
    if place is None:
        if is_csv and (reconfigure := getattr(sys.stdout, "reconfigure", None)):
            reconfigure(encoding="utf-8")
        yield sys.stdout
        return
    try:
        # The byte order mark is how spreadsheets recognize UTF-8.
        encoding = "utf-8-sig" if is_csv else "utf-8"
        with place.open("w", encoding=encoding, newline="\n") as stream:
            yield stream
    except OSError as error:
        raise ConfigurationError(f"cannot write {place}: {format_os_error(error)}") from None
