"""The image store at a URL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kling_async._storage.opening import is_object_url
from kling_async._utils.urls import redact_url
from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    from kling_async.images.base import ImageStore

VARIABLE: Final = "KLING_IMAGE_STORE"
"""The environment variable with the URL of the default image store."""


def open_image_store(url: str) -> ImageStore:
    """Return the image store at a URL. Nothing is sent.

    Args:
        url: ``s3://bucket/prefix``, ``gs://bucket/prefix`` or ``az://container/prefix``, with the
            credentials of the environment; its query may have the ``endpoint`` of a compatible
            service, the ``region`` (S3), the ``account`` (Azure), and ``allow_http=true`` for an
            endpoint without TLS. Or the ``http(s)://`` URL of a folder to which images are
            uploaded with PUT, such as the one that ``kling-async emulate`` prints.

    Raises:
        ConfigurationError: The URL is invalid.
        MissingExtraError: The extra ``storage`` is not installed, and the URL is not http(s).
    """
    if not isinstance(url, str):
        raise ConfigurationError(f"the URL of an image store must be a text, not {url!r:.80}")
    if is_object_url(url):
        from kling_async.images.object_store import ObjectImageStore

        return ObjectImageStore(url)
    if url.lower().startswith(("http://", "https://")):
        from kling_async.images.http_store import HttpImageStore

        return HttpImageStore(url)
    raise ConfigurationError(
        f"not the URL of an image store: {redact_url(url)}; it can be s3://bucket/prefix,"
        " gs://bucket/prefix, az://container/prefix or http(s)://host/folder"
    )
