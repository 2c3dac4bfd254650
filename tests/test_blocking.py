from __future__ import annotations

import asyncio
import gc
import inspect
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import kling_async
from kling_async import (
    ClientClosedError,
    ConfigurationError,
    InputError,
    MasterTextToVideo,
    StandardImageToVideo,
    Submitted,
    TaskFailedError,
    TaskTimeoutError,
    blocking,
)
from kling_async._utils.loop_thread import LoopThread
from kling_async.blocking import KlingClient

# Before the tests: CPython 3.11 fails to compile it while another thread formats a traceback.
from kling_async.tasks import event_emitter  # noqa: F401
from kling_async.testing import Emulator, Scenario
from tests.images.pictures import picture
from tests.patience import HANGS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kling_async import Event, Input, KlingError, TaskRef

FOX = MasterTextToVideo("a fox in fresh snow")


def service(**settings: object) -> Emulator:
    """Return an emulator in which a video takes less than 0.1 s, unless set otherwise."""
    return Emulator(**{"speed": 1000, "video": "small"} | settings)  # type: ignore[arg-type]


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """Run an emulator in a thread."""
    with service() as emulator:
        yield emulator


def connect(emulator: Emulator, **settings: object) -> KlingClient:
    """Make a client of the emulator that polls at its speed."""
    polling = kling_async.Polling(first=0.01)
    return KlingClient(
        emulator.key,
        base_url=emulator.base_url,
        polling=polling,
        **settings,  # type: ignore[arg-type]
    )


def test_generate_and_download(emulator: Emulator, tmp_path: Path) -> None:
    """A video is generated and saved without await."""
    with connect(emulator) as kling:
        result = kling.generate(FOX)
        (path,) = kling.download(result, tmp_path)
        assert kling.balance() == emulator.balance
    assert path.stat().st_size > 1000


def test_local_images(tmp_path: Path) -> None:
    """A picture of this machine becomes a video without await."""
    path = tmp_path / "cat.jpg"
    path.write_bytes(picture())
    with (
        service(uploads=True) as emulator,
        connect(emulator, image_store=emulator.image_store) as kling,
    ):
        assert kling.generate(StandardImageToVideo("pan", path)).result_urls


def test_submit_attach_wait(emulator: Emulator) -> None:
    """A task is awaited by its reference, by another client, as a task or in one call."""
    with connect(emulator) as kling:
        task = kling.submit(FOX)
        assert task.ref in kling.running
        assert str(task.ref) in repr(task)
    with connect(emulator) as kling:
        assert kling.attach(task.ref).wait(10) == kling.wait(str(task.ref))
        assert kling.status(task.ref).state == kling.attach(task.ref).status().state == "success"


class Observer:
    """Notes the steps of a submit, and the threads in which they are called."""

    def __init__(self) -> None:
        self.steps: list[object] = []

    async def before_send(self) -> None:
        self.steps.append(type(threading.current_thread()))

    async def on_rejected(self, error: KlingError) -> None:
        raise AssertionError from error

    async def on_accepted(self, ref: TaskRef) -> None:
        self.steps.append(ref)


def test_observed_submit(emulator: Emulator) -> None:
    """A submit is observed in the background thread."""
    observer = Observer()
    with connect(emulator) as kling:
        task = kling.submit(FOX, observer=observer)
    assert observer.steps == [LoopThread, task.ref]


@pytest.mark.slow
def test_generate_many(emulator: Emulator) -> None:
    """Outcomes are iterated over as they finish; the inputs are closed at the end."""
    closed = []

    def inputs() -> Iterator[Input]:
        try:
            for n in range(5):
                yield MasterTextToVideo(f"take {n}")
        finally:
            closed.append(True)

    with connect(emulator) as kling:
        outcomes = list(kling.generate_many(inputs(), in_flight=2, ordered=True))
    assert [outcome.index for outcome in outcomes] == [0, 1, 2, 3, 4]
    assert all(outcome.result for outcome in outcomes)
    assert closed == [True]


def test_inputs_may_use_the_client(emulator: Emulator) -> None:
    """The iterable of inputs may make blocking calls itself."""
    with connect(emulator) as kling:

        def inputs() -> Iterator[Input]:
            kling.balance()
            yield FOX

        (outcome,) = kling.generate_many(inputs())
    assert outcome.result is not None


def test_leaving_the_loop_early(emulator: Emulator, caplog: pytest.LogCaptureFixture) -> None:
    """Tasks that still run are reported when the loop is left."""
    with connect(emulator) as kling:
        outcomes = kling.generate_many([FOX] * 3, in_flight=3)
        next(outcomes)
        outcomes.close()
        assert len(emulator.ledger) == 3
        left = kling.running
    assert all(str(ref) in caplog.text for ref in left)


def test_a_loop_over_a_closed_client(emulator: Emulator) -> None:
    """Closing the client ends a loop over its outcomes."""
    kling = connect(emulator)
    outcomes = kling.generate_many([FOX] * 30, in_flight=1)
    next(outcomes)
    kling.close()
    with pytest.raises(ClientClosedError):
        list(outcomes)


def test_inputs_that_exit(emulator: Emulator) -> None:
    """An exit in the inputs ends the loop over the outcomes, and the client can still be used."""

    def inputs() -> Iterator[Input]:
        yield FOX
        sys.exit(4)

    with connect(emulator) as kling:
        with pytest.raises(SystemExit):
            list(kling.generate_many(inputs()))
        assert kling.balance() > 0


def test_a_hook_that_exits(emulator: Emulator, caplog: pytest.LogCaptureFixture) -> None:
    """A call whose hook exits ends; asyncio logs the exit; the client can still be used."""

    def leave(event: Event) -> None:
        if isinstance(event, Submitted):
            sys.exit(4)

    with connect(emulator, hooks=[leave]) as kling:
        with pytest.raises(asyncio.CancelledError):
            kling.submit(FOX)
        assert kling.balance() > 0
    gc.collect()  # asyncio logs it when the task is collected: here, and not in a later test
    assert "SystemExit: 4" in caplog.text


def test_what_is_no_coroutine(emulator: Emulator) -> None:
    """What cannot be awaited is refused."""
    with connect(emulator) as kling, pytest.raises(ConfigurationError, match="needs a coroutine"):
        kling.run(kling.balance)  # type: ignore[arg-type]


def test_single_inputs_are_refused(emulator: Emulator) -> None:
    """A single input in place of an iterable is refused at once."""
    with connect(emulator) as kling, pytest.raises(InputError):
        kling.generate_many(FOX)  # type: ignore[arg-type]


def test_errors_are_those_of_the_asynchronous_client() -> None:
    """A failed task and a deadline raise what they raise with await."""
    scenario = Scenario().on("task", 1, "fail:NSFW_DETECTED")
    with service(scenario=scenario) as emulator, connect(emulator) as kling:
        with pytest.raises(TaskFailedError):
            kling.generate(FOX)
        with pytest.raises(TaskTimeoutError):
            kling.generate(FOX, timeout=0.001)


def test_threads_share_one_client(emulator: Emulator) -> None:
    """Many threads share one loop, one connection pool and one limiter."""
    with connect(emulator) as kling, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: kling.generate(MasterTextToVideo(f"{n}")), range(16)))
        loops = [thread for thread in threading.enumerate() if isinstance(thread, LoopThread)]
    assert len({result.ref for result in results}) == 16
    assert len(loops) == 2  # this client's and the emulator's


def test_in_a_running_loop(emulator: Emulator) -> None:
    """It is usable from a coroutine, whose loop it blocks."""

    async def main() -> float:
        with connect(emulator) as kling:
            return kling.balance()

    assert asyncio.run(main()) == emulator.balance


def test_a_hook_cannot_call_it(emulator: Emulator) -> None:
    """A call from the client's own loop raises instead of waiting for itself."""
    errors: list[Exception] = []

    def hook(_: Event) -> None:
        try:
            kling.balance()
        except ConfigurationError as error:
            errors.append(error)

    with connect(emulator, hooks=[hook]) as kling:
        kling.generate(FOX)
    assert errors
    assert "hook" in str(errors[0])


def test_a_hook_cannot_close_it(emulator: Emulator) -> None:
    """A hook that closes its own client gets an error, and the client remains usable."""
    errors: list[Exception] = []

    def hook(_: Event) -> None:
        try:
            kling.close()
        except ConfigurationError as error:
            errors.append(error)

    with connect(emulator, hooks=[hook]) as kling:
        kling.generate(FOX)
        assert kling.balance() == emulator.balance
    assert errors


def test_closed_during_a_call(emulator: Emulator) -> None:
    """A call that another thread's `close` ends raises `ClientClosedError`, like later ones."""
    kling = connect(emulator)
    started = threading.Event()

    async def work() -> None:
        started.set()
        await asyncio.Event().wait()

    with ThreadPoolExecutor() as threads:
        call = threads.submit(kling.run, work())
        started.wait(HANGS)
        kling.close()
        with pytest.raises(ClientClosedError, match="during the call"):
            call.result(HANGS)


def test_cancelled_from_inside(emulator: Emulator) -> None:
    """A coroutine that cancels itself raises that: the client is not closed."""

    async def work() -> None:
        raise asyncio.CancelledError

    with connect(emulator) as kling, pytest.raises(asyncio.CancelledError):
        kling.run(work())


FORKED = """
import os, sys
from kling_async.blocking import KlingClient
kling = KlingClient(sys.argv[1], base_url=sys.argv[2])
if sys.argv[3] == "used":
    kling.balance()
child = os.fork()
if child == 0:
    try:
        print("child", kling.balance(), flush=True)
    except Exception as error:
        print("child", type(error).__name__, error, flush=True)
    kling.close()
    os._exit(0)
os.waitpid(child, 0)
print("parent", kling.balance())
kling.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("used", "answer"), [("used", "ConfigurationError"), ("new", "1000")])
def test_after_a_fork(used: str, answer: str, emulator: Emulator) -> None:
    """A client that was used before a fork raises in the child; an unused one works in both."""
    command = (sys.executable, "-W", "error", "-c", FORKED, emulator.key, emulator.base_url, used)
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=HANGS)
    child, parent = lines.stdout.splitlines()
    assert answer in child or child.startswith("child 1")
    assert ("ConfigurationError" in child) is (used == "used")
    assert parent.startswith("parent ")


INTERRUPTED = """
import sys
from kling_async import MasterTextToVideo
from kling_async.blocking import KlingClient
hooks = [lambda event: print(type(event).__name__, flush=True)]
with KlingClient(sys.argv[1], base_url=sys.argv[2], hooks=hooks) as kling:
    kling.generate(MasterTextToVideo("a fox"))
"""


@pytest.mark.slow
def test_ctrl_c() -> None:
    """Ctrl-C ends a call, and the reference of the paid task is in the traceback."""
    with service(speed=1) as slow:
        command = (sys.executable, "-c", INTERRUPTED, slow.key, slow.base_url)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as run:
            assert run.stdout is not None
            assert run.stdout.readline() == "Submitted\n"
            run.send_signal(signal.SIGINT)
            _, err = run.communicate(timeout=HANGS)
    (task,) = slow.ledger
    assert "KeyboardInterrupt" in err
    assert err.count(task.task_id) >= 1


LEFT_OPEN = """
import sys
from kling_async import MasterTextToVideo, Polling
from kling_async.blocking import KlingClient
kling = KlingClient(sys.argv[1], base_url=sys.argv[2], polling=Polling(first=0.01))
inputs = (MasterTextToVideo(f"{number}") for number in range(9))
outcomes = kling.generate_many(inputs, in_flight=2)
print(next(outcomes).task_ref)
sys.exit(3)
"""


@pytest.mark.slow
def test_a_program_that_ends_without_closing() -> None:
    """It ends at once, and the log names each task that it has paid for without a result."""
    with service() as emulator:
        command = (sys.executable, "-c", LEFT_OPEN, emulator.key, emulator.base_url)
        done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS, check=False)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "unattended" in done.stderr
    assert [
        one.task_id for one in emulator.ledger if one.task_id not in done.stdout + done.stderr
    ] == []


def test_documentation_is_that_of_the_asynchronous_methods() -> None:
    """Each method has the docstring and the parameters of its asynchronous twin."""
    submits = ("submit", "attach", "generate", "generate_many")
    names = (*submits, "status", "balance", "download", "archive", "__init__")
    twins = [(kling_async.KlingClient, KlingClient, name) for name in names]
    tasks = [(kling_async.Task, blocking.Task, name) for name in ("wait", "status")]
    for original, twin, name in (*twins, *tasks):
        theirs, ours = getattr(original, name), getattr(twin, name)
        assert ours.__doc__ == theirs.__doc__
        parameters = inspect.signature(theirs).parameters.keys()
        assert inspect.signature(ours).parameters.keys() == parameters


def test_closed(emulator: Emulator) -> None:
    """A closed client raises, has no thread, and may be closed again."""
    kling = connect(emulator)
    kling.balance()
    kling.close()
    kling.close()
    with pytest.raises(ClientClosedError):
        kling.balance()
    assert sum(isinstance(thread, LoopThread) for thread in threading.enumerate()) == 1
