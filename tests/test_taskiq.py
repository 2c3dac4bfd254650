from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psycopg
import pytest
from nats.js.api import ConsumerConfig
from taskiq import AsyncBroker, BrokerMessage, InMemoryBroker
from taskiq_aio_pika import AioPikaBroker
from taskiq_nats import PullBasedJetStreamBroker

from kling_async import (
    BatchOptions,
    ConfigurationError,
    Input,
    InputError,
    JournalError,
    KlingClient,
    Limits,
    MasterTextToVideo,
    Polling,
    Retry,
    StandardImageToVideo,
)
from kling_async import taskiq as kling_taskiq
from kling_async._utils.extras import install_command
from kling_async.images import read_images
from kling_async.journal.base import Entry, ItemState
from kling_async.journal.postgres.journal import PostgresJournal
from tests.images.pictures import picture
from tests.patience import HANGS
from tests.processes import unmeasured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from kling_async.testing import Emulator
    from tests.conftest import Emulate

FOX = MasterTextToVideo("a fox in fresh snow")
FAST = Polling(first=0.05, shortest=0.05, longest=0.2)


class Send(Protocol):
    async def __call__(self, key: str, fields: Mapping[str, object]) -> dict[str, object]: ...


class Work(Protocol):
    async def __call__(self, emulator: Emulator, **options: Any) -> Send: ...  # noqa: ANN401


def client(emulator: Emulator) -> Callable[[], KlingClient]:
    """Return a function that makes clients."""
    return lambda: KlingClient(
        emulator.key,
        base_url=emulator.base_url,
        limits=Limits(1_000_000, 50),
        polling=FAST,
        retry=Retry(base=0.01),
    )


@pytest.fixture
def url(postgres_url: str) -> str:
    """Return the URL of a batch."""
    return f"{postgres_url}?batch=foxes"


@pytest.fixture
async def work(url: str) -> AsyncIterator[Work]:
    """Start a broker that works in this process; it ends with the test."""
    async with AsyncExitStack() as stack:

        async def work(emulator: Emulator, **options: Any) -> Send:  # noqa: ANN401
            return await stack.enter_async_context(working(url, emulator, **options))

        yield work


@asynccontextmanager
async def working(url: str, emulator: Emulator, **options: Any) -> AsyncIterator[Send]:  # noqa: ANN401
    """Start a broker that works in this process."""
    broker = InMemoryBroker()
    generate = kling_taskiq.install(broker, client(emulator), journal=url, **options)

    async def send(key: str, fields: Mapping[str, object]) -> dict[str, object]:
        sent = await generate.kiq(key, fields)
        result = await sent.wait_result(check_interval=0.02, timeout=HANGS)
        assert not result.is_err
        return result.return_value

    await broker.startup()
    try:
        yield send
    finally:
        await broker.shutdown()


async def accepted(emulator: Emulator, number: int) -> None:
    """Wait until so many tasks were started."""
    while len(emulator.ledger) < number:  # noqa: ASYNC110 - the emulator knows no events
        await asyncio.sleep(0.01)


async def journaled(url: str) -> dict[str, Entry]:
    """Read the journal."""
    async with PostgresJournal(url, read_only=True) as journal:
        return {entry.key: entry async for entry in journal.entries()}


async def test_the_result_is_plain(emulate: Emulate, work: Work, url: str) -> None:
    """What the task returns is a key, a reference and URLs, and the journal has them, too."""
    emulator = await emulate(speed=300.0)
    values = await (await work(emulator))("fox", FOX.to_dict())
    (entry,) = (await journaled(url)).values()
    assert entry.result is not None
    assert values["key"] == "fox"
    assert values["ref"] == str(entry.ref)
    assert values["result_urls"] == list(entry.result.result_urls)
    assert "error" not in values


async def test_what_was_delivered_twice_is_paid_once(emulate: Emulate, work: Work) -> None:
    """A message that comes again, at once or later, gets the same answer and costs nothing."""
    emulator = await emulate(speed=300.0)
    send = await work(emulator)
    first, second = await asyncio.gather(send("fox", FOX.to_dict()), send("fox", FOX.to_dict()))
    assert first == second == await send("fox", FOX.to_dict())
    assert len(emulator.ledger) == 1


async def test_two_workers(emulate: Emulate, url: str) -> None:
    """A message that is delivered to two workers is paid once; one has it as done by the other."""
    emulator = await emulate(speed=300.0)
    async with working(url, emulator) as one, working(url, emulator) as other:
        values = await asyncio.gather(one("fox", FOX.to_dict()), other("fox", FOX.to_dict()))
    assert len(emulator.ledger) == 1
    assert sorted(bool(each["done_by_other"]) for each in values) == [False, True]
    assert values[0]["result_urls"] == values[1]["result_urls"]


async def test_a_failure_is_a_value(emulate: Emulate, work: Work, url: str) -> None:
    """A task that has failed is a value with its code, not an error of taskiq."""
    emulator = await emulate("task:1=fail:NSFW_DETECTED", speed=300.0)
    values = await (await work(emulator))("fox", FOX.to_dict())
    assert values["error"] == "TaskFailedError"
    assert values["fail_code"] == "NSFW_DETECTED"
    assert values["reason"] == "content"
    assert values["may_have_charged"] is True
    assert "result_urls" not in values
    assert (await journaled(url))["fox"].state is ItemState.FAILED


async def test_unsure_stays_unsure(emulate: Emulate, work: Work) -> None:
    """An item without an answer is unsure, and not sent again when it is delivered again."""
    emulator = await emulate("submit:1=lost-answer", speed=300.0)
    send = await work(emulator)
    for _ in range(2):
        values = await send("fox", FOX.to_dict())
        assert values["error"] == "AnswerLostError"
        assert values["may_have_charged"] is True
    assert len(emulator.ledger) == 1


@pytest.mark.parametrize(
    ("key", "fields"),
    [("fox", {"mode": "no-such-mode"}), ("", FOX.to_dict()), ("fox", {})],
)
async def test_invalid_messages(
    emulate: Emulate, work: Work, url: str, key: str, fields: Mapping[str, object]
) -> None:
    """A message without a valid input is an error, and is not in the journal."""
    values = await (await work(await emulate()))(key, fields)
    assert values["error"] == "InputError"
    assert values["retryable"] is False
    assert values["key"] == key
    assert values["ref"] is None
    assert await journaled(url) == {}


async def test_local_images(
    emulate: Emulate, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Local images of an input are stored before its message is sent: workers have no file."""
    emulator = await emulate(uploads=True, speed=300.0)
    store, path = emulator.image_store, tmp_path / "cat.jpg"
    path.write_bytes(picture())
    at_hand = StandardImageToVideo("down", picture(color="brown"))
    inputs: dict[str, Input | Mapping[str, object]] = {
        "file": StandardImageToVideo("pan", path),
        "bytes": StandardImageToVideo("up", picture()),
        "fields": (await read_images(at_hand)).to_dict(),
        "no image": FOX,
    }
    sender = InMemoryBroker()
    generate = kling_taskiq.install(sender, client(emulator), journal=url, image_store=store)
    messages: list[BrokerMessage] = []

    async def keep(message: BrokerMessage) -> None:
        messages.append(message)

    sender.kick = keep  # type: ignore[method-assign]
    with pytest.raises(InputError, match="must be in the image store or given as a file"):
        await generate.kiq("fields", inputs["fields"])
    async with KlingClient(emulator.key, base_url=emulator.base_url, image_store=store) as kling:
        await kling.submit(at_hand)
    for key, sent in inputs.items():
        await generate.kiq(key, sent)
    await sender.shutdown()
    path.unlink()
    assert all(b"kling-image:" in message.message for message in messages[:3])
    fields = [sender.formatter.loads(message.message).args for message in messages]
    monkeypatch.setenv("KLING_IMAGE_STORE", store)
    async with working(url, emulator) as send:
        values = [await send(*each) for each in fields]
    assert [each["key"] for each in values if each["result_urls"]] == list(inputs)
    assert len(emulator.ledger) == 5


async def test_local_images_without_a_store(
    emulate: Emulate, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that no worker could use is not sent: there is no store, or no such file."""
    monkeypatch.delenv("KLING_IMAGE_STORE", raising=False)
    emulator = await emulate()
    broker = InMemoryBroker()
    generate = kling_taskiq.install(broker, client(emulator), journal=url)
    unread = StandardImageToVideo("pan", picture())
    with pytest.raises(InputError, match=r"image_store=.* KLING_IMAGE_STORE"):
        await generate.kiq("cat", input=unread)  # type: ignore[call-overload]  # unnamed in its type
    with pytest.raises(InputError, match="must be a file that can be read"):
        await generate.kiq("cat", StandardImageToVideo("pan", tmp_path / "cat.jpg"))
    with pytest.raises(InputError, match="image"):
        await generate.kiq("cat", unread.to_dict())
    values = await generate("cat", unread)
    assert values["error"] == "InputError"
    await broker.shutdown()
    assert not emulator.ledger


async def test_other_tasks_of_the_broker(emulate: Emulate, url: str) -> None:
    """The messages of other tasks are sent as they are."""
    broker = InMemoryBroker()
    kling_taskiq.install(broker, client(await emulate()), journal=url)

    @broker.task
    async def echo(value: dict[str, str]) -> dict[str, str]:
        return value

    sent = await echo.kiq({"image_url": "kling-image:"})
    assert (await sent.wait_result()).return_value == {"image_url": "kling-image:"}
    await broker.shutdown()


async def test_another_input_of_that_name(emulate: Emulate, work: Work) -> None:
    """A key that the journal has with another input is refused; other messages are processed."""
    emulator = await emulate(speed=300.0)
    send = await work(emulator)
    await send("fox", FOX.to_dict())
    cat = MasterTextToVideo("a cat").to_dict()
    values = await send("fox", cat)
    assert values["error"] == "InputError"
    assert "another input" in str(values["message"])
    assert (await send("cat", cat))["result_urls"]
    assert len(emulator.ledger) == 2


async def test_no_money(emulate: Emulate, work: Work, url: str) -> None:
    """If the balance is too low all items fail and stay planned; later they are submitted."""
    emulator = await emulate("submit:1-2=402", speed=300.0)
    send = await work(emulator)
    values = await asyncio.gather(*(send(f"{n}", FOX.to_dict()) for n in range(2)))
    assert [each["error"] for each in values] == ["BalanceError"] * 2
    assert {entry.state for entry in (await journaled(url)).values()} == {ItemState.PLANNED}
    assert (await send("0", FOX.to_dict())).get("result_urls")


async def test_the_lease_is_lost(
    emulate: Emulate, url: str, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that has lost its lease opens the journal again, and attaches its tasks."""
    emulator = await emulate("submit:1=slow:1", speed=60.0)  # a video takes a second
    async with working(url, emulator) as send:
        sent = asyncio.create_task(send("fox", FOX.to_dict()))
        await accepted(emulator, 1)
        async with await psycopg.AsyncConnection.connect(postgres_url) as db:
            await db.execute("UPDATE kling_async_items SET worker = NULL, held = false")
            await db.execute("DELETE FROM kling_async_workers")
        assert (await sent)["result_urls"]
    assert len(emulator.ledger) == 1
    assert "has expired" in caplog.text


async def test_the_journal_is_away_for_a_while(
    emulate: Emulate, url: str, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker whose journal cannot be opened again retries until it can."""
    emulator = await emulate(speed=60.0)
    async with working(url, emulator, lease=0.5) as send:
        sent = asyncio.create_task(send("fox", FOX.to_dict()))
        await accepted(emulator, 1)
        async with await psycopg.AsyncConnection.connect(postgres_url) as db:
            await db.execute("ALTER TABLE kling_async_workers RENAME TO gone")
        await _said(caplog, "has lost a table", 3)
        async with await psycopg.AsyncConnection.connect(postgres_url) as db:
            await db.execute("ALTER TABLE gone RENAME TO kling_async_workers")
        assert (await sent)["result_urls"]
    assert len(emulator.ledger) == 1


async def _said(caplog: pytest.LogCaptureFixture, words: str, times: int) -> None:
    """Wait until errors with these words were logged so many times."""

    def errors() -> list[str]:
        return [message for _, level, message in caplog.record_tuples if level == logging.ERROR]

    async with asyncio.timeout(20):
        while sum(words in error for error in errors()) < times:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_no_journal(emulate: Emulate) -> None:
    """A worker whose journal cannot be opened does not start."""
    nowhere = "postgresql://someone:hidden@127.0.0.1:1/db?connect_timeout=1"
    with pytest.raises(JournalError, match="cannot be reached") as caught:
        async with working(nowhere, await emulate(), lease=0.2):
            pass
    assert "hidden" not in str(caught.value)


async def test_not_a_journal(emulate: Emulate) -> None:
    """A journal that workers cannot share is refused where the task is installed."""
    with pytest.raises(ConfigurationError, match="postgresql://"):
        kling_taskiq.install(InMemoryBroker(), client(await emulate()), journal="run.sqlite")


async def test_unsupported_options(emulate: Emulate, url: str) -> None:
    """Options that would leave messages unanswered or pay twice are refused."""
    create = client(await emulate())
    unsupported: dict[str, Any] = {"max_tasks": 1, "resubmit_unsure": True, "concurrency": 0}
    for name, value in {**unsupported, "client": create()}.items():
        arguments: dict[str, Any] = {"client": create, "journal": url, name: value}
        with pytest.raises(ConfigurationError, match=name):
            kling_taskiq.install(InMemoryBroker(), **arguments)


async def test_rejections_in_a_row(emulate: Emulate, work: Work) -> None:
    """A batch that was stopped is opened again for the other messages."""
    emulator = await emulate("submit:1=403", speed=300.0)
    send = await work(emulator, options=BatchOptions(max_rejections=1), concurrency=1)
    one, other = await asyncio.gather(send("1", FOX.to_dict()), send("2", FOX.to_dict()))
    assert {one.get("error"), other.get("error")} == {None, "RefusedError"}
    assert len(emulator.ledger) == 1


async def test_stopped_in_the_middle(emulate: Emulate, url: str) -> None:
    """A worker that is shut down acknowledges nothing more: others get its messages and tasks."""
    emulator = await emulate(speed=60.0)
    broker = InMemoryBroker()
    generate = kling_taskiq.install(broker, client(emulator), journal=url)
    await broker.startup()
    waiting = asyncio.create_task(generate("fox", FOX.to_dict()))
    await accepted(emulator, 1)
    await broker.shutdown()
    await asyncio.sleep(0.05)
    assert not waiting.done()
    waiting.cancel()
    async with working(url, emulator) as send:
        assert (await send("fox", FOX.to_dict()))["done_by_other"] is False
    assert len(emulator.ledger) == 1


async def test_one_of_two_goes_away(emulate: Emulate, url: str) -> None:
    """A caller gets its outcome even if another that waits for the same item is cancelled."""
    emulator = await emulate(speed=60.0)
    broker = InMemoryBroker()
    generate = kling_taskiq.install(broker, client(emulator), journal=url)
    await broker.startup()
    one = asyncio.create_task(generate("fox", FOX.to_dict()))
    other = asyncio.create_task(generate("fox", FOX.to_dict()))
    await accepted(emulator, 1)
    one.cancel()
    assert (await other)["result_urls"]
    await broker.shutdown()


async def test_shut_down_before_it_was_started(emulate: Emulate, url: str) -> None:
    """Shutting down a worker that was never started does nothing."""
    broker = InMemoryBroker()
    kling_taskiq.install(broker, client(await emulate()), journal=url)
    await broker.shutdown()


@pytest.mark.slow
def test_without_taskiq() -> None:
    """Where taskiq is not installed, the error says how to install it."""
    script = """
import sys
sys.modules["taskiq"] = None
from kling_async import MissingExtraError
try:
    import kling_async.taskiq
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run(
        (sys.executable, "-c", script), capture_output=True, text=True, check=True
    )
    assert install_command("taskiq") in done.stdout


# The tests below use the server of a broker, and kill workers.

WORKER = textwrap.dedent("""
    import asyncio, logging, sys
    from taskiq.api import run_receiver_task
    sys.path.insert(0, sys.argv[5])
    import test_taskiq as tests
    from kling_async import KlingClient, Limits, Retry
    from kling_async import taskiq

    kind, where, base_url, key, _, url = sys.argv[1:]
    logging.disable()

    def client():
        return KlingClient(
            key, base_url=base_url, limits=Limits(1_000_000, 50), polling=tests.FAST,
            retry=Retry(base=0.01),
        )

    async def main():
        broker = tests.broker_at(kind, where)
        broker.is_worker_process = True
        taskiq.install(broker, client, journal=url, lease=1.5)
        print("ready", flush=True)
        await run_receiver_task(broker, max_async_tasks=50, run_startup=True)

    asyncio.run(main())
""")

MESSAGES = 60


def broker_at(kind: str, where: str) -> AsyncBroker:
    """Make a broker of a kind that delivers again what a dead worker had."""
    if kind == "rabbitmq":
        return AioPikaBroker(where)
    # Messages that are not acknowledged within two seconds are delivered again.
    config = ConsumerConfig(durable_name="workers", ack_wait=2, max_ack_pending=1_000)
    return PullBasedJetStreamBroker(
        where, durable="workers", consumer_config=config, pull_consume_timeout=0.5
    )


@pytest.fixture(params=["nats", "rabbitmq"])
def server(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Run the server of a broker; give its kind and URL."""
    return request.param, request.getfixturevalue(f"{request.param}_url")


@pytest.mark.skipif(os.name == "nt", reason="processes are killed")
async def test_killed_workers(emulate: Emulate, url: str, server: tuple[str, str]) -> None:
    """What a killed worker had is delivered to another, which attaches it: none is paid twice."""
    emulator = await emulate(speed=120.0)  # half a second
    here = str(Path(__file__).parent)
    arguments = [*server, emulator.base_url, emulator.key, here, url]

    async def start() -> asyncio.subprocess.Process:
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WORKER, *arguments),
            stdout=asyncio.subprocess.PIPE,
            env=unmeasured(),
        )
        assert worker.stdout is not None
        assert await worker.stdout.readline() == b"ready\n"
        return worker

    broker = broker_at(*server)
    generate = kling_taskiq.install(broker, client(emulator), journal=url)
    await broker.startup()
    workers = []
    try:
        workers = [await start(), await start()]
        for number in range(MESSAGES):
            await generate.kiq(f"key {number}", MasterTextToVideo(f"{number}").to_dict())
        async with asyncio.timeout(60):
            await accepted(emulator, MESSAGES // 4)
            workers[0].kill()
            workers.append(await start())
            await accepted(emulator, MESSAGES * 3 // 4)
            workers[1].kill()
            while await _standing(url) != {ItemState.FINISHED}:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.2)
    finally:
        for worker in workers:
            with suppress(ProcessLookupError):
                worker.send_signal(signal.SIGKILL)
            await worker.communicate()
        await broker.shutdown()
    paid = [str(one.input["prompt"]) for one in emulator.ledger]
    known = await journaled(url)
    unsure = {entry.input["prompt"] for entry in known.values() if entry.ref is None}
    assert len(paid) == len(set(paid))
    assert set(map(str, range(MESSAGES))) - unsure <= set(paid)


async def _standing(url: str) -> set[ItemState]:
    """Return how all the items stand, where they are known; those that are unsure have ended."""
    known = await journaled(url)
    states = {entry.state for entry in known.values()} - {ItemState.UNSURE}
    return states if len(known) == MESSAGES else set()
