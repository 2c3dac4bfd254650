"""``kling-async demo``: a file of inputs, made at once by the emulator, and a sheet of them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from attrs import evolve

from kling_async._utils.extras import install_command
from kling_async.cli import codes
from kling_async.cli.contact_sheet import Card, Fact, Picture, Video, page
from kling_async.cli.output import write
from kling_async.cli.pictures import save_pictures
from kling_async.cli.progress import Progress, follow, progress, tell
from kling_async.cli.rows import Row, parse, read
from kling_async.client import KlingClient
from kling_async.errors import ConfigurationError, DownloadError, KlingError
from kling_async.limits.base import Limits
from kling_async.policy.polling import Polling
from kling_async.testing import Emulator, Scenario
from kling_async.testing.media import film as media
from kling_async.testing.sample_files import DEMO, FOLDER

if TYPE_CHECKING:
    from argparse import Namespace

    from kling_async.results import TaskRef

# A valid origin, for checking rows before there is an emulator.
_SOMEWHERE = "http://127.0.0.1"

# USD. Nobody wants to run out of play money.
_BALANCE = 1_000_000.0

# Seconds, the vendor's figures: the least for any video, the usual by its length, the most.
_QUICKEST = 60.0
_USUAL: Mapping[object, float] = {5: 75.0, 10: 105.0}
_LONGEST = 120.0

# Polls a second, of all tasks together: well inside 10,000 requests a minute.
_POLLS = 100.0
_SHORTEST = 0.25

# Seconds beyond the longest before a task counts as stuck, on a machine that is busy rendering.
_PATIENCE = 60.0

_FOOTER = (
    "Made by an emulator on this machine. The videos show their inputs; no model has seen them."
)

_WITHOUT_EXTRA = (
    "Every video will be the same small clip. To see your own pictures and prompts move: "
)


async def demo(args: Namespace) -> int:
    """Generate every row, download the videos, write ``index.html``, and print its path."""
    raw = read(args.file or DEMO)
    parse(raw, _SOMEWHERE)
    emulator = Emulator(
        speed=args.speed,
        balance=_BALANCE,
        scenario=Scenario.parse(args.faults),
        video=args.video,
        samples=FOLDER,
    )
    shown = progress(total=len(raw))
    if args.video == "auto" and not media.can_render():
        shown.note(_WITHOUT_EXTRA + install_command("emulator"))
    begun = asyncio.get_running_loop().time()
    try:
        with _staging(args.to) as staging:
            async with emulator, _client(emulator, shown, args.speed, len(raw)) as kling:
                maker = _Maker(kling, args.to, Path(staging), args.speed)
                cards = await maker.all(parse(raw, emulator.origin), shown)
            seconds = asyncio.get_running_loop().time() - begun
            sheet = page(cards, _facts(cards, seconds, args.speed), _FOOTER)
            index = await asyncio.to_thread(_write, args.to, sheet, Path(staging))
    except asyncio.CancelledError:
        shown.note(f"kling-async: interrupted; the emulator has ended, {args.to} is not complete")
        raise
    made = sum(card.video is not None for card in cards)
    shown.note(f"{made} of {len(cards)} videos in {seconds:.1f} s. Open in a browser:")
    write(sys.stdout, str(index))
    return codes.OK if made == len(cards) else codes.FAILED


@contextmanager
def _staging(folder: Path) -> Iterator[str]:
    """Make the folder, and in it one for what is not complete yet."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".demo-", dir=folder) as staging:
            yield staging
    except OSError as error:
        raise ConfigurationError(f"cannot write to {folder}: {error.strerror or error}") from None


def _client(emulator: Emulator, shown: Progress, speed: float, rows: int) -> KlingClient:
    limits = Limits()
    shortest = max(_SHORTEST, min(rows, limits.concurrent_tasks) / _POLLS)
    return KlingClient(
        api_key=emulator.key,
        base_url=emulator.origin,
        limits=limits,
        polling=Polling(first=_QUICKEST / speed, shortest=shortest, longest=15.0 + shortest),
        hooks=[partial(tell, shown)],
    )


class _Maker:
    """Makes the cards of the sheet, one for each row."""

    def __init__(self, kling: KlingClient, folder: Path, staging: Path, speed: float) -> None:
        self._kling = kling
        self._folder = folder
        self._staging = staging
        self._speed = speed

    async def all(self, rows: list[Row], shown: Progress) -> list[Card]:
        """Make all rows at once."""
        digits = max(2, len(str(rows[-1].number)))
        with shown:
            async with asyncio.TaskGroup() as group:
                urls = (url for row in rows for url in _image_urls(row))
                saving = group.create_task(save_pictures(urls, self._folder))
                making = [
                    group.create_task(self._one(row, f"{row.number:0{digits}}", shown))
                    for row in rows
                ]
        names = saving.result()
        return [
            evolve(
                made.result(), pictures=[Picture(url, names.get(url)) for url in _image_urls(row)]
            )
            for row, made in zip(rows, making, strict=True)
        ]

    async def _one(self, row: Row, number: str, shown: Progress) -> Card:
        fields = row.input.to_dict()
        line = shown.line(
            f"{number} {row.input.mode}",
            _USUAL[fields["duration"]] / self._speed,
            str(fields["prompt"]),
        )
        card = Card(number, fields)
        video = self._folder / f"{number}-{row.input.mode}.mp4"
        try:
            task = await self._kling.submit(row.input)
            accepted = asyncio.get_running_loop().time()
            line.say("submitted")
            result = await follow(task, line, _PATIENCE + _LONGEST / self._speed)
            took = asyncio.get_running_loop().time() - accepted
            card = evolve(card, seconds=took, cost_time=result.cost_time)
            line.say("saving")
            saved = await self._kling.download(result, self._staging)
            card = evolve(card, video=await asyncio.to_thread(_put, saved[0], video, result.ref))
        except KlingError as error:
            line.end(str(error), ok=False)
            return evolve(card, failure=str(error))
        line.end("done", ok=True)
        return card


def _facts(cards: list[Card], seconds: float, speed: float) -> list[Fact]:
    made = sum(card.video is not None for card in cards)
    failed = len(cards) - made
    return [
        Fact(str(made), "video" if made == 1 else "videos"),
        *([Fact(str(failed), "failed", bad=True)] if failed else []),
        Fact(f"{seconds:.1f} s", "in all"),
        Fact(f"{speed:g}", "× the service's speed", before="emulator at"),
    ]


def _image_urls(row: Row) -> list[str]:
    fields = row.input.to_dict()
    return [str(fields[name]) for name in ("image_url", "end_image_url") if name in fields]


def _put(saved: Path, place: Path, ref: TaskRef) -> Video:
    """Give a file its final name, in the place of one of an earlier demo."""
    try:
        saved.replace(place)
        return Video(place.name, place.stat().st_size)
    except OSError as error:
        raise DownloadError(f"cannot write {place}: {error.strerror}", ref=ref) from None


def _write(folder: Path, sheet: str, staging: Path) -> Path:
    part = staging / "index.html"
    part.write_text(sheet, encoding="utf-8", errors="replace")
    return part.replace(folder / part.name).resolve()
