"""The manifest of a video: a JSON file beside it that says what it was made from.

Its fields are described by ``manifest.schema.json`` beside this module. It has no URL, since
those of results are signed and expire.
"""

from __future__ import annotations

import json
import logging
from importlib import resources
from typing import TYPE_CHECKING

from kling_async._utils.files import replacing
from kling_async._utils.version import __version__
from kling_async.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime
    from pathlib import Path

    from kling_async.download.archive import Archive
    from kling_async.journal.base import Entry
    from kling_async.results import SavedFile

_log = logging.getLogger("kling_async")

SUFFIX = ".json"
"""What is added to the name of a video."""


def manifest_schema() -> dict[str, object]:
    """Return the JSON schema of manifests."""
    file = resources.files(__package__).joinpath("manifest.schema.json")
    schema: dict[str, object] = json.loads(file.read_text(encoding="utf-8"))
    return schema


def manifest_of(entry: Entry, file: SavedFile, saved_at: datetime) -> dict[str, object]:
    """Return the manifest of a file of an item."""
    result = entry.result
    created_at, completed_at = (result and result.created_at, result and result.completed_at)
    return {
        "manifest": 1,
        "file": file.name,
        "size_bytes": file.size_bytes,
        "sha256": file.sha256,
        "key": entry.key,
        "input": dict(entry.input),
        "model": entry.input.get("model"),
        "ref": entry.ref and str(entry.ref),
        "attempts": entry.attempt,
        "created_at": created_at and created_at.isoformat(),
        "completed_at": completed_at and completed_at.isoformat(),
        "saved_at": saved_at.isoformat(),
        "cost_time": result and result.cost_time,
        "media": file.media and file.media.to_dict(),
        "generator": f"kling_async {__version__}",
    }


def write_manifests(
    folder: Path, entry: Entry, files: Iterable[SavedFile], saved_at: datetime
) -> None:
    """Write the manifests of files that were saved. Blocks: call it in a thread.

    The videos are paid for and saved: a manifest that cannot be written is logged as a warning.
    """
    for file in files:
        path = folder / f"{file.name}{SUFFIX}"
        try:
            with replacing(path) as stream:
                stream.write(_to_bytes(manifest_of(entry, file, saved_at)))
        except (OSError, UnicodeError) as error:  # a lone surrogate in a prompt
            _log.warning("cannot write the manifest %s: %s", path, error)


async def archive_manifests(
    archive: Archive, entry: Entry, files: Iterable[SavedFile], saved_at: datetime
) -> None:
    """Create the manifests of files in an archive, as :func:`write_manifests` does in a folder.

    A manifest that an earlier attempt has created stays as it is.
    """
    for file in files:
        name = f"{file.name}{SUFFIX}"
        try:
            content = _to_bytes(manifest_of(entry, file, saved_at))
            await archive.create(name, content, "application/json")
        except (StorageError, UnicodeError) as error:
            _log.warning("cannot write the manifest %s: %s", archive.url_of(name), error)


def _to_bytes(manifest: Mapping[str, object]) -> bytes:
    return f"{json.dumps(manifest, indent=2, ensure_ascii=False)}\n".encode()
