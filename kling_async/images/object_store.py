"""Images in an object store: S3 and compatible ones, Google Cloud Storage, Azure Blob Storage."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from kling_async._storage.objects import Objects
from kling_async.errors import ConfigurationError
from kling_async.images.base import LIFETIME, Image, KnownNames

if TYPE_CHECKING:
    from kling_async._storage.opening import BucketStore

# Seconds. S3 and Google Cloud Storage sign URLs for a week at most.
_SHORTEST_LIFETIME: Final = 600.0
_LONGEST_LIFETIME: Final = 7 * 86_400.0

# Seconds after which an object is looked for again, in case that it was deleted.
_KNOWN_FOR: Final = 600.0


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
        self._objects = Objects(store)
        self._lifetime = timedelta(seconds=lifetime)
        self._known = KnownNames(_KNOWN_FOR, time.monotonic)

    def __repr__(self) -> str:
        return f"<ObjectImageStore {self._objects.shown}>"

    async def put(self, image: Image) -> str:
        """Store an image, unless it is stored already, and return a signed URL of it."""
        objects = self._objects
        if image.name not in self._known:
            exists = await objects.object_exists(image.name)
            if not exists:  # pragma: no branch - coverage may lose it after a future of obstore
                # False: another process was first.
                await objects.create_object(image.name, await image.read(), image.media_type)
            self._known.add(image.name)
        return await objects.sign_url(image.name, self._lifetime)
