from __future__ import annotations

import errno
import os
import socket

from kling_async._utils.os_errors import format_os_error


def test_reason_of_an_os_error() -> None:
    """The reason is the system's, or the error's text where it has none."""
    listening = OSError(errno.EADDRINUSE, "error while attempting to bind on address ('::1', 5)")
    assert format_os_error(listening) == os.strerror(errno.EADDRINUSE)
    assert format_os_error(socket.gaierror(-2, "unknown name")) == "unknown name"
    assert format_os_error(OSError("odd")) == "odd"
    assert format_os_error(ValueError("embedded null byte")) == "embedded null byte"
