"""A server that costs next to nothing, in a process of its own: what is measured is the client.

Run as ``python -m tests.bench.server``; it prints its port and serves until its input ends. It
knows just enough HTTP for two calls, and keeps nothing: a task's id says when it began.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

_ids = count()


class Settings(argparse.Namespace):
    """The arguments of the server, all in seconds."""

    duration = 0.0  # that a task runs
    idle = 3600.0  # without a request until a connection is closed
    distance = 0.0  # that news of the closing takes to the client, and back


class Service(asyncio.Protocol):
    """One connection: answers submits and status calls, and closes when idle."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._stop_timer()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            length = 0
            if head.startswith(b"POST"):
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r", 1)[0])
            if len(self._buffer) < end + 4 + length:
                return
            self._buffer = self._buffer[end + 4 + length :]
            answer = submitted() if length else status(head, self._settings.duration)
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (len(answer), answer)
            )
            self._stop_timer()
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._settings.idle, self._turn_away)

    def _turn_away(self) -> None:
        # From here on nothing is received, but a client so far away does not know it yet.
        self._transport.pause_reading()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._settings.distance, self._transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def submitted() -> bytes:
    """Answer a submit."""
    task_id = f"task_{time.time_ns() // 1_000_000}_{next(_ids)}"
    return _envelope({"taskId": task_id})


def status(head: bytes, duration: float) -> bytes:
    """Answer a status call from what the task's id says."""
    task_id = head.partition(b"taskId=")[2].split(b" ", 1)[0].decode()
    created_ms = int(task_id.split("_")[1])
    age = time.time() - created_ms / 1000
    if age < duration:
        return _envelope({"taskId": task_id, "state": "processing", "createTime": created_ms})
    urls = [f"https://cdn.example.com/videos/{task_id}.mp4"]
    return _envelope(
        {
            "taskId": task_id,
            "state": "success",
            "createTime": created_ms,
            "completeTime": created_ms + 75_000,
            "costTime": 75_000,
            "resultJson": json.dumps({"resultUrls": urls}),
        }
    )


def _envelope(data: dict[str, object]) -> bytes:
    return json.dumps({"code": 200, "message": "success", "data": data}).encode()


@contextmanager
def running(*, duration: float = 0.0, idle: float = 3600.0, distance: float = 0.0) -> Iterator[str]:
    """Run a server in another process and give its origin."""
    numbers = {"duration": duration, "idle": idle, "distance": distance}
    options = [f"--{name}={value}" for name, value in numbers.items()]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.server", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()


async def _serve(settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Service(settings), "127.0.0.1", 0, backlog=1024)
    async with server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    for name in ("duration", "idle", "distance"):
        parser.add_argument(f"--{name}", type=float)
    asyncio.run(_serve(parser.parse_args(namespace=Settings())))


if __name__ == "__main__":
    main()
