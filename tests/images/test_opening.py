from __future__ import annotations

import pytest

from kling_async import ConfigurationError
from kling_async.images import HttpImageStore, ObjectImageStore, open_image_store


def test_open_image_store() -> None:
    """The scheme of a URL says what kind of store it is."""
    assert isinstance(open_image_store("s3://bucket/p"), ObjectImageStore)
    assert isinstance(open_image_store("HTTPS://host/images"), HttpImageStore)
    with pytest.raises(ConfigurationError, match="not the URL of an image store: ftp://host/a"):
        open_image_store("ftp://me:secret@host/a")
    with pytest.raises(ConfigurationError, match="must be a text"):
        open_image_store(None)  # type: ignore[arg-type]
