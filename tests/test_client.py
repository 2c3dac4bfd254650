from __future__ import annotations

import asyncio
import gc
import logging
import os
import pickle
import subprocess
import sys
import textwrap
import traceback
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from kling_async import Input, KlingClient, Limits, MasterTextToVideo, Polling, Retry, Task, TaskRef
from kling_async.errors import (
    AnswerLostError,
    APIError,
    AuthenticationError,
    BadRequestError,
    BalanceError,
    ConfigurationError,
    ConnectError,
    ContractError,
    InputError,
    KlingError,
    NotFoundError,
    RateLimitError,
    RefusedError,
    ServerError,
    TaskFailedError,
    TaskTimeoutError,
)
from kling_async.events import (
    Event,
    Polled,
    Retrying,
    SubmitFailed,
    Submitted,
    TaskEnded,
)
from kling_async.limits.local import LocalLimiter
from kling_async.results import SavedFile, TaskState
from kling_async.testing import Emulator, ScriptedTransport
from kling_async.testing.transport import Request, Response, answer
from tests.clients import FOX, KEY, now, posts, settle
from tests.engines.ports import held
from tests.patience import HANGS

if TYPE_CHECKING:
    from pathlib import Path

    from kling_async.testing.transport import Request, Response
    from tests.conftest import Connect, Emulate, ServeApp

pytestmark = pytest.mark.virtual_time


# ---------------------------------------------------------------------------- one of each call


async def test_generate(emulate: Emulate, connect: Connect) -> None:
    """An input becomes a result with its URL after the time that the service takes."""
    emulator = await emulate()
    kling = await connect(emulator)
    result = await kling.generate(FOX)
    assert result.ref.task_id == emulator.ledger[0].task_id
    assert result.result_urls == (f"{emulator.origin}/files/{result.ref.task_id}.mp4",)
    assert result.cost_time == 60
    assert now() == pytest.approx(60, abs=5)


async def test_submit(emulate: Emulate, connect: Connect) -> None:
    """A submit gives a task with its reference as soon as the service has accepted it."""
    emulator = await emulate()
    kling = await connect(emulator)
    task = await kling.submit(FOX)
    assert task.ref == TaskRef("kling-2-1", emulator.ledger[0].task_id)
    assert now() < 1
    assert kling.running == (task.ref,)


async def test_submit_with_a_callback(emulate: Emulate, connect: Connect) -> None:
    """The callback URL is sent; one that is not https is refused, and nothing is sent."""
    emulator = await emulate()
    kling = await connect(emulator)
    await kling.submit(FOX, callback_url="https://example.com/done")
    with pytest.raises(InputError, match="callback_url"):
        await kling.generate(FOX, callback_url="http://example.com/done")
    assert [entry.callback_url for entry in emulator.ledger] == ["https://example.com/done"]
    assert posts(emulator) == 1


async def test_attach(emulate: Emulate, connect: Connect) -> None:
    """Another client finds a task by the text of its reference, and attaching sends nothing."""
    emulator = await emulate()
    ref = (await (await connect(emulator)).submit(FOX)).ref
    other = await connect(emulator)
    before = len(emulator.requests)
    task, same = other.attach(str(ref)), other.attach(ref)
    assert len(emulator.requests) == before
    assert task.ref == same.ref == ref
    assert (await task).ref == ref


async def test_attach_to_what_is_no_reference(emulate: Emulate, connect: Connect) -> None:
    """A text that is no reference is refused before anything is sent."""
    emulator = await emulate()
    kling = await connect(emulator)
    with pytest.raises(InputError, match="ref"):
        kling.attach("nonsense")
    with pytest.raises(InputError, match="ref"):
        await kling.status("nonsense")
    assert not emulator.requests


async def test_status(emulate: Emulate, connect: Connect) -> None:
    """A status says where the task stands now, asked by reference or by its text."""
    emulator = await emulate()
    kling = await connect(emulator)
    ref = (await kling.submit(FOX)).ref
    assert (await kling.status(ref)).state is TaskState.PENDING
    await asyncio.sleep(30)
    assert (await kling.status(str(ref))).state is TaskState.PROCESSING
    await asyncio.sleep(31)
    assert (await kling.status(ref)).state is TaskState.SUCCESS


async def test_balance(emulate: Emulate, connect: Connect) -> None:
    """The balance is the account's, in dollars."""
    kling = await connect(await emulate(balance=74.87))
    assert await kling.balance() == 74.87


async def test_download(emulate: Emulate, connect: Connect, tmp_path: Path) -> None:
    """A result's video is saved, and again only if that is asked for."""
    emulator = await emulate()
    kling = await connect(emulator)
    result = await kling.generate(FOX)
    (path,) = await kling.download(result, tmp_path / "videos")
    assert path == tmp_path / "videos" / f"{result.ref.task_id}.mp4"
    assert path.read_bytes()[4:8] == b"ftyp"
    assert await kling.download(result, str(tmp_path / "videos")) == (path,)
    await kling.download(result, tmp_path / "videos", overwrite=True)
    assert sum(arrival.kind == "file" for arrival in emulator.requests) == 2


async def test_save(emulate: Emulate, connect: Connect, tmp_path: Path) -> None:
    """Saving gives the name, size and checksum of each file, under the name that is wanted."""
    kling = await connect(await emulate())
    result = await kling.generate(FOX)
    (file,) = await kling.save(result, tmp_path, name="fox")
    content = (tmp_path / "fox.mp4").read_bytes()
    digest = sha256(content).hexdigest()
    assert file == SavedFile(result.result_urls[0], "fox.mp4", len(content), digest)


async def test_a_failed_task(emulate: Emulate, connect: Connect) -> None:
    """A task that fails raises an error with its reference, code and snapshot."""
    kling = await connect(await emulate("task:1=fail:NSFW_DETECTED"))
    with pytest.raises(TaskFailedError, match="NSFW_DETECTED") as caught:
        await kling.generate(FOX)
    assert caught.value.ref is not None
    assert caught.value.snapshot is not None
    assert kling.running == ()


async def test_generate_may_have_charged_once_a_task_exists(
    emulate: Emulate, connect: Connect
) -> None:
    """A refused status call says that generate may have cost money, and names the task."""
    kling = await connect(await emulate("status:1=401"))
    with pytest.raises(AuthenticationError) as caught:
        await kling.generate(FOX)
    assert caught.value.may_have_charged
    assert caught.value.ref in kling.running


async def test_requests_under_way_follow_the_limiter() -> None:
    """A limiter for a small plan lets but four requests be under way at one time."""
    limiter = LocalLimiter(Limits(requests_per_minute=300))
    under_way = most = 0

    async def script(_: Request) -> Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(10)
        under_way -= 1
        return answer(1.0)

    kling = KlingClient(KEY, limiter=limiter, transport=ScriptedTransport(script))
    await asyncio.gather(*(kling.balance() for _ in range(20)))
    assert most == 4


async def test_generate_has_a_deadline(emulate: Emulate, connect: Connect) -> None:
    """A task that never ends raises at the deadline, and stays among those that run."""
    kling = await connect(await emulate("task:*=stuck"))
    with pytest.raises(TaskTimeoutError) as caught:
        await kling.generate(FOX, timeout=100)
    assert now() == pytest.approx(100, abs=0.5)
    assert kling.running == (caught.value.ref,)


# ------------------------------------------------------------------------------- settings


async def test_key_from_the_environment(emulate: Emulate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arguments, the key and the base URL come from the environment."""
    emulator = await emulate(api_key=KEY)
    monkeypatch.setenv("APIXO_API_KEY", KEY)
    for url in (emulator.origin, emulator.base_url, f"{emulator.base_url}/"):
        monkeypatch.setenv("APIXO_BASE_URL", url)
        async with KlingClient() as kling:
            assert await kling.balance() == 1000


async def test_arguments_go_before_the_environment(
    emulate: Emulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key and base URL that are given count, whatever the environment says."""
    emulator = await emulate(api_key=KEY)
    monkeypatch.setenv("APIXO_API_KEY", "another")
    monkeypatch.setenv("APIXO_BASE_URL", "https://example.com")
    async with KlingClient(f" {KEY}\n", base_url=emulator.origin) as kling:
        assert await kling.balance() == 1000


@pytest.mark.parametrize("key", [None, "", "  \n"])
def test_without_a_key(key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing key is an error at once, that says where keys come from."""
    monkeypatch.delenv("APIXO_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="APIXO_API_KEY"):
        KlingClient(key)


@pytest.mark.parametrize("key", ["two words", "line\r\nX-Evil: 1", "schlüssel-ü", "tab\tkey"])
def test_a_key_that_cannot_be_one(key: str) -> None:
    """A key that could not stand in a header is refused and not quoted."""
    with pytest.raises(ConfigurationError) as caught:
        KlingClient(key)
    assert key not in str(caught.value)


@pytest.mark.parametrize("url", ["http://example.com", "http://10.0.0.1/api/v1", "ftp://x", "x"])
def test_a_base_url_that_is_not_safe(url: str) -> None:
    """Plain http is refused but for loopback, before anything is sent."""
    with pytest.raises(ConfigurationError, match="base URL"):
        KlingClient(KEY, base_url=url)


def test_the_service_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a base URL the client is made for the vendor's service."""
    monkeypatch.delenv("APIXO_BASE_URL", raising=False)
    assert "tasks running: 0" in repr(KlingClient(KEY))


def test_contradicting_settings() -> None:
    """Limits beside a limiter, and a session beside a transport, are refused."""
    with pytest.raises(ConfigurationError, match="limiter"):
        KlingClient(KEY, limits=Limits(), limiter=LocalLimiter())

    async def main() -> None:
        transport = ScriptedTransport(lambda _: answer(1))
        async with aiohttp.ClientSession() as session:
            with pytest.raises(ConfigurationError, match="transport"):
                KlingClient(KEY, session=session, transport=transport)

    asyncio.run(main())


async def test_polling_is_the_one_given(emulate: Emulate, connect: Connect) -> None:
    """The first poll comes when the given schedule says."""
    emulator = await emulate()
    kling = await connect(emulator, polling=Polling(first=7.0, shortest=20.0, longest=20.0))
    await kling.generate(FOX)
    polls = [arrival.at for arrival in emulator.requests if arrival.kind == "status"]
    assert polls == pytest.approx([7, 27, 47, 67], abs=0.5)


async def test_polling_waits_for_the_vendors_figure(emulate: Emulate, connect: Connect) -> None:
    """By default there is no poll before the quickest videos are done; an attached task at once."""
    emulator = await emulate(duration=(90.0, 90.0))
    kling = await connect(emulator)
    task = await kling.submit(MasterTextToVideo("a fox", duration=10))
    await task
    polls = [arrival.at for arrival in emulator.requests if arrival.kind == "status"]
    assert polls[0] == pytest.approx(90, abs=0.1)
    before = now()
    await kling.attach(task.ref)
    assert now() - before < 1


# ------------------------------------------------------------------------- loops and sessions


@pytest.mark.slow
def test_several_runs_with_one_client(tmp_path: Path) -> None:
    """One client serves several runs of a loop, left open or closed; nothing is left behind.

    It runs in a process of its own that turns every warning into a failure.
    """
    script = tmp_path / "runs.py"
    script.write_text(
        textwrap.dedent("""
        import asyncio, gc, logging, sys, threading
        from kling_async import KlingClient, MasterTextToVideo, Polling
        from kling_async.testing import Emulator

        # Development mode would report every iteration of the loop that a busy machine made slow.
        logging.getLogger("asyncio").setLevel(logging.ERROR)
        unraisable = []
        sys.unraisablehook = unraisable.append
        started, stop = threading.Event(), None

        async def serve():
            global emulator, loop, stop
            loop, stop = asyncio.get_running_loop(), asyncio.Event()
            async with Emulator(video="small", speed=10_000) as emulator:
                started.set()
                await stop.wait()

        server = threading.Thread(target=asyncio.run, args=(serve(),))
        server.start()
        started.wait()
        fast = Polling(first=0.01, shortest=0.01, longest=0.01)
        kling = KlingClient(emulator.key, base_url=emulator.base_url, polling=fast)

        async def left_open():
            results = await asyncio.gather(*(kling.generate(MasterTextToVideo("x")) for _ in "abc"))
            return {result.ref.model for result in results}

        async def closed():
            async with kling:
                return await left_open()

        for main in (left_open, left_open, closed, closed, left_open, closed):
            assert asyncio.run(main()) == {"kling-2-1"}
            gc.collect()
        task = asyncio.run(kling.submit(MasterTextToVideo("x")))
        async def wait():
            return await task
        asyncio.run(wait())
        assert asyncio.run(wait()).ref == task.ref
        # Loops that take turns.
        with asyncio.Runner() as one, asyncio.Runner() as two:
            for _ in "abc":
                one.run(left_open())
                two.run(left_open())
        asyncio.run(kling.close())
        assert len(emulator.ledger) == 37, len(emulator.ledger)
        loop.call_soon_threadsafe(stop.set)
        server.join()
        del kling
        gc.collect()
        assert not unraisable, unraisable
        """)
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", str(script)],
        capture_output=True,
        check=False,
        text=True,
        timeout=HANGS,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_a_lent_session_is_not_closed(emulate: Emulate) -> None:
    """A session that is lent carries the requests and is open afterwards."""
    emulator = await emulate()
    async with aiohttp.ClientSession(headers={"X-Mine": "1"}) as session:
        async with KlingClient(emulator.key, base_url=emulator.origin, session=session) as kling:
            await kling.submit(FOX)
        assert not session.closed
        assert await kling.balance() < 1000


async def test_a_lent_session_that_is_closed(emulate: Emulate) -> None:
    """A lent session that its owner has closed is an error that says so."""
    emulator = await emulate()
    session = aiohttp.ClientSession()
    await session.close()
    kling = KlingClient(emulator.key, base_url=emulator.origin, session=session)
    with pytest.raises(ConfigurationError, match="lent"):
        await kling.submit(FOX)
    await settle()
    assert kling.running == ()


async def test_used_again_after_close(emulate: Emulate, connect: Connect) -> None:
    """A closed client opens again when it is used; closing twice is no error."""
    kling = await connect(await emulate())
    await kling.balance()
    await kling.close()
    await kling.close()
    assert await kling.balance() == 1000


# --------------------------------------------------------------------------------------- secrets


async def test_redirects_do_not_get_the_key(serve_app: ServeApp) -> None:
    """A redirect is not followed: where it points to, nothing arrives."""
    seen: list[web.Request] = []

    async def elsewhere(request: web.Request) -> web.Response:
        seen.append(request)
        return web.json_response({"code": 200, "data": 1})

    other = await serve_app(elsewhere)

    async def redirect(request: web.Request) -> web.Response:
        return web.Response(status=int(request.query.get("as", "307")), headers={"Location": other})

    async with KlingClient(KEY, base_url=await serve_app(redirect)) as kling:
        with pytest.raises(ContractError, match="redirect") as caught:
            await kling.submit(FOX)
        assert not caught.value.may_have_charged
        with pytest.raises(ContractError, match="redirect"):
            await kling.balance()
    assert not seen


async def test_no_error_holds_the_key(
    serve_app: ServeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the service echoes, no error, event, traceback or log shows the key."""
    caplog.set_level(logging.DEBUG)
    events: list[Event] = []
    answers = iter(
        [
            web.json_response({"code": 401, "message": f"bad key {KEY}"}, status=401),
            web.json_response({"code": 400, "data": {"error": f"Bearer {KEY}"}}, status=400),
            web.Response(text=f"<html>Authorization: Bearer {KEY}</html>", status=502),
            web.Response(text=f"<html>Authorization: Bearer {KEY}</html>"),
            web.Response(text=f"{KEY} " * 100_000),
            web.Response(status=302, headers={"Location": f"/?{KEY}"}, text=KEY),
            web.Response(headers={"X-Bad": "x" * 9000}),
        ]
    )

    async def echo(_: web.Request) -> web.Response:
        return next(answers)

    def bad_hook(_: Event) -> None:
        raise ValueError

    retry = Retry(attempts=1)
    hooks = [events.append, bad_hook]
    kling = KlingClient(KEY, base_url=await serve_app(echo), retry=retry, hooks=hooks)
    async with kling:
        for _ in range(7):
            with pytest.raises(KlingError) as caught:
                await kling.submit(FOX)
            shown = "".join(traceback.format_exception(caught.value))
            shown += repr(caught.value) + repr(vars(caught.value))
            assert KEY not in shown
            assert KEY not in repr(pickle.loads(pickle.dumps(caught.value)).__dict__)  # noqa: S301
    assert KEY not in repr(kling)
    assert len(events) == 7
    assert KEY not in repr(events)
    assert KEY not in caplog.text
    assert "hook" in caplog.text


# ------------------------------------------------------------------------------------------ money

OUTCOMES: list[tuple[str, type[KlingError] | None, bool, int, int]] = [
    # fault, error, may have charged, POSTs, tasks really started
    ("401", AuthenticationError, False, 1, 0),
    ("402", BalanceError, False, 1, 0),
    ("403", RefusedError, False, 1, 0),
    ("404", NotFoundError, False, 1, 0),
    ("410", BadRequestError, True, 1, 0),
    ("429", None, False, 2, 1),
    ("429:7", None, False, 2, 1),
    ("503", None, False, 2, 1),
    ("503:30", None, False, 2, 1),
    ("500", ServerError, True, 1, 0),
    ("502", ServerError, True, 1, 0),
    ("504", ServerError, True, 1, 0),
    ("code:401", AuthenticationError, False, 1, 0),
    ("code:429", None, False, 2, 1),
    ("code:503", None, False, 2, 1),
    ("code:500", ServerError, True, 1, 0),
    ("code:302", ContractError, True, 1, 0),
    ("reset", AnswerLostError, True, 1, 0),
    ("hang", AnswerLostError, True, 1, 0),
    ("lost-answer", AnswerLostError, True, 1, 1),
    ("cut", AnswerLostError, True, 1, 1),
    ("garbage", ContractError, True, 1, 1),
    ("truncated", ContractError, True, 1, 1),
    ("slow", None, False, 1, 1),
    ("slow:31", AnswerLostError, True, 1, 1),
]


@pytest.mark.parametrize(("fault", "kind", "charged", "sent", "started"), OUTCOMES)
async def test_a_submit_that_goes_wrong(
    fault: str,
    kind: type[KlingError] | None,
    charged: bool,  # noqa: FBT001 - a column of the table
    sent: int,
    started: int,
    emulate: Emulate,
    connect: Connect,
) -> None:
    """Only what cannot have started a task is sent again, and the error says what it may cost."""
    emulator = await emulate(f"submit:1={fault}")
    events: list[Event] = []
    limiter = LocalLimiter()
    kling = await connect(emulator, hooks=[events.append], limiter=limiter)
    if kind is None:
        await kling.submit(FOX)
        assert [type(event) for event in events if isinstance(event, Submitted | SubmitFailed)] == [
            Submitted
        ]
        assert limiter.slots_in_use == 1
    else:
        with pytest.raises(kind) as caught:
            await kling.submit(FOX)
        assert type(caught.value) is kind
        assert caught.value.may_have_charged is charged
        assert not caught.value.retryable
        assert events == [SubmitFailed(FOX, caught.value)]
        assert kling.running == ()
        # A slot stays taken for as long as a task may be running.
        assert limiter.slots_in_use == charged
    assert posts(emulator) == sent
    assert len(emulator.ledger) == started


async def test_a_service_that_goes_on_refusing(emulate: Emulate, connect: Connect) -> None:
    """A service that is unavailable is tried six times, for free."""
    emulator = await emulate("submit:*=503")
    events: list[Event] = []
    limiter = LocalLimiter()
    kling = await connect(emulator, hooks=[events.append], limiter=limiter)
    with pytest.raises(ServerError) as caught:
        await kling.submit(FOX)
    assert not caught.value.may_have_charged
    assert caught.value.retryable
    assert posts(emulator) == 6
    assert not emulator.ledger
    assert [event.attempt for event in events if isinstance(event, Retrying)] == [1, 2, 3, 4, 5]
    assert isinstance(events[-1], SubmitFailed)
    assert sum(isinstance(event, SubmitFailed) for event in events) == 1
    assert limiter.slots_in_use == 0


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["429", "429:20"])
async def test_a_service_that_stays_busy(fault: str, emulate: Emulate, connect: Connect) -> None:
    """A 429 is waited out for the patience, however many times, and costs nothing."""
    emulator = await emulate(f"submit:*={fault}")
    events: list[Event] = []
    limiter = LocalLimiter()
    retry = Retry(attempts=2, deadline=10.0, patience=600.0)
    kling = await connect(emulator, hooks=[events.append], limiter=limiter, retry=retry)
    with pytest.raises(RateLimitError) as caught:
        await kling.submit(FOX)
    assert not caught.value.may_have_charged
    assert 500 < now() <= 660
    assert posts(emulator) > 10
    assert sum(isinstance(event, SubmitFailed) for event in events) == 1
    assert limiter.slots_in_use == 0


@pytest.mark.parametrize("fault", ["429", "429:20", "503"])
async def test_a_single_attempt(fault: str, emulate: Emulate, connect: Connect) -> None:
    """With one attempt a submit is never sent again."""
    emulator = await emulate(f"submit:*={fault}")
    kling = await connect(emulator, retry=Retry(attempts=1))
    with pytest.raises(APIError):
        await kling.submit(FOX)
    assert posts(emulator) == 1


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 405, 409, 413, 425])
async def test_a_page_that_turns_a_submit_away(status: int, serve_app: ServeApp) -> None:
    """A gateway's page of a status with which it forwards nothing is free, and is repeated."""
    paths: list[str] = []

    async def gateway(request: web.Request) -> web.Response:
        paths.append(request.path)
        if len(paths) <= 3:
            return web.Response(status=status, text="<html>no</html>")
        return web.json_response({"code": 200, "data": {"taskId": "task_1"}})

    async with KlingClient(KEY, base_url=await serve_app(gateway)) as kling:
        assert (await kling.submit(FOX)).ref.task_id == "task_1"
    assert len(paths) == 4


@pytest.mark.parametrize("status", [200, 202, 408, 499, 500, 502, 503, 504, 522])
async def test_a_page_that_proves_nothing(status: int, serve_app: ServeApp) -> None:
    """After a gateway's page of any other status a task may run: the submit is not repeated."""
    paths: list[str] = []

    async def gateway(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.Response(status=status, text="<html>no</html>")

    limiter = LocalLimiter()
    async with KlingClient(KEY, base_url=await serve_app(gateway), limiter=limiter) as kling:
        with pytest.raises(KlingError) as caught:
            await kling.submit(FOX)
        assert caught.value.may_have_charged
        assert not caught.value.retryable
        assert caught.value.verdict == "unknown"
        assert len(paths) == limiter.slots_in_use == 1


@pytest.mark.repeating
@pytest.mark.parametrize("status", [200, 401, 403, 404, 408, 409, 423, 425, 499, 502, 522])
@pytest.mark.parametrize("page", [b"<html>maintenance</html>", b"\x00\xff garbage", b""])
async def test_pages_while_a_task_is_waited_for(
    status: int, page: bytes, serve_app: ServeApp
) -> None:
    """A wait continues, though minutes of status calls are answered by something else."""

    async def gateway(request: web.Request) -> web.Response:
        if request.method == "POST":
            return web.json_response({"code": 200, "data": {"taskId": "task_1"}})
        if now() < 300:
            return web.Response(status=status, body=page)
        urls = {"resultUrls": ["https://example.com/a.mp4"]}
        return web.json_response({"code": 200, "data": {"state": "success", "resultJson": urls}})

    async with KlingClient(KEY, base_url=await serve_app(gateway)) as kling:
        assert (await kling.generate(FOX)).ref.task_id == "task_1"
    assert 300 <= now() < 600


@pytest.mark.parametrize(("fault", "wait"), [("429:7", 7), ("503:30", 30), ("503:9999", 60)])
async def test_retry_after(fault: str, wait: float, emulate: Emulate, connect: Connect) -> None:
    """The service's Retry-After is the least wait, up to the cap of a minute."""
    emulator = await emulate(f"submit:1={fault}")
    kling = await connect(emulator)
    await kling.submit(FOX)
    first, second = (arrival.at for arrival in emulator.requests)
    assert wait <= second - first < wait + 1


async def test_a_deadline_for_the_repetitions(emulate: Emulate, connect: Connect) -> None:
    """A wait that would pass the deadline is not begun."""
    emulator = await emulate("submit:*=503:60")
    kling = await connect(emulator, retry=Retry(deadline=100.0))
    with pytest.raises(ServerError):
        await kling.submit(FOX)
    assert posts(emulator) == 2
    assert now() < 100


async def test_a_submit_of_ones_own(emulate: Emulate) -> None:
    """A subclass that overrides submit defines what all generations begin with."""
    emulator, sent = await emulate(), []

    class Mine(KlingClient):
        async def submit(self, input: Input, **more: Any) -> Task:  # noqa: ANN401
            sent.append(input)
            return await super().submit(input, **more)

    async with Mine(emulator.key, base_url=emulator.base_url) as kling:
        await kling.generate(FOX)
        assert [outcome.error async for outcome in kling.generate_many([FOX, FOX])] == [None] * 2
    assert sent == [FOX] * 3


async def test_no_server_listens(emulate: Emulate) -> None:
    """A refused connection is repeated for free, and then said to be one."""
    emulator = await emulate()
    await emulator.__aexit__(None, None, None)
    events: list[Event] = []
    limiter = LocalLimiter()
    url = emulator.base_url
    async with KlingClient(KEY, base_url=url, hooks=[events.append], limiter=limiter) as kling:
        with pytest.raises(ConnectError) as caught:
            await kling.submit(FOX)
    assert not caught.value.may_have_charged
    assert sum(isinstance(event, Retrying) for event in events) == 5
    assert limiter.slots_in_use == 0


async def test_a_service_that_starts_late() -> None:
    """A submit that finds no server at first is sent when there is one."""
    starting: list[asyncio.Task[Emulator]] = []

    def start(event: Event) -> None:
        if isinstance(event, Retrying) and event.attempt == 2:
            starting.append(asyncio.create_task(emulator.__aenter__()))

    with held() as port:
        base_url = f"http://127.0.0.1:{port}"
        emulator = Emulator(port=port, video="small")
        try:
            async with KlingClient(KEY, base_url=base_url, hooks=[start]) as kling:
                await kling.submit(FOX)
        finally:
            await emulator.__aexit__(None, None, None)
    assert len(emulator.ledger) == 1


@pytest.mark.parametrize(
    "fault",
    [
        "500",
        "502",
        "503",
        "504",
        "reset",
        "lost-answer",
        "cut",
        "garbage",
        "truncated",
        "hang",
        "429",
        "code:500",
        "slow:40",
    ],
)
async def test_reads_are_repeated(fault: str, emulate: Emulate, connect: Connect) -> None:
    """A status or balance call that fails in passing is asked again."""
    kling = await connect(await emulate(f"status:1={fault}", f"balance:1={fault}"))
    ref = (await kling.submit(FOX)).ref
    assert (await kling.status(ref)).ref == ref
    assert await kling.balance() < 1000


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("401", AuthenticationError), ("404", NotFoundError), ("403", RefusedError)],
)
async def test_reads_that_are_refused(
    fault: str, kind: type[APIError], emulate: Emulate, connect: Connect
) -> None:
    """A status call that is refused is not asked again, and the error has the reference."""
    emulator = await emulate(f"status:*={fault}")
    kling = await connect(emulator)
    ref = (await kling.submit(FOX)).ref
    with pytest.raises(kind) as caught:
        await kling.status(ref)
    assert caught.value.ref == ref
    assert not caught.value.may_have_charged
    assert sum(arrival.kind == "status" for arrival in emulator.requests) == 1


# ----------------------------------------------------------------------------------------- events


@pytest.mark.slow
async def test_the_events(
    emulate: Emulate, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """Hooks get submits, polls, repetitions and ends; one that fails is logged and forgotten."""
    events: list[Event] = []

    def bad(_: Event) -> None:
        raise ValueError("a hook of mine")

    kling = await connect(await emulate("status:1=502"), hooks=[bad, events.append])
    result = await kling.generate(FOX)
    assert events[0] == Submitted(result.ref, FOX)
    assert isinstance(events[1], Retrying)
    assert events[1].what == "status"
    assert isinstance(events[1].error, ServerError)
    polled, ended = events[-2:]
    assert isinstance(polled, Polled)
    assert polled.snapshot.result_urls == result.result_urls
    assert ended == TaskEnded(polled.snapshot)
    assert "a hook failed on Submitted" in caplog.text
    gc.collect()


@pytest.mark.parametrize(
    ("value", "argument", "allowed"),
    [
        ("1", None, True),
        ("true", None, True),
        ("0", None, False),
        ("", None, False),
        ("1", False, False),
        ("", True, True),
    ],
)
def test_plain_http_in_a_test_network(
    value: str,
    argument: bool | None,  # noqa: FBT001
    allowed: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Plain http to another machine needs the argument or the variable, and is warned of."""
    monkeypatch.setenv("APIXO_ALLOW_HTTP", value)
    url = "http://emulator:8080"
    if allowed:
        KlingClient(KEY, base_url=url, allow_http=argument)
        assert "unencrypted to http://emulator:8080/api/v1" in caplog.text
    else:
        with pytest.raises(ConfigurationError, match="unencrypted"):
            KlingClient(KEY, base_url=url, allow_http=argument)
        assert caplog.text == ""


def test_switch_that_is_neither_on_nor_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that cannot be understood is a ConfigurationError."""
    monkeypatch.setenv("APIXO_ALLOW_HTTP", "maybe")
    with pytest.raises(ConfigurationError, match="APIXO_ALLOW_HTTP must be 1 or 0, not 'maybe'"):
        KlingClient(KEY)
