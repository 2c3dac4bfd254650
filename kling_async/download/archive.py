"""Results in an object store: fetched to a temporary folder, put into the store, and read back.

An object is created and never replaced, so any number of processes may use one archive, and what
was interrupted is repeated without a second copy. A large file is first an object below
``.uploads/``: an object with a name of its own is complete.
"""

from __future__ import annotations

import asyncio
import mimetypes
import shutil
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from secrets import token_hex
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Final

from attrs import evolve

from kling_async._storage.objects import Objects
from kling_async._utils.shielding import await_uncancelled, run_in_thread
from kling_async.download.names import alternative_names
from kling_async.errors import DownloadError, StorageError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from kling_async._storage.opening import BucketStore
    from kling_async.results import SavedFile, TaskRef

# Bytes of a file that is put with one request, which holds it in memory.
_WHOLE_BYTES: Final = 16 * 1024**2

_UPLOADS: Final = ".uploads"


class Archive:
    """Files of results in an object store. It may be used by several tasks at one time.

    Args:
        store: A URL such as ``s3://bucket/prefix``, ``gs://bucket/prefix`` or
            ``az://container/prefix``, see :func:`kling_async.images.open_image_store`; or a store
            of obstore, with credentials of your choice.

    Raises:
        ConfigurationError: The URL is invalid.
        MissingExtraError: obstore is not installed.
    """

    def __init__(self, store: str | BucketStore) -> None:
        self._objects = Objects(store)

    def __repr__(self) -> str:
        return f"<Archive {self._objects.shown}>"

    def url_of(self, name: str) -> str:
        """Return the URL of an object, without the query of the archive's URL."""
        return f"{self._objects.shown}/{name}"

    def has_file(self, file: SavedFile) -> bool:
        """Return whether a file was saved here. It is not looked for."""
        return file.archive == self._objects.shown

    async def check(self) -> None:
        """Create an object, read it, and delete it.

        Raises:
            StorageError: One of these is not possible.
            ConfigurationError: The store cannot be opened.
        """
        name = _temporary_name()
        try:
            await self._objects.create_object(name, b"kling_async", "text/plain")
            await self._objects.object_size(name)
        except BaseException:
            await self._remove(name)
            raise
        await self._objects.delete_object(name)

    async def save(
        self, ref: TaskRef, fetch: Callable[[Path], Awaitable[tuple[SavedFile, ...]]]
    ) -> tuple[SavedFile, ...]:
        """Save the files of a task; return them with the names of their objects.

        Args:
            ref: The task.
            fetch: Saves the files to a folder, which is removed afterwards.

        Raises:
            StorageError: A file cannot be stored. Others may be stored: call again to continue.
            DownloadError: A temporary folder cannot be created.
        """
        saved = []
        async with _temporary_folder(ref) as folder:
            for file in await fetch(folder):
                path = folder / file.name
                try:
                    name = await self._put(path, file, ref)
                except StorageError as error:
                    error.ref, error.may_have_charged = ref, True
                    raise
                saved.append(evolve(file, name=name, archive=self._objects.shown))
                await run_in_thread(path.unlink)
        return tuple(saved)

    async def create(self, name: str, content: bytes, media_type: str) -> None:
        """Create a small object, unless there is one with its name.

        Raises:
            StorageError: It cannot be stored.
        """
        await self._objects.create_object(name, content, media_type)

    async def _put(self, path: Path, file: SavedFile, ref: TaskRef) -> str:
        """Store a file under the first name that is free or has the same content."""
        names = alternative_names(file.name, ref)
        async with self._creating(path, file) as create:
            while True:
                name = next(names)
                created = await create(name)
                if await self._has_content(name, file):
                    return name
                if created:
                    await self._remove(name)
                    text = f"{self.url_of(name)} had another content than was sent: deleted"
                    raise StorageError(text, retryable=True)

    @asynccontextmanager
    async def _creating(
        self, path: Path, file: SavedFile
    ) -> AsyncGenerator[Callable[[str], Awaitable[bool]]]:
        """Yield what creates the object of a file, and returns whether its name was free."""
        objects = self._objects
        media_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        if file.size_bytes <= _WHOLE_BYTES:
            content = await run_in_thread(path.read_bytes)
            yield lambda name: objects.create_object(name, content, media_type)
            return
        temporary, uploaded = _temporary_name(), False

        async def upload_once() -> None:
            nonlocal uploaded
            if not uploaded:
                await objects.upload_object(temporary, path, media_type)
                uploaded = True

        async def create(name: str) -> bool:
            if not await objects.object_exists(name):
                await upload_once()
                return await objects.copy_object(temporary, name)
            return False

        try:
            yield create
        finally:
            await self._remove(temporary)

    async def _has_content(self, name: str, file: SavedFile) -> bool:
        """Return whether an object has the content of a file, which is read to the end for that."""
        size = await self._objects.object_size(name)
        if size != file.size_bytes:
            return False
        return await self._objects.object_sha256(name, size) == file.sha256

    async def _remove(self, name: str) -> None:
        """Delete an object, if that is possible, also if the caller is cancelled."""
        with suppress(StorageError):
            await await_uncancelled(asyncio.ensure_future(self._objects.delete_object(name)))


def _temporary_name() -> str:
    return f"{_UPLOADS}/{token_hex(16)}"


@asynccontextmanager
async def _temporary_folder(ref: TaskRef) -> AsyncGenerator[Path]:
    """Make a folder that only this user can read, and remove it at the end."""
    made: list[str] = []
    try:
        try:
            await run_in_thread(lambda: made.append(mkdtemp(prefix="kling-")))
        except OSError as error:
            text = f"cannot create a temporary folder: {error}"
            raise DownloadError(text, retryable=False, ref=ref) from None
        yield Path(made[0])
    finally:
        for folder in made:
            await run_in_thread(lambda: shutil.rmtree(folder, ignore_errors=True))  # noqa: B023
