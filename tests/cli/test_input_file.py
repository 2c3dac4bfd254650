from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from kling_async.batch.decisions import Item, Step, content_key
from kling_async.batch.options import BatchOptions
from kling_async.cli.input_file import InputFile, JournaledItem, read_journal
from kling_async.errors import ConfigurationError, InputError, JournalError
from kling_async.inputs.kling_2_1 import MasterTextToVideo, StandardImageToVideo
from kling_async.journal.base import Failure, ItemState, Planned, Transition
from kling_async.journal.sqlite.journal import SqliteJournal
from kling_async.limits.base import Limits
from kling_async.results import FailReason, Result, TaskRef
from tests.images.pictures import picture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOX = MasterTextToVideo("a fox")
TEXT: dict[str, object] = {"mode": "master-text-to-video", "prompt": "a fox"}
LONG: dict[str, object] = {**TEXT, "duration": 10}
NOW = datetime(2026, 1, 2, tzinfo=UTC)
Row = tuple[int, dict[str, object] | InputError]


def _known(sent: MasterTextToVideo, state: ItemState, step: Step) -> JournaledItem:
    return JournaledItem(hash(content_key(sent.to_dict())), state, step)


async def test_rows_become_items() -> None:
    """Good rows come back in order, with their keys, or with one made of their content."""
    image: dict[str, object] = {"prompt": "pan", "image_url": "https://example.com/fox.jpg"}
    with InputFile() as checked:
        await checked.read([(1, {**TEXT, "key": "a"}), (4, image), (5, TEXT)], {})
        items = list(checked.items())
        assert list(checked.items()) == items
    pan = StandardImageToVideo("pan", "https://example.com/fox.jpg")
    assert items == [
        Item("a", FOX),
        Item(content_key(pan.to_dict()), pan),
        Item(content_key(FOX.to_dict()), FOX),
    ]
    assert (checked.rows, checked.invalid.messages) == (3, [])
    assert checked.steps == {Step.SUBMIT: 3}


async def test_wrong_rows_are_all_named() -> None:
    """Each wrong row has its number and its reason, and the good ones are kept."""
    with InputFile() as checked:
        await checked.read(
            [
                (1, TEXT),
                (2, {**TEXT, "prompt": "", "seed": 3}),
                (3, InputError("not JSON")),
                (4, TEXT),
                (6, {**LONG, "key": "k"}),
                (7, {**TEXT, "key": "k"}),
                (8, {**TEXT, "key": 3}),
                (9, {**TEXT, "key": "one\ntwo"}),
            ],
            {},
        )
        assert [item.input for item in checked.items()] == [
            FOX,
            MasterTextToVideo("a fox", duration=10),
        ]
    complaint = checked.invalid.error()
    assert str(complaint).split("\n") == checked.invalid.messages
    starts = [
        "row 2: seed: unknown key",
        "row 3: not JSON",
        "row 4: the same as row 1: give it a key",
        "row 7: row 6 has the key 'k', too",
        "row 8: a key must be printable text, not 3",
        r"row 9: a key must be printable text, not 'one\ntwo'",
    ]
    for line, start in zip(checked.invalid.messages, starts, strict=True):
        assert line.startswith(start)
    assert [problem.field for problem in complaint.problems] == ["seed", "prompt"]


async def test_rows_beside_their_journal() -> None:
    """The journal determines the next step of a row; another input under a key is refused."""
    journal = {
        hash("saved"): _known(FOX, ItemState.SAVED, Step.REPORT),
        hash("runs"): _known(FOX, ItemState.SUBMITTED, Step.WAIT),
        hash("made"): _known(FOX, ItemState.FINISHED, Step.SAVE),
        hash("other"): _known(MasterTextToVideo("a cat"), ItemState.SAVED, Step.REPORT),
    }
    keys = ("saved", "runs", "made", "other", "new")
    rows = [(number, {**TEXT, "key": key}) for number, key in enumerate(keys, 1)]
    with InputFile() as checked:
        await checked.read(rows, journal)
    assert checked.steps == {Step.REPORT: 1, Step.WAIT: 1, Step.SAVE: 1, Step.SUBMIT: 1}
    assert checked.states == {ItemState.SAVED: 1}
    (message,) = checked.invalid.messages
    assert message.startswith("row 4: the journal has key 'other' with another input")


async def test_limit_takes_the_first() -> None:
    """A limit takes the first good rows, and all rows are checked all the same."""
    rows: list[Row] = [(1, {}), (2, {**TEXT, "key": "a"}), (3, {**TEXT, "key": "b"}), (4, {})]
    with InputFile() as checked:
        await checked.read(rows, {}, limit=1)
        assert [item.key for item in checked.items()] == ["a"]
    assert len(checked.invalid.messages) == 2


async def test_the_loop_goes_on_meanwhile() -> None:
    """Of very many rows, not all are checked at a stretch."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    running = asyncio.create_task(other())
    with InputFile() as checked:
        await checked.read(((n, {**TEXT, "key": str(n)}) for n in range(1000)), {})
    running.cancel()
    assert turns >= 9


async def test_no_room_for_temporary_files() -> None:
    """A disk that is full is one sentence, before anything is sent."""
    resource = pytest.importorskip("resource")
    with InputFile() as checked:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        try:
            with pytest.raises(ConfigurationError, match="no room for temporary files: File too"):
                await checked.read([(1, TEXT)], {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("rows", "limits", "in_flight", "seconds"),
    [
        ([], Limits(), None, 0),
        ([TEXT], Limits(), None, 75),
        ([TEXT, LONG], Limits(), None, 105),
        ([TEXT, LONG], Limits(concurrent_tasks=1), None, 180 + 105),
        ([TEXT, LONG], Limits(), 1, 180 + 105),
        ([TEXT, LONG], Limits(requests_per_minute=1), None, 360 + 105),
    ],
)
async def test_estimate(
    rows: list[dict[str, object]], limits: Limits, in_flight: int | None, seconds: float
) -> None:
    """The time follows from the vendor's figures, the slots and the requests."""
    with InputFile() as checked:
        await checked.read(list(enumerate(rows, 1)), {})
    assert checked.estimate(limits, in_flight) == pytest.approx(seconds, abs=0.1)


def _moves(key: str, *states: ItemState, failure: Failure | None = None) -> Iterator[Transition]:
    ref = TaskRef("kling-2-1", f"task_{key}")
    for state in states:
        yield Transition(
            key,
            state,
            NOW,
            ref=ref if state is ItemState.SUBMITTED else None,
            result=Result(ref, ("https://x/1.mp4",)) if state is ItemState.FINISHED else None,
            failure=failure if state is ItemState.FAILED else None,
        )


async def test_what_a_journal_has(tmp_path: Path) -> None:
    """Each item has its state and its next step; one that was being sent counts as unsure."""
    sending, submitted = ItemState.SUBMITTING, ItemState.SUBMITTED
    timeout = Failure("TaskFailedError", "late", reason=FailReason.TIMEOUT)
    async with SqliteJournal(tmp_path / "j") as journal:
        await journal.plan([Planned(key, FOX.to_dict()) for key in "abcde"])
        await journal.record(
            *_moves("b", sending, submitted),
            *_moves("c", sending, submitted, ItemState.FINISHED),
            *_moves("d", sending),
            *_moves("e", sending, submitted, ItemState.FAILED, failure=timeout),
        )
        found = await read_journal(
            tmp_path / "j", BatchOptions(download_to="videos", resubmit_failed=1)
        )
    content = hash(content_key(FOX.to_dict()))
    assert found == {
        hash("a"): JournaledItem(content, ItemState.PLANNED, Step.SUBMIT),
        hash("b"): JournaledItem(content, ItemState.SUBMITTED, Step.WAIT),
        hash("c"): JournaledItem(content, ItemState.FINISHED, Step.SAVE),
        hash("d"): JournaledItem(content, ItemState.UNSURE, Step.REPORT),
        hash("e"): JournaledItem(content, ItemState.FAILED, Step.RESUBMIT),
    }


async def test_journal_that_is_none(tmp_path: Path) -> None:
    """A file that is no journal is refused."""
    (tmp_path / "j").write_text("not a journal")
    with pytest.raises(JournalError):
        await read_journal(tmp_path / "j", BatchOptions())


async def test_images_are_relative_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of an image is relative to the folder of the file; its content identifies it."""
    monkeypatch.setenv("KLING_IMAGE_STORE", "s3://bucket")
    keys = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        (folder / "pictures").mkdir(parents=True)
        (folder / "pictures/cat.jpg").write_bytes(picture())
        rows: list[Row] = [
            (1, {"prompt": "pan", "image_url": "pictures/cat.jpg"}),
            (2, {"prompt": "up", "image_urls": [str(folder / "pictures/cat.jpg")]}),
            (3, {"prompt": "up", "image_url": "https://example.com/cat.jpg"}),
        ]
        with InputFile(folder) as checked:
            await checked.read(rows, {})
            items = list(checked.items())
        assert checked.invalid.messages == []
        paths = [item.input.local_images["image_url"].source for item in items[:2]]
        assert paths == [folder / "pictures/cat.jpg"] * 2
        keys.append([item.key for item in items])
    assert keys[0] == keys[1]


async def test_images_are_checked_with_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that cannot be used are found before anything is sent, and so is a missing store."""
    (tmp_path / "cat.gif").write_bytes(picture("GIF"))
    rows: list[Row] = [
        (number, {"prompt": "pan", "image_url": name})
        for number, name in enumerate(("cat.gif", "dog.jpg"), 1)
    ]
    monkeypatch.delenv("KLING_IMAGE_STORE", raising=False)
    with InputFile(tmp_path) as checked:
        await checked.read(rows, {})
    assert all("KLING_IMAGE_STORE" in message for message in checked.invalid.messages)
    monkeypatch.setenv("KLING_IMAGE_STORE", "s3://bucket")
    for fix_images in (False, True):
        with InputFile(tmp_path, fix_images=fix_images) as checked:
            await checked.read(rows, {})
        assert (checked.rows, len(checked.invalid.messages)) == (fix_images, 2 - fix_images)
        assert "row 2: image_url: must be a file that can be read" in checked.invalid.messages[-1]
        assert "No such file" in checked.invalid.messages[-1]
