"""``kling-async report``: how every item of a journal stands, for readers and for programs."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from kling_async.cli import codes
from kling_async.cli.contact_sheet import Card, Fact, Picture, Video, page
from kling_async.cli.counts import WORDS
from kling_async.cli.output import printable, write
from kling_async.cli.row_rules import COLUMNS
from kling_async.cli.spreadsheet import Writer
from kling_async.cli.streams import Guarded, failure_of
from kling_async.errors import ConfigurationError
from kling_async.journal.base import Entry, ItemState
from kling_async.journal.opening import journal_at, redact_location

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import AsyncIterator, Iterator

    from kling_async.journal.base import Journal, Summary

# Those that need a look come first: of very many items, only so many are shown.
_ORDER = (
    ItemState.UNSURE,
    ItemState.FAILED,
    ItemState.SUBMITTING,
    ItemState.SUBMITTED,
    ItemState.PLANNED,
    ItemState.FINISHED,
    ItemState.SAVED,
)
_TABLE = 100
_CARDS = 1000

# Columns of the table, in characters.
_KEY = 32
_STATE = 10

_STANDING = (
    "state",
    "attempt",
    "changed_at",
    "ref",
    "result_urls",
    "cost_time",
    "files",
    "error",
    "fail_code",
    "reason",
    "may_have_charged",
)


async def report(args: Namespace) -> int:
    """Write the report in the format that is asked for; the path of a page goes to stdout."""
    writers = {"table": _table, "csv": _csv, "json": _json}
    async with journal_at(args.journal, read_only=True) as journal:
        if args.format == "html":
            write(sys.stdout, str(await _html(args, journal)))
        else:
            with _stream(args.output, csv=args.format == "csv") as stream:
                await writers[args.format](journal, stream)
    return codes.OK


async def _table(journal: Journal, stream: TextIO) -> None:
    summary = await journal.summary()
    for state, word in WORDS.items():
        if summary.counts[state]:
            stream.write(f"{word:<{_STATE}} {summary.counts[state]:>9,}\n")
    stream.write(f"Tasks that may have cost money: {summary.attempts:,}\n\n")
    async for entry in _first(journal, _TABLE):
        key, about = printable(entry.key), printable(_about(entry))
        stream.write(f"{key:<{_KEY}} {WORDS[entry.state]:<{_STATE}} {about}".rstrip() + "\n")
    if (more := sum(summary.counts.values()) - _TABLE) > 0:
        stream.write(f"and {more:,} more; --format csv has them all\n")


async def _csv(journal: Journal, stream: TextIO) -> None:
    writer = Writer(stream)
    writer.row([*COLUMNS, *_STANDING])
    async for entry in journal.entries():
        fields = _fields(entry)
        given = (entry.input.get(name) for name in COLUMNS[1:])
        writer.row([entry.key, *given, *(_cell(fields[name]) for name in _STANDING)])
        if failure_of(stream):
            return


async def _json(journal: Journal, stream: TextIO) -> None:
    async for entry in journal.entries():
        fields = {"key": entry.key, "input": entry.input, **_fields(entry)}
        stream.write(f"{json.dumps(fields)}\n")
        if failure_of(stream):
            return


async def _html(args: Namespace, journal: Journal) -> Path:
    # A database is nowhere in particular.
    beside = args.journal.parent if isinstance(args.journal, Path) else Path()
    name = args.journal.name if isinstance(args.journal, Path) else redact_location(args.journal)
    videos: Path = args.videos or beside
    place: Path = args.output or videos / "index.html"
    entries = [entry async for entry in _first(journal, _CARDS)]
    summary = await journal.summary()

    def make() -> Path:
        cards = [card for entry in entries for card in _cards(entry, videos, place.parent)]
        sheet = page(cards, _facts(summary, len(entries)), f"Made from {name}.")
        with _stream(place) as stream:
            stream.write(sheet)
        return place.resolve()

    return await asyncio.to_thread(make)


async def _first(journal: Journal, most: int) -> AsyncIterator[Entry]:
    """Go through the first items, those that need a look before the others."""
    for state in _ORDER:
        async for entry in journal.entries(state):
            yield entry
            most -= 1
            if not most:
                return


def _about(entry: Entry) -> str:
    """Say what there is of an item, or what went wrong, on one line."""
    if entry.state in (ItemState.FAILED, ItemState.UNSURE) and entry.failure is not None:
        return entry.failure.message
    if entry.files:
        return " ".join(file.name for file in entry.files)
    if entry.result is not None:
        return " ".join(entry.result.result_urls)
    return str(entry.ref or "")


def _fields(entry: Entry) -> dict[str, object]:
    """Return how an item stands, as plain values."""
    result, failure = entry.result, entry.failure
    return {
        "state": entry.state.value,
        "attempt": entry.attempt,
        "changed_at": entry.changed_at.isoformat(),
        "ref": entry.ref and str(entry.ref),
        "result_urls": list(result.result_urls) if result else [],
        "cost_time": result and result.cost_time,
        "files": [file.name for file in entry.files],
        "error": failure and failure.message,
        "fail_code": failure and failure.fail_code,
        "reason": failure and failure.reason and failure.reason.value,
        "may_have_charged": failure is not None and failure.may_have_charged,
    }


def _cell(value: object) -> object:
    return " ".join(value) if isinstance(value, list) else value


def _facts(summary: Summary, shown: int) -> list[Fact]:
    total = sum(summary.counts.values())
    bad = (ItemState.FAILED, ItemState.UNSURE)
    return [
        *(
            Fact(f"{summary.counts[state]:,}", word, bad=state in bad)
            for state, word in WORDS.items()
            if summary.counts[state]
        ),
        *([Fact(f"{shown:,}", "are shown", before=f"of {total:,}")] if shown < total else []),
    ]


def _cards(entry: Entry, videos: Path, folder: Path) -> Iterator[Card]:
    """Make a card for each file of an item, or one that says how it stands."""
    for place, file in enumerate(entry.files, 1):
        path = videos / file.name
        label = entry.key if place == 1 else f"{entry.key} ({place})"
        if path.is_file():
            link = os.path.relpath(path, folder).replace(os.sep, "/")
            yield _card(entry, label, video=Video(link, file.size_bytes))
        else:
            yield _card(entry, label, failure=f"{file.name} is not in {videos}: see --videos")
    if not entry.files:
        ended = entry.state in (ItemState.FAILED, ItemState.UNSURE)
        yield _card(entry, entry.key, failure=_about(entry), ended=ended)


def _card(
    entry: Entry, label: str, *, video: Video | None = None, failure: str = "", ended: bool = True
) -> Card:
    urls = [entry.input.get(name) for name in ("image_url", "end_image_url")]
    return Card(
        label,
        entry.input,
        [Picture(str(url), None) for url in urls if url],
        video,
        cost_time=entry.result.cost_time if entry.result else None,
        failure=failure,
        state=WORDS[entry.state].capitalize(),
        ended=ended,
    )


@contextmanager
def _stream(place: Path | None, *, csv: bool = False) -> Iterator[TextIO]:
    if place is None:
        if csv and isinstance(sys.stdout, io.TextIOWrapper | Guarded):
            sys.stdout.reconfigure(encoding="utf-8")
        yield sys.stdout
        return
    try:
        # A mark at the start tells spreadsheets that a file is UTF-8.
        with place.open("w", encoding="utf-8-sig" if csv else "utf-8", newline="\n") as stream:
            yield stream
    except OSError as error:
        raise ConfigurationError(f"cannot write {place}: {error.strerror or error}") from None
