from __future__ import annotations

import asyncio
import gc
import json
import logging
import pickle
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from attrs import astuple
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kling_async import KlingClient, MasterTextToVideo, TaskRef
from kling_async.errors import ConfigurationError
from kling_async.protocol.callbacks import write_token
from kling_async.results import Snapshot, TaskState
from kling_async.testing import ScriptedTransport, VirtualLoop
from kling_async.testing.transport import answer
from kling_async.webhooks.inbox import Counts, Inbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kling_async.events import CallbackReceived
    from kling_async.protocol.callbacks import Callback
    from kling_async.testing.transport import Request, Response

# No property depends on how fast the machine is, or on luck.
FREELY = settings(deadline=None, derandomize=True)

FOX = MasterTextToVideo("a fox in fresh snow")
MODEL = FOX.model
NONCE = "0123456789abcdef"
SECRET = "the secret of this test"
OTHER = "another secret of the test"
TOKEN = write_token(MODEL, NONCE, SECRET.encode())
PATH = f"/kling/{TOKEN}"
FORGED = f"/kling/{write_token(MODEL, NONCE, OTHER.encode())}"
URLS = ["https://example.com/a.mp4"]


class RecordingListener:
    """Records callbacks, and knows some tasks."""

    def __init__(self, *known: str) -> None:
        self.known = known
        self.received: list[Callback] = []

    def handle(self, callback: Callback) -> bool:
        self.received.append(callback)
        return callback.snapshot.ref.task_id in self.known


def inbox(**options: object) -> Inbox:
    """Make an inbox."""
    defaults: dict[str, object] = {"public_url": "https://example.com/kling", "secret": SECRET}
    return Inbox(**{**defaults, **options})  # type: ignore[arg-type]  # each test its own


def listening(*known: str, **options: object) -> tuple[Inbox, RecordingListener]:
    """Make an inbox, and one who listens and waits for these tasks."""
    box, listener = inbox(**options), RecordingListener(*known)
    box.join(listener)
    return box, listener


def body(task_id: str = "task_1", state: str = "success", **more: object) -> bytes:
    """Write a callback after the contract."""
    data = {"taskId": task_id, "state": state, "createTime": 1000, "completeTime": 61000}
    if state == "success":
        data["resultJson"] = json.dumps({"resultUrls": URLS})
    return json.dumps({"code": 200, "message": "success", "data": data | more}).encode()


# ------------------------------------------------------------------------------------- the settings


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://example.com", "https://example.com"),
        ("https://example.com/", "https://example.com"),
        ("https://example.com:8443/a/b//", "https://example.com:8443/a/b"),
        ("HTTPS://Example.com/kling", "HTTPS://Example.com/kling"),
        ("https://[2001:db8::1]/kling", "https://[2001:db8::1]/kling"),
        ("http://localhost:8080/kling", "http://localhost:8080/kling"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_public_urls(url: str, shown: str) -> None:
    """The service reaches the inbox by https, or by plain http on this machine alone."""
    box = inbox(public_url=url)
    assert box.public_url == shown
    called = box.callback_url(MODEL, NONCE)
    assert called == f"{shown}/{TOKEN}"
    assert box.verify("POST", urlsplit(called).path) == (MODEL, NONCE)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/kling",
        "http://example.com",
        "http://localhost.example.com",
        "http://127.0.0.1.example.com",
        "ftp://localhost",
        "https://",
        "https:///kling",
        "https://example.com:0",
        "https://example.com:99999",
        "https://example.com:port",
        "https://[::1",
        "https://example.com/kling?a=b",
        "https://example.com/kling#a",
        "https://user:password@example.com",
        "https://example.com/a b",
        "https://example.com/\n",
        "https://example.com/\ud800",
        None,
        5,
        b"https://example.com",
    ],
)
def test_wrong_urls(url: object) -> None:
    """What is no public https URL is refused, with the URL seen."""
    with pytest.raises(ConfigurationError, match="public https URL") as caught:
        inbox(public_url=url)
    assert repr(url)[:80] in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_long_wrong_url() -> None:
    """Of a wrong URL no more than a line is quoted."""
    with pytest.raises(ConfigurationError) as caught:
        inbox(public_url="x" * 10_000)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "secret",
    [
        "sixteen letters!",
        b"sixteen letters!",
        ["sixteen letters!"],
        ("sixteen letters!", b"\x00" * 16),
        "what no UTF-8 was: \udc80",
    ],
)
def test_secrets(secret: object) -> None:
    """A secret is text or bytes, or there are several; one that stands alone is a list of one."""
    box = inbox(secret=secret)
    path = urlsplit(box.callback_url(MODEL, NONCE)).path
    assert box.verify("POST", path) == (MODEL, NONCE)
    assert box.verify("POST", PATH) == 404


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "fifteen letters",
        b"fifteen letters",
        [],
        [SECRET, "fifteen letters"],
        ["fifteen letters", SECRET],
        None,
        10**20,
        [SECRET, None],
        bytearray(20),
    ],
)
def test_wrong_secrets(secret: object) -> None:
    """No secret, or one that is too short, is refused, whichever it is, and not shown."""
    with pytest.raises(ConfigurationError, match="at least 16 characters") as caught:
        inbox(secret=secret)
    assert "letters" not in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("limit", [0, -1, 1.5, "1", None, True])
def test_wrong_body_limits(limit: object) -> None:
    """The largest body is a whole number of bytes, at least one."""
    with pytest.raises(ConfigurationError, match="max_body_bytes >= 1"):
        inbox(max_body_bytes=limit)


def test_a_wrong_flag() -> None:
    """Callbacks are believed without a status request only if that is chosen by False."""
    with pytest.raises(ConfigurationError, match="confirm must be True or False"):
        inbox(confirm=None)


def test_the_secret_is_not_shown() -> None:
    """Neither the text of an inbox nor a copy that is written down holds the secret."""
    box = inbox(secret=[SECRET, OTHER])
    assert repr(box) == str(box) == "<Inbox https://example.com/kling>"
    pickled = b""
    with suppress(AttributeError, TypeError, pickle.PicklingError):  # it should not be possible
        pickled = pickle.dumps(box)
    assert SECRET.encode() not in pickled
    assert OTHER.encode() not in pickled


def test_rotation() -> None:
    """The first secret signs; what any of them has signed is taken; a dropped one is no more."""
    old, both, new = (inbox(secret=one) for one in (SECRET, [OTHER, SECRET], OTHER))
    signed = urlsplit(both.callback_url(MODEL, NONCE)).path
    assert [box.handle("POST", PATH, "", body()) for box in (old, both, new)] == [200, 200, 404]
    assert [box.handle("POST", signed, "", body()) for box in (old, both, new)] == [404, 200, 200]


# ----------------------------------------------------------------------------- what becomes of what


@pytest.mark.parametrize(
    ("method", "path", "what", "status", "counted"),
    [
        ("POST", PATH, body(), 200, Counts(delivered=1)),
        ("POST", PATH, body(state="failed"), 200, Counts(delivered=1)),
        ("POST", PATH, body("task_2"), 200, Counts(unknown=1)),
        ("POST", PATH, body(state="processing"), 200, Counts(still_running=1)),
        ("POST", PATH, body(state="whatever"), 200, Counts(still_running=1)),
        ("POST", PATH, b"", 400, Counts(malformed=1)),
        ("POST", PATH, body()[:-1], 400, Counts(malformed=1)),
        ("POST", PATH, body(task_id=""), 400, Counts(malformed=1)),
        ("POST", PATH, b"[" * 65_536, 400, Counts(malformed=1)),
        ("POST", PATH, b" " * 65_537, 413, Counts(too_large=1)),
        ("GET", PATH, b"", 405, Counts(wrong_method=1)),
        ("post", PATH, body(), 405, Counts(wrong_method=1)),
        ("", PATH, b" " * 65_537, 405, Counts(wrong_method=1)),
        ("POST", FORGED, body(), 404, Counts(invalid_token=1)),
        ("GET", FORGED, b" " * 65_537, 404, Counts(invalid_token=1)),
        ("POST", "", b"", 404, Counts(invalid_token=1)),
        ("POST", "/kling", body(), 404, Counts(invalid_token=1)),
        ("POST", f"{PATH}/", body(), 404, Counts(invalid_token=1)),
        ("POST", TOKEN, body(), 200, Counts(delivered=1)),
        ("POST", f"/{TOKEN}", body(), 200, Counts(delivered=1)),
        ("POST", f"/a/b/c/{TOKEN}", body(), 200, Counts(delivered=1)),
        ("POST", f"https://example.com/kling/{TOKEN}", body(), 200, Counts(delivered=1)),
    ],
)
def test_answers(method: str, path: str, what: bytes, status: int, counted: Counts) -> None:
    """Each request has its status, and is counted by what became of it."""
    box, listener = listening("task_1")
    assert box.counts == Counts()
    assert box.handle(method, path, "a=b", what) == status
    assert box.counts == counted
    assert len(listener.received) == counted.delivered + counted.unknown + counted.still_running


def test_those_that_say_that_it_runs() -> None:
    """Four that say that a task runs are passed on, and take no place of those that say its end."""
    box, listener = listening("task_1")
    for _ in range(6):
        box.handle("POST", PATH, "", body(state="processing"))
    box.handle("POST", PATH, "", body("task_2", state="processing"))
    for _ in range(6):
        box.handle("POST", PATH, "", body())
    states = [one.snapshot.state.value for one in listener.received]
    assert states == ["processing"] * 5 + ["success"] * 4
    assert box.counts == Counts(delivered=1, repeated=5, still_running=7)


@pytest.mark.parametrize(("task_id", "unfinished"), [("task_1", 1), ("task_2", 0)])
def test_one_that_was_relayed(task_id: str, unfinished: int) -> None:
    """One that came to another process is counted if the task runs here, and else is not."""
    box, listener = listening("task_1")
    snapshot = Snapshot(TaskRef(MODEL, task_id), TaskState.PROCESSING, "processing")
    box.deliver_relayed(snapshot, NONCE)
    assert len(listener.received) == 1
    assert box.counts == Counts(still_running=unfinished)


def test_what_listeners_get() -> None:
    """A listener gets the snapshot, the nonce, and whether the callback may be trusted."""
    for confirm in (True, False):
        box, listener = listening("task_1", confirm=confirm)
        box.handle("POST", PATH, "", body())
        (callback,) = listener.received
        assert callback.snapshot.ref == TaskRef(MODEL, "task_1")
        assert callback.snapshot.state is TaskState.SUCCESS
        assert callback.snapshot.result_urls == tuple(URLS)
        assert callback.nonce == NONCE
        assert callback.trusted is not confirm


@pytest.mark.parametrize(
    ("method", "path", "length", "status"),
    [
        ("POST", PATH, None, None),
        ("POST", PATH, 0, None),
        ("POST", PATH, 1000, None),
        ("POST", PATH, 1001, 413),
        ("POST", PATH, 10**30, 413),
        ("PUT", PATH, None, 405),
        ("GET", PATH, 1001, 405),
        ("POST", FORGED, None, 404),
        ("GET", FORGED, 10**30, 404),
    ],
)
def test_before_the_body(method: str, path: str, length: int | None, status: int | None) -> None:
    """What would be refused whatever the body holds is refused before that is read, and counted."""
    box, listener = listening("task_1", max_body_bytes=1000)
    assert box.max_body_bytes == 1000
    assert box.verify(method, path, length) == (status or (MODEL, NONCE))
    assert (
        box.counts
        == {
            None: Counts(),
            413: Counts(too_large=1),
            405: Counts(wrong_method=1),
            404: Counts(invalid_token=1),
        }[status]
    )
    assert not listener.received


def test_the_limit_of_a_body() -> None:
    """A body of the largest size is read, and one byte more is not."""
    whole = body()
    assert inbox(max_body_bytes=len(whole)).handle("POST", PATH, "", whole) == 200
    assert inbox(max_body_bytes=len(whole) - 1).handle("POST", PATH, "", whole) == 413


def reader(*parts: bytes | Exception, pause: float = 0.0) -> Callable[[], Awaitable[bytes]]:
    """Return a function that reads the parts of a body, or raises one of them."""
    left = iter(parts)

    async def read() -> bytes:
        await asyncio.sleep(pause)
        part = next(left, b"")
        if isinstance(part, Exception):
            raise part
        return part

    return read


@pytest.mark.virtual_time
async def test_a_body_in_parts() -> None:
    """A body is read part by part, as far as it may be, and for ten seconds."""
    whole = body()
    box, listener = listening("task_1", max_body_bytes=len(whole))
    assert await box.receive("POST", PATH, None, reader(whole[:9], whole[9:], pause=3)) == 200
    assert [callback.snapshot.result_urls for callback in listener.received] == [tuple(URLS)]
    assert await box.receive("POST", PATH, None, reader(*[whole] * 3, OSError())) == 413
    assert await box.receive("POST", PATH, None, reader(*[b" "] * 9, pause=1.2)) == 408
    assert await box.receive("POST", PATH, None, reader(b"{", ConnectionResetError())) == 400
    assert await box.receive("POST", FORGED, None, reader(OSError())) == 404
    assert box.counts == Counts(delivered=1, too_large=1, invalid_token=1)


@settings(FREELY, max_examples=50)
@given(
    st.sampled_from(["POST", "GET", "HEAD", "PUT", "DELETE", "OPTIONS"]) | st.text(),
    st.integers(0, 65_537) | st.just(10**12),
    st.binary(max_size=10) | st.just(body()) | st.just(b" " * 65_537),
)
def test_nothing_is_learned_without_a_token(method: str, length: int, what: bytes) -> None:
    """Without a token of ours all is 404, whatever else may be right or wrong."""
    box, listener = listening("task_1")
    for path in (FORGED, "/kling/", PATH + "x", PATH[:-1]):
        assert box.verify(method, path, length) == 404
        assert box.handle(method, path, "", what) == 404
    assert box.counts == Counts(invalid_token=8)
    assert not listener.received


# ---------------------------------------------------------------------------------- again and again


def test_repeated() -> None:
    """Further callbacks of a task are counted as such, and passed on up to the fourth."""
    box, listener = listening("task_1", "task_2")
    for _ in range(6):
        assert box.handle("POST", PATH, "", body()) == 200
    assert box.counts == Counts(delivered=1, repeated=5)
    assert len(listener.received) == 4
    assert box.handle("POST", PATH, "", body("task_2")) == 200
    assert box.counts == Counts(delivered=2, repeated=5)


def test_late() -> None:
    """What comes when the task has ended, and is not waited for any more, is a repetition."""
    box, listener = listening("task_1")
    box.handle("POST", PATH, "", body())
    listener.known = ()
    for _ in range(9):
        assert box.handle("POST", PATH, "", body()) == 200
    assert box.counts == Counts(delivered=1, repeated=9)


def test_unknown_ones_are_passed_on() -> None:
    """An unknown task may be attached before its next callback, which then wakes it."""
    box, listener = listening()
    for _ in range(9):
        assert box.handle("POST", PATH, "", body()) == 200
    listener.known = ("task_1",)
    assert box.handle("POST", PATH, "", body()) == 200
    assert box.counts == Counts(delivered=1, unknown=9)


def test_memory() -> None:
    """The inbox remembers the latest 10,000 tasks, and not unknown ones."""

    class KnowsAll(RecordingListener):
        def handle(self, callback: Callback) -> bool:
            return callback.snapshot.ref.task_id != "unknown"

    box, listener = inbox(), KnowsAll()
    box.join(listener)
    box.handle("POST", PATH, "", body("unknown"))
    for number in range(10_000):
        box.handle("POST", PATH, "", b'{"data":{"taskId":"%d","state":"failed"}}' % number)
    box.handle("POST", PATH, "", body("0"))
    assert box.counts == Counts(delivered=10_000, repeated=1, unknown=1)
    box.handle("POST", PATH, "", body("10000"))
    box.handle("POST", PATH, "", body("1"))
    assert box.counts == Counts(delivered=10_001, repeated=2, unknown=1)
    box.handle("POST", PATH, "", body("0"))
    assert box.counts == Counts(delivered=10_002, repeated=2, unknown=1)


# --------------------------------------------------------------------------------- who is listening


def test_several_listeners() -> None:
    """Every listener gets every callback."""
    box, one = listening("task_1")
    other = RecordingListener("task_2")
    box.join(other)
    for task_id in ("task_1", "task_2"):
        box.handle("POST", PATH, "", body(task_id))
    assert len(one.received) == len(other.received) == 2
    assert box.counts == Counts(delivered=2)


def test_joining_twice() -> None:
    """A listener that has joined twice gets a callback once."""
    box, listener = listening("task_1")
    box.join(listener)
    box.handle("POST", PATH, "", body())
    assert len(listener.received) == 1


def test_a_listener_that_is_deleted() -> None:
    """The inbox does not keep listeners alive."""
    box, listener = listening("task_1")
    received = listener.received
    del listener
    gc.collect()
    assert box.handle("POST", PATH, "", body()) == 200
    assert not received
    assert box.counts == Counts(unknown=1)


# --------------------------------------------------------------------------- the events and the log


def test_hooks(caplog: pytest.LogCaptureFixture) -> None:
    """Hooks receive an event for each delivered callback; one that fails changes nothing."""
    received: list[CallbackReceived] = []

    def fail(_: object) -> None:
        raise ValueError("no")

    box, _ear = listening("task_1", hooks=[fail, received.append])
    assert box.handle("POST", PATH, "", body()) == 200
    assert box.handle("POST", PATH, "", body(state="processing")) == 200
    assert box.handle("POST", FORGED, "", body()) == 404
    assert [event.outcome for event in received] == ["delivered", "still_running"]
    assert received[0].snapshot.result_urls == tuple(URLS)
    assert caplog.text.count("a hook failed on a callback") == 2


def test_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Each request is one line of the log, without the token, the path, the query or the body."""
    caplog.set_level(logging.DEBUG)
    box, _ear = listening("task_1")
    query = "secret-query"
    for method, path, what in (
        ("POST", PATH, body()),
        ("POST", PATH, body()),
        ("POST", PATH, body("task_2")),
        ("POST", PATH, body(state="processing")),
        ("POST", PATH, b"garbage"),
        ("POST", PATH, b" " * 65_537),
        ("GET", PATH, b""),
        ("POST", FORGED, body()),
    ):
        box.handle(method, path, query, what)
    box.verify("POST", FORGED)
    assert len(caplog.records) == 9
    assert {record.name for record in caplog.records} == {"kling_async"}
    levels = [record.levelname for record in caplog.records]
    assert levels == ["DEBUG", *["INFO"] * 8]
    assert caplog.messages[-1] == "callback request answered with 404: invalid_token (2 so far)"
    for record in caplog.records:
        said = f"{record.getMessage()} {record.args} {record.__dict__}"
        for private in (TOKEN, *TOKEN.split("~")[1:], FORGED, "/kling/", query, "garbage", SECRET):
            assert private not in said


# --------------------------------------------------------------------- whatever may be thrown at it


class World:
    """A client that waits for a task which runs and runs, and what is thrown at its inbox."""

    def __init__(self) -> None:
        self.box = inbox()
        self.says = "processing"
        self.path = ""
        self.kling = KlingClient(
            "sk-a-key", transport=ScriptedTransport(self.reply), inbox=self.box
        )

    def reply(self, request: Request) -> Response:
        if request.body is not None:
            self.path = urlsplit(json.loads(request.body)["callback_url"]).path
            return answer({"taskId": "task_1"})
        return answer(json.loads(body(state=self.says))["data"])

    async def begin(self) -> None:
        task = await self.kling.submit(FOX)
        self.wait = asyncio.create_task(task.wait(timeout=1e9))
        await asyncio.sleep(1)

    async def throw(self, method: str, path: str, query: str, what: bytes) -> None:
        before = sum(astuple(self.box.counts))
        verified = self.box.verify(method, path, len(what))
        status = self.box.handle(method, path, query, what)
        assert status in {200, 400, 404, 405, 413}
        assert status in {200, 400} if isinstance(verified, tuple) else status == verified
        assert sum(astuple(self.box.counts)) == before + 1 + (isinstance(verified, int))
        await asyncio.sleep(0.001)
        assert not self.wait.done()

    async def end(self) -> None:
        self.says = "success"
        assert (await self.wait).result_urls == tuple(URLS)
        await self.kling.close()


anything = st.text(st.characters(exclude_categories=()))


def mutated(what: bytes) -> st.SearchStrategy[bytes]:
    """Change, drop or repeat a piece of these bytes."""
    places = st.integers(0, len(what))
    return st.builds(
        lambda a, b, piece: what[: min(a, b)] + piece + what[max(a, b) :],
        places,
        places,
        st.binary(max_size=5) | st.just(what[:50]),
    )


near = st.one_of(
    st.just(body()),
    mutated(body()),
    mutated(body(state="failed", failCode="NSFW")),
    st.dictionaries(
        st.sampled_from(["taskId", "resultJson", "createTime", "failCode", "failMsg"]),
        st.none() | st.integers() | st.floats() | anything | st.lists(st.integers(), max_size=2),
    ).map(lambda changes: body(**{"task_id": "task_1", **changes})),  # type: ignore[arg-type]
)


@pytest.mark.parametrize("path", ["any", "forged", "ours", "its own"])
def test_whatever_is_thrown_at_it(path: str) -> None:
    """Whatever comes, none but five statuses is answered, and only an end wakes the task."""
    world = World()
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.get_loop().set_debug(False)  # which would take most of the time
        runner.run(world.begin())
        paths: st.SearchStrategy[str] = {
            "any": anything,
            "forged": st.just(FORGED) | anything.map(lambda tail: PATH + tail).filter(PATH.__ne__),
            "ours": anything.map(lambda prefix: f"{prefix}/{TOKEN}"),
            "its own": st.just(world.path),
        }[path]
        methods = st.sampled_from(["POST", "POST", "POST", "GET"]) | anything

        @settings(FREELY, max_examples=150 if path == "its own" else 50)
        @given(methods, paths, anything, st.binary() | near)
        @example("POST", world.path if path == "its own" else FORGED, "", body())
        @example("POST", world.path if path == "its own" else FORGED, "", b"[" * 65_000)
        @example("\ud800", "\ud800" * 10_000, "\ud800", b"\xff" * 65_537)
        def throw(method: str, path: str, query: str, what: bytes) -> None:
            runner.run(world.throw(method, path, query, what))

        throw()
        runner.run(world.end())


@pytest.mark.parametrize(
    "use",
    [
        lambda box: box.handle("POST", "\ud800" * 10, "\ud800", b"\xff"),
        lambda box: box.handle("POST", "x" * 10_000_000, "", b""),
        lambda box: box.handle("POST", "/" * 1_000_000, "", b""),
        lambda box: box.verify("POST", "~" * 1_000_000),
        lambda box: box.verify("\0", f"/{'a' * 100}~{'b' * 64}~{'c' * 32}", -1),
    ],
)
def test_paths_that_make_no_sense(use: Callable[[Inbox], int]) -> None:
    """However long or broken a path is, it is a wrong one."""
    assert use(inbox()) == 404
