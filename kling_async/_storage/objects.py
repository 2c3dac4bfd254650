"""The objects of a store: created and never replaced, read back, copied, and deleted."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from kling_async._storage.errors import converting_errors
from kling_async._storage.opening import check_store_url, open_store
from kling_async._utils.shielding import run_in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable
    from datetime import timedelta
    from pathlib import Path

    from kling_async._storage.opening import BucketStore

# Seconds for one operation with the repetitions of its requests; and for the upload or the copy of
# a large object, of which each request has a time limit of its own.
_TIME_LIMIT: Final = 120.0
_LARGE_TIME_LIMIT: Final = 4 * 3_600.0

# Bytes of a part of a large object, and the parts that are sent at one time.
_PART_BYTES: Final = 8 * 1024**2
_PARTS: Final = 4

# Bytes that are read at one time.
_READ_BYTES: Final = 4 * 1024**2


class Objects:
    """The objects of a store. Every method raises :class:`StorageError` for what the store raises.

    Args:
        store: The URL of a store, see :func:`open_store`; or a store of obstore.

    Raises:
        ConfigurationError: The URL is invalid.
        MissingExtraError: obstore is not installed.
    """

    def __init__(self, store: str | BucketStore) -> None:
        self._store = store
        self.shown: str = type(store).__name__
        if isinstance(store, str):
            check_store_url(store)
            # Only the query has settings: there are no credentials in a valid URL.
            self.shown = store.partition("?")[0].rstrip("/")

    async def open_store(self) -> BucketStore:
        """Return the store, which is opened in a thread, since that imports obstore."""
        store = self._store
        if isinstance(store, str):
            url = store
            store = self._store = await run_in_thread(lambda: open_store(url))
        return store

    async def object_exists(self, name: str) -> bool:
        """Return whether an object exists, as far as this user may know."""
        async with self._using(f"cannot read {self.shown}/{name}") as store:
            from obstore.exceptions import PermissionDeniedError

            try:
                await store.head_async(name)
            # S3 answers 403 for what does not exist, without permission to list it.
            except (FileNotFoundError, PermissionDeniedError):
                return False
            return True

    async def create_object(self, name: str, content: bytes, media_type: str) -> bool:
        """Create an object in one request; return False if the name is taken."""
        async with self._using(f"cannot store {self.shown}/{name}") as store:
            return await _is_created(
                store.put_async(
                    name,
                    content,
                    mode="create",
                    attributes={"Content-Type": media_type},
                    use_multipart=False,  # one request: an object exists as a whole
                )
            )

    async def upload_object(self, name: str, path: Path, media_type: str) -> None:
        """Store a file in parts, under a name that is not used for anything else."""
        async with self._using(f"cannot store {self.shown}/{name}", _LARGE_TIME_LIMIT) as store:
            await store.put_async(
                name,
                path,
                attributes={"Content-Type": media_type},
                use_multipart=True,
                chunk_size=_PART_BYTES,
                max_concurrency=_PARTS,
            )

    async def copy_object(self, source: str, name: str) -> bool:
        """Copy an object within the store; return False if the name is taken."""
        async with self._using(f"cannot store {self.shown}/{name}", _LARGE_TIME_LIMIT) as store:
            return await _is_created(store.copy_async(source, name, overwrite=False))

    async def object_size(self, name: str) -> int:
        """Return the number of bytes of an object."""
        async with self._using(f"cannot read {self.shown}/{name}") as store:
            return (await store.head_async(name))["size"]

    async def object_sha256(self, name: str, size: int) -> str:
        """Return the SHA-256 of an object of this size, which is read piece by piece."""
        digest = hashlib.sha256()
        for start in range(0, size, _READ_BYTES):
            async with self._using(f"cannot read {self.shown}/{name}") as store:
                end = min(start + _READ_BYTES, size)
                piece = await store.get_range_async(name, start=start, end=end)
            await run_in_thread(lambda: digest.update(piece))  # noqa: B023 - awaited here
        return digest.hexdigest()

    async def delete_object(self, name: str) -> None:
        """Delete an object, if it exists."""
        async with self._using(f"cannot delete {self.shown}/{name}") as store:
            with suppress(FileNotFoundError):  # S3 does not report it
                await store.delete_async(name)

    async def sign_url(self, name: str, lifetime: timedelta) -> str:
        """Return a URL with which anyone can read an object, until it expires."""
        # Credentials may have to be fetched.
        async with self._using(f"cannot sign a URL of {self.shown}") as store:
            import obstore

            return await obstore.sign_async(store, "GET", name, lifetime)

    @asynccontextmanager
    async def _using(
        self, action: str, seconds: float | None = None
    ) -> AsyncGenerator[BucketStore]:
        """Yield the store, with a time limit and with the store's errors converted."""
        store = await self.open_store()
        limit = _TIME_LIMIT if seconds is None else seconds
        with converting_errors(action, seconds=limit):
            async with asyncio.timeout(limit):
                yield store


async def _is_created(creating: Awaitable[object]) -> bool:
    """Await the creation of an object; return False if the name is taken."""
    from obstore.exceptions import AlreadyExistsError

    try:
        await creating
    except AlreadyExistsError:
        return False
    return True
