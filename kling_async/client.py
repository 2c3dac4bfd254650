"""The client: inputs go in, tasks come out, inside the limits and without paying twice."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from itertools import count
from random import random
from typing import TYPE_CHECKING, Self, TypeVar

from kling_async.errors import (
    AnswerLostError,
    ConfigurationError,
    KlingError,
    RateLimitError,
)
from kling_async.events import Event, Hook, Paused, Polled, Retrying, SubmitFailed, Submitted
from kling_async.limits.local import LocalLimiter
from kling_async.policy.polling import Polling
from kling_async.policy.retry import Retry
from kling_async.protocol import requests, responses
from kling_async.results import Result, Snapshot, TaskRef
from kling_async.task import DEFAULT_TIMEOUT, Task
from kling_async.transport import AiohttpTransport, Transport

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    import aiohttp

    from kling_async.inputs import Input
    from kling_async.limits import Limiter, Limits, Slot

__all__ = ["KlingClient"]

_T = TypeVar("_T")

_log = logging.getLogger("kling_async")


class KlingClient:
    """Submits inputs and finds their results.

    Use it as an async context manager, or call :meth:`close` at the end. It may be made
    outside an event loop, and used in several ``asyncio.run`` calls one after another.

    Args:
        api_key: The key; else ``APIXO_API_KEY`` from the environment.
        base_url: Where the API is, with or without ``/api/v1``; else ``APIXO_BASE_URL``; else
            the vendor's address. Plain ``http`` is for loopback addresses only.
        limits: What the account may do.
        limiter: What keeps the limits; give one limiter to all clients that share a key. It
            brings its own limits, so give one or the other.
        polling: How often a waiting task is asked after.
        retry: How failed requests are repeated.
        session: An aiohttp session to use instead of an own one. It is never closed, and its
            connections are its own: see :func:`kling_async.transport.connector`.
        transport: What speaks to the service instead of aiohttp, such as a script in tests.
        hooks: Functions that are told what happens, as :mod:`kling_async.events`.

    Raises:
        ConfigurationError: There is no key, or a setting makes no sense. Nothing was sent.
    """

    def __init__(  # noqa: PLR0913 - every one is a keyword with a default
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        limits: Limits | None = None,
        limiter: Limiter | None = None,
        polling: Polling | None = None,
        retry: Retry | None = None,
        session: aiohttp.ClientSession | None = None,
        transport: Transport | None = None,
        hooks: Iterable[Hook] = (),
    ) -> None:
        if limits is not None and limiter is not None:
            raise ConfigurationError("give limits or a limiter, not both: a limiter has its own")
        if session is not None and transport is not None:
            raise ConfigurationError("give a session or a transport, not both")
        self._limiter = limiter or LocalLimiter(limits)
        self._connections = self._limiter.limits.connections
        self._polling = polling or Polling()
        self._retry = retry or Retry()
        self._hooks = tuple(hooks)
        self._transport = transport or AiohttpTransport(
            base_url=requests.normal_base_url(
                base_url or os.environ.get("APIXO_BASE_URL") or requests.DEFAULT_BASE_URL
            ),
            api_key=_checked_key(api_key),
            connections=self._connections,
            session=session,
        )
        self._session = session
        self._slots: dict[TaskRef, Slot] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<KlingClient tasks running: {len(self._slots)}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def running(self) -> tuple[TaskRef, ...]:
        """The tasks that this client knows of and has not seen end."""
        return tuple(self._slots)

    async def submit(self, input: Input, *, callback_url: str | None = None) -> Task:
        """Send an input; return its task once the service has accepted it.

        Waits for a free slot and for the request limit first. What cannot have cost money is
        retried; what may have is not. If the caller is cancelled while the service is
        answering, the answer is still heard: the task then appears in :attr:`running`, and
        hooks are told of it.

        Args:
            input: What to generate.
            callback_url: A public https address that the service shall call at the end.

        Raises:
            InputError: The callback URL is not https. Nothing was sent.
            AnswerLostError: A task may have been started and charged; see ``may_have_charged``.
            ContractError: The answer names no task; one may have been started and charged.
            ConnectError: The service cannot be reached.
            APIError: The service said no; ``may_have_charged`` tells whether it may cost.
        """
        request = requests.submit(input, callback_url)
        slot = await self._limiter.slot()
        self._bind()
        sending: asyncio.Task[Task] | None = None

        async def once() -> Task:
            nonlocal sending
            sending = asyncio.create_task(self._submit_once(input, request, slot))
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)
            return await asyncio.shield(sending)

        try:
            return await self._call(request, once)
        finally:
            if sending is None:
                slot.release()
            elif sending.done():
                self._settle(input, slot, sending)
            else:  # the caller is gone; the answer is still heard
                sending.add_done_callback(partial(self._settle, input, slot))

    async def generate(
        self,
        input: Input,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        callback_url: str | None = None,
    ) -> Result:
        """Submit an input and wait for its result.

        Args:
            input: What to generate.
            timeout: Seconds to wait for the end, counted from the service's acceptance.
            callback_url: A public https address that the service shall call at the end.

        Raises:
            TaskFailedError: The task ended without a video.
            TaskTimeoutError: It did not end in time; ``ref`` finds it again.
            KlingError: Whatever :meth:`submit` and :meth:`Task.wait` raise.
        """
        task = await self.submit(input, callback_url=callback_url)
        try:
            return await task.wait(timeout)
        except KlingError as error:
            error.may_have_charged = True  # whatever went wrong with the waiting, a task exists
            raise

    def attach(self, ref: TaskRef | str) -> Task:
        """Make a task from its reference, or from the text of it. Sends nothing.

        Raises:
            InputError: The text is not a reference.
        """
        if not isinstance(ref, TaskRef):
            ref = TaskRef.parse(ref)
        # It is presumed to be as old as the quickest are when they end: asked after at once,
        # then at the pace of the time in which tasks usually end.
        age = self._polling.first_wait(ref.model, "", 5)
        return Task(ref, ask=self.status, polling=self._polling, age=age)

    async def status(self, ref: TaskRef | str) -> Snapshot:
        """Ask once where a task stands. Trouble on the way is retried.

        Raises:
            InputError: The text is not a reference.
            APIError: The service said no.
            RequestError: No usable answer came.
        """
        asked = ref if isinstance(ref, TaskRef) else TaskRef.parse(ref)
        request = requests.status(asked)

        async def once() -> Snapshot:
            response = await self._send(request)
            return responses.status(request, response, asked, _now())

        snapshot = await self._call(request, once)
        self._keep_slot(snapshot)
        self._tell(Polled(snapshot))
        return snapshot

    async def balance(self) -> float:
        """Ask for the account's balance, in US dollars.

        Raises:
            APIError: The service said no.
            RequestError: No usable answer came.
        """
        request = requests.balance()

        async def once() -> float:
            return responses.balance(request, await self._send(request), _now())

        return await self._call(request, once)

    async def download(
        self, result: Result | Snapshot, folder: str | os.PathLike[str], *, overwrite: bool = False
    ) -> tuple[Path, ...]:
        """Save a result's videos to a folder, and return the paths in the order of the URLs.

        A file that is there already is kept and not fetched again. The API key is not sent.

        Args:
            result: What a finished task gave.
            folder: Where to save; made if it does not exist.
            overwrite: Fetch again what is there already.

        Raises:
            DownloadError: A file did not arrive whole. The others are complete.
            ResultExpiredError: A URL is dead.
        """
        from kling_async.download import download

        return await download(result, folder, overwrite=overwrite, session=self._session)

    async def close(self) -> None:
        """Let the submits that are under way be answered, then close the own session.

        Remote tasks go on. The client may be used again afterwards.
        """
        self._bind()
        try:
            if self._sending:
                await asyncio.wait(self._sending)
        finally:
            await self._transport.close()

    async def _call(self, request: requests.Request, once: Callable[[], Awaitable[_T]]) -> _T:
        """Send within the limits, and again as often as the retry policy says."""
        self._bind()
        begun: float | None = None
        for attempt in count(1):
            # The connection comes before the permit to use it: what has been admitted is on
            # its way, and cannot pile up and arrive all at once.
            async with self._gate:
                permit = await self._limiter.request()
                begun = self._clock() if begun is None else begun
                try:
                    return await once()
                except KlingError as failed:
                    error = failed
            delay = self._retry.wait(error, attempt, self._clock() - begun, random())  # noqa: S311 - jitter, not secrets
            if isinstance(error, RateLimitError):
                pause = delay
                if pause is None:  # this request gives up; the others wait all the same
                    asked = min(error.retry_after or 0.0, self._retry.cap)
                    pause = max(asked, self._retry.backoff(attempt, random()))  # noqa: S311 - as above
                if self._limiter.pause(pause, permit):
                    self._tell(Paused(pause))
            if delay is None:
                raise error
            self._tell(Retrying(request.kind, error, attempt, delay))
            if not isinstance(error, RateLimitError):  # the limiter holds those back by itself
                await asyncio.sleep(delay)
        raise AssertionError  # pragma: no cover - count() does not end

    async def _submit_once(self, sent: Input, request: requests.Request, slot: Slot) -> Task:
        """Send a submit once. Runs to its end, though the one who asked may be gone."""
        ref = responses.submit(request, await self._send(request), sent.model, _now())
        self._slots[ref] = slot
        self._tell(Submitted(ref, sent))
        first = self._polling.first_wait(sent.model, sent.mode, getattr(sent, "duration", None))
        return Task(ref, ask=self.status, polling=self._polling, first_wait=first)

    def _settle(self, sent: Input, slot: Slot, sending: asyncio.Task[Task]) -> None:
        """Conclude a submit: its slot is free if it is certain that no task has started."""
        error: BaseException | None
        if sending.cancelled():  # the loop itself is ending
            told = "the event loop ended before a submit was answered; it may have been charged"
            error = AnswerLostError(told, may_have_charged=True)
        else:
            error = sending.exception()
        if isinstance(error, KlingError):
            self._tell(SubmitFailed(sent, error))
            if not error.may_have_charged:
                slot.release()

    def _send(self, request: requests.Request) -> Awaitable[responses.Response]:
        return self._transport.send(request, self._retry.request_timeout)

    def _keep_slot(self, snapshot: Snapshot) -> None:
        """Give a slot back as soon as its task is known to have ended."""
        slot = self._slots.get(snapshot.ref)
        if snapshot.state.ended:
            if slot is not None:
                del self._slots[snapshot.ref]
                slot.release()
        elif slot is None:
            self._slots[snapshot.ref] = self._limiter.adopt()

    def _tell(self, event: Event) -> None:
        for hook in self._hooks:
            try:
                hook(event)
            except Exception:  # noqa: BLE001 - a hook is the user's code; ours must go on
                _log.exception("a hook failed on %s", type(event).__name__)

    def _bind(self) -> None:
        """Make anew what belongs to one event loop."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._clock = loop.time
            self._gate = asyncio.Semaphore(self._connections)
            self._sending: set[asyncio.Task[Task]] = set()


def _checked_key(api_key: str | None) -> str:
    key = (api_key or os.environ.get("APIXO_API_KEY") or "").strip()
    if not key:
        raise ConfigurationError("no API key: pass api_key=, or set APIXO_API_KEY")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigurationError("the API key holds characters that no key has")
    return key


def _now() -> datetime:
    return datetime.now(UTC)
