from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, cast

import pytest

from kling_async import ConfigurationError
from kling_async._storage import objects as module
from kling_async._storage.objects import Objects

if TYPE_CHECKING:
    from pathlib import Path

    from kling_async._storage.opening import BucketStore


@pytest.fixture
def objects() -> Objects:
    """Return the objects of a store in the memory of this process."""
    from obstore.store import MemoryStore

    return Objects(cast("BucketStore", MemoryStore()))


async def test_created_once(objects: Objects) -> None:
    """An object is created, and not replaced by another one or by a copy."""
    assert not await objects.object_exists("a")
    assert await objects.create_object("a", b"one", "text/plain")
    assert not await objects.create_object("a", b"other", "text/plain")
    assert await objects.create_object("b", b"other", "text/plain")
    assert not await objects.copy_object("b", "a")
    assert await objects.copy_object("b", "c")
    assert await objects.object_exists("a")
    assert [await objects.object_size(name) for name in "abc"] == [3, 5, 5]


async def test_in_parts(objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is uploaded in parts, and its checksum is calculated from pieces of the object."""
    monkeypatch.setattr(module, "_READ_BYTES", 10)
    path, content = tmp_path / "a", bytes(range(256))
    path.write_bytes(content)
    await objects.upload_object("a", path, "video/mp4")
    assert await objects.object_sha256("a", 256) == hashlib.sha256(content).hexdigest()


async def test_deleted(objects: Objects) -> None:
    """An object is deleted; one that does not exist is no error."""
    await objects.create_object("a", b"one", "text/plain")
    for _ in range(2):
        await objects.delete_object("a")
        assert not await objects.object_exists("a")


def test_shown() -> None:
    """The name of a store is its URL without the query; a wrong URL is refused at once."""
    assert Objects("s3://bucket/a/?region=eu-north-1").shown == "s3://bucket/a"
    with pytest.raises(ConfigurationError):
        Objects("s3://user:password@bucket")
