"""One client at work, in a process of its own: ``python -m tests.bench.peers.client``.

Imports nothing but the standard library and the client itself: most clients have an environment
of their own. Each is driven as its documentation shows, with a key, a base URL and its defaults.
"""

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from itertools import pairwise
from statistics import quantiles
from typing import Any, NamedTuple

from tests.bench.peers.messages import WARM, Lost, Waited

TASKS = 1_000
PATIENCE = 20.0
TICK = 0.005
KEY = "a-key-of-the-usual-length"

# Seconds. The client with the most attempts needs half a minute for them.
LOST_PATIENCE = 90.0


class Calls(NamedTuple):
    """What is asked of each client."""

    submit: Callable[[str], Awaitable[object]]
    generate: Callable[[str], Awaitable[object]]
    ask: Callable[[str], Awaitable[object]]


def runwayml(origin: str) -> Calls:
    """Follow ``create`` with ``wait_for_task_output``."""
    client = import_module("runwayml").AsyncRunwayML(api_key=KEY, base_url=origin)

    def submit(prompt: str) -> Any:  # noqa: ANN401 - its types are in its own environment
        return client.text_to_video.create(
            model="kling2.5_turbo_pro", prompt_text=prompt, ratio="1280:720", duration=5
        )

    async def generate(prompt: str) -> object:
        return await (await submit(prompt)).wait_for_task_output()

    return Calls(submit, generate, client.tasks.retrieve)


def openai(origin: str) -> Calls:
    """Use ``videos.create_and_poll``."""
    videos = import_module("openai").AsyncOpenAI(api_key=KEY, base_url=f"{origin}/v1").videos

    async def submit(prompt: str) -> object:
        return await videos.create(model="sora-2", prompt=prompt)

    async def generate(prompt: str) -> object:
        return await videos.create_and_poll(model="sora-2", prompt=prompt)

    return Calls(submit, generate, videos.retrieve)


def replicate(origin: str) -> Calls:
    """Follow ``async_create`` with ``async_wait``."""
    client = import_module("replicate").Client(api_token=KEY, base_url=origin)
    model = "kwaivgi/kling-v2.1-master"

    def submit(prompt: str) -> Any:  # noqa: ANN401 - as above
        return client.models.predictions.async_create(model, {"prompt": prompt})

    async def generate(prompt: str) -> object:
        return await (await submit(prompt)).async_wait()

    return Calls(submit, generate, client.predictions.async_get)


def fal(origin: str) -> Calls:
    """Use ``subscribe``."""
    module: Any = import_module("fal_client.client")
    # Its variable for the host leaves https in place. Over http, as the others, it is spared TLS.
    module.QUEUE_URL_FORMAT = f"{origin}/"
    client = module.AsyncClient(key=KEY)
    app = "fal-ai/kling-video/v2.1/master/text-to-video"

    async def submit(prompt: str) -> object:
        return await client.submit(app, {"prompt": prompt})

    async def generate(prompt: str) -> object:
        return await client.subscribe(app, {"prompt": prompt})

    async def ask(task_id: str) -> object:
        return await client.status(app, task_id)

    return Calls(submit, generate, ask)


def kling(origin: str, *, first: float | None = None) -> Calls:
    """Use ``generate``."""
    from kling_async import KlingClient, MasterTextToVideo, Polling, TaskRef

    client = KlingClient(KEY, base_url=origin, polling=Polling(first=first))

    async def submit(prompt: str) -> object:
        return await client.submit(MasterTextToVideo(prompt))

    async def generate(prompt: str) -> object:
        return await client.generate(MasterTextToVideo(prompt))

    async def ask(task_id: str) -> object:
        return await client.status(TaskRef("kling-2-1", task_id))

    return Calls(submit, generate, ask)


OURS = "kling_async"
CLIENTS: dict[str, Callable[[str], Calls]] = {
    "runwayml": runwayml,
    "openai": openai,
    "replicate": replicate,
    "fal-client": fal,
    OURS: kling,
    f"{OURS}, Polling(first=5)": lambda origin: kling(origin, first=5.0),
}


async def tick(moments: list[float]) -> None:
    """Note when the loop comes round."""
    while True:
        moments.append(time.perf_counter())
        await asyncio.sleep(TICK)


async def waiting(calls: Calls) -> Waited:
    """Generate everything at once, and stop when all is done or patience ends."""
    await calls.ask(WARM)
    moments: list[float] = []
    ticking = asyncio.create_task(tick(moments))
    begun = time.process_time()
    waiters = [
        asyncio.create_task(_awaited(calls.generate(f"a fox in fresh snow, take {number}")))
        for number in range(TASKS)
    ]
    ended, _ = await asyncio.wait(waiters, timeout=PATIENCE)
    cpu = time.process_time() - begun
    ticking.cancel()
    errors = [error for one in ended if (error := one.exception()) is not None]
    late = [max(0.0, after - before - TICK) for before, after in pairwise(moments)]
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return Waited(
        len(errors),
        sorted({type(error).__name__ for error in errors}),
        cpu,
        quantiles(late, n=100, method="inclusive")[94],
        max(late),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
    )


async def lost(calls: Calls) -> Lost:
    """Submit once, to a server that does not answer."""
    try:
        async with asyncio.timeout(LOST_PATIENCE):
            await calls.submit("a fox in fresh snow")
    except Exception as error:  # noqa: BLE001 - each client has its own
        return Lost(type(error).__name__)
    return Lost("nothing")


async def _awaited(call: Awaitable[object]) -> object:
    return await call


async def _report(name: str, part: str, origin: str) -> None:
    calls = CLIENTS[name](origin)
    reported: Waited | Lost = await (waiting(calls) if part == "waiting" else lost(calls))
    print(json.dumps(reported), flush=True)
    # Waiters are left as they are: their ends are not part of the measurement.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(_report(*sys.argv[1:]))
