from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from kling_async.errors import ConfigurationError
from kling_async.testing import Emulator, Submission

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
    """An IPv6 address stands in brackets."""
    assert Emulator(host="::1", port=9).origin == "http://[::1]:9"


async def test_a_port_that_is_taken() -> None:
    """If the port is taken, the error comes at once and nothing is left behind."""
    async with Emulator() as emulator:
        port = int(emulator.origin.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            await Emulator(port=port).__aenter__()


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


def test_without_the_extra() -> None:
    """Without PyAV and Pillow the small video is served, and "rendered" says what to install."""
    code = """
import sys
sys.modules["av"] = sys.modules["PIL"] = None
import asyncio, json, aiohttp
from kling_async._extras import install_command
from kling_async.errors import MissingExtraError
from kling_async.testing import Emulator, media, samples
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
        Emulator(samples=samples.FOLDER) as emulator,
        aiohttp.ClientSession(emulator.origin, headers=headers) as session,
    ):
        body = {"prompt": "x", "image_urls": [f"{emulator.origin}/samples/fox.jpg"]}
        async with session.post("/api/v1/generateTask/kling-2-1", json={"input": body}) as answer:
            task_id = (await answer.json())["data"]["taskId"]
        await asyncio.sleep(100)
        async with session.get(f"/files/{task_id}.mp4") as answer:
            assert await answer.read() == media.small_video()

with asyncio.Runner(loop_factory=VirtualLoop) as runner:
    runner.run(main())
"""
    subprocess.run([sys.executable, "-X", "dev", "-W", "error", "-c", code], check=True)
