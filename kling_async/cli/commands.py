"""The commands for single tasks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from kling_async.cli import exit_codes
from kling_async.cli.arguments import input_from
from kling_async.cli.output import Output
from kling_async.cli.text_file import STDIN, read_stdin
from kling_async.client import KlingClient
from kling_async.errors import ConfigurationError, KlingError, TaskTimeoutError
from kling_async.events import Event, Hook, SubmitFailed
from kling_async.limits.base import Limits
from kling_async.policy.durations import vendor_estimate
from kling_async.policy.polling import Polling
from kling_async.progress.board import ProgressLine
from kling_async.progress.opening import open_display
from kling_async.protocol import responses
from kling_async.results import Result, Snapshot, TaskRef, TaskState
from kling_async.tasks.task_registry import kind_of

if TYPE_CHECKING:
    from argparse import Namespace
    from pathlib import Path

    from kling_async.inputs.base import Input
    from kling_async.progress.text_display import TextDisplay
    from kling_async.tasks.task import Task


def client_from(args: Namespace, *hooks: Hook) -> KlingClient:
    """Return the client that the options and the environment describe."""
    if not os.environ.get("APIXO_API_KEY", "").strip():
        raise ConfigurationError("no API key: set the environment variable APIXO_API_KEY")
    given = vars(args)
    first_poll = given.get("first_poll")  # None: that of the environment, if it has one
    limits = None
    if "requests_per_minute" in given:
        limits = Limits(args.requests_per_minute, args.concurrent_tasks)
    return KlingClient(
        base_url=args.base_url,
        polling=None if first_poll is None else Polling(first=first_poll),
        limits=limits,
        limiter=given.get("limiter"),
        hooks=hooks,
        check_images=given.get("check_images", False),
        fix_images=given.get("fix_images", False),
    )


@asynccontextmanager
async def open_client(
    args: Namespace, progress: TextDisplay, refs: Iterable[TaskRef] = ()
) -> AsyncIterator[KlingClient]:
    """Open a client; on cancellation, print which tasks are still running, ``refs`` included."""
    unsure: list[KlingError] = []

    def on_event(event: Event) -> None:
        if isinstance(event, SubmitFailed) and event.error.may_have_charged:
            unsure.append(event.error)

    kling = client_from(args, on_event, progress.on_event)
    try:
        # The exit waits for the response of a running submit, so that no reference is missing.
        async with kling:
            yield kling
    except asyncio.CancelledError:
        running = dict.fromkeys((*refs, *kling.running))
        Output(json=args.json).print_interrupted(running, unsure)
        raise


async def run_generate(args: Namespace) -> int:
    """Submit an input, wait for the task, and print the result."""
    sent = await _read_input(args)
    await check_destination(args.download_to)
    progress = open_display(silent=args.json)
    durations = vendor_estimate(kind_of(sent))
    usual = durations.mean if durations else None
    pending: dict[TaskRef, None] = {}
    async with open_client(args, progress, pending) as kling:
        with progress:
            line = ProgressLine(progress, sent.mode or sent.model, usual)
            try:
                task = await kling.submit(sent)
            except KlingError:
                line.finish("failed")
                raise
            pending[task.ref] = None
            progress.print(f"submitted {task.ref}")
            lines, fields = await _wait_for(kling, task, line, args)
            del pending[task.ref]
        Output(json=args.json).print_result(lines, fields, new=task.ref)
    return exit_codes.OK


async def run_submit(args: Namespace) -> int:
    """Submit an input, and print the task's reference."""
    sent = await _read_input(args)
    async with open_client(args, open_display(silent=args.json)) as kling:
        task = await kling.submit(sent, callback_url=args.callback_url)
        output = Output(json=args.json)
        output.print_result([str(task.ref)], {"ref": str(task.ref)}, new=task.ref)
    return exit_codes.OK


async def run_wait(args: Namespace) -> int:
    """Wait for tasks, and print each when it ends."""
    refs = _parse_refs(args)
    await check_destination(args.download_to)
    pending = dict.fromkeys(refs)
    codes: dict[TaskRef, int] = {}
    output = Output(json=args.json)
    progress = open_display(silent=args.json, total=len(refs))

    async def wait_for(kling: KlingClient, ref: TaskRef) -> None:
        line = ProgressLine(progress, str(ref))
        try:
            lines, fields = await _wait_for(kling, kling.attach(ref), line, args)
        except KlingError as error:
            codes[ref] = output.print_error(error)
        else:
            output.print_result([f"{ref} {text}" for text in lines], fields)
        del pending[ref]

    async with open_client(args, progress, pending) as kling:
        with progress:
            async with asyncio.TaskGroup() as group:
                for ref in refs:
                    group.create_task(wait_for(kling, ref))
    return _first_code(refs, codes)


async def _wait_for(
    kling: KlingClient, task: Task, line: ProgressLine, args: Namespace
) -> tuple[list[str], dict[str, object]]:
    """Wait for a task; return the URLs of its result, or the saved files, and all as fields."""
    try:
        result = await task.wait(args.timeout, on_update=line.show_update)
    except KlingError:
        line.finish("failed")
        raise
    line.finish("done", "success")
    if args.download_to is None:
        return list(result.result_urls), result.to_dict()
    files = await _save(kling, result, args.download_to)
    return files, {**result.to_dict(), "files": files}


async def run_status(args: Namespace) -> int:
    """Print the state of tasks, in the given order."""
    output = Output(json=args.json)

    async def print_status(kling: KlingClient, ref: TaskRef) -> None:
        snapshot = await kling.status(ref)
        output.print_result([_status_line(snapshot)], snapshot.to_dict())

    return await _for_each(args, print_status)


async def run_download(args: Namespace) -> int:
    """Save the videos of tasks, in the given order."""
    output = Output(json=args.json)

    async def save(kling: KlingClient, ref: TaskRef) -> None:
        snapshot = await kling.status(ref)
        if not snapshot.state.ended:
            raise TaskTimeoutError(
                f"{ref} has not ended ({snapshot.vendor_state}): there is nothing to download yet",
                ref=ref,
                snapshot=snapshot,
            )
        result = responses.result_from(snapshot)
        files = await _save(kling, result, args.to, overwrite=args.overwrite)
        output.print_result(files, {"ref": str(ref), "files": files})

    await check_destination(args.to)
    return await _for_each(args, save)


async def run_balance(args: Namespace) -> int:
    """Print the balance."""
    async with open_client(args, open_display(silent=args.json)) as kling:
        dollars = await kling.balance()
    Output(json=args.json).print_result([f"{dollars:.2f}"], {"balance": dollars})
    return exit_codes.OK


async def _read_input(args: Namespace) -> Input:
    """Return the input that the options describe; the prompt ``-`` is read from stdin."""
    if args.prompt == str(STDIN):
        args.prompt = await read_stdin()
    return input_from(args)


async def _save(
    kling: KlingClient, result: Result, place: Path | str, *, overwrite: bool = False
) -> list[str]:
    """Save the files of a result to a folder or an archive; return their paths or URLs."""
    if isinstance(place, str):
        return list(await kling.archive(result, place))
    return [str(path) for path in await kling.download(result, place, overwrite=overwrite)]


async def check_destination(place: Path | str | None) -> None:
    """Raise an error if videos cannot be saved in a folder or an archive, before any is paid."""
    if place is not None:
        from kling_async.batch.destination import open_destination

        await open_destination(place).check()


async def _for_each(args: Namespace, act: Callable[[KlingClient, TaskRef], Awaitable[None]]) -> int:
    """Call a function for every task; an error does not prevent the other calls."""
    refs = _parse_refs(args)
    codes: dict[TaskRef, int] = {}
    async with open_client(args, open_display(silent=args.json)) as kling:
        for ref in refs:
            try:
                await act(kling, ref)
            except KlingError as error:
                codes[ref] = Output(json=args.json).print_error(error)
    return _first_code(refs, codes)


def _parse_refs(args: Namespace) -> list[TaskRef]:
    """Return each reference once; an invalid one raises before anything is sent."""
    return list(dict.fromkeys(TaskRef.parse(text) for text in args.refs))


def _first_code(refs: list[TaskRef], codes: dict[TaskRef, int]) -> int:
    """Return the exit code of the first task with an error, in the given order."""
    return next((codes[ref] for ref in refs if ref in codes), exit_codes.OK)


def _status_line(snapshot: Snapshot) -> str:
    words = [str(snapshot.ref), snapshot.vendor_state, *snapshot.result_urls]
    if snapshot.state is TaskState.FAILED:
        words.append(f"{snapshot.fail_code}: {snapshot.fail_message}")
    return " ".join(words)
