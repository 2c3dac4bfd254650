from __future__ import annotations

import asyncio
import logging
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from kling_async import (
    ClientClosedError,
    InputError,
    KlingClient,
    Limits,
    StandardImageToVideo,
    StorageError,
    SubmitFailed,
    Submitted,
    TaskFailedError,
)
from tests.clients import FOX, posts
from tests.images.pictures import MemoryStore, picture
from tests.images.test_preparer import SlowStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kling_async.events import DetailedEvent, Event
    from tests.conftest import Connect, Emulate

pytestmark = pytest.mark.virtual_time

CAT = picture()
NAME = f"{sha256(CAT).hexdigest()}.jpg"
ONE = Limits(concurrent_tasks=1)


class Details:
    """A hook for detailed events: the name of each, and the number of its submit."""

    detailed = True

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def __call__(self, event: DetailedEvent) -> None:
        self.seen.append((type(event).__name__, getattr(event, "submit_id", 0)))

    def traceparent(self, _: object) -> str:
        return ""


async def test_generate(emulate: Emulate, connect: Connect, tmp_path: Path) -> None:
    """A picture of this machine becomes a video; the service gets a URL, hooks what was given."""
    events: list[Event] = []
    emulator = await emulate(uploads=True)
    kling = await connect(emulator, image_store=emulator.image_store, hooks=[events.append])
    path = tmp_path / "cat.jpg"
    path.write_bytes(CAT)
    sent = StandardImageToVideo("pan left", path)
    result = await kling.generate(sent)
    assert result.result_urls
    (submission,) = emulator.ledger
    assert submission.input["image_urls"] == [f"{emulator.image_store}/{NAME}"]
    assert [event.input for event in events if isinstance(event, Submitted)] == [sent]
    with path.open("rb") as file:
        await kling.submit(StandardImageToVideo("pan left", file))
    assert [r.method for r in emulator.requests if r.kind in {"upload", "image"}].count("PUT") == 1


async def test_events_of_one_submit(emulate: Emulate, connect: Connect) -> None:
    """All events of a submit have its number, although its request is built a second time."""
    details = Details()
    emulator = await emulate(uploads=True)
    kling = await connect(emulator, image_store=emulator.image_store, hooks=[details])
    await kling.submit(StandardImageToVideo("pan left", CAT))
    assert [name for name, _ in details.seen] == [
        "SubmitStarted",
        "SlotAcquired",
        "RequestAnswered",
        "Submitted",
    ]
    assert len({number for _, number in details.seen}) == 1
    assert details.seen[0][1] > 0


async def test_without_a_store(emulate: Emulate, connect: Connect) -> None:
    """Without a store nothing is sent, and the error says what to configure."""
    emulator = await emulate()
    for options in ({}, {"fix_images": True}):
        kling = await connect(emulator, **options)
        with pytest.raises(InputError, match=r"image_store=.* KLING_IMAGE_STORE"):
            await kling.submit(StandardImageToVideo("pan left", CAT))
    assert not emulator.requests


@pytest.mark.parametrize("content", [CAT[:-9], picture("GIF")], ids=["cut off", "GIF"])
async def test_a_wrong_picture_costs_nothing(
    emulate: Emulate, connect: Connect, content: bytes
) -> None:
    """A picture that the service would not accept is an error, for free; the slot is free, too."""
    events: list[Event] = []
    emulator = await emulate()
    store = MemoryStore()
    kling = await connect(emulator, image_store=store, limits=ONE, hooks=[events.append])
    with pytest.raises(InputError, match="image_url: must be a") as caught:
        await kling.submit(StandardImageToVideo("pan left", content))
    assert not caught.value.may_have_charged
    assert [event.error for event in events if isinstance(event, SubmitFailed)] == [caught.value]
    await kling.submit(FOX)
    assert (len(emulator.ledger), store.images) == (1, {})


async def test_a_failed_upload_costs_nothing(emulate: Emulate, connect: Connect) -> None:
    """If an upload fails, nothing is sent, and others get the slot at once."""
    emulator = await emulate()
    store = SlowStore(10, StorageError("full", retryable=True))
    kling = await connect(emulator, image_store=store, limits=ONE)
    loop = asyncio.get_running_loop()
    failing = asyncio.create_task(kling.submit(StandardImageToVideo("pan left", CAT)))
    await asyncio.sleep(1)
    await kling.submit(FOX)  # the slot is that of the failing submit until then
    assert loop.time() == pytest.approx(10, abs=1)
    with pytest.raises(StorageError, match="full"):
        await failing
    assert posts(emulator) == len(emulator.ledger) == 1


@pytest.mark.parametrize("after", [1, 30])
async def test_cancelled(
    emulate: Emulate, connect: Connect, leftovers: Callable[[], set[str]], after: float
) -> None:
    """Cancelling a submit during its upload, or its wait for a slot, ends all of it."""
    emulator = await emulate()
    store = SlowStore(10)
    kling = await connect(emulator, image_store=store, limits=ONE)
    await kling.submit(FOX)  # which takes 60 s
    before = leftovers()
    task = asyncio.create_task(kling.submit(StandardImageToVideo("pan left", CAT)))
    await asyncio.sleep(after)
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()
    assert store.cancelled == (after < 10)
    assert leftovers() - before <= {"Submitter._sweep", "poll_unattended"}
    await kling.submit(FOX)
    assert posts(emulator) == 2


async def test_closing_the_client(emulate: Emulate, connect: Connect) -> None:
    """Closing the client ends uploads; nothing was sent, and the client can be used again."""
    emulator = await emulate()
    store = SlowStore(10)
    kling = await connect(emulator, image_store=store)
    task = asyncio.create_task(kling.submit(StandardImageToVideo("pan left", CAT)))
    await asyncio.sleep(1)
    await kling.close()
    with pytest.raises(ClientClosedError):
        await task
    assert (store.cancelled, posts(emulator), store.closed) == (1, 0, False)
    await kling.submit(StandardImageToVideo("pan left", CAT))
    assert posts(emulator) == 1


async def test_a_url_for_each_sending(emulate: Emulate, connect: Connect) -> None:
    """When a submit is repeated, its URL is made again: it may have expired."""
    emulator = await emulate("submit:1-2=503")
    store = MemoryStore()
    kling = await connect(emulator, image_store=store)
    await kling.submit(StandardImageToVideo("pan left", CAT))
    (submission,) = emulator.ledger
    assert submission.input["image_urls"] == [f"{store.origin}/{NAME}?sig=secret3"]


async def test_callbacks(emulate: Emulate, connect: Connect) -> None:
    """A callback URL is part of the request, and is checked before the upload."""
    emulator = await emulate()
    store = MemoryStore()
    kling = await connect(emulator, image_store=store)
    sent = StandardImageToVideo("pan left", CAT)
    with pytest.raises(InputError, match="callback_url"):
        await kling.submit(sent, callback_url="ftp://host")
    assert not store.puts
    await kling.submit(sent, callback_url="http://127.0.0.1:1/called")
    assert emulator.ledger[0].callback_url == "http://127.0.0.1:1/called"


async def test_signatures_are_not_shown(
    emulate: Emulate, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """The URL of a copy is signed: neither errors nor logs nor events show it whole."""
    caplog.set_level(logging.DEBUG)
    events: list[Event] = []
    emulator = await emulate()
    store = MemoryStore(f"{emulator.origin}/nothing")
    kling = await connect(emulator, image_store=store, hooks=[events.append])
    with pytest.raises(TaskFailedError) as caught:
        await kling.generate(StandardImageToVideo("pan left", CAT))
    assert f"{NAME}?sig=…" in caught.value.fail_message
    assert NAME in str(emulator.ledger[0].input)
    ours = [record for record in caplog.records if record.name.startswith("kling_async")]
    for text in (str(caught.value), repr(events), repr(ours), repr(kling)):
        assert "secret1" not in text


async def test_many(emulate: Emulate, connect: Connect) -> None:
    """One wrong picture of many is one outcome with an error."""
    emulator = await emulate(uploads=True)
    kling = await connect(emulator, image_store=emulator.image_store)
    inputs = [StandardImageToVideo("pan", one) for one in (CAT, b"a poem", picture("WEBP"))]
    outcomes = [outcome async for outcome in kling.generate_many(inputs, ordered=True)]
    assert [type(outcome.error) for outcome in outcomes] == [type(None), InputError, type(None)]
    assert [outcome.input for outcome in outcomes] == inputs
    assert len(emulator.ledger) == 2


async def test_remote_images(emulate: Emulate, connect: Connect) -> None:
    """With check_images a wrong remote image costs nothing; without it, it costs a task."""
    emulator = await emulate(samples=None)
    sent = StandardImageToVideo("pan", f"{emulator.origin}/samples/none.jpg")
    checking = await connect(emulator, check_images=True)
    with pytest.raises(InputError, match="image_url: must be a URL that can be fetched"):
        await checking.generate(sent)
    assert not emulator.ledger
    with pytest.raises(TaskFailedError):
        await (await connect(emulator)).generate(sent)
    assert len(emulator.ledger) == 1


@pytest.mark.parametrize(
    "options", [{"image_store": 5}, {"image_store": "s3:bucket"}, {"fix_images": 1.5}]
)
def test_wrong_arguments(options: dict[str, Any]) -> None:
    """Wrong arguments of a client are errors where they are given."""
    with pytest.raises(ValueError, match="image"):
        KlingClient("key", **options)


async def test_under_an_anyio_scope(
    emulate: Emulate, connect: Connect, leftovers: Callable[[], set[str]]
) -> None:
    """A scope of anyio, which cancels again and again, ends an upload as cleanly."""
    import anyio

    emulator = await emulate()
    store = SlowStore(10)
    kling = await connect(emulator, image_store=store)
    with anyio.move_on_after(1) as scope:
        await kling.submit(StandardImageToVideo("pan left", CAT))
    assert scope.cancelled_caught
    await asyncio.sleep(1)
    assert (store.cancelled, posts(emulator), leftovers()) == (1, 0, set())
