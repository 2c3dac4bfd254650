"""The signals that end a command."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from functools import partial


def call_on_signals(stop: Callable[[], object], *, interrupt: bool = False) -> None:
    """Call ``stop`` on the running loop at SIGTERM, and at SIGHUP unless that is ignored.

    SIGHUP counts once, and not after SIGTERM: a shell that exits sends it, and then the kernel
    sends it again. With ``interrupt``, SIGINT counts too, in place of asyncio's own handler. Where
    signals cannot be handled (on Windows, outside the main thread), this does nothing.
    """
    numbers = [signal.SIGTERM, *([signal.SIGINT] if interrupt else [])]
    hangup = getattr(signal, "SIGHUP", None)  # not on Windows
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # as under nohup
        numbers.append(hangup)
    stopped = False

    def handle(number: int) -> None:
        nonlocal stopped
        if number != hangup or not stopped:
            stopped = True
            stop()

    loop = asyncio.get_running_loop()
    for number in numbers:
        try:
            loop.add_signal_handler(number, partial(handle, number))
        except (NotImplementedError, RuntimeError):
            return
