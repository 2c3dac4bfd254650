"""The commands that speak to the service."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from kling_async.cli import codes
from kling_async.cli.arguments import input_of
from kling_async.cli.output import Output
from kling_async.cli.progress import Progress, follow, progress, tell
from kling_async.cli.text_file import STDIN, read_stdin
from kling_async.client import KlingClient
from kling_async.download.files import check_folder
from kling_async.errors import ConfigurationError, KlingError, TaskTimeoutError
from kling_async.events import Event, Hook, SubmitFailed
from kling_async.policy.durations import Kind, vendor_estimate
from kling_async.policy.polling import Polling
from kling_async.protocol import responses
from kling_async.results import Result, Snapshot, TaskRef, TaskState

if TYPE_CHECKING:
    from argparse import Namespace
    from pathlib import Path

    from kling_async.inputs.base import Input
    from kling_async.limits.base import Limits


def connect(
    args: Namespace,
    hooks: Iterable[Hook],
    *,
    polling: Polling | None = None,
    limits: Limits | None = None,
) -> KlingClient:
    """Make a client as the command line and the environment say.

    Raises:
        ConfigurationError: There is no key.
    """
    if not os.environ.get("APIXO_API_KEY", "").strip():
        raise ConfigurationError("no API key: set the environment variable APIXO_API_KEY")
    return KlingClient(
        base_url=args.base_url,
        polling=polling,
        limits=limits,
        limiter=vars(args).get("limiter"),
        hooks=hooks,
    )


@asynccontextmanager
async def service(
    args: Namespace,
    shown: Progress,
    awaited: Iterable[TaskRef] = (),
    polling: Polling | None = None,
) -> AsyncIterator[KlingClient]:
    """Open a client; should the command be ended from outside, tell what still runs.

    Args:
        args: The command line.
        shown: Where retries are told.
        awaited: Tasks that count as running, whether the client has seen them or not.
        polling: When tasks are asked after.
    """
    unsure: list[KlingError] = []

    def hook(event: Event) -> None:
        if isinstance(event, SubmitFailed) and event.error.may_have_charged:
            unsure.append(event.error)

    kling = connect(args, [hook, partial(tell, shown)], polling=polling)
    try:
        # Leaving it lets a submit under way be answered, so that no reference is missing below.
        async with kling:
            yield kling
    except asyncio.CancelledError:
        Output(json=args.json).interrupted(dict.fromkeys((*awaited, *kling.running)), unsure)
        raise


async def generate(args: Namespace) -> int:
    """Submit, wait, and print the result."""
    sent = await _input(args)
    if args.download_to is not None:
        await asyncio.to_thread(check_folder, args.download_to)
    shown = progress(silent=args.json)
    polling = Polling(first=args.first_poll)
    known = vendor_estimate(Kind(sent.model, sent.mode, args.duration or 5))
    usual = (known.early + known.late) / 2 if known else None
    async with service(args, shown, polling=polling) as kling:
        with shown:
            line = shown.line(sent.mode, usual)
            try:
                task = await kling.submit(sent)
                shown.note(f"submitted {task.ref}")
                result = await follow(task, line, args.timeout)
            except KlingError:
                line.end(ok=False)
                raise
            line.end("success", ok=True)
        lines: Iterable[str] = result.result_urls
        fields = result.to_dict()
        if args.download_to is not None:
            lines = fields["files"] = await _save(kling, result, args.download_to)
        Output(json=args.json).result(lines, fields, new=task.ref)
    return codes.OK


async def submit(args: Namespace) -> int:
    """Submit, and print the reference."""
    sent = await _input(args)
    shown = progress(silent=args.json)
    async with service(args, shown) as kling:
        task = await kling.submit(sent, callback_url=args.callback_url)
        Output(json=args.json).result([str(task.ref)], {"ref": str(task.ref)}, new=task.ref)
    return codes.OK


async def wait(args: Namespace) -> int:
    """Wait for tasks; print each as it ends."""
    refs = _refs(args)
    pending = dict.fromkeys(refs)
    ends: dict[TaskRef, int] = {}
    output = Output(json=args.json)
    shown = progress(silent=args.json, total=len(refs))

    async def one(kling: KlingClient, ref: TaskRef) -> None:
        line = shown.line(str(ref))
        try:
            result = await follow(kling.attach(ref), line, args.timeout)
        except KlingError as error:
            line.end(ok=False)
            ends[ref] = output.error(error)
        else:
            line.end("success", ok=True)
            output.result([f"{ref} {url}" for url in result.result_urls], result.to_dict())
        del pending[ref]

    async with service(args, shown, pending) as kling:
        with shown:
            async with asyncio.TaskGroup() as group:
                for ref in refs:
                    group.create_task(one(kling, ref))
    return _first(refs, ends)


async def status(args: Namespace) -> int:
    """Ask once after each task, in the order given."""

    async def one(kling: KlingClient, ref: TaskRef) -> None:
        snapshot = await kling.status(ref)
        output.result([_status_line(snapshot)], snapshot.to_dict())

    output = Output(json=args.json)
    return await _each(args, one)


async def download(args: Namespace) -> int:
    """Save the videos of each task, in the order given."""

    async def one(kling: KlingClient, ref: TaskRef) -> None:
        snapshot = await kling.status(ref)
        if not snapshot.state.ended:
            raise TaskTimeoutError(
                f"{ref} has not ended ({snapshot.vendor_state}): there is nothing to download yet",
                ref=ref,
                snapshot=snapshot,
            )
        result = responses.result_from(snapshot)
        files = await _save(kling, result, args.to, overwrite=args.overwrite)
        output.result(files, {"ref": str(ref), "files": files})

    output = Output(json=args.json)
    await asyncio.to_thread(check_folder, args.to)
    return await _each(args, one)


async def balance(args: Namespace) -> int:
    """Print the balance."""
    shown = progress(silent=args.json)
    async with service(args, shown) as kling:
        dollars = await kling.balance()
    Output(json=args.json).result([f"{dollars:.2f}"], {"balance": dollars})
    return codes.OK


async def _input(args: Namespace) -> Input:
    """Build the input that the options describe, with its prompt from stdin if that is ``-``."""
    if args.prompt == str(STDIN):
        args.prompt = await read_stdin()
    return input_of(args)


async def _each(args: Namespace, one: Callable[[KlingClient, TaskRef], Awaitable[None]]) -> int:
    """Do something with every task; a failure never hides the rest."""
    refs = _refs(args)
    ends: dict[TaskRef, int] = {}
    async with service(args, progress(silent=args.json)) as kling:
        for ref in refs:
            try:
                await one(kling, ref)
            except KlingError as error:
                ends[ref] = Output(json=args.json).error(error)
    return _first(refs, ends)


async def _save(
    kling: KlingClient, result: Result, folder: Path, *, overwrite: bool = False
) -> list[str]:
    return [str(path) for path in await kling.download(result, folder, overwrite=overwrite)]


def _refs(args: Namespace) -> list[TaskRef]:
    """Read the references, each once; a wrong one is found before anything is sent."""
    return list(dict.fromkeys(TaskRef.parse(text) for text in args.refs))


def _first(refs: list[TaskRef], ends: dict[TaskRef, int]) -> int:
    """Return the exit code of the first task that went wrong, in the order given."""
    return next((ends[ref] for ref in refs if ref in ends), codes.OK)


def _status_line(snapshot: Snapshot) -> str:
    words = [str(snapshot.ref), snapshot.vendor_state, *snapshot.result_urls]
    if snapshot.state is TaskState.FAILED:
        words.append(f"{snapshot.fail_code}: {snapshot.fail_message}")
    return " ".join(words)
