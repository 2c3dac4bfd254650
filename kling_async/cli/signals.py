"""The signals that end a command."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from functools import partial


def on_signals(stop: Callable[[], object], *, interrupt: bool = False) -> None:
    """Call a function of the running loop at SIGTERM, and at SIGHUP unless that is ignored.

    A hangup counts once, and not behind a SIGTERM: a shell that ends sends it, and the kernel sends
    it again. Where signals cannot be caught, on Windows or outside the main thread, nothing is
    done.

    Args:
        stop: What to call.
        interrupt: Call it at Ctrl-C, too, in the place of asyncio's own handler.
    """
    numbers = [signal.SIGTERM, *([signal.SIGINT] if interrupt else [])]
    hangup = getattr(signal, "SIGHUP", None)  # not on Windows
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # as under nohup
        numbers.append(hangup)
    stopped = False

    def caught(number: int) -> None:
        nonlocal stopped
        if number != hangup or not stopped:
            stopped = True
            stop()

    loop = asyncio.get_running_loop()
    for number in numbers:
        try:
            loop.add_signal_handler(number, partial(caught, number))
        except (NotImplementedError, RuntimeError):
            return
