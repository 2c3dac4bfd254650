from __future__ import annotations

import socket

import pytest

from kling_async.journal.postgres._watch import Watch, longest


@pytest.mark.parametrize(("lease", "seconds"), [(60.0, 15.0), (1.0, 5.0)])
def test_how_long_a_server_may_say_nothing(lease: float, seconds: float) -> None:
    """It is a part of the lease, and enough for any transaction."""
    assert longest(lease) == seconds


def test_a_use_that_takes_too_long() -> None:
    """It ends with the connection, and it is known why."""
    here, there = socket.socketpair()
    watch = Watch(0.05)
    with here, there:
        with watch.over(here.fileno()):
            assert here.recv(1) == b""
        assert watch.was_cut


def test_a_use_that_ends_in_time() -> None:
    """Nothing happens to the connection, neither then nor later."""
    here, there = socket.socketpair()
    watch = Watch(60.0)
    with here, there:
        with watch.over(here.fileno()):
            pass
        assert not watch.was_cut
        there.send(b"a")
        assert here.recv(1) == b"a"


@pytest.mark.parametrize("during", [False, True])
def test_a_hurry(*, during: bool) -> None:
    """It counts for the use that is under way, and for those that follow."""
    here, there = socket.socketpair()
    watch = Watch(60.0)
    with here, there:
        if not during:
            watch.hurry(0.05)
        with watch.over(here.fileno()):
            if during:
                watch.hurry(0.05)
            assert here.recv(1) == b""
        assert watch.was_cut
