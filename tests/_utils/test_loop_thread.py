from __future__ import annotations

import asyncio
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from kling_async._utils.loop_thread import LoopThread
from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    """Run a loop in a thread."""
    running = LoopThread()
    yield running
    running.stop()
    assert not running.is_alive()


async def where() -> threading.Thread:
    """Return the thread that runs this."""
    return threading.current_thread()


def test_results_and_errors(thread: LoopThread) -> None:
    """A coroutine runs in the thread; its result is returned and its error raised."""

    async def fail() -> None:
        raise ZeroDivisionError

    assert thread.call(where()) is thread
    with pytest.raises(ZeroDivisionError):
        thread.call(fail())


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_an_exit(error: type[BaseException], thread: LoopThread) -> None:
    """A coroutine that exits the program does so in its caller; other calls still return."""

    async def leave() -> None:
        raise error

    with pytest.raises(error):
        thread.call(leave())
    assert thread.call(where()) is thread


def test_a_cancelled_coroutine(thread: LoopThread) -> None:
    """A coroutine that is cancelled from inside raises that, with its notes."""

    async def cancelled() -> None:
        error = asyncio.CancelledError()
        error.add_note("a reference")
        raise error

    with pytest.raises(asyncio.CancelledError) as caught:
        thread.call(cancelled())
    assert caught.value.__notes__ == ["a reference"]


def test_a_call_of_the_thread_itself(thread: LoopThread) -> None:
    """A call from the loop's own thread is refused, since it would never return."""

    async def call() -> None:
        thread.call(where())

    with pytest.raises(ConfigurationError, match="never return"):
        thread.call(call())


@pytest.mark.parametrize(
    ("paid", "note"),
    [(False, "a reference"), (True, "the interrupted call had succeeded: 'paid'")],
)
def test_an_interrupted_call(thread: LoopThread, paid: bool, note: str) -> None:  # noqa: FBT001
    """Ctrl-C cancels the coroutine; what is known of it is in the notes of the interrupt."""
    main = threading.main_thread().ident
    assert main == threading.get_ident()

    async def work() -> str:
        signal.pthread_kill(main, signal.SIGINT)
        try:
            return str(await asyncio.Event().wait())
        except asyncio.CancelledError as error:
            error.add_note("a reference")
            if not paid:
                raise
        return "paid"

    with pytest.raises(KeyboardInterrupt) as caught:
        thread.call(work())
    assert caught.value.__notes__ == [note]


def test_interrupted_before_the_start(thread: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that is interrupted before its coroutine is scheduled runs nothing."""
    schedule = thread._loop.call_soon_threadsafe  # noqa: SLF001 - the moment cannot be hit else

    def interrupt(*_: object) -> None:
        monkeypatch.setattr(thread._loop, "call_soon_threadsafe", schedule)  # noqa: SLF001
        raise KeyboardInterrupt

    monkeypatch.setattr(thread._loop, "call_soon_threadsafe", interrupt)  # noqa: SLF001
    with pytest.raises(KeyboardInterrupt):
        thread.call(where())


def test_a_stopped_thread() -> None:
    """A call after the end is cancelled at once; nothing of it runs."""
    stopped = LoopThread()
    stopped.stop()
    with pytest.raises(asyncio.CancelledError):
        stopped.call(where())


def test_a_thread_of_another_process(thread: LoopThread) -> None:
    """A thread that was started before a fork is refused in the child."""
    thread._process_id -= 1  # noqa: SLF001 - as after a fork
    with pytest.raises(ConfigurationError, match="forked"):
        thread.call(where())
