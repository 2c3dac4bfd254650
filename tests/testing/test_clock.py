from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time

import pytest

from kling_async.testing.clock import GRACE, VirtualLoop

pytestmark = pytest.mark.virtual_time


def now() -> float:
    """Give the loop's time."""
    return asyncio.get_running_loop().time()


def test_time_starts_at_zero() -> None:
    """Each loop's time begins at 0, and advances without a real wait."""

    async def main() -> float:
        assert now() < 0.001
        await asyncio.sleep(24 * 3600)
        return now()

    for _ in range(2):
        before = time.monotonic()
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            assert runner.run(main()) == pytest.approx(24 * 3600)
        assert time.monotonic() - before < 3600


async def test_timers_in_order() -> None:
    """Timers fire in the order of their moments, each at its own."""
    seen: list[tuple[str, float]] = []

    async def one(name: str, delay: float) -> None:
        await asyncio.sleep(delay)
        seen.append((name, round(now(), 3)))

    await asyncio.gather(one("c", 90), one("a", 0.5), one("b", 60))
    assert seen == [("a", 0.5), ("b", 60.0), ("c", 90.0)]


async def test_timeouts_are_virtual() -> None:
    """A timeout passes in no time, and to the second."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3600):
            await asyncio.Event().wait()
    assert now() == pytest.approx(3600, abs=0.001)


async def test_sockets_come_before_the_clock() -> None:
    """While a peer on the same loop has something to say, the clock does not jump."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    async with asyncio.timeout(1.0):
        for _ in range(50):
            writer.write(b"x" * 10_000)
            assert len(await reader.readexactly(10_000)) == 10_000
    assert now() < 0.01
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def test_a_peer_in_a_thread() -> None:
    """A peer outside the loop that answers at once is read before the clock jumps far."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.sendall(peer.recv(10).upper())

        thread = threading.Thread(target=answer)
        thread.start()
        reader, writer = await asyncio.open_connection(*server.getsockname())
        writer.write(b"hello")
        assert await reader.read(10) == b"HELLO"
        thread.join()
        writer.close()
        await writer.wait_closed()


async def test_sockets_get_a_real_moment() -> None:
    """While a socket is open, the clock gives its peer a moment before each jump."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    before = time.monotonic()
    for _ in range(40):
        await asyncio.sleep(60)
    assert time.monotonic() - before >= 40 * GRACE
    server.close()
    await server.wait_closed()


async def test_the_clock_waits_for_threads() -> None:
    """While a job runs in a thread time stands still, and advances afterwards."""
    reached, gate = threading.Event(), threading.Event()

    def job() -> str:
        reached.set()
        gate.wait(30)
        return "done"

    async def meddle() -> None:
        await asyncio.sleep(0)
        # Opened from a thread of its own, a moment after the loop has nothing else to do.
        threading.Timer(0.02, gate.set).start()

    async with asyncio.timeout(10):
        result, _ = await asyncio.gather(asyncio.to_thread(job), meddle())
    assert result == "done"
    assert reached.is_set()
    assert now() < 1
    await asyncio.sleep(50)
    assert now() == pytest.approx(50, abs=1)


async def test_a_job_that_is_abandoned() -> None:
    """When a job's waiter is cancelled the clock no longer waits for the job."""
    gate = threading.Event()
    task = asyncio.create_task(asyncio.to_thread(gate.wait, 30))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(100)
    assert now() == pytest.approx(100, abs=1)
    gate.set()


async def test_a_job_that_fails() -> None:
    """After a job that raises the clock advances."""

    def job() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(job)
    await asyncio.sleep(5)
    assert now() >= 5


def test_a_job_that_cannot_start() -> None:
    """If a job cannot be started, the clock does not wait for it."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        await loop.shutdown_default_executor()
        with pytest.raises(RuntimeError):
            await asyncio.to_thread(print)
        await asyncio.sleep(5)
        return loop.time()

    loop = VirtualLoop()
    try:
        assert loop.run_until_complete(main()) >= 5
    finally:
        loop.close()


async def test_calls_from_threads_wake_the_loop() -> None:
    """With no timer set the loop really waits for what a thread brings."""
    event, loop = asyncio.Event(), asyncio.get_running_loop()
    threading.Timer(0.01, loop.call_soon_threadsafe, (event.set,)).start()
    await event.wait()
    assert event.is_set()


async def test_a_moment_too_near_to_differ() -> None:
    """A loop that sets timers for the present moment still moves on."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(1e6)
    turns = 0

    async def until() -> None:
        nonlocal turns
        end = loop.time() + 1e-7
        while loop.time() < end:
            turns += 1
            await asyncio.sleep(1e-12)

    await until()
    assert turns <= 100


@pytest.mark.skipif(sys.platform == "win32", reason="subprocesses need another loop there")
async def test_subprocesses_are_real() -> None:
    """A subprocess runs and is waited for."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "print('hello')", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert (process.returncode, out.strip()) == (0, b"hello")


async def test_ending_threads_takes_no_virtual_time() -> None:
    """However short the time limit in virtual seconds, threads have the real time they need."""
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(len, ())
    before = loop.time()
    await loop.shutdown_default_executor(1e-9)  # type: ignore[call-arg]  # as Python 3.12 has it
    assert loop.time() - before < 1e-3
