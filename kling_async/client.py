"""The client: inputs go in, tasks come out, inside the limits and without paying twice."""

from __future__ import annotations

import asyncio
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Collection,
    Iterable,
)
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar
from weakref import WeakSet

from attrs import evolve

from kling_async._network.proxies import Proxies
from kling_async._utils.shielding import Cleanups
from kling_async.errors import ClientClosedError, ConfigurationError, InputError, KlingError
from kling_async.inputs.base import Input
from kling_async.limits.base import Limits
from kling_async.limits.local import LocalLimiter
from kling_async.policy.durations import Kind
from kling_async.policy.polling import Polling
from kling_async.policy.retry import Retry
from kling_async.protocol import requests, responses
from kling_async.results import Result, SavedFile, Snapshot, TaskRef
from kling_async.tasks.arguments import (
    DEFAULT_TIMEOUT,
    check_aware,
    check_function,
    check_input,
    check_inputs,
    check_kind,
    check_methods,
    check_timeout,
    checked_hooks,
    find_api_key,
    find_base_url,
    find_polling,
    start_log,
)
from kling_async.tasks.poll_scheduler import PollScheduler
from kling_async.tasks.request_executor import RequestExecutor
from kling_async.tasks.submitter import Submitter
from kling_async.tasks.task_registry import TaskRegistry, kind_of
from kling_async.transport import AiohttpTransport, Transport

if TYPE_CHECKING:
    from types import TracebackType

    import aiohttp
    from yarl import URL

    from kling_async.download.save import Downloader
    from kling_async.events import Hook
    from kling_async.images.base import ImageStore
    from kling_async.images.fix import ImageFix
    from kling_async.limits.base import Limiter
    from kling_async.limits.shared.limiter import SharedLimiter
    from kling_async.tasks.abandoned import AbandonedTasks, Report
    from kling_async.tasks.callback_router import CallbackSource
    from kling_async.tasks.fan_out import FanOut, Outcome, WorkItem
    from kling_async.tasks.submitter import SubmitObserver
    from kling_async.tasks.task import Task
    from kling_async.tasks.updates import OnUpdate

_T = TypeVar("_T")


class KlingClient:
    """Submits inputs and returns their results.

    Use it as an async context manager, or call :meth:`close` at the end. It may be created outside
    an event loop, and used in several ``asyncio.run`` calls in sequence.

    Args:
        api_key: The API key. Default: ``APIXO_API_KEY`` from the environment.
        base_url: The URL of the API, with or without ``/api/v1``. Default: ``APIXO_BASE_URL``, then
            the vendor's. Plain ``http`` is for loopback addresses only.
        allow_http: Allow plain ``http`` to other machines, as in a test network. Default:
            ``APIXO_ALLOW_HTTP=1``. The key is sent unencrypted, and a warning is logged.
        limits: The limits of the account.
        limiter: Keeps the limits; clients that share a key share a limiter, which has its own
            ``limits``. A URL, such as ``redis://…`` or ``postgresql://…``, shares the limits with
            all processes that use the key: see :mod:`kling_async.limits.shared`.
        polling: When tasks are polled. Default: ``KLING_FIRST_POLL`` seconds after the submit for
            the first time, if the environment has it, and as much shorter waits after it: for an
            emulator that is faster than the service.
        retry: How failed requests are repeated.
        session: An aiohttp session to use. It is never closed, and its connections are its own:
            see :func:`kling_async.transport.connector`.
        proxy: The URL of an HTTP proxy for requests and downloads, which may hold a user and
            password. Plain ``http`` to loopback does not use it. Default: the environment's.
        trust_env: Use the proxies of ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY``, or the
            system's on Windows and macOS, except for loopback addresses. They are read when the
            client is created. A given session has its own ``proxy`` and ``trust_env``.
        transport: Sends the requests instead of aiohttp, such as a script in tests.
        hooks: Functions that receive the events of :mod:`kling_async.events`.
        inbox: Receives callbacks, a :class:`kling_async.webhooks.Inbox`. Each submit has a URL of
            its own, and a callback wakes those that wait for its task.
        allow_hosts: Hosts of private networks from which files may be downloaded; see
            :meth:`download`.
        image_store: Stores local images for the service: an object, or a URL as for
            :func:`~kling_async.images.open_image_store`. Default: ``KLING_IMAGE_STORE``.
        check_images: Check remote images, too, before they are paid for.
        fix_images: Correct local images; an :class:`~kling_async.images.ImageFix` has options.

    Raises:
        ConfigurationError: There is no key, or a setting is invalid. Nothing was sent.
    """

    def __init__(  # noqa: PLR0913 - every one is a keyword with a default
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        allow_http: bool | None = None,
        limits: Limits | None = None,
        limiter: Limiter | str | None = None,
        polling: Polling | None = None,
        retry: Retry | None = None,
        session: aiohttp.ClientSession | None = None,
        proxy: str | URL | None = None,
        trust_env: bool = True,
        transport: Transport | None = None,
        hooks: Iterable[Hook] = (),
        inbox: CallbackSource | None = None,
        allow_hosts: Iterable[str] = (),
        image_store: ImageStore | str | None = None,
        check_images: bool = False,
        fix_images: ImageFix | bool = False,
    ) -> None:
        if limits is not None and limiter is not None and not isinstance(limiter, str):
            raise ConfigurationError("give limits or a limiter, not both: a limiter has its own")
        if session is not None and transport is not None:
            raise ConfigurationError("give a session or a transport, not both")
        if session is not None and proxy is not None:
            raise ConfigurationError("give a session or a proxy, not both: a session has its own")
        for name, value, kind in (
            ("limits", limits, Limits),
            ("polling", polling, Polling),
            ("retry", retry, Retry),
            ("trust_env", trust_env, bool),
            ("allow_http", allow_http, bool),
        ):
            check_kind(name, value, kind)
        check_methods("transport", transport, "send", "close")
        check_methods("inbox", inbox, "callback_url", "join")
        start_log()
        self._owned_limiter: SharedLimiter | None = None
        if isinstance(limiter, str):
            from kling_async.limits.shared.limiter import SharedLimiter, name_of

            name = name_of(find_api_key(api_key))
            limiter = self._owned_limiter = SharedLimiter(limiter, limits=limits, name=name)
        check_methods("limiter", limiter, "request", "pause", "slot", "adopt", "refused")
        limiter = limiter or LocalLimiter(limits)
        proxies = None if session is not None else Proxies(proxy, trust_env=trust_env)
        url: str | None = None  # that of a given transport is not known
        if transport is None:
            url = find_base_url(base_url, allow_http=allow_http)
            transport = AiohttpTransport(
                base_url=url,
                api_key=find_api_key(api_key),
                connections=limiter.limits.connections,
                session=session,
                proxies=proxies,
            )
        self._download_options: dict[str, Any] = {
            "session": session,
            "proxies": proxies,
            "base_url": url,
            "allow_hosts": allow_hosts,
        }
        self._downloader: Downloader | None = None
        if allow_hosts:
            self._open_downloader()  # raises if they are invalid
        images = None
        if image_store or check_images or fix_images or "KLING_IMAGE_STORE" in os.environ:
            from kling_async.images.preparer import create_preparer

            options = self._download_options
            images = create_preparer(
                image_store, fix=fix_images, check=check_images, download_options=options
            )
        self._fan_outs: WeakSet[FanOut[Any]] = WeakSet()
        self._cleanups, self._closing = Cleanups(), Cleanups()
        self._leaving: BaseException | None = None  # the exception that leaves `async with`
        executor = RequestExecutor(transport, limiter, retry or Retry(), checked_hooks(hooks))
        scheduler = PollScheduler(find_polling(polling), limiter.limits)
        registry = TaskRegistry(executor, scheduler)
        router = None
        if inbox is not None:
            from kling_async.tasks.callback_router import CallbackRouter

            router = CallbackRouter(inbox, registry, executor, scheduler)
        self._executor, self._scheduler, self._registry = executor, scheduler, registry
        self._router = router
        self._submitter = Submitter(executor, scheduler, registry, router, images)

    def __repr__(self) -> str:
        return f"<KlingClient tasks running: {len(self.running)}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leaving = error
        try:
            await self.close()  # which a subclass may extend
        finally:
            self._leaving = None

    @property
    def running(self) -> tuple[TaskRef, ...]:
        """The tasks that this client knows and has not seen end."""
        return tuple(self._registry.tasks)

    async def submit(
        self,
        input: Input,
        *,
        callback_url: str | None = None,
        observer: SubmitObserver | None = None,
    ) -> Task:
        """Submit an input; return its task once the service has accepted it.

        Waits for a free slot and for the request limit. A failure that cannot have cost money is
        retried; one that may have is not. If the caller is cancelled while the service is
        answering, the answer is still read: the task appears in :attr:`running` and in the events.

        Args:
            input: The input.
            callback_url: A public https URL that the service calls at the end, instead of the
                inbox. The task is polled.
            observer: Called before each sending, and with the outcome.

        Raises:
            InputError: It is not an input, the callback URL is not https, or an image cannot be
                used. Nothing was sent.
            StorageError: An image could not be stored. Nothing was sent.
            AnswerLostError: A task may have been started and charged; see ``may_have_charged``.
            ContractError: The answer names no task; one may have been started and charged.
            ConnectError: The service cannot be reached.
            APIError: The service refused; ``may_have_charged`` says whether it may cost.
        """
        if not isinstance(input, Input):
            check_input(input)  # raises
        if observer is not None:
            check_methods("observer", observer, "before_send", "on_rejected", "on_accepted")
        return await self._submitter.submit(input, callback_url, observer)

    async def generate(
        self,
        input: Input,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        callback_url: str | None = None,
        on_update: OnUpdate | None = None,
    ) -> Result:
        """Submit an input and wait for its result.

        Args:
            input: The input.
            timeout: Seconds to wait for the end, from the service's acceptance.
            callback_url: As for :meth:`submit`.
            on_update: Called with a :class:`~kling_async.TaskUpdate` when the service has accepted
                the input, and whenever the state of the task has changed, for a display of your
                own. It runs on the event loop. What it raises is logged and otherwise ignored.

        Raises:
            TaskFailedError: The task ended without a video.
            TaskTimeoutError: It did not end in time; attach ``ref`` to wait again.
            KlingError: Any other error of :meth:`submit` and :meth:`Task.wait`.
        """
        if timeout != DEFAULT_TIMEOUT:
            check_timeout(timeout)
        if on_update is not None:
            check_function("on_update", on_update)
        task = await self.submit(input, callback_url=callback_url)
        try:
            return await task.wait(timeout, on_update=on_update)
        except KlingError as error:
            error.may_have_charged = True  # a task exists
            raise

    def attach(
        self,
        ref: TaskRef | str,
        *,
        input: Input | None = None,
        submitted_at: datetime | None = None,
        traceparent: str = "",
    ) -> Task:
        """Return the task of a reference, or of the text of one. Sends nothing.

        A task that this client knows to be running is returned itself.

        Args:
            ref: The reference.
            input: The input, if you know it: the duration is estimated by it.
            submitted_at: When the service accepted the task, if you know it. The task is presumed
                to be running: it holds a slot, and is polled when it may have ended. Otherwise
                it is polled at once. Needs a running event loop.
            traceparent: What :meth:`traceparent` returned where the task was submitted.

        Raises:
            InputError: The text is not a reference, ``input`` is not an input, or ``submitted_at``
                has no time zone.
        """
        ref = ref if isinstance(ref, TaskRef) else TaskRef.parse(ref)
        if input is not None:
            check_input(input)
        if submitted_at is not None:
            check_aware("submitted_at", submitted_at)
        if (running := self._registry.find(ref)) is not None:
            return running
        kind = Kind(ref.model) if input is None else kind_of(input)
        age = None
        if submitted_at is not None:
            age = max(0.0, (datetime.now(UTC) - submitted_at).total_seconds())
        task = self._registry.attach(ref, kind, age)
        runs = age is not None and age < self._executor.limits.presumed_lifetime
        if self._executor.events is not None:
            self._executor.events.task_attached(ref, input, submitted_at, traceparent, runs)
        if runs:
            self._registry.adopt(task)
        return task

    def traceparent(self, ref: TaskRef | str) -> str:
        """Return the W3C trace context of a task that is traced, or an empty text.

        Store it beside the reference: another process that passes it to :meth:`attach` continues
        the same trace. See :class:`kling_async.telemetry.OpenTelemetry`.

        Raises:
            InputError: The text is not a reference.
        """
        ref = ref if isinstance(ref, TaskRef) else TaskRef.parse(ref)
        return "" if self._executor.events is None else self._executor.events.traceparent(ref)

    async def status(self, ref: TaskRef | str) -> Snapshot:
        """Send one status call for a task. Temporary failures are retried.

        Raises:
            InputError: The text is not a reference.
            APIError: The service refused the call.
            RequestError: No usable answer came.
        """
        ref = ref if isinstance(ref, TaskRef) else TaskRef.parse(ref)
        task = self._registry.find(ref)
        return await (self._registry.read_status(ref) if task is None else task.status())

    def generate_many(
        self,
        inputs: Iterable[Input] | AsyncIterable[Input],
        *,
        in_flight: int | None = None,
        ordered: bool = False,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> AsyncGenerator[Outcome]:
        """Generate from many inputs at once; yield each outcome when it is known.

        An input is read only when it can soon be submitted, so a generator of a million needs no
        more memory than one of a thousand. A failure is an outcome with an ``error``.

        If the loop is left early, nothing more is submitted, and running tasks continue at the
        service. They, and those that have ended and were not yielded, are named in a warning of the
        logger ``kling_async``, in the event :class:`~kling_async.TasksAbandoned` and in a note on
        an exception that is raised here, such as a cancellation. A submit that is answered later is
        reported then. With ``contextlib.aclosing``, the clean-up has ended when the next line runs,
        and ``inputs`` is closed if it is a generator. A second cancellation does not wait for
        the clean-up, which continues in the background.

        Args:
            inputs: Any iterable or async iterable. What it raises ends the loop, and is raised.
            in_flight: How many tasks may run at one time. Default: the limit of concurrent tasks.
            ordered: Yield in the order of the inputs. If as many as ``in_flight`` outcomes wait
                for an earlier one, no more inputs are read until that is yielded.
            timeout: Seconds to wait for each task, from the service's acceptance.

        Raises:
            ConfigurationError: An option is invalid. This and the next are raised at once.
            InputError: ``inputs`` is a single input, a text or a mapping, or not iterable.
        """
        from kling_async.tasks.fan_out import Outcome

        async def generate(work_item: WorkItem[Input]) -> Outcome:
            outcome = Outcome(work_item.index, work_item.item)
            try:
                check_input(work_item.item)
                task = await self.submit(work_item.item, observer=work_item)
                work_item.submitted()
                result = await task.wait(timeout, report=False)
                return evolve(outcome, task_ref=task.ref, result=result)
            except KlingError as error:
                error.may_have_charged |= work_item.ref is not None  # as with generate
                return evolve(outcome, task_ref=work_item.ref, error=error)

        check_timeout(timeout)
        check_inputs(inputs)
        return self.run_many(generate, inputs, in_flight=in_flight, ordered=ordered)

    def run_many(
        self,
        work: Callable[[WorkItem[_T]], Awaitable[Outcome | None]],
        items: Iterable[_T] | AsyncIterable[_T],
        *,
        in_flight: int | None = None,
        ordered: bool = False,
        on_abandoned: Report | None = None,
    ) -> AsyncGenerator[Outcome]:
        """Run work of your own on many items, which are read as by :meth:`generate_many`.

        Args:
            work: Awaited with each item; see :class:`~kling_async.tasks.fan_out.WorkItem`.
            items: Any iterable or async iterable.
            in_flight: How many items may run at one time. Default: the limit of concurrent tasks.
            ordered: Yield in the order of the items.
            on_abandoned: Called with the references of the tasks that are abandoned when the loop
                is left early, to store them: no warning is logged then. It is not async.

        Raises:
            ConfigurationError: An option is invalid. This and the next are raised at once.
            InputError: ``items`` is not iterable.
        """
        if not isinstance(items, Iterable | AsyncIterable) and not hasattr(items, "__getitem__"):
            raise InputError(f"items must be an iterable of either kind, not {items!r:.80}")
        if on_abandoned is not None:
            check_function("on_abandoned", on_abandoned)
        return self.fan_out(
            work, in_flight=in_flight, ordered=ordered, on_abandoned=on_abandoned
        ).outcomes(items)

    def fan_out(
        self,
        work: Callable[[WorkItem[_T]], Awaitable[Outcome | None]],
        *,
        in_flight: int | None = None,
        ordered: bool = False,
        on_abandoned: Report | None = None,
    ) -> FanOut[_T]:
        """Return the run of :meth:`run_many`, for a caller that also waits for its clean-up."""
        from kling_async.tasks.fan_out import FanOut

        executor = self._executor
        fan_out = FanOut(
            work,
            in_flight=executor.limits.concurrent_tasks if in_flight is None else in_flight,
            max_waiting=executor.limits.connections,
            ordered=ordered,
            wait_answered=self._submitter.wait_answered,
            abandoned=self._registry.abandoned_tasks(on_abandoned),
            cleanups=self._cleanups,
            patience=executor.retry.patience,
        )
        self._fan_outs.add(fan_out)
        return fan_out

    async def balance(self) -> float:
        """Return the account's balance, in US dollars.

        Raises:
            APIError: The service refused the call.
            RequestError: No usable answer came.
        """
        request = requests.build_balance()
        parse = partial(responses.parse_balance, request)
        return await self._executor.execute(request, partial(self._executor.send, request, parse))

    async def download(
        self,
        result: Result | Snapshot,
        folder: str | os.PathLike[str],
        *,
        name: str | None = None,
        overwrite: bool = False,
    ) -> tuple[Path, ...]:
        """Save a result's videos to a folder; return their paths in the order of the URLs.

        A complete file is not fetched again, and an incomplete one is continued. If a URL has
        expired, a status call asks for a new one. At most 16 files are fetched at one time.

        The API key is not sent. Files are not fetched from this machine or a private network,
        unless the service is on this machine or ``allow_hosts`` names the host.

        Args:
            result: The result.
            folder: The folder; created if it does not exist.
            name: The name of the files. Default: the task's id. The suffix is added.
            overwrite: Fetch existing files again.

        Raises:
            DownloadError: A file is incomplete, or not a video. The others are complete.
            ResultExpiredError: A URL has expired, and the service has no other; or its file is not
                there yet, if the error is ``retryable``.
            ConfigurationError: The given session is closed, or a proxy is not a URL.
        """
        saved = await self.save(result, folder, name=name, overwrite=overwrite)
        return tuple(Path(folder) / file.name for file in saved)

    async def archive(
        self, result: Result | Snapshot, url: str, *, name: str | None = None
    ) -> tuple[str, ...]:
        """Save a result's videos in an object store; return the URLs of the objects, in order.

        ``url`` is as for ``BatchOptions.download_to``. An object is never replaced; if its name is
        taken, another one is used. Raises what :meth:`download` raises, and :class:`StorageError`.
        """
        from kling_async.download.archive import Archive

        archive = Archive(url)
        files = await archive.save(result.ref, partial(self.save, result, name=name))
        return tuple(archive.url_of(file.name) for file in files)

    async def save(  # noqa: PLR0913 - every one is a keyword with a default
        self,
        result: Result | Snapshot,
        folder: str | os.PathLike[str],
        *,
        name: str | None = None,
        overwrite: bool = False,
        previous: Collection[SavedFile] | None = None,
        on_renewed: Callable[[tuple[str, ...]], Awaitable[object]] | None = None,
        traceparent: str = "",
    ) -> tuple[SavedFile, ...]:
        """Do as :meth:`download`, and return sizes and checksums, too.

        Args:
            result: As for :meth:`download`.
            folder: As for :meth:`download`.
            name: As for :meth:`download`.
            overwrite: As for :meth:`download`.
            previous: The files of an earlier call, for a shared folder. Only those are replaced;
                where another file has the name, a different name is used.
            on_renewed: Awaited with the new URLs, if those of the result have expired.
            traceparent: As for :meth:`attach`.
        """
        if not isinstance(result, Result | Snapshot):
            raise InputError(f"not the result of a task: {result!r:.80}")

        async def renew() -> tuple[str, ...]:
            return (await self.status(result.ref)).result_urls

        downloader = self._downloader or self._open_downloader()
        save = partial(
            downloader.save,
            result,
            folder,
            name=name,
            overwrite=overwrite,
            previous=previous,
            retry=self._executor.retry,
            seen_at=self._registry.ended_at(result.ref),
            renew=renew,
            on_renewed=on_renewed,
        )
        if self._executor.events is None:
            return await save()
        return await self._executor.events.download(save, result.ref, traceparent)

    async def close(self) -> None:
        """Close the client without losing what is paid.

        Submits that have not been sent fail with :class:`ClientClosedError`, at no cost; those
        that have been sent are waited for. Fan-outs end with that error, and so do callers that
        wait for a task, with its reference. Remote tasks continue. Those whose references have not
        been reported yet are named in the event :class:`~kling_async.TasksAbandoned` and in a
        warning in the log.

        If the caller is cancelled, closing continues in the background; also if it is what this
        would wait for: an observer to which an answer is passed, or the inputs or the work of a
        fan-out. The client may be used again afterwards.
        """
        error = self._leaving
        self._executor.interrupt()
        closer, fan_outs = asyncio.current_task(), list(self._fan_outs)
        awaited = self._submitter.is_sending(closer) or any(
            fan_out.is_run_by(closer) for fan_out in fan_outs
        )
        # What is known is reported before anything is awaited.
        for fan_out in fan_outs:
            fan_out.close(ClientClosedError("the client was closed while the fan-out was running"))
        abandoned = self._registry.abandoned_tasks()
        self._report(abandoned, error)
        # In a task of its own: if the caller is cancelled, the answers to submits are still read,
        # and the session is closed after them.
        cleanup = self._clean_up(abandoned, error, closer)
        if awaited:
            self._closing.start(cleanup)
            return
        try:
            await self._closing.run(cleanup)
        except asyncio.CancelledError as cancellation:
            abandoned.add_note_to(cancellation)
            raise

    async def _clean_up(
        self,
        abandoned: AbandonedTasks,
        error: BaseException | None,
        closer: asyncio.Task[object] | None,
    ) -> None:
        with self._submitter.refusing():  # until the transport is closed
            try:
                await self._cleanups.finished()
                await self._submitter.close(closer)
                self._scheduler.deadlines.close()
                self._report(abandoned, error)
                if self._router is not None:
                    await self._router.close()
            finally:
                async with AsyncExitStack() as stack:  # each is closed, whatever the others raise
                    stack.push_async_callback(self._executor.transport.close)
                    if self._submitter.images is not None:
                        stack.push_async_callback(self._submitter.images.close)
                    if self._downloader is not None:
                        stack.push_async_callback(self._downloader.close)
                    if self._owned_limiter is not None:
                        await self._owned_limiter.close()

    def _open_downloader(self) -> Downloader:
        """Create the downloader; its modules are imported only by clients that download."""
        from kling_async.download.save import Downloader

        self._downloader = downloader = Downloader(**self._download_options)
        return downloader

    def _report(self, abandoned: AbandonedTasks, error: BaseException | None) -> None:
        """Report the tasks that run and have not been reported yet."""
        running = self._registry.tasks.values()
        abandoned.report([task.ref for task in running if not task.reported], error)
