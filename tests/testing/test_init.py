from __future__ import annotations

import subprocess
import sys

import pytest

import kling_async.testing


def test_every_public_name_can_be_had() -> None:
    """Each name in `__all__` is there and shown by dir()."""
    for name in kling_async.testing.__all__:
        assert getattr(kling_async.testing, name) is not None
        assert name in dir(kling_async.testing)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """Lazy loading does not hide a misspelling."""
    with pytest.raises(AttributeError, match="Emulater"):
        kling_async.testing.Emulater  # noqa: B018


def test_importing_loads_nothing_heavy() -> None:
    """Importing the package loads neither aiohttp nor the media libraries."""
    code = (
        "import sys, kling_async.testing as t;"
        "assert not {'aiohttp', 'av', 'PIL'} & set(sys.modules);"
        "t.Scenario; assert 'aiohttp' not in sys.modules;"
        "t.Emulator; assert not {'av', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
