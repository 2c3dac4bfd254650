from __future__ import annotations

import errno
import os
import socket

from kling_async.cli.format import STATE_NAMES, format_counts, format_os_error, format_states
from kling_async.journal.base import ItemState


def test_states_that_occur() -> None:
    """Only states with items are listed, the good ones first."""
    counts = {ItemState.UNSURE: 1, ItemState.SAVED: 1200, ItemState.FAILED: 0}
    assert format_states(counts) == "1,200 saved, 1 unsure"
    assert format_states({}) == "nothing"
    assert format_counts({"saved": 2, "failed": 0}) == "2 saved"


def test_every_state_has_a_name() -> None:
    """No state is missing."""
    assert set(STATE_NAMES) == set(ItemState)


def test_reason_of_an_os_error() -> None:
    """The reason is the system's, or the error's text where it has none."""
    listening = OSError(errno.EADDRINUSE, "error while attempting to bind on address ('::1', 5)")
    assert format_os_error(listening) == os.strerror(errno.EADDRINUSE)
    assert format_os_error(socket.gaierror(-2, "unknown name")) == "unknown name"
    assert format_os_error(OSError("odd")) == "odd"
