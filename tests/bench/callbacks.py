"""Callbacks: how soon they wake, how many status calls they save, how many an inbox takes.

The emulator, and the server that takes callbacks, run in processes of their own.
"""

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import count
from statistics import mean, median, quantiles

import psutil
import uvicorn
from aiohttp import web
from attrs import frozen

from kling_async import Inbox, KlingClient, MasterTextToVideo, Polled, Polling
from kling_async.protocol.callbacks import Callback
from kling_async.webhooks import aiohttp, asgi
from tests.bench import figures

TASKS = 1_000
SPEED = 8  # so that a task takes 7.5 to 11 s; the limits are the documented ones

SECRET = "a secret of the benchmark"
SENDING = 4.0  # seconds of each measurement
CONNECTIONS = 16


@contextmanager
def emulator() -> Iterator[tuple[str, str]]:
    """Run an emulator in another process; give its address and a key."""
    command = [sys.executable, "-m", "kling_async", "emulate", "--port", "0"]
    with subprocess.Popen(
        [*command, "--video", "small", "--speed", str(SPEED), "--balance", "1e6"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout
        try:
            url, key = (process.stdout.readline().strip().partition("=")[2] for _ in range(2))
            yield url, key
        finally:
            process.terminate()


@asynccontextmanager
async def receiving(arrived: dict[str, float]) -> AsyncIterator[Inbox]:
    """Run a server for callbacks beside the client, and record when each has arrived."""
    app = web.Application()
    runner = web.AppRunner(app, access_log=None)

    class RecordingInbox(Inbox):
        def deliver(self, token: tuple[str, str], body: bytes) -> int:
            arrived.setdefault(json.loads(body)["data"]["taskId"], time.monotonic())
            return super().deliver(token, body)

    door = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1")
    port = door.sockets[0].getsockname()[1]
    door.close()
    await door.wait_closed()
    inbox = RecordingInbox(f"http://127.0.0.1:{port}/kling", secret=SECRET)
    app.add_routes(aiohttp.routes(inbox, prefix="/kling"))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield inbox
    finally:
        await runner.cleanup()


@frozen
class Seen:
    """What one run showed, in seconds."""

    calls: float  # status calls for each task
    woken: list[float]  # from a callback's arrival until the waiter knew
    known: list[float]  # from the end at the service until the waiter knew


async def generate(url: str, key: str, *, called_back: bool) -> Seen:
    """Generate 1,000 videos at once."""
    arrived: dict[str, float] = {}
    calls: Counter[str] = Counter()
    woken, known = [], []

    async def one(kling: KlingClient, number: int) -> None:
        result = await kling.generate(MasterTextToVideo(f"a fox in fresh snow, take {number}"))
        if called_back:
            woken.append(time.monotonic() - arrived[result.ref.task_id])
        assert result.completed_at is not None
        known.append((datetime.now(UTC) - result.completed_at).total_seconds())

    def count_calls(event: object) -> None:
        calls["status"] += isinstance(event, Polled)

    async with receiving(arrived) as inbox:
        make = partial(KlingClient, key, base_url=url, hooks=[count_calls])
        # Without callbacks it is given the duration of such tasks, as it would learn by itself.
        kling = make(inbox=inbox) if called_back else make(polling=Polling(first=60 / SPEED))
        async with kling, asyncio.TaskGroup() as waiters:
            for number in range(TASKS):
                waiters.create_task(one(kling, number))
    return Seen(calls["status"] / TASKS, woken, known)


def waking() -> None:
    """Print how soon waiters know, by callbacks and by polls."""
    with emulator() as (url, key):
        seen = {
            "by callback": asyncio.run(generate(url, key, called_back=True)),
            "by polls": asyncio.run(generate(url, key, called_back=False)),
        }
    figures.title(f"{TASKS} tasks of {60 / SPEED:.1f} to {90 / SPEED:.1f} s at once")
    figures.row("", "status calls each", "known after", "95 %")
    for name, one in seen.items():
        late = quantiles(one.known, n=20)[-1]
        calls = f"{one.calls:.2f}"
        figures.row(name, calls, f"{mean(one.known) * 1000:.0f} ms", f"{late * 1000:.0f} ms")
    woken = seen["by callback"].woken
    figures.row("a callback's arrival until the waiter knows", f"{median(woken) * 1000:.1f} ms")


class KnowsAll:
    """A listener in place of clients with any number of tasks."""

    def handle(self, callback: Callback) -> bool:
        """Know every task."""
        return True


def serve(edge: str) -> None:
    """Receive callbacks through one adapter until standard input ends."""
    inbox, listener = Inbox("http://127.0.0.1:1", secret=SECRET), KnowsAll()
    inbox.join(listener)
    app = web.Application()
    app.add_routes(aiohttp.routes(inbox))

    async def with_aiohttp() -> None:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await runner.cleanup()

    async def with_uvicorn() -> None:
        config = uvicorn.Config(asgi.app(inbox), log_level="error", access_log=False)
        server = uvicorn.Server(config)
        door = socket.create_server(("127.0.0.1", 0))
        serving = asyncio.create_task(server.serve(sockets=[door]))
        print(door.getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        server.should_exit = True
        await serving

    asyncio.run({"aiohttp": with_aiohttp, "asgi": with_uvicorn}[edge]())


def requests(secret: str) -> Callable[[], bytes]:
    """Return what makes one callback after another, each of a task of its own."""
    inbox, numbers = Inbox("http://127.0.0.1:1", secret=secret), count()

    def make() -> bytes:
        number = next(numbers)
        path = inbox.callback_url("kling-2-1", f"{number:016d}").removeprefix(inbox.public_url)
        urls = json.dumps({"resultUrls": [f"https://cdn.example.com/videos/{number}.mp4"]})
        times = {"createTime": 1_750_000_000_000, "completeTime": 1_750_000_075_000}
        data = {"taskId": f"task_{number}", "state": "success", "resultJson": urls, **times}
        body = json.dumps({"code": 200, "message": "success", "data": data}).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    return make


async def send(port: int, make: Callable[[], bytes], until: float, expected: bytes) -> int:
    """Send one callback after another through one connection at a time; count the answers."""
    answers = 0
    while time.monotonic() < until:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while time.monotonic() < until:
                writer.write(make())
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 " + expected), head
                answers += 1
                if b"close" in head.lower():  # a body was not read
                    break
        finally:
            writer.close()
    return answers


def load(port: int, *, forged: bool) -> int:
    """Send as fast as answers come; return how many came."""

    async def run() -> int:
        make = requests("what a stranger made up" if forged else SECRET)
        until, status = time.monotonic() + SENDING, b"404" if forged else b"200"
        senders = [send(port, make, until, status) for _ in range(CONNECTIONS)]
        return sum(await asyncio.gather(*senders))

    return asyncio.run(run())


def measure(edge: str, *, genuine: bool, flood: bool) -> tuple[int, int, float]:
    """Return how many genuine and forged callbacks were answered, and the server's CPU time."""
    here = [sys.executable, "-m", "tests.bench.callbacks"]
    with subprocess.Popen(
        [*here, "--serve", edge], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin
        assert server.stdout
        port = server.stdout.readline().strip()
        process = psutil.Process(server.pid)
        before = sum(process.cpu_times()[:2])
        loads = [
            subprocess.Popen([*here, "--load", port, *option], stdout=subprocess.PIPE, text=True)
            for wanted, option in ((genuine, ()), (flood, ("--forged",)))
            if wanted
        ]
        answers = [int(one.communicate()[0]) for one in loads]
        spent = sum(process.cpu_times()[:2]) - before
        server.stdin.close()
    return (answers[0] if genuine else 0), (answers[-1] if flood else 0), spent


def taking() -> None:
    """Print how many callbacks an inbox takes, alone and in a flood of forged ones."""
    figures.title(f"Callbacks a second of one core's time, {CONNECTIONS} connections at a time")
    figures.row("", "genuine", "forged", "both at once", "of them genuine")
    for edge in ("aiohttp", "asgi"):
        genuine, _, alone = measure(edge, genuine=True, flood=False)
        _, forged, flood = measure(edge, genuine=False, flood=True)
        among, others, both = measure(edge, genuine=True, flood=True)
        name = {"aiohttp": "aiohttp.routes", "asgi": "asgi.app, uvicorn with h11"}[edge]
        rates = genuine / alone, forged / flood, (among + others) / both, among / SENDING
        figures.row(name, *(f"{rate:,.0f}" for rate in rates[:3]), f"{rates[3]:,.0f} /s")
    inbox, listener = Inbox("http://127.0.0.1:1", secret=SECRET), KnowsAll()
    inbox.join(listener)
    for name, secret in (("genuine", SECRET), ("forged", "what a stranger made up")):
        make = requests(secret)
        sent = [make() for _ in range(20_000)]
        asked = [(one.split(b" ", 2)[1].decode(), one.partition(b"\r\n\r\n")[2]) for one in sent]
        before = time.process_time()
        for path, body in asked:
            inbox.handle("POST", path, "", body)
        each = (time.process_time() - before) / len(asked)
        figures.row(f"inbox.handle alone, {name}", f"{1 / each:,.0f}")


def main() -> None:
    """Print all of it."""
    waking()
    taking()


def _part() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve")
    parser.add_argument("--load", type=int)
    parser.add_argument("--forged", action="store_true")
    args = parser.parse_args()
    if args.serve:
        serve(args.serve)
    else:
        print(load(args.load, forged=args.forged))


if __name__ == "__main__":
    _part()
