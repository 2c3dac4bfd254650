"""Workers as processes, which may be killed at any moment."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from tests.processes import unmeasured

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Workers"]

# Forks itself for each worker: importing takes longer than many a run.
NURSERY = textwrap.dedent("""
    import asyncio, logging, os, signal, sys
    import aiohttp
    from kling_async import KlingClient, Limits, Polling, Retry, transport
    from kling_async.tasks import poll_scheduler as polls, submitter as submits
    from kling_async.fleet import Worker, job_store as jobs
    from kling_async.journal.postgres import journal as postgres

    base_url, key, url, concurrency, lease = sys.argv[1:]

    async def main():
        fast = Polling(first=0.1, shortest=0.1, longest=0.3)
        limits = Limits(1_000_000, int(concurrency))
        async with KlingClient(
            key, base_url=base_url, limits=limits, polling=fast, retry=Retry(base=0.01)
        ) as kling:
            worker = Worker(
                kling, url, concurrency=int(concurrency), lease=float(lease), until_empty=True
            )
            await worker.run()

    # In development mode asyncio logs every slow callback, and a busy machine makes many slow.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            word = "failed"
            try:
                asyncio.run(main())
                word = "ended"
            except Exception as error:
                print(repr(error), file=sys.stderr)
            finally:
                print(f"{word} {os.getpid()}", flush=True)
                os._exit(0)
        print(f"born {child}", flush=True)
""")


class Workers:
    """The workers that are alive; also the emulator's ``duration``, called at each acceptance.

    Killing all at that moment kills one of them between the acceptance and its answer.

    Args:
        all_at: At which acceptance all are killed.
        seconds: That a task takes, at least.
    """

    def __init__(self, all_at: int, seconds: float = 60.0) -> None:
        self.all_at = all_at
        self.seconds = seconds
        self.accepted = self.ended = self.killed = 0
        self.living: set[int] = set()
        self._born: asyncio.Queue[int] = asyncio.Queue()

    def __call__(self, sent: Mapping[str, object]) -> float:
        """Give the seconds that a task takes."""
        self.accepted += 1
        if self.accepted == self.all_at:
            for pid in list(self.living):
                self.kill(pid)
        return self.seconds + int(str(sent["prompt"])) % 30

    async def open(
        self, base_url: str, key: str, url: str, *, concurrency: int, lease: float
    ) -> Self:
        """Start the process that forks the workers."""
        self._nursery = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", NURSERY, base_url, key, url, str(concurrency), str(lease)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=unmeasured(),
        )
        self._reading = asyncio.create_task(self._read_lines())
        return self

    async def close(self) -> None:
        """Kill those that are left."""
        for pid in list(self.living):
            self.kill(pid)
        assert self._nursery.stdin is not None
        self._nursery.stdin.close()
        await self._nursery.wait()
        await self._reading

    async def spawn(self, number: int) -> None:
        """Make workers."""
        assert self._nursery.stdin is not None
        for _ in range(number):
            self._nursery.stdin.write(b"another\n")
            await self._born.get()

    def kill(self, pid: int) -> None:
        """Kill one."""
        self.living.discard(pid)
        self.killed += 1
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    async def _read_lines(self) -> None:
        assert self._nursery.stdout is not None
        async for line in self._nursery.stdout:
            what, pid = line.decode().split()
            if what == "born":
                self.living.add(int(pid))
                self._born.put_nowait(int(pid))
            else:
                self.living.discard(int(pid))
                self.ended += what == "ended"
