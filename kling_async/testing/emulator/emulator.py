"""A local stand-in for the service: same routes, rules, states, limits, callbacks and files.

It is written from the contract alone and shares no code with the client, so that a misreading in
one is not repeated in the other. Where the contract says "unknown", the emulator makes a choice:

- 403, 404, 405, 413 and 429 answer with the usual envelope; ``data.error`` gives details.
- An unknown field in a submit is refused; a number such as ``5.0`` is not an integer.
- Models that the contract does not describe are unknown, but for those named by ``models``.
- "10 MB" for an image is 10 * 1024 * 1024 bytes.
- Failed tasks stay charged. Prices are made up: `PRICES`, in USD.
- Retry-After is sent with 429 only when asked for (``retry_after=True``).
- An expired result URL (after 15 days) answers 404.
- At most a hundred callbacks are under way at one time, each on a connection of its own. A repeated
  callback has the same body.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, Self

from aiohttp import web

from kling_async._utils.extras import missing_extra
from kling_async._utils.loop_thread import LoopThread
from kling_async.errors import ConfigurationError
from kling_async.testing.emulator.active_faults import ActiveFaults
from kling_async.testing.emulator.app import API, Api
from kling_async.testing.emulator.background import Settings
from kling_async.testing.emulator.environment import client_environment, reachable_origin
from kling_async.testing.emulator.page import Page
from kling_async.testing.emulator.records import Arrival, Delivery, RequestLog, Submission
from kling_async.testing.emulator.service import Service
from kling_async.testing.emulator.timing import duration_chooser, latency_chooser, quickest
from kling_async.testing.emulator.uploads import PATH, Uploads
from kling_async.testing.media import film
from kling_async.testing.scenario import Scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from kling_async.testing.emulator.callbacks import DeliverCallback

_DEFAULT_KEY: Final = "emulator-key"


class Emulator:
    """The service on a local port, as a context manager: ``async with`` or ``with``.

    ``async with`` runs it on the running loop, whose time it follows, also if it is virtual.
    ``with`` runs it on a loop in a thread of its own, on real time: for code without a loop, and
    for an application that a test client runs in another thread. There, choose a high ``speed``.

    Its address in a browser shows what it does: see :mod:`kling_async.testing.emulator.page`.

    All properties and methods may be used from any thread; `duration`, `latency` and
    `deliver_callback` are called in the emulator's. The records can be read after its end.

    Args:
        host: Where to listen. The default is reachable from this machine only.
        port: 0 uses a free one.
        api_key: The only valid key; None: any key that is not empty.
        requests_per_minute: Admitted in any 60 seconds; more are answered with 429.
        concurrent_tasks: Running at a time; a submit beyond is answered with 429.
        speed: Generation and the waits between callbacks take 1/speed of the documented time.
        duration: Seconds that a task takes at speed 1: a range, or a function of the submitted
            ``input``. None: 60-90 s for 5 s of video, 90-120 s for 10 s; half of it for
            ``kling-2-5-turbo-pro``.
        balance: USD at the start.
        scenario: What goes wrong.
        retry_after: Send Retry-After with 429.
        video: "rendered" shows the input and needs the extra ``emulator``; "small" is one short
            clip for all; "auto" renders if the extra is installed.
        samples: A folder of pictures to serve under ``/samples/``.
        uploads: Accept uploads of images at :attr:`image_store`, as an object store would. The
            service itself has nothing like it.
        seed: Of the random numbers that choose how long a task takes, and of the latency.
        latency: Seconds that a request is under way until it arrives at the service, and its
            answer until it arrives at the client: a number, a range, or a function that is called
            for each of the two. Not divided by ``speed``; samples travel at once.
        keep_alive: Seconds after which an idle connection is closed.
        models: Names of further models, which accept any input; others are answered with 404.

    Raises:
        ConfigurationError: A number is out of range, or it is entered while it runs.
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
        uploads: bool = False,
        seed: int = 0,
        latency: Callable[[], float] | tuple[float, float] | float = 0.0,
        keep_alive: float = 75.0,
        models: Collection[str] = (),
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
        self._thread: LoopThread | None = None
        self._log = RequestLog()
        self._service = Service(
            api_key=api_key,
            requests_per_minute=requests_per_minute,
            concurrent_tasks=concurrent_tasks,
            balance=balance,
            duration=duration_chooser(duration, speed, seed),
            models=models,
        )
        can_render = film.can_render()
        settings = Settings(
            latency=latency_chooser(latency, seed),
            speed=speed,
            retry_after=retry_after,
            rendered=can_render and video != "small",
            decode=can_render,
            samples=samples,
            uploads=Uploads() if uploads else None,
        )
        self._active_faults = ActiveFaults(scenario or Scenario())
        self.key: str = api_key or _DEFAULT_KEY
        """A valid key."""
        self._variables = partial(
            client_environment,
            key=self.key,
            first_poll=quickest(duration) / speed,
            image_store=PATH if uploads else None,
        )
        page = Page(self._service, self._active_faults, self._variables, shows_key=not api_key)
        self._api = Api(self._service, self._active_faults, self._log, settings, page)

    async def __aenter__(self) -> Self:
        if self._runner is not None:
            raise ConfigurationError(f"this emulator runs already, at {self.origin}")
        runner = web.AppRunner(
            self.app(), access_log=None, keepalive_timeout=self._keep_alive, shutdown_timeout=1.0
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host, self._port)
            await site.start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner, self._port = runner, runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def __enter__(self) -> Self:
        thread = LoopThread()
        try:
            thread.call(self.__aenter__())
        except BaseException:
            thread.stop()
            raise
        self._thread = thread
        return self

    def __exit__(self, *_: object) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                thread.call(self.__aexit__())
            finally:
                thread.stop()

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
    def environment(self) -> dict[str, str]:
        """The environment variables with which a client uses it, for ``os.environ.update``.

        ``KLING_FIRST_POLL`` is one of them if tasks do not take the documented time, and
        ``KLING_IMAGE_STORE`` with ``uploads=True``.
        """
        return self._variables(reachable_origin(self.origin))

    @property
    def image_store(self) -> str:
        """The URL of the image store, with ``uploads=True``: ``KlingClient(image_store=…)``."""
        return f"{self.origin}{PATH}"

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
        return tuple(self._api.outbox.deliveries)

    @property
    def deliver_callback(self) -> DeliverCallback | None:
        """None, or a function that you set, which delivers callbacks in place of HTTP requests.

        It is called with the URL and the body, in a thread, and returns the status of the answer;
        a coroutine function runs on the emulator's loop. If it raises, that is logged, and the
        callback counts as not answered.
        """
        return self._api.outbox.deliver

    @deliver_callback.setter
    def deliver_callback(self, deliver: DeliverCallback | None) -> None:
        self._api.outbox.deliver = deliver

    def add_fault(self, kind: str, which: int | range | str, what: str) -> None:
        """Switch on a fault, as `Scenario.on` describes it, from now on.

        Numbers count from now: ``add_fault("submit", 1, "503")`` is about the next submit. Of
        several faults that apply, the latest does.

        Raises:
            ConfigurationError: There is no such kind, number or fault.
        """
        self._active_faults.add(Scenario().on(kind, which, what))

    def clear_faults(self) -> None:
        """Switch off all faults. Tasks that have been started keep theirs."""
        self._active_faults.clear()

    def finish_tasks(self) -> None:
        """End the running tasks now, as they would have ended, but for those that are stuck.

        After ``async with``, call it on the emulator's loop.
        """
        if self._thread is None:
            self._api.finish_tasks()
        else:
            self._thread.call(_as_coroutine(self._api.finish_tasks))


async def _as_coroutine(function: Callable[[], None]) -> None:
    function()
