"""Where a batch saves its videos: a folder, or an archive in an object store."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from attrs import evolve

from kling_async._utils.shielding import run_in_thread
from kling_async.batch.manifest import archive_manifests, write_manifests
from kling_async.batch.options import is_archive_url
from kling_async.download.files import check_folder, is_spoiled

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from kling_async.download.archive import Archive
    from kling_async.journal.base import Entry
    from kling_async.results import SavedFile
    from kling_async.tasks.fan_out import Outcome

Fetch: TypeAlias = "Callable[[Path, tuple[SavedFile, ...]], Awaitable[tuple[SavedFile, ...]]]"
"""Saves the files of an item to a folder, in which it may replace some files."""


class FolderDestination:
    """A folder on this machine, which other batches may use, too."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def check(self) -> None:
        """Raise :class:`ConfigurationError` if files cannot be saved."""
        await run_in_thread(lambda: check_folder(self._path))

    async def save(self, entry: Entry, fetch: Fetch, *, manifest: bool) -> tuple[SavedFile, ...]:
        """Save the files of an item, with their manifests."""
        # Only files that this journal has saved are replaced: others are of other batches.
        files = await fetch(self._path, tuple(_of_folders(entry.files)))
        if manifest:
            now = datetime.now(UTC)
            await run_in_thread(lambda: write_manifests(self._path, entry, files, now))
        return files

    async def has_files(self, files: Iterable[SavedFile], *, shared: bool) -> bool:
        """Return whether files that were saved are still there.

        Files of a shared journal may be in this folder of another machine, and are not looked for.
        """
        saved = list(files)
        if any(file.archive for file in saved):
            return False
        return shared or await asyncio.to_thread(
            lambda: all(_is_whole(self._path, file) for file in saved)
        )

    def add_files(self, outcome: Outcome, files: Iterable[SavedFile]) -> Outcome:
        """Return an outcome with the places of its files."""
        places = tuple(self._path / file.name for file in _of_folders(files))
        return evolve(outcome, files=places)


class ArchiveDestination:
    """An archive in an object store."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    async def check(self) -> None:
        """Raise :class:`StorageError` if files cannot be saved."""
        await self._archive.check()

    async def save(self, entry: Entry, fetch: Fetch, *, manifest: bool) -> tuple[SavedFile, ...]:
        """Save the files of an item, with their manifests."""
        assert entry.ref is not None  # noqa: S101 - a finished item has one
        files = await self._archive.save(entry.ref, lambda folder: fetch(folder, ()))
        if manifest:
            await archive_manifests(self._archive, entry, files, datetime.now(UTC))
        return files

    async def has_files(self, files: Iterable[SavedFile], *, shared: bool) -> bool:  # noqa: ARG002
        """Return whether files were saved here. Objects are not looked for again."""
        return all(map(self._archive.has_file, files))

    def add_files(self, outcome: Outcome, files: Iterable[SavedFile]) -> Outcome:
        """Return an outcome with the places of its files."""
        saved = filter(self._archive.has_file, files)
        return evolve(outcome, archived=tuple(self._archive.url_of(file.name) for file in saved))


Destination: TypeAlias = FolderDestination | ArchiveDestination


def open_destination(download_to: str | os.PathLike[str]) -> Destination:
    """Return where videos are saved. What an archive needs is imported for an archive only.

    Raises:
        ConfigurationError: It is a URL, and not that of an object store.
        MissingExtraError: obstore is not installed.
    """
    if is_archive_url(download_to):
        from kling_async.download.archive import Archive

        return ArchiveDestination(Archive(download_to))
    return FolderDestination(Path(download_to))


def _of_folders(files: Iterable[SavedFile]) -> Iterator[SavedFile]:
    return (file for file in files if not file.archive)


def _is_whole(folder: Path, file: SavedFile) -> bool:
    path = folder / file.name
    try:
        return path.stat().st_size == file.size_bytes and not is_spoiled(path)
    except OSError:
        return False
