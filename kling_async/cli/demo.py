"""``kling-async demo``: videos of the emulator for a file of inputs, and their contact sheet."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from attrs import evolve

from kling_async._display.contact_sheet import (
    Card,
    Fact,
    Picture,
    Video,
    count_facts,
    image_urls,
    render_page,
)
from kling_async._utils.extras import install_command
from kling_async._utils.files import format_os_error
from kling_async._utils.text import format_count, format_duration
from kling_async.batch.manifest import write_manifests
from kling_async.cli import exit_codes
from kling_async.cli.output import PROGRAM, Output
from kling_async.cli.row_files import read_jsonl
from kling_async.cli.row_values import InvalidRows, row_input
from kling_async.cli.text_file import open_input
from kling_async.client import KlingClient
from kling_async.errors import ConfigurationError, DownloadError, InputError, KlingError
from kling_async.images.preparer import ImagePreparer
from kling_async.images.reading import read_images
from kling_async.inputs.kling_2_1 import StandardImageToVideo
from kling_async.journal.base import Entry, ItemState
from kling_async.limits.base import Limits
from kling_async.media.frames import save_frame
from kling_async.media.joining import join_videos
from kling_async.policy.polling import Polling
from kling_async.progress.board import ProgressLine
from kling_async.progress.opening import open_display
from kling_async.testing import Emulator, Scenario
from kling_async.testing.emulator.images import save_images
from kling_async.testing.media import film
from kling_async.testing.sample_files import DEMO, FOLDER

if TYPE_CHECKING:
    from argparse import Namespace

    from kling_async.inputs.base import Input
    from kling_async.progress.text_display import TextDisplay
    from kling_async.results import TaskRef

# In any text of a row, this is replaced by the emulator's origin.
_PLACEHOLDER = "{emulator}"

# The vendor's figures in seconds: the fastest video, the usual one by its length, the slowest.
_FASTEST = 60.0
_USUAL: Mapping[bool, float] = {False: 75.0, True: 105.0}  # by whether it is longer than 5 s
_SHORT = 5
_SLOWEST = 120.0

# Polls per second of all tasks: far below 10,000 requests a minute.
_POLL_RATE = 100.0
_SHORTEST = 0.25

# Seconds after the slowest until a task counts as stuck, on a machine that is busy rendering.
_GRACE = 60.0

_NEXT_PROMPT = "The fox walks away through the snow"

_FOOTER = "Made by an emulator on this machine. The videos show their inputs; no model was used."


async def run_demo(args: Namespace) -> int:
    """Generate every row, download the videos, write ``index.html``, and print its path."""
    path = args.file or DEMO
    async with open_input(path) as file:
        rows = list(read_jsonl(path, file))
    if not rows:
        raise InputError(f"{path}: there are no rows in it")
    emulator = Emulator(
        speed=args.speed,
        balance=1_000_000.0,  # must not run out
        scenario=Scenario.parse(args.fault),
        video=args.video,
        samples=FOLDER,
        uploads=True,
    )
    output = Output(json=args.json)
    has_chain = args.file is None and film.can_render()  # which needs the same packages
    progress = open_display(silent=args.json, total=len(rows) + has_chain)
    clock = asyncio.get_running_loop().time
    started = clock()
    try:
        async with emulator:
            inputs = _parse_rows(rows, emulator.origin, path.parent)
            if args.video == "auto" and not film.can_render():
                progress.print(
                    "Every video will be the same small clip. For videos of your own images and"
                    f" prompts, and a chain of two: {install_command('emulator')}"
                )
            with _staging_folder(args.to) as staging:
                async with _client(emulator, progress, args.speed, len(rows)) as kling:
                    urls = await _image_urls(inputs, emulator.image_store)
                    demo_run = _DemoRun(kling, progress, args, staging)
                    cards = await demo_run.generate_all(inputs, urls, has_chain=has_chain)
                seconds = clock() - started
                html = render_page(cards, _facts(cards, seconds, args.speed), _FOOTER)
                index = await asyncio.to_thread(_write_page, args.to, html, staging)
    except asyncio.CancelledError:
        progress.print(f"{PROGRAM}: interrupted; the emulator is stopped, {args.to} is incomplete")
        if args.json:
            output.print_interrupted((), ())
        raise
    done = sum(card.video is not None for card in cards)
    total, duration = format_count(len(cards), "video"), format_duration(seconds)
    progress.print(f"{done:,} of {total} in {duration}. Open in a browser:")
    for card in cards:
        output.print_result([], _card_fields(card))
    page = {"page": str(index), "videos": done, "failed": len(cards) - done}
    output.print_result([str(index)], {**page, "seconds": round(seconds, 1)})
    return exit_codes.OK if done == len(cards) else exit_codes.FAILED


def _parse_rows(
    rows: Iterable[tuple[int, dict[str, object] | InputError]], origin: str, folder: Path
) -> list[tuple[int, Input]]:
    """Return the numbers and inputs of rows; one `InputError` names all invalid rows."""
    inputs: list[tuple[int, Input]] = []
    invalid = InvalidRows()
    for number, row in rows:
        try:
            if isinstance(row, InputError):
                raise row
            fields = {name: _fill(value, origin) for name, value in row.items()}
            inputs.append((number, row_input(fields, folder)))
        except InputError as error:
            invalid.add(number, error)
    if invalid.messages:
        raise invalid.error()
    return inputs


def _fill(value: object, origin: str) -> object:
    if isinstance(value, list):
        return [_fill(element, origin) for element in value]
    return value.replace(_PLACEHOLDER, origin) if isinstance(value, str) else value


@contextmanager
def _staging_folder(folder: Path) -> Iterator[Path]:
    """Create the folder, and in it a temporary one for incomplete files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".demo-", dir=folder) as staging:
            yield Path(staging)
    except OSError as error:
        raise ConfigurationError(f"cannot write to {folder}: {format_os_error(error)}") from None


def _client(emulator: Emulator, progress: TextDisplay, speed: float, rows: int) -> KlingClient:
    limits = Limits()
    shortest = max(_SHORTEST, min(rows, limits.concurrent_tasks) / _POLL_RATE)
    return KlingClient(
        api_key=emulator.key,
        base_url=emulator.origin,
        image_store=emulator.image_store,
        limits=limits,
        polling=Polling(first=_FASTEST / speed, shortest=shortest, longest=15.0 + shortest),
        hooks=[progress.on_event],
    )


class _DemoRun:
    """Generates the videos of all rows at once, and a card for each."""

    def __init__(
        self, kling: KlingClient, progress: TextDisplay, args: Namespace, staging: Path
    ) -> None:
        self._kling = kling
        self._progress = progress
        self._folder: Path = args.to
        self._speed: float = args.speed
        self._staging = staging

    async def generate_all(
        self, rows: list[tuple[int, Input]], images: list[list[str]], *, has_chain: bool
    ) -> list[Card]:
        digits = max(2, len(str(rows[-1][0])))
        with self._progress:
            async with asyncio.TaskGroup() as group:
                saving = group.create_task(save_images(chain(*images), self._folder))
                tasks = [
                    group.create_task(self._generate(f"{number:0{digits}}", sent))
                    for number, sent in rows
                ]
                number = len(rows) + 1
                ending = group.create_task(self._continue(tasks[0], number)) if has_chain else None
        names, cards = saving.result(), list[Card]()
        for urls, task in zip(images, tasks, strict=True):
            pictures = [Picture(url, names.get(url)) for url in urls]
            cards.append(evolve(task.result(), pictures=pictures))
        return cards if ending is None else cards + ending.result()

    async def _continue(self, row: asyncio.Task[Card], number: int) -> list[Card]:
        """Make a chain: a video from the last frame of the row's one, and both as one file."""
        first, cards = await row, list[Card]()
        if first.video is None:
            return cards
        label, frame = f"{number:02}", self._folder / f"{number:02}-image.png"
        target = self._folder / f"{number + 1:02}-chain.mp4"
        fields = {"mode": "chain", "prompt": f"{first.label} and {label} as one file"}
        joint = Card(f"{number + 1:02}", fields)
        try:
            await save_frame(self._folder / first.video.file, frame, at="last")
            second = await self._generate(label, StandardImageToVideo(_NEXT_PROMPT, frame))
            cards.append(evolve(second, pictures=[Picture(frame.name, frame.name)]))
            if second.video is not None:
                parts = (self._folder / video.file for video in (first.video, second.video))
                await join_videos(parts, target)
                joined = Video(target.name, target.stat().st_size)
                cards.append(evolve(joint, video=joined))
        except (DownloadError, OSError) as error:
            cards.append(evolve(joint, failure=str(error)))
        return cards

    async def _generate(self, number: str, sent: Input) -> Card:
        fields = (await read_images(sent)).to_dict()
        card = Card(number, fields)
        kind = sent.mode or sent.model
        name = f"{number}-{kind}"
        usual = _USUAL[(getattr(sent, "duration", None) or _SHORT) > _SHORT] / self._speed
        prompt = str(fields.get("prompt", ""))
        line = ProgressLine(self._progress, f"{number} {kind}", usual, prompt)
        clock = asyncio.get_running_loop().time
        longest = _GRACE + _SLOWEST / self._speed
        try:
            task = await self._kling.submit(sent)
            accepted = clock()
            line.update("submitted")
            result = await task.wait(longest, on_update=line.show_update)
            card = evolve(card, seconds=clock() - accepted, cost_time=result.cost_time)
            line.update("saving")
            saved, *_ = await self._kling.save(result, self._staging, name=name)
            await asyncio.to_thread(self._move_to_folder, saved.name, result.ref)
            now = datetime.now(UTC)
            entry = Entry(name, fields, ItemState.SAVED, 1, now, result.ref, result)
            await asyncio.to_thread(write_manifests, self._folder, entry, [saved], now)
        except KlingError as error:
            line.finish("failed", str(error))
            return evolve(card, failure=str(error))
        line.finish("done", "done")
        return evolve(card, video=Video(saved.name, saved.size_bytes))

    def _move_to_folder(self, name: str, ref: TaskRef) -> None:
        """Move a complete file to the folder; it replaces the file of an earlier demo."""
        try:
            (self._staging / name).replace(self._folder / name)
        except OSError as error:
            reason = format_os_error(error)
            raise DownloadError(f"cannot write {self._folder / name}: {reason}", ref=ref) from None


def _card_fields(card: Card) -> dict[str, object]:
    return {
        "row": int(card.label),
        "input": card.fields,
        "file": card.video and card.video.file,
        "seconds": card.seconds and round(card.seconds, 1),
        "cost_time": card.cost_time,
        "message": card.failure or None,
    }


def _facts(cards: list[Card], seconds: float, speed: float) -> list[Fact]:
    return [
        *count_facts(cards),
        Fact(f"{seconds:.1f} s", "in all"),
        Fact(f"{speed:g}", "× the service's speed", before="emulator at"),
    ]


async def _image_urls(rows: Iterable[tuple[int, Input]], store: str) -> list[list[str]]:
    """Return the URLs of the images of each row; those that are files are stored for that."""
    images, urls = ImagePreparer(store), []
    try:
        for _, sent in rows:
            fields = (await images.prepare(sent)).to_dict()
            urls.append(image_urls(fields))
    finally:
        await images.close()
    return urls


def _write_page(folder: Path, page: str, staging: Path) -> Path:
    (staging / "index.html").write_text(page, encoding="utf-8", errors="replace")
    return (staging / "index.html").replace(folder / "index.html").resolve()
