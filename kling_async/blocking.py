"""A blocking client, for code without an event loop: scripts, threads, Celery, Django, Flask.

Each method runs the method of the same name of :class:`kling_async.KlingClient` on one event loop
in one background thread, and waits for it. Arguments, errors and guarantees are the same::

    with KlingClient() as kling:
        result = kling.generate(MasterTextToVideo("a fox in fresh snow"))
        kling.download(result, "videos/")
"""

from __future__ import annotations

import asyncio
import threading
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from kling_async import client as _async
from kling_async._utils.loop_thread import LoopThread, close_at_exit, iterate_in_thread
from kling_async.errors import ClientClosedError, ConfigurationError
from kling_async.tasks import task as _async_task
from kling_async.tasks.arguments import DEFAULT_TIMEOUT, check_inputs

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable
    from pathlib import Path

    from kling_async.inputs.base import Input
    from kling_async.results import Result, Snapshot, TaskRef
    from kling_async.tasks.fan_out import Outcome

_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S")


def _same_as(
    method: Callable[Concatenate[Any, _P], object],
) -> Callable[[Callable[Concatenate[_S, ...], _R]], Callable[Concatenate[_S, _P], _R]]:
    """Give a method the parameters and the docstring of an asynchronous one."""
    return wraps(method)


class Task:
    """A task of the service, for blocking code; see :class:`kling_async.Task`."""

    def __init__(self, client: KlingClient, task: _async_task.Task) -> None:
        self._client, self._task = client, task

    def __repr__(self) -> str:
        return repr(self._task)

    @property
    def ref(self) -> TaskRef:
        """The reference that finds the task again, in another process or on another day."""
        return self._task.ref

    @_same_as(_async_task.Task.wait)
    def wait(self, *args: Any, **kwargs: Any) -> Result:
        return self._client.run(self._task.wait(*args, **kwargs))

    @_same_as(_async_task.Task.status)
    def status(self, *args: Any, **kwargs: Any) -> Snapshot:
        return self._client.run(self._task.status(*args, **kwargs))


class KlingClient:
    """Submits inputs and returns their results; blocks the calling thread meanwhile.

    It takes the arguments of :class:`kling_async.KlingClient`. One client may be used from any
    number of threads, also from one that runs an event loop, which it blocks. The first call
    starts the background thread: a client made before a fork works in each process that makes its
    first call after the fork. A client that is still open when the program exits is closed then.

    Hooks, observers and ``on_update`` are called in the background thread.

    A call that Ctrl-C interrupts is cancelled. The references of paid tasks that still run are in
    the notes of the ``KeyboardInterrupt`` and in a warning of the log.

    Raises:
        ConfigurationError: As the asynchronous client. Each call raises it in a process that was
            forked after the first call, and in a hook of the client, where it would never return.
    """

    @_same_as(_async.KlingClient.__init__)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.client: _async.KlingClient = _async.KlingClient(*args, **kwargs)
        self._lock = threading.Lock()
        self._thread: LoopThread | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, coroutine: Coroutine[Any, Any, _R]) -> _R:
        """Run a coroutine, such as a batch with :attr:`client`, on the client's event loop."""
        if not asyncio.iscoroutine(coroutine):
            raise ConfigurationError(f"run() needs a coroutine, not {coroutine!r:.80}")
        with self._lock:
            if self._closed:
                coroutine.close()
                raise ClientClosedError("the client is closed: make another one")
            thread = self._thread = self._thread or LoopThread()
            close_at_exit(self)
        try:
            return thread.call(coroutine)
        except asyncio.CancelledError as cancellation:
            if self._closed:  # by another thread
                raise ClientClosedError("the client was closed during the call") from cancellation
            raise

    @property
    def running(self) -> tuple[TaskRef, ...]:
        """The tasks that this client knows of and has not seen end."""
        return self.client.running

    @_same_as(_async.KlingClient.generate)
    def generate(self, *args: Any, **kwargs: Any) -> Result:
        return self.run(self.client.generate(*args, **kwargs))

    @_same_as(_async.KlingClient.status)
    def status(self, *args: Any, **kwargs: Any) -> Snapshot:
        return self.run(self.client.status(*args, **kwargs))

    @_same_as(_async.KlingClient.balance)
    def balance(self, *args: Any, **kwargs: Any) -> float:
        return self.run(self.client.balance(*args, **kwargs))

    @_same_as(_async.KlingClient.download)
    def download(self, *args: Any, **kwargs: Any) -> tuple[Path, ...]:
        return self.run(self.client.download(*args, **kwargs))

    @_same_as(_async.KlingClient.archive)
    def archive(self, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        return self.run(self.client.archive(*args, **kwargs))

    @_same_as(_async.KlingClient.submit)
    def submit(self, *args: Any, **kwargs: Any) -> Task:
        return Task(self, self.run(self.client.submit(*args, **kwargs)))

    @_same_as(_async.KlingClient.attach)
    def attach(self, *args: Any, **kwargs: Any) -> Task:
        async def attach() -> Task:
            return Task(self, self.client.attach(*args, **kwargs))

        return self.run(attach())

    def wait(self, ref: TaskRef | str, timeout: float = DEFAULT_TIMEOUT) -> Result:
        """Wait for the result of a task: ``attach(ref).wait(timeout)``."""
        return self.attach(ref).wait(timeout)

    def generate_many(
        self,
        inputs: Iterable[Input],
        *,
        in_flight: int | None = None,
        ordered: bool = False,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Generator[Outcome]:
        check_inputs(inputs)
        read, many = iterate_in_thread(inputs), self.client.generate_many
        return self._iterate(many(read, in_flight=in_flight, ordered=ordered, timeout=timeout))

    generate_many.__doc__ = _async.KlingClient.generate_many.__doc__

    def _iterate(self, outcomes: AsyncGenerator[Outcome]) -> Generator[Outcome]:
        async def next_outcome() -> Outcome | None:
            return await anext(outcomes, None)

        async def end() -> None:
            await outcomes.aclose()

        try:
            while (outcome := self.run(next_outcome())) is not None:
                yield outcome
        finally:
            if not self._closed:  # closing the client has ended it
                self.run(end())

    def close(self) -> None:
        """Close the client as :meth:`kling_async.KlingClient.close` does, and end its thread."""
        with self._lock:
            thread = self._thread
            if thread is not None and thread.is_alive():
                thread.check_caller()
            self._thread, self._closed = None, True
        if thread is not None and thread.is_alive():
            try:
                thread.call(self.client.close())
            finally:
                thread.stop()
