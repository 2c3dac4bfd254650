from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from http.client import HTTPConnection
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from kling_async._utils.loop_thread import LoopThread
from kling_async.errors import ConfigurationError
from kling_async.testing import Emulator, Submission
from tests.patience import HANGS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.testing.emulator.conftest import Start

TEXT = {"mode": "master-text-to-video", "prompt": "a fox"}


async def test_addresses() -> None:
    """An emulator says where it listens, for clients and for browsers."""
    async with Emulator() as emulator:
        assert emulator.origin.startswith("http://127.0.0.1:")
        assert not emulator.origin.endswith(":0")
        assert emulator.base_url == f"{emulator.origin}/api/v1"
        assert emulator.key


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_addresses_of_ipv6() -> None:
    """An IPv6 address is written in brackets."""
    assert Emulator(host="::1", port=9).origin == "http://[::1]:9"


async def test_a_port_that_is_taken() -> None:
    """If the port is taken, the error comes at once and nothing is left behind."""
    async with Emulator() as emulator:
        port = int(emulator.origin.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            await Emulator(port=port).__aenter__()


async def test_entered_twice() -> None:
    """An emulator that runs cannot be started again; after its end it can, on the same port."""
    async with Emulator() as emulator:
        with pytest.raises(ConfigurationError, match=f"runs already, at {emulator.origin}"):
            await emulator.__aenter__()
        with pytest.raises(ConfigurationError, match="runs already"):
            emulator.__enter__()
    origin = emulator.origin
    with emulator:
        assert emulator.origin == origin


async def test_leaving_what_was_not_entered() -> None:
    """Leaving an emulator that was never started is no error."""
    await Emulator().__aexit__(None, None, None)


async def test_the_key_it_was_given() -> None:
    """The key that is asked for is the one that `key` names."""
    assert Emulator(api_key="sesame").key == "sesame"


async def test_ledger_and_balance(start: Start) -> None:
    """The ledger holds what was really started, and the balance what is left."""
    peer = await start(balance=10.0)
    await asyncio.sleep(3)
    task_id = await peer.submit(**TEXT, duration=10)
    await peer.post({})
    (entry,) = peer.emulator.ledger
    assert entry == Submission(
        at=entry.at,
        model="kling-2-1",
        mode="master-text-to-video",
        input=TEXT | {"duration": 10},
        task_id=task_id,
        callback_url=None,
    )
    assert entry.at == pytest.approx(3, abs=0.5)
    assert peer.emulator.balance == pytest.approx(7.6)
    assert (await peer.balance())[1]["data"] == pytest.approx(7.6)


@pytest.mark.parametrize(("duration", "low", "high"), [(5, 60, 90), (10, 90, 120)])
async def test_documented_durations(duration: int, low: float, high: float, start: Start) -> None:
    """Without a setting, tasks take the documented time, and not all the same."""
    peer = await start(duration=None)
    ids = [await peer.submit(**TEXT, duration=duration) for _ in range(20)]
    await asyncio.sleep(200)
    times = [(await peer.status(task_id))["costTime"] / 1000 for task_id in ids]
    assert all(low <= seconds <= high for seconds in times)
    assert max(times) - min(times) > 10


async def test_the_seed_decides_the_dice(start: Start) -> None:
    """The same seed gives the same durations, another one others."""

    async def times(seed: int) -> list[int]:
        peer = await start(duration=(10.0, 20.0), seed=seed)
        ids = [await peer.submit() for _ in range(5)]
        await asyncio.sleep(30)
        return [(await peer.status(task_id))["costTime"] for task_id in ids]

    assert await times(1) == await times(1) != await times(2)


async def test_latency(start: Start) -> None:
    """A request is counted after a latency, and its answer arrives after another one."""
    peer = await start(latency=2.0, speed=10.0)
    loop = asyncio.get_running_loop()
    task_id = await peer.submit()
    assert loop.time() == pytest.approx(4, abs=0.3)
    await peer.status(task_id)
    assert [r.at for r in peer.emulator.requests] == pytest.approx([0, 4], abs=0.3)
    assert [r.counted_at for r in peer.emulator.requests] == pytest.approx([2, 6], abs=0.3)
    assert peer.emulator.ledger[0].at == peer.emulator.requests[0].counted_at


async def test_latency_by_function(start: Start) -> None:
    """A function can give each latency: first the request's, then the answer's."""
    peer = await start(latency=iter([1.0, 5.0, 0.0, 2.0]).__next__)
    loop = asyncio.get_running_loop()
    for counted, answered in ((1, 6), (6, 8)):
        await peer.balance()
        assert peer.emulator.requests[-1].counted_at == pytest.approx(counted, abs=0.3)
        assert loop.time() == pytest.approx(answered, abs=0.3)


async def test_latency_within_a_range(start: Start) -> None:
    """A latency is drawn from its range, the same ones for one seed, and disturbs nothing else."""

    async def times(latency: object, seed: int) -> tuple[list[float], list[int]]:
        peer = await start(latency=latency, seed=seed, duration=(10.0, 20.0))
        ids = [await peer.submit() for _ in range(5)]
        await asyncio.sleep(30)
        costs = [(await peer.status(task_id))["costTime"] for task_id in ids]
        waits = [(r.counted_at or 0.0) - r.at for r in peer.emulator.requests]
        return waits, costs

    waits, costs = await times((1.0, 3.0), 1)
    assert 1.0 <= min(waits) < max(waits) - 0.5 <= 2.5
    again, _ = await times((1.0, 3.0), 1)
    assert again == pytest.approx(waits, abs=0.01)
    assert (await times((1.0, 3.0), 2))[0] != pytest.approx(waits, abs=0.01)
    assert (await times(0.0, 1))[1] == costs


async def test_leaving_does_not_wait_for_a_latency(start: Start) -> None:
    """What is under way when the emulator is left does not hold it up."""
    peer = await start(latency=5_000.0)
    call = asyncio.create_task(peer.balance())
    await asyncio.sleep(1)
    await peer.emulator.__aexit__(None, None, None)
    assert asyncio.get_running_loop().time() < 100
    await asyncio.gather(call, return_exceptions=True)


def ask(emulator: Emulator, path: str, body: object = None) -> tuple[int, Any]:
    """Send a request from a thread without a loop."""
    connection = HTTPConnection(emulator.origin.removeprefix("http://"))
    try:
        connection.request(
            "GET" if body is None else "POST",
            f"/api/v1/{path}",
            None if body is None else json.dumps(body),
            {"Authorization": f"Bearer {emulator.key}"},
        )
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())["data"]
    finally:
        connection.close()


def test_in_a_thread() -> None:
    """With `with` it runs in a thread: faults, tasks and records are for the calling thread."""
    posted: SimpleQueue[str] = SimpleQueue()

    def deliver(url: str, body: bytes) -> int:
        posted.put(url)
        return 200

    body = {
        "request_type": "callback",
        "callback_url": "https://testserver/token",
        "input": TEXT,
    }
    with Emulator(video="small", duration=lambda _: 1e6) as emulator:
        emulator.deliver_callback = deliver
        emulator.add_fault("submit", 1, "503")
        assert ask(emulator, "generateTask/kling-2-1", body)[0] == 503
        emulator.add_fault("submit", "*", "402")
        emulator.clear_faults()
        task_id = ask(emulator, "generateTask/kling-2-1", body)[1]["taskId"]
        status = f"statusTask/kling-2-1?taskId={task_id}"
        assert ask(emulator, status)[1]["state"] == "pending"
        emulator.finish_tasks()
        assert ask(emulator, status)[1]["state"] == "success"
        assert posted.get(timeout=HANGS) == "https://testserver/token"
    assert len(emulator.ledger) == 1
    assert not any(isinstance(thread, LoopThread) for thread in threading.enumerate())
    emulator.__exit__(None, None, None)  # leaving it again is no error


def test_a_thread_that_cannot_listen() -> None:
    """If the port is taken, the error comes at once and the thread ends."""
    with (
        Emulator() as emulator,
        pytest.raises(OSError, match="in use"),
        Emulator(port=int(emulator.origin.rpartition(":")[2])),
    ):
        raise AssertionError
    assert not any(isinstance(thread, LoopThread) for thread in threading.enumerate())


async def test_tasks_that_are_finished(start: Start) -> None:
    """Running tasks can be ended at any moment, also before there is a task."""
    Emulator().finish_tasks()
    peer = await start("task:2=stuck")
    first, second = [await peer.submit(callback_url="http://127.0.0.1:1/") for _ in range(2)]
    await asyncio.sleep(10)
    peer.emulator.finish_tasks()
    assert (await peer.status(first))["costTime"] == pytest.approx(10_000, abs=500)
    assert (await peer.status(second))["state"] == "processing"
    await asyncio.sleep(1)
    assert [delivery.task_id for delivery in peer.emulator.deliveries] == [first]


def test_the_environment_of_clients() -> None:
    """Address, key and first poll are what a client reads of the environment."""
    emulator = Emulator(host="0.0.0.0", port=9, api_key="sesame", speed=20.0)
    variables = emulator.environment
    assert "0.0.0.0" not in variables["APIXO_BASE_URL"]
    assert variables["APIXO_API_KEY"] == "sesame"
    assert variables["KLING_FIRST_POLL"] == "3"
    assert "KLING_FIRST_POLL" not in Emulator().environment


async def test_another_cap(start: Start) -> None:
    """The number of tasks that may run can be changed while it runs."""
    peer = await start(concurrent_tasks=2)
    await peer.submit()
    peer.emulator.concurrent_tasks = 1
    assert peer.emulator.concurrent_tasks == 1
    assert (await peer.post({"input": TEXT}))[0] == 429
    peer.emulator.concurrent_tasks = 3
    await peer.submit()
    with pytest.raises(ConfigurationError, match="at least 1"):
        peer.emulator.concurrent_tasks = 0


async def test_duration_by_function_and_speed(start: Start) -> None:
    """A function of the input can say how long a task takes; speed divides it."""

    def seconds(fields: Mapping[str, object]) -> float:
        return 10.0 * len(str(fields["prompt"]))

    peer = await start(duration=seconds, speed=2.0)
    task_id = await peer.submit(mode="master-text-to-video", prompt="four")
    await asyncio.sleep(100)
    assert (await peer.status(task_id))["costTime"] == pytest.approx(20_000, abs=5)


@pytest.mark.parametrize(
    "options",
    [
        {"speed": 0.0},
        {"speed": -1.0},
        {"speed": float("nan")},
        {"speed": float("inf")},
        {"latency": -1.0},
        {"latency": (2.0, 1.0)},
        {"latency": (0.0, float("inf"))},
        {"latency": float("nan")},
        {"requests_per_minute": 0},
        {"concurrent_tasks": 0},
    ],
)
def test_settings_that_make_no_sense(options: dict[str, Any]) -> None:
    """A number that cannot be kept is refused when the emulator is made."""
    with pytest.raises(ConfigurationError, match="emulator"):
        Emulator(**options)


async def test_the_application_alone() -> None:
    """Those who have a server of their own can run the application in it."""
    emulator = Emulator()
    runner = web.AppRunner(emulator.app())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    headers = {"Authorization": "Bearer x"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"http://127.0.0.1:{port}/api/v1/apikeys/current-balance") as response,
    ):
        assert (await response.json())["data"] == 1000.0
    await runner.cleanup()


async def test_leaving_leaves_nothing_running(start: Start) -> None:
    """After the end no task of the emulator is left on the loop."""
    before = asyncio.all_tasks()
    async with Emulator() as emulator:
        headers = {"Authorization": "Bearer x"}
        body = {"prompt": "x", "image_urls": ["http://127.0.0.1:1/x"]}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(f"{emulator.base_url}/generateTask/kling-2-1", json={"input": body}),
        ):
            pass
    assert asyncio.all_tasks() == before


async def test_idle_connections_are_closed(start: Start) -> None:
    """A connection that is idle for longer than `keep_alive` is closed by the emulator."""
    peer = await start(keep_alive=5.0)
    await peer.balance()
    await asyncio.sleep(4)
    await peer.balance()
    connector = peer.session.connector
    assert isinstance(connector, aiohttp.TCPConnector)
    (connections,) = list(connector._conns.values())  # noqa: SLF001 - no public view
    transport = connections[0][0].transport
    assert transport is not None
    assert not transport.is_closing()
    await asyncio.sleep(6)
    assert transport.is_closing()


@pytest.mark.slow
def test_without_the_extra() -> None:
    """Without PyAV and Pillow the small video is served, and "rendered" says what to install."""
    code = """
import sys
sys.modules["av"] = sys.modules["PIL"] = None
import asyncio, json, aiohttp
from kling_async._utils.extras import install_command
from kling_async.errors import MissingExtraError
from kling_async.testing import Emulator
from kling_async.testing.media.film import SMALL_VIDEO
from kling_async.testing.sample_files import FOLDER
from kling_async.testing.clock import VirtualLoop

try:
    Emulator(video="rendered")
except MissingExtraError as error:
    assert install_command("emulator") in str(error)
else:
    raise AssertionError

async def main():
    headers = {"Authorization": "Bearer x"}
    async with (
        Emulator(samples=FOLDER) as emulator,
        aiohttp.ClientSession(emulator.origin, headers=headers) as session,
    ):
        body = {"prompt": "x", "image_urls": [f"{emulator.origin}/samples/fox.jpg"]}
        async with session.post("/api/v1/generateTask/kling-2-1", json={"input": body}) as answer:
            task_id = (await answer.json())["data"]["taskId"]
        await asyncio.sleep(100)
        async with session.get(f"/files/{task_id}.mp4") as answer:
            assert await answer.read() == SMALL_VIDEO.read_bytes()

with asyncio.Runner(loop_factory=VirtualLoop) as runner:
    runner.run(main())
"""
    subprocess.run([sys.executable, "-X", "dev", "-W", "error", "-c", code], check=True)
