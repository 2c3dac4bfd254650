"""A local stand-in for the service: same routes, rules, states, limits, callbacks and files.

It is written from the contract alone and shares no code with the client, so that a misreading in
one is not repeated in the other. Where the contract says "unknown", the emulator makes a choice:

- 403, 404, 405, 413 and 429 answer with the usual envelope; ``data.error`` gives details.
- An unknown field in a submit is refused; a number such as ``5.0`` is not an integer.
- "10 MB" for an image is 10 * 1024 * 1024 bytes.
- Failed tasks stay charged. Prices are made up: `PRICES`, in USD.
- Retry-After is sent with 429 only when asked for (``retry_after=True``).
- An expired result URL (after 15 days) answers 404.
- At most a hundred callbacks are under way at one time, each on a connection of its own. A repeated
  callback has the same body.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Final, Literal, Self

from aiohttp import web

from kling_async._utils.extras import missing_extra
from kling_async.errors import ConfigurationError
from kling_async.testing.emulator.app import API, Api, Settings
from kling_async.testing.emulator.records import Arrival, Delivery, RequestLog, Submission
from kling_async.testing.emulator.service import Service
from kling_async.testing.media import film
from kling_async.testing.scenario import Scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

    from kling_async.testing.emulator.rules import Order

_SECONDS: Final[Mapping[int, tuple[float, float]]] = {5: (60.0, 90.0), 10: (90.0, 120.0)}
_DEFAULT_KEY: Final = "emulator-key"


class Emulator:
    """The service on a local port, as an asynchronous context manager.

    It reads the time of the running loop only, so it follows a virtual clock. One emulator serves
    one loop. Its records can be read after its end.

    Args:
        host: Where to listen. The default is reachable from this machine only.
        port: 0 uses a free one.
        api_key: The only valid key; None: any key that is not empty.
        requests_per_minute: Admitted in any 60 seconds; more are answered with 429.
        concurrent_tasks: Running at a time; a submit beyond is answered with 429.
        speed: Generation and the waits between callbacks take 1/speed of the documented time.
        duration: Seconds that a task takes at speed 1: a range, or a function of the submitted
            ``input``. None: 60-90 s for 5 s of video, 90-120 s for 10 s.
        balance: USD at the start.
        scenario: What goes wrong.
        retry_after: Send Retry-After with 429.
        video: "rendered" shows the input and needs the extra ``emulator``; "small" is one short
            clip for all; "auto" renders if the extra is installed.
        samples: A folder of pictures to serve under ``/samples/``.
        seed: Of the random numbers that choose how long a task takes, and of the latency.
        latency: Seconds that a request is under way until it arrives at the service, and its
            answer until it arrives at the client: a number, a range, or a function that is called
            for each of the two. Not divided by ``speed``; samples travel at once.
        keep_alive: Seconds after which an idle connection is closed.

    Raises:
        ConfigurationError: A number is out of range.
        MissingExtraError: ``video="rendered"`` without the extra.
    """

    def __init__(  # noqa: PLR0913 - every one is a keyword with a default
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str | None = None,
        requests_per_minute: int = 10_000,
        concurrent_tasks: int = 1_000,
        speed: float = 1.0,
        duration: Callable[[Mapping[str, object]], float] | tuple[float, float] | None = None,
        balance: float = 1000.0,
        scenario: Scenario | None = None,
        retry_after: bool = False,
        video: Literal["auto", "rendered", "small"] = "auto",
        samples: Path | None = None,
        seed: int = 0,
        latency: Callable[[], float] | tuple[float, float] | float = 0.0,
        keep_alive: float = 75.0,
    ) -> None:
        if not (math.isfinite(speed) and speed > 0):
            raise ConfigurationError(f"emulator: speed must be above 0, got {speed!r}")
        if requests_per_minute < 1 or concurrent_tasks < 1:
            raise ConfigurationError("emulator: limits must be at least 1")
        if video == "rendered" and not film.can_render():
            raise missing_extra("emulator", 'rendered videos need the extra "emulator"')
        self._host = host
        self._port = port
        self._keep_alive = keep_alive
        self._runner: web.AppRunner | None = None
        self._log = RequestLog()
        self._service = Service(
            api_key=api_key,
            requests_per_minute=requests_per_minute,
            concurrent_tasks=concurrent_tasks,
            balance=balance,
            duration=_duration(duration, speed, seed),
        )
        can_render = film.can_render()
        settings = Settings(
            latency=_latency(latency, seed),
            speed=speed,
            retry_after=retry_after,
            rendered=can_render and video != "small",
            decode=can_render,
            samples=samples,
        )
        self._api = Api(self._service, scenario or Scenario(), self._log, settings)
        self.key: str = api_key or _DEFAULT_KEY
        """A valid key."""

    async def __aenter__(self) -> Self:
        self._runner = web.AppRunner(
            self.app(), access_log=None, keepalive_timeout=self._keep_alive, shutdown_timeout=1.0
        )
        await self._runner.setup()
        try:
            site = web.TCPSite(self._runner, self._host, self._port)
            await site.start()
        except BaseException:
            await self._runner.cleanup()
            raise
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def app(self) -> web.Application:
        """Build the application, for a server of your own."""
        return self._api.app()

    @property
    def origin(self) -> str:
        """The address at which it listens: ``http://127.0.0.1:PORT``."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def base_url(self) -> str:
        """The base URL for clients: the origin and ``/api/v1``."""
        return f"{self.origin}{API}"

    @property
    def concurrent_tasks(self) -> int:
        """How many tasks may run at a time. A new value applies from the next submit on."""
        return self._service.concurrent_tasks

    @concurrent_tasks.setter
    def concurrent_tasks(self, number: int) -> None:
        if number < 1:
            raise ConfigurationError("emulator: limits must be at least 1")
        self._service.concurrent_tasks = number

    @property
    def balance(self) -> float:
        """The remaining balance, USD."""
        return self._service.balance

    @property
    def ledger(self) -> tuple[Submission, ...]:
        """Every task that has been started and paid for."""
        return tuple(self._service.ledger)

    @property
    def requests(self) -> tuple[Arrival, ...]:
        """Every request that arrived (of the last half million)."""
        return tuple(self._log)

    @property
    def deliveries(self) -> tuple[Delivery, ...]:
        """Every attempt to deliver a callback."""
        return tuple(self._api.deliveries)


def _duration(
    duration: Callable[[Mapping[str, object]], float] | tuple[float, float] | None,
    speed: float,
    seed: int,
) -> Callable[[Order], float]:
    """Return a function that chooses the seconds that a task takes at a speed."""
    rng = random.Random(seed)  # noqa: S311 - durations, not secrets

    def choose(order: Order) -> float:
        if callable(duration):
            return duration(order.input) / speed
        return rng.uniform(*(duration or _SECONDS[order.duration])) / speed

    return choose


def _latency(
    latency: Callable[[], float] | tuple[float, float] | float, seed: int
) -> Callable[[], float]:
    """Return a function that chooses the seconds that the next message is under way."""
    if callable(latency):
        return latency
    low, high = latency if isinstance(latency, tuple) else (latency, latency)
    if not 0 <= low <= high < math.inf:
        raise ConfigurationError(f"emulator: latency must be 0 or more seconds, got {latency!r}")
    # A generator of its own, so that tasks take as long as without a latency.
    rng = random.Random(seed)  # noqa: S311 - latencies, not secrets
    return lambda: rng.uniform(low, high)
