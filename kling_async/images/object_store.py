"""Images in an object store: S3 and compatible ones, Google Cloud Storage, Azure Blob Storage."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from kling_async._storage.errors import converting_errors
from kling_async._storage.opening import check_store_url, open_store
from kling_async._utils.shielding import run_in_thread
from kling_async._utils.urls import redact_url
from kling_async.errors import ConfigurationError
from kling_async.images.base import LIFETIME, Image, KnownNames

if TYPE_CHECKING:
    from kling_async._storage.opening import BucketStore

# Seconds. S3 and Google Cloud Storage sign URLs for a week at most.
_SHORTEST_LIFETIME: Final = 600.0
_LONGEST_LIFETIME: Final = 7 * 86_400.0

# Seconds after which an object is looked for again, in case that it was deleted.
_KNOWN_FOR: Final = 600.0

# Seconds for one operation, with the repetitions of its requests.
_TIME_LIMIT: Final = 120.0


class ObjectImageStore:
    """Stores images in a bucket or container, and signs URLs of them that expire.

    An object is created once and never replaced, whichever process is first. Its name is the
    checksum of its content, so a bucket may be shared. Objects are not deleted: let a rule of the
    bucket delete old ones. If it is needed again, an image is uploaded again.

    Args:
        store: A URL such as ``s3://bucket/prefix``, ``gs://bucket/prefix`` or
            ``az://container/prefix``, see :func:`kling_async.images.open_image_store`; or a store
            of obstore, with credentials of your choice.
        lifetime: Seconds for which a URL is valid, from ten minutes to a week. With temporary
            credentials it ends with them at the latest.

    Raises:
        ConfigurationError: The URL or the lifetime is invalid.
        MissingExtraError: obstore is not installed.
    """

    def __init__(self, store: str | BucketStore, *, lifetime: float = LIFETIME) -> None:
        if not _SHORTEST_LIFETIME <= lifetime <= _LONGEST_LIFETIME:
            raise ConfigurationError(
                f"lifetime must be from {_SHORTEST_LIFETIME:g} to {_LONGEST_LIFETIME:g} seconds,"
                f" not {lifetime!r}"
            )
        self._store = store
        self._shown = type(store).__name__
        if isinstance(store, str):
            check_store_url(store)
            self._shown = redact_url(store)
        self._lifetime = timedelta(seconds=lifetime)
        self._known = KnownNames(_KNOWN_FOR, time.monotonic)

    def __repr__(self) -> str:
        return f"<ObjectImageStore {self._shown}>"

    async def put(self, image: Image) -> str:
        """Store an image, unless it is stored already, and return a signed URL of it."""
        store = await self._open()
        if image.name not in self._known:
            exists = await self._exists(store, image.name)
            if not exists:  # pragma: no branch - coverage may lose it after a future of obstore
                await self._create(store, image, await image.read())
            self._known.add(image.name)
        import obstore

        with converting_errors(f"cannot sign a URL of {self._shown}", seconds=_TIME_LIMIT):
            async with asyncio.timeout(_TIME_LIMIT):  # credentials may have to be fetched
                return await obstore.sign_async(store, "GET", image.name, self._lifetime)

    async def _open(self) -> BucketStore:
        """Return the store, which is opened in a thread, since that imports obstore."""
        store = self._store
        if isinstance(store, str):
            url = store
            store = self._store = await run_in_thread(lambda: open_store(url))
        return store

    async def _exists(self, store: BucketStore, name: str) -> bool:
        import obstore
        from obstore.exceptions import PermissionDeniedError

        with converting_errors(f"cannot read {self._shown}", seconds=_TIME_LIMIT):
            try:
                async with asyncio.timeout(_TIME_LIMIT):
                    await obstore.head_async(store, name)
            # S3 answers 403 for what does not exist, without permission to list it.
            except (FileNotFoundError, PermissionDeniedError):
                return False
        return True

    async def _create(self, store: BucketStore, image: Image, content: bytes) -> None:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        with (
            converting_errors(f"cannot store an image in {self._shown}", seconds=_TIME_LIMIT),
            suppress(AlreadyExistsError),  # another process was first
        ):
            async with asyncio.timeout(_TIME_LIMIT):
                await obstore.put_async(
                    store,
                    image.name,
                    content,
                    mode="create",
                    attributes={"Content-Type": image.media_type},
                    use_multipart=False,  # one request: an object exists as a whole
                )
