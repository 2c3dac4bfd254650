"""Callers that are cancelled: the reference of a paid task is reported once, in every case."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, TypeAlias

import anyio
import pytest

from kling_async import KlingClient, MasterTextToVideo, Polling, TaskRef
from kling_async.events import Event, Hook, TasksAbandoned
from kling_async.testing import ScriptedTransport, VirtualLoop
from kling_async.testing.transport import answer
from tests.patience import HANGS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from kling_async.testing import Emulator
    from kling_async.testing.transport import Request, Response
    from tests.conftest import Connect, Emulate

pytestmark = pytest.mark.virtual_time

FOX = MasterTextToVideo("a fox in fresh snow")
POLLED = Polling(first=1.0, shortest=5.0, longest=5.0)


class Scene:
    """A client of an emulator whose tasks never end, and what is reported of them."""

    def __init__(self, emulator: Emulator, log: pytest.LogCaptureFixture) -> None:
        self.emulator = emulator
        self.events: list[Event] = []
        self._log = log
        self.kling: KlingClient

    @property
    def refs(self) -> list[TaskRef]:
        """The tasks that were started."""
        return [TaskRef("kling-2-1", entry.task_id) for entry in self.emulator.ledger]

    @property
    def warnings(self) -> list[str]:
        """The messages in the log."""
        return [record.getMessage() for record in self._log.records]

    @property
    def reported(self) -> list[TaskRef]:
        """The references in the events, in order."""
        events = [event for event in self.events if isinstance(event, TasksAbandoned)]
        return [ref for event in events for ref in event.refs]

    def check(self, error: BaseException | None) -> None:
        """Check that each task is reported once, and that the exception names each of them."""
        assert sorted(map(str, self.reported)) == sorted(map(str, self.refs))
        assert len(self.warnings) == sum(isinstance(one, TasksAbandoned) for one in self.events)
        for ref in self.refs:
            assert sum(str(ref) in one for one in self.warnings) == 1
            if error is not None:
                assert any(str(ref) in note for note in error.__notes__)


@pytest.fixture
async def scene(emulate: Emulate, connect: Connect, caplog: pytest.LogCaptureFixture) -> Scene:
    """Make a scene."""
    scene = Scene(await emulate("task:*=stuck"), caplog)
    scene.kling = await connect(scene.emulator, hooks=[scene.events.append], polling=POLLED)
    return scene


async def generate(kling: KlingClient) -> None:
    """Generate."""
    await kling.generate(FOX)


async def wait(kling: KlingClient) -> None:
    """Submit, then await the task."""
    await (await kling.submit(FOX))


async def watch(kling: KlingClient) -> None:
    """Submit, then watch the task."""
    async for _ in (await kling.submit(FOX)).watch():
        pass


async def attached(kling: KlingClient) -> None:
    """Submit, then attach the reference and wait."""
    await kling.attach((await kling.submit(FOX)).ref)


WAYS = pytest.mark.parametrize("way", [generate, wait, watch, attached])
Way: TypeAlias = "Callable[[KlingClient], Coroutine[object, object, None]]"


@WAYS
@pytest.mark.parametrize("at", [0.5, 1.0, 3.0])
async def test_cancelled(way: Way, at: float, scene: Scene) -> None:
    """A caller that is cancelled, before the first poll or later, has the reference in a note."""
    caller = asyncio.create_task(way(scene.kling))
    await asyncio.sleep(at)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await caller
    assert len(scene.refs) == 1
    scene.check(caught.value)
    await scene.kling.close()
    scene.check(caught.value)


@WAYS
async def test_a_timeout_of_asyncio(way: Way, scene: Scene) -> None:
    """A caller within `asyncio.timeout` has the note on the cause of the TimeoutError."""
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(10):
            await way(scene.kling)
    scene.check(caught.value.__cause__)


async def test_a_sibling_in_a_task_group(scene: Scene) -> None:
    """If a sibling in a task group fails, each task of the others is reported."""

    async def fail() -> None:
        await asyncio.sleep(10)
        raise ZeroDivisionError

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as group:
            for way in (generate, wait, watch):
                group.create_task(way(scene.kling))
            group.create_task(fail())

    with pytest.raises(ExceptionGroup):
        await all_of_them()
    assert len(scene.refs) == 3
    scene.check(None)


@WAYS
async def test_a_scope_of_anyio(way: Way, scene: Scene) -> None:
    """A cancel scope of anyio reports the task, though it cancels at every await."""
    with anyio.move_on_after(10) as scope:
        await way(scene.kling)
    assert scope.cancelled_caught
    scene.check(None)
    assert scene.kling.running == tuple(scene.refs)


@WAYS
async def test_cancelled_twice(way: Way, scene: Scene) -> None:
    """A second cancellation in the clean-up of the first takes no report away, nor adds one."""

    async def careful() -> None:
        try:
            await way(scene.kling)
        finally:
            await scene.kling.close()

    caller = asyncio.create_task(careful())
    await asyncio.sleep(10)
    caller.cancel()
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    scene.check(None)


async def test_while_another_waits(scene: Scene) -> None:
    """A task that another caller still waits for is not abandoned."""
    task = await scene.kling.submit(FOX)
    waiters = [asyncio.create_task(task.wait()) for _ in range(2)]
    await asyncio.sleep(5)
    waiters[0].cancel()
    await asyncio.sleep(1)
    assert not scene.reported
    waiters[1].cancel()
    await asyncio.wait(waiters)
    scene.check(None)


@pytest.mark.parametrize("scoped", [True, False])
async def test_cancelled_while_it_is_submitted(
    scoped: bool,  # noqa: FBT001
    emulate: Emulate,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If the submit is under way, the task is reported when its answer comes."""
    scene = Scene(await emulate("submit:*=slow:10"), caplog)
    scene.kling = await connect(scene.emulator, hooks=[scene.events.append])
    if scoped:
        with anyio.move_on_after(5):
            await generate(scene.kling)
    else:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(generate(scene.kling), 5)
    assert not scene.reported
    await asyncio.sleep(6)
    assert len(scene.refs) == 1
    scene.check(None)


async def test_what_has_ended_is_not_reported(emulate: Emulate, connect: Connect) -> None:
    """A caller that has its result, and one whose task failed, report nothing."""
    events: list[Event] = []
    emulator = await emulate("task:2=fail:NSFW")
    kling = await connect(emulator, hooks=[events.append])
    await asyncio.gather(kling.generate(FOX), kling.generate(FOX), return_exceptions=True)
    await kling.close()
    assert len(emulator.ledger) == 2
    assert not any(isinstance(event, TasksAbandoned) for event in events)


async def fan_out(kling: KlingClient) -> None:
    """Generate in a fan-out."""
    async for _ in kling.generate_many([FOX]):
        pass


@pytest.mark.parametrize("way", [generate, wait, watch, fan_out])
@pytest.mark.parametrize("seconds", [0.5, 1.5])  # before the first poll, and during it
def test_a_loop_that_ends(way: Way, seconds: float, caplog: pytest.LogCaptureFixture) -> None:
    """A caller whose event loop ends without a cancellation is reported, too."""

    async def script(request: Request) -> Response:
        if request.kind == "status":
            await asyncio.sleep(1)
        return answer({"taskId": "task_1", "state": "processing"})

    def run(hook: Hook) -> None:
        transport = ScriptedTransport(script)
        kling = KlingClient("a-key", transport=transport, polling=POLLED, hooks=[hook])
        loop = VirtualLoop()
        loop.create_task(way(kling))
        loop.run_until_complete(asyncio.sleep(seconds))
        loop.close()

    events: list[Event] = []
    run(events.append)
    gc.collect()
    ref = TaskRef("kling-2-1", "task_1")
    assert [event for event in events if isinstance(event, TasksAbandoned)] == [
        TasksAbandoned((ref,))
    ]
    messages = [one.getMessage() for one in caplog.records if one.name == "kling_async"]
    assert sum(str(ref) in message for message in messages) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_ctrl_c(tmp_path: Path) -> None:
    """Ctrl-C while a video is generated shows the reference, in a warning and in a note."""
    script = tmp_path / "generate.py"
    script.write_text(
        textwrap.dedent("""
        import asyncio
        from kling_async import KlingClient, MasterTextToVideo
        from kling_async.events import Submitted
        from kling_async.testing import Emulator, Scenario

        def hook(event):
            if isinstance(event, Submitted):  # the caller waits for the task a moment later
                loop = asyncio.get_running_loop()
                loop.call_later(0.2, lambda: print(event.ref, flush=True))

        async def main():
            scenario = Scenario.parse(["task:*=stuck"])
            async with Emulator(video="small", scenario=scenario) as emulator:
                options = {"base_url": emulator.base_url, "hooks": [hook]}
                async with KlingClient(emulator.key, **options) as kling:
                    await kling.generate(MasterTextToVideo("x"))

        asyncio.run(main())
        """)
    )
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    ) as process:
        assert process.stdout is not None
        ref = process.stdout.readline().strip()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=HANGS)
    assert str(TaskRef.parse(ref)) == ref
    lines = [line for line in errors.splitlines() if ref in line]
    assert len(lines) == 2
    assert all(line.startswith("1 task still runs at the service, unattended;") for line in lines)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert process.returncode == -signal.SIGINT
