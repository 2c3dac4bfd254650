"""What hooks cost: CPU time of one generation of the client alone, without a network.

A scripted transport answers, so that ratios are of the client's own time: with aiohttp and the
network they are smaller. The log writes to nothing; the SDK exports nothing.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from statistics import median

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

from kling_async import Hook, KlingClient, Limits, MasterTextToVideo
from kling_async.telemetry import OpenTelemetry
from kling_async.testing import ScriptedTransport
from kling_async.testing.clock import VirtualLoop
from kling_async.testing.transport import Request, Response, answer
from tests.bench import figures

ROUNDS = 40
AT_ONCE = 50

FOX = MasterTextToVideo("a fox in fresh snow")
RESULT = json.dumps({"resultUrls": ["https://host/a.mp4"]})
LOG = logging.getLogger("kling_async")


def reply(request: Request) -> Response:
    """Accept a submit; a task has succeeded when it is polled."""
    if request.ref is None:
        return answer({"taskId": f"task_{time.perf_counter_ns()}"})
    return answer({"taskId": request.ref.task_id, "state": "success", "resultJson": RESULT})


@asynccontextmanager
async def client(
    hooks: Iterable[Hook] = (), level: int = logging.WARNING
) -> AsyncIterator[KlingClient]:
    """Open a client while the log has a level."""
    LOG.setLevel(level)
    limits = Limits(requests_per_minute=1_000_000)
    transport = ScriptedTransport(reply)
    async with KlingClient("a-key", transport=transport, limits=limits, hooks=hooks) as kling:
        await kling.generate(FOX)
        transport.requests.clear()
        yield kling
    LOG.setLevel(logging.WARNING)


async def measure(hooks: Iterable[Hook] = (), level: int = logging.WARNING) -> float:
    """Return the CPU time of one generation."""
    async with client(hooks, level) as kling:
        begun = time.process_time()
        for _ in range(AT_ONCE):
            await kling.generate(FOX)
        return (time.process_time() - begun) / AT_ONCE


def main() -> None:
    """Print the ratios."""
    LOG.addHandler(logging.NullHandler())
    LOG.propagate = False
    meters = MeterProvider(shutdown_on_exit=False)
    traced = OpenTelemetry(tracer_provider=TracerProvider(), meter_provider=meters)
    contenders: dict[str, Callable[[], Awaitable[float]]] = {
        "no hook": measure,
        "a hook without details": partial(measure, [lambda _: None]),
        "the log, INFO": partial(measure, level=logging.INFO),
        "the log, DEBUG": partial(measure, level=logging.DEBUG),
        "OpenTelemetry with its SDK": partial(measure, [traced]),
    }
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        taken = runner.run(figures.take_turns(contenders, ROUNDS))
    figures.title(f"Hooks: CPU time of one generation without a network, {ROUNDS} rounds")
    for name, seconds in taken.items():
        ratio = figures.ratio(seconds, taken["no hook"])
        figures.row(name, f"{median(seconds) * 1e6:.0f} µs", f"ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
