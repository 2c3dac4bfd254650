"""The images of an input, right before its submit: checked, corrected, and stored for the service.

Local images are always checked, and remote ones with ``check_images=True``. Files are read, and
pictures decoded, in threads. What is stored already is neither read nor checked again.
"""

from __future__ import annotations

import asyncio
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from attrs import define, evolve, field

from kling_async._utils.loops import PerLoop
from kling_async._utils.shielding import run_in_thread
from kling_async._utils.urls import redact_url
from kling_async.errors import ConfigurationError
from kling_async.images.base import Image, ImageStore, KnownNames
from kling_async.images.check import ImageFault
from kling_async.images.fix import ImageFix, check_decoded, fix_image, output_type
from kling_async.images.opening import VARIABLE, open_image_store
from kling_async.images.reading import fault_error, identify, no_store_error, read_content
from kling_async.images.remote import RemoteImages
from kling_async.images.shared_calls import SharedCalls
from kling_async.inputs.local_image import MAX_BYTES, MAX_READ, LocalImage, find_suffix
from kling_async.inputs.rules import IMAGE_FIELDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from kling_async.inputs.base import Input

# Inputs whose images are read, uploaded or fetched at one time. Each may need 64 MB for a moment.
_AT_ONCE: Final = 16

# Pictures that are decoded at one time: each may need some hundred megabytes.
_DECODED_AT_ONCE: Final = 2

# Seconds for which a remote image that was checked is not checked again.
_CHECKED_FOR: Final = 600.0

# Seconds after which the URLs of an input are made again before its submit is sent.
_FRESH: Final = 300.0


@define(eq=False)
class _LoopImages:
    """What belongs to one event loop."""

    permits: asyncio.Semaphore = field(factory=lambda: asyncio.Semaphore(_AT_ONCE))
    decoding: asyncio.Semaphore = field(factory=lambda: asyncio.Semaphore(_DECODED_AT_ONCE))
    calls: SharedCalls[str] = field(factory=SharedCalls)


class ImagePreparer:
    """Prepares the images of inputs. Belongs to one client, which closes it.

    Args:
        store: The store of local images, or its URL, which is opened when it is needed.
        fix: How local pictures are corrected; None: they are not.
        remote: Fetches remote images to check them; None: they are not checked.
    """

    def __init__(
        self,
        store: ImageStore | str | None,
        fix: ImageFix | None = None,
        remote: RemoteImages | None = None,
    ) -> None:
        self._url = store if isinstance(store, str) else None
        self._store = None if isinstance(store, str) else store
        self._fix = fix
        self._remote = remote
        self._checked = KnownNames(_CHECKED_FOR, time.monotonic)
        self._images = PerLoop("client", lambda _: _LoopImages())

    def needs(self, sent: Input) -> bool:
        """Return whether anything is to be done for an input."""
        return bool(sent.local_images or self._remote_urls(sent))

    async def prepare(self, sent: Input, started: asyncio.Event | None = None) -> Input:
        """Return an input in which local images are replaced by URLs of their copies.

        Args:
            sent: The input.
            started: Set when this does not wait for other inputs any more.

        Raises:
            InputError: The service would not accept an image, or there is no store.
            StorageError: The store cannot be used.
            DownloadError: A remote image cannot be fetched at the moment.
        """
        images, local = self._images.get(), sent.local_images
        store = self.open_store() if local else None
        async with images.permits:
            if started is not None:
                started.set()
            urls: dict[str, str] = {}
            for name, image in local.items():
                if store is None:
                    raise no_store_error(sent)
                urls[name] = await self._stored_url(images, store, name, image)
            for name, url in self._remote_urls(sent).items():
                await self._check_remote(images, name, url)
        return evolve(sent, **urls) if urls else sent

    async def prepare_during(self, sent: Input, acquire: Callable[[], Awaitable[object]]) -> Input:
        """Prepare an input while ``acquire`` waits for what else its submit needs.

        ``acquire`` is not called as long as the images wait for those of other inputs, so that few
        slots are held during uploads. If one of the two fails, the other one is cancelled, and its
        error is raised.
        """
        started, clock = asyncio.Event(), asyncio.get_running_loop().time
        prepared_at = 0.0

        async def prepare() -> Input:
            nonlocal prepared_at
            prepared = await self.prepare(sent, started)
            prepared_at = clock()
            return prepared

        async def acquire_when_started() -> None:
            await started.wait()
            await acquire()

        try:
            async with asyncio.TaskGroup() as group:
                preparing = group.create_task(prepare())
                group.create_task(acquire_when_started())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        if clock() - prepared_at > _FRESH:  # its URLs are valid for longer if they are made now
            return await self.prepare(sent)
        return preparing.result()

    async def close(self) -> None:
        """Close the connections of the running loop."""
        if self._remote is not None:
            await self._remote.close()
        close = getattr(self._store, "close", None)
        if self._url is not None and close is not None:  # else it is the caller's
            await close()

    def open_store(self) -> ImageStore | None:
        """Return the store, if there is one.

        Raises:
            ConfigurationError: Its URL is invalid.
            MissingExtraError: The extra that it needs is not installed.
        """
        if self._store is None and self._url is not None:
            self._store = open_image_store(self._url)
        return self._store

    async def _stored_url(
        self, images: _LoopImages, store: ImageStore, name: str, image: LocalImage
    ) -> str:
        """Return the URL of a copy of a local image, which is uploaded unless it is stored."""
        given, content = image, b""
        if not image.sha256:
            image, content = await run_in_thread(partial(self._read, name, image))

        async def read() -> bytes:
            found = content or (await run_in_thread(partial(self._read, name, image)))[1]
            async with images.decoding:
                return await run_in_thread(partial(self._accepted, name, given, found))

        media_type, tag = image.media_type, ""
        if self._fix is not None:
            media_type, tag = output_type(media_type), self._fix.tag
        stored = f"{image.sha256}{tag}{find_suffix(media_type)}"
        put = partial(store.put, Image(stored, media_type, read))
        return await images.calls.run(stored, put)

    def _read(self, name: str, image: LocalImage) -> tuple[LocalImage, bytes]:
        content = read_content(name, image, MAX_BYTES if self._fix is None else MAX_READ)
        return identify(name, image, content), content

    def _accepted(self, name: str, image: LocalImage, content: bytes) -> bytes:
        """Return the content of a picture that the service accepts, corrected if necessary."""
        try:
            if self._fix is not None:
                content = fix_image(content, self._fix)
            check_decoded(content)
        except ImageFault as fault:
            raise fault_error(name, image, fault) from None
        return content

    def _remote_urls(self, sent: Input) -> dict[str, str]:
        if self._remote is None:
            return {}
        values = {name: getattr(sent, name, None) for name in IMAGE_FIELDS}
        return {name: value for name, value in values.items() if isinstance(value, str)}

    async def _check_remote(self, images: _LoopImages, name: str, url: str) -> None:
        """Raise an error unless the service can fetch an image and would accept it."""
        if url not in self._checked:
            await images.calls.run(url, partial(self._fetch_and_check, images, name, url))

    async def _fetch_and_check(self, images: _LoopImages, name: str, url: str) -> str:
        assert self._remote is not None  # noqa: S101 - only then a remote image is checked
        try:
            content = await self._remote.fetch(url)
            async with images.decoding:
                await run_in_thread(partial(check_decoded, content))
        except ImageFault as fault:
            raise fault_error(name, redact_url(url), fault) from None
        self._checked.add(url)
        return url


def create_preparer(
    store: ImageStore | str | None,
    *,
    fix: ImageFix | bool,
    check: bool = False,
    download_options: Mapping[str, Any] | None = None,
) -> ImagePreparer:
    """Return what prepares the images of inputs, with the arguments of a client.

    Args:
        store: As ``image_store`` of the client. Default: the URL in ``KLING_IMAGE_STORE``.
        fix: As ``fix_images`` of the client.
        check: As ``check_images`` of the client.
        download_options: The arguments of the client's ``Downloader``.

    Raises:
        ConfigurationError: An argument is invalid.
        MissingExtraError: An extra that is needed is not installed.
    """
    if not isinstance(check, bool):
        raise ConfigurationError(f"check_images must be True or False, not {check!r:.80}")
    options = ImageFix() if fix is True else fix or None
    if options is not None and not isinstance(options, ImageFix):
        raise ConfigurationError(
            f"fix_images must be True or an ImageFix, as fix_images=ImageFix(...): {fix!r:.80}"
        )
    if not (store is None or isinstance(store, str) or callable(getattr(store, "put", None))):
        raise ConfigurationError(f"image_store must be a URL or have put(), not {store!r:.80}")
    remote = RemoteImages(**download_options) if check and download_options else None
    given = os.environ.get(VARIABLE) or None if store is None else store
    images = ImagePreparer(given, options, remote)
    if store is not None:
        images.open_store()  # raises if its URL is invalid
    return images
