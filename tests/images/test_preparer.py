from __future__ import annotations

import asyncio
import sys
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from kling_async import (
    ConfigurationError,
    DownloadError,
    InputError,
    MasterTextToVideo,
    ProImageToVideo,
    StandardImageToVideo,
    StorageError,
)
from kling_async.images import Image, ImageFix, LocalImage, read_images
from kling_async.images.preparer import ImagePreparer, create_preparer
from tests.images.pictures import MemoryStore, exif, opened, picture

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from kling_async import Input
    from tests.conftest import ServeApp

pytestmark = pytest.mark.virtual_time

CAT, DOG = picture(), picture("PNG", color="brown")
SHA = sha256(CAT).hexdigest()
OPTIONS: dict[str, Any] = {
    "session": None,
    "proxies": None,
    "base_url": "http://127.0.0.1",
    "allow_hosts": (),
}


class SlowStore(MemoryStore):
    """Takes some seconds for each upload, or raises an error then."""

    def __init__(self, seconds: float = 10, error: Exception | None = None) -> None:
        super().__init__()
        self.seconds = seconds
        self.error = error
        self.uploading = self.most = self.cancelled = 0

    async def put(self, image: Image) -> str:
        self.uploading += 1
        self.most = max(self.most, self.uploading)
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.uploading -= 1
        if self.error is not None:
            raise self.error
        return await super().put(image)


def url_of(sent: Input) -> str:
    """Return the URL of the first image."""
    return str(sent.to_dict()["image_url"])


async def test_prepare(tmp_path: Path) -> None:
    """Local images are replaced by URLs; equal ones are one image, named by their content."""
    path = tmp_path / "cat.jpg"
    path.write_bytes(CAT)
    store = MemoryStore()
    preparer = ImagePreparer(store)
    sent = ProImageToVideo("pan", path, end_image_url=CAT)
    prepared = await preparer.prepare(sent)
    assert url_of(prepared) == f"https://pictures.example/{SHA}.jpg?sig=secret1"
    assert prepared.to_dict()["end_image_url"] == f"{store.origin}/{SHA}.jpg?sig=secret2"
    assert store.images == {f"{SHA}.jpg": CAT}
    text = MasterTextToVideo("a fox")
    assert not preparer.needs(text)
    assert await preparer.prepare(text) is text
    await preparer.close()
    assert not store.closed  # it is the caller's


async def test_found_by_its_checksum(tmp_path: Path) -> None:
    """A stored image is found by its checksum, on a machine that has no file of it."""
    store = MemoryStore()
    preparer = ImagePreparer(store)
    path = tmp_path / "cat.jpg"
    path.write_bytes(CAT)
    read = await read_images(StandardImageToVideo("pan", path))
    await preparer.prepare(read)
    path.unlink()
    assert SHA in url_of(await preparer.prepare(read))
    with pytest.raises(InputError, match=r"cat\.jpg': No such file"):
        await ImagePreparer(MemoryStore()).prepare(read)
    path.write_bytes(DOG)
    with pytest.raises(InputError, match="must not change"):
        await ImagePreparer(MemoryStore()).prepare(read)
    unknown = StandardImageToVideo("pan", LocalImage(None, "0" * 64))
    with pytest.raises(InputError, match="must be in the image store"):
        await preparer.prepare(unknown)


async def test_checks() -> None:
    """A picture that the service would not accept is not stored."""
    store = MemoryStore()
    preparer = ImagePreparer(store)
    for content in (picture("GIF"), CAT[:-9], b"", bytes(11_000_000)):
        with pytest.raises(InputError, match="image_url: must "):
            await preparer.prepare(StandardImageToVideo("pan", content))
    assert not store.images


async def test_checks_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Pillow the structure of a picture is checked."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    preparer = ImagePreparer(MemoryStore())
    assert SHA in url_of(await preparer.prepare(StandardImageToVideo("pan", CAT)))
    with pytest.raises(InputError, match="complete picture"):
        await preparer.prepare(StandardImageToVideo("pan", CAT[:-9]))


async def test_corrections() -> None:
    """Pictures are corrected, and stored under the checksum of the original."""
    store = MemoryStore()
    preparer = ImagePreparer(store, ImageFix())
    sideways, gif = picture(exif=exif(orientation=6)), picture("GIF")
    for content in (sideways, gif, CAT):
        await preparer.prepare(StandardImageToVideo("pan", content))
    names = [f"{sha256(one).hexdigest()}-fix.jpg" for one in (sideways, gif, CAT)]
    assert list(store.images) == names
    assert opened(store.images[names[0]]).size == (48, 64)
    assert store.images[names[2]] == CAT
    with pytest.raises(InputError, match="must be a JPEG"):
        await preparer.prepare(StandardImageToVideo("pan", b"a poem"))


async def test_no_store() -> None:
    """Without a store, a local image is an error that says what to configure."""
    preparer = create_preparer(None, fix=False, check=True, download_options=OPTIONS)
    with pytest.raises(InputError, match=r"image_store=.* KLING_IMAGE_STORE"):
        await preparer.prepare(StandardImageToVideo("pan", CAT))
    await preparer.close()


async def test_few_at_one_time() -> None:
    """At most 16 inputs upload at one time, and the same image is uploaded once."""
    store = SlowStore()
    preparer = ImagePreparer(store)
    pictures = [picture(size=(64, 64 + number)) for number in range(40)]
    await asyncio.gather(*(preparer.prepare(StandardImageToVideo("pan", one)) for one in pictures))
    assert (store.most, store.puts) == (16, 40)
    same = [preparer.prepare(StandardImageToVideo("pan", CAT)) for _ in range(16)]
    assert len({url_of(sent) for sent in await asyncio.gather(*same)}) == 1
    assert store.puts == 41


class Slots:
    """Waits for a slot, and records when it began, got it and was cancelled."""

    def __init__(self, seconds: float, error: Exception | None = None) -> None:
        self.seconds = seconds
        self.error = error
        self.events: list[tuple[str, float]] = []

    async def acquire(self) -> None:
        self.note("began")
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.note("cancelled")
            raise
        if self.error is not None:
            raise self.error
        self.note("got")

    def note(self, event: str) -> None:
        self.events.append((event, round(asyncio.get_running_loop().time(), 3)))


async def test_upload_during_the_wait_for_a_slot() -> None:
    """An upload takes no longer than the wait for the slot, during which it happens."""
    slots, store = Slots(30), SlowStore(10)
    await ImagePreparer(store).prepare_during(StandardImageToVideo("pan", CAT), slots.acquire)
    assert slots.events == [("began", 0.0), ("got", 30.0)]
    assert store.puts == 1


async def test_a_url_that_has_become_old() -> None:
    """After a long wait for the slot the URL is made again: it is valid for its whole lifetime."""
    store = SlowStore(10)
    sent = StandardImageToVideo("pan", CAT)
    prepared = await ImagePreparer(store).prepare_during(sent, Slots(3600).acquire)
    assert url_of(prepared).endswith("secret2")


async def test_a_failed_upload_ends_the_wait() -> None:
    """If the upload fails, the slot is not waited for, and not held, any longer."""
    slots, store = Slots(3600), SlowStore(10, StorageError("full"))
    with pytest.raises(StorageError, match="full"):
        await ImagePreparer(store).prepare_during(StandardImageToVideo("pan", CAT), slots.acquire)
    assert slots.events == [("began", 0.0), ("cancelled", 10.0)]


async def test_a_failed_wait_ends_the_upload() -> None:
    """If the slot cannot be had, the upload is cancelled."""
    slots, store = Slots(5, StorageError("closed")), SlowStore(10)
    with pytest.raises(StorageError, match="closed"):
        await ImagePreparer(store).prepare_during(StandardImageToVideo("pan", CAT), slots.acquire)
    assert store.cancelled == 1


async def test_no_slot_before_the_upload_can_begin() -> None:
    """A slot is not taken for an image that waits for the uploads of others."""
    slots, store = Slots(1), SlowStore(10)
    preparer = ImagePreparer(store)
    sents = [StandardImageToVideo("pan", picture(size=(9, 9 + number))) for number in range(17)]
    await asyncio.gather(*(preparer.prepare_during(sent, slots.acquire) for sent in sents))
    began = [at for event, at in slots.events if event == "began"]
    assert began == [0.0] * 16 + [10.0]


async def test_cancellation() -> None:
    """Cancelling the caller ends the upload and the wait for the slot, before it returns."""
    slots, store = Slots(3600), SlowStore(3600)
    sent = StandardImageToVideo("pan", CAT)
    task = asyncio.create_task(ImagePreparer(store).prepare_during(sent, slots.acquire))
    await asyncio.sleep(5)
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()
    assert store.cancelled == 1
    assert slots.events[-1] == ("cancelled", 5.0)
    assert len(asyncio.all_tasks()) == 1


@pytest.fixture
async def checking() -> AsyncIterator[ImagePreparer]:
    """Make a preparer that checks remote images."""
    preparer = create_preparer(None, fix=False, check=True, download_options=OPTIONS)
    yield preparer
    await preparer.close()


async def test_remote_images(serve_app: ServeApp, checking: ImagePreparer) -> None:
    """A remote image is fetched once, and sent as it was given."""
    requests: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        requests.append(request.path)
        return web.Response(body=CAT)

    url = await serve_app(answer)
    sent = ProImageToVideo("pan", f"{url}/cat", end_image_url=f"{url}/dog")
    assert checking.needs(sent)
    assert await checking.prepare(sent) is sent
    await asyncio.gather(*(checking.prepare(sent) for _ in range(5)))
    assert requests == ["/cat", "/dog"]


@pytest.mark.parametrize(
    ("status", "body", "error", "message"),
    [
        (200, b"<html>", InputError, "JPEG, PNG or WebP"),
        (200, CAT[:-9], InputError, "complete picture"),
        (404, b"", InputError, "can be fetched: check it in a browser"),
        (500, b"", DownloadError, "HTTP 500"),
    ],
)
async def test_wrong_remote_images(
    serve_app: ServeApp,
    checking: ImagePreparer,
    status: int,
    body: bytes,
    error: type[Exception],
    message: str,
) -> None:
    """A remote image that the service could not use is an error, which shows no signature."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body)

    url = f"{await serve_app(answer)}/cat?sig=secret"
    with pytest.raises(error, match=message) as caught:
        await checking.prepare(StandardImageToVideo("pan", url))
    assert "/cat" in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_damaged_pixels(serve_app: ServeApp, checking: ImagePreparer) -> None:
    """The pixels of a remote image are decoded, if Pillow is installed."""
    from tests.images.test_check import png

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=png(8, 8))

    sent = StandardImageToVideo("pan", await serve_app(answer))
    with pytest.raises(InputError, match="can be decoded"):
        await checking.prepare(sent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "PIL", None)
        await checking.prepare(sent)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"check": 1}, "check_images must be True or False, not 1"),
        ({"fix": "yes"}, r"fix_images must be True or an ImageFix, as .*: 'yes'"),
        ({"store": 5}, "image_store must be a URL or have put"),
        ({"store": "ftp://a"}, "not the URL of an image store"),
        ({"store": ""}, "not the URL of an image store"),
    ],
)
def test_arguments(arguments: dict[str, Any], message: str) -> None:
    """Wrong arguments are errors where they are given."""
    with pytest.raises(ConfigurationError, match=message):
        create_preparer(**{"store": None, "fix": False, **arguments})


async def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL of the environment is opened when it is needed, and the store closed at the end."""
    monkeypatch.setenv("KLING_IMAGE_STORE", "ftp://a")
    preparer = create_preparer(None, fix=True)
    await preparer.close()
    with pytest.raises(ConfigurationError, match="not the URL of an image store"):
        await preparer.prepare(StandardImageToVideo("pan", CAT))
    monkeypatch.setenv("KLING_IMAGE_STORE", "http://127.0.0.1:1/images")
    preparer = create_preparer(None, fix=False)
    with pytest.raises(StorageError, match="cannot be reached"):
        await preparer.prepare(StandardImageToVideo("pan", CAT))
    await preparer.close()
    assert preparer.open_store() is preparer.open_store()
