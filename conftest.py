"""Runs the examples: every Python block of README and docs, and every example in a docstring.

A block is run as a reader would paste it: it reads its key from the environment, and calls
``asyncio.run``. Each document starts in an empty folder and has an emulator of its own as the
service, on one virtual-time loop, so that no example waits and none leaves the machine.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sybil import Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.myst import CodeBlockParser as MystCodeBlockParser
from sybil.parsers.rest import CodeBlockParser as RestCodeBlockParser
from sybil.parsers.rest import DocTestParser
from sybil.sybil import SybilCollection

if TYPE_CHECKING:
    from sybil import Example

    from kling_async.testing import Emulator


def pytest_configure(config: pytest.Config) -> None:
    """Let the workers run as strictly as the process that starts them, and nothing else.

    But for the guards around C's memory: nothing here is written in C, and they take a sixth of
    the time.
    """
    strict = {"PYTHONDEVMODE": "1", "PYTHONMALLOC": "default"}
    if hasattr(config, "workerinput"):
        for name in strict:
            os.environ.pop(name, None)
    elif sys.flags.dev_mode and config.getoption("numprocesses", default=None):
        os.environ.update(strict)


def pytest_xdist_auto_num_workers() -> int:
    """Run more tests at once than there are cores: many wait for servers and processes."""
    return 2 * (os.cpu_count() or 1)


# Pictures of that host are taken from the samples that the emulator serves.
PICTURE = re.compile(r"https://example\.com(/[\w-]+\.(?:jpg|png|webp))")

_origin = ""
_python = PythonEvaluator()


def run_block(example: Example) -> None:
    """Run one block of Python, with its pictures served by the emulator."""
    block = example.parsed
    text = PICTURE.sub(rf"{_origin}/samples\1", block)
    example.parsed = type(block)(text, block.offset, block.line_offset)
    _python(example)


class Service:
    """An emulator that keeps running on a loop between the runs of that loop."""

    def __init__(self, runner: asyncio.Runner) -> None:
        from kling_async.testing import Emulator

        samples = resources.files("kling_async.testing").joinpath("samples")
        self.emulator = Emulator(samples=Path(str(samples)), video="small")  # to save time
        self._runner = runner
        self._leave = asyncio.Event()

    def __enter__(self) -> Emulator:
        self._task = self._runner.run(self._start())
        return self.emulator

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._stop())

    async def _start(self) -> asyncio.Task[None]:
        ready = asyncio.Event()
        task = asyncio.create_task(self._serve(ready))
        waiter = asyncio.create_task(ready.wait())
        await asyncio.wait((task, waiter), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            waiter.cancel()
            task.result()
        return task

    async def _serve(self, ready: asyncio.Event) -> None:
        async with self.emulator:
            ready.set()
            await self._leave.wait()

    async def _stop(self) -> None:
        self._leave.set()
        await self._task


def set_up(namespace: dict[str, object]) -> None:
    """Prepare the folder, the loop, the emulator and the environment of one document."""
    from kling_async.testing.clock import VirtualLoop

    global _origin  # noqa: PLW0603 - documents run one after another
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        runner = stack.enter_context(asyncio.Runner(loop_factory=VirtualLoop))
        emulator = stack.enter_context(Service(runner))
        _origin = emulator.origin
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(asyncio, "run", runner.run)
        patch.setenv("APIXO_API_KEY", emulator.key)
        patch.setenv("APIXO_BASE_URL", emulator.origin)
        patch.chdir(folder)
        namespace["_undo"] = stack.pop_all().close


def tear_down(namespace: dict[str, object]) -> None:
    """Undo what `set_up` did."""
    undo = namespace["_undo"]
    if callable(undo):
        undo()


# Blocks of `python` are run; other languages are not looked at here.
markdown = MystCodeBlockParser("python", run_block)
root = Sybil([markdown], filenames=["README.md"], setup=set_up, teardown=tear_down)
docs = Sybil(
    [markdown],
    path="docs",
    pattern="*.md",
    exclude="_build/**/*",
    setup=set_up,
    teardown=tear_down,
)
docstrings = Sybil(
    [DocTestParser(), RestCodeBlockParser("python", run_block)],
    path="kling_async",
    pattern="*.py",
    setup=set_up,
    teardown=tear_down,
)
pytest_collect_file = SybilCollection((root, docs, docstrings)).pytest()
