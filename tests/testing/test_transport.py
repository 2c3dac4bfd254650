from __future__ import annotations

import asyncio
import json

import pytest

from kling_async import KlingClient, MasterTextToVideo, Polling, Retry
from kling_async.errors import AnswerLostError, ServerError
from kling_async.testing import ScriptedTransport
from kling_async.testing.transport import Request, Response, answer

pytestmark = pytest.mark.virtual_time

FOX = MasterTextToVideo("a fox")


def script(request: Request) -> Response:
    """Answer a submit with a task, and say of that that it has succeeded."""
    if request.kind == "submit":
        return answer({"taskId": "task_1"})
    urls = json.dumps({"resultUrls": ["https://example.com/a.mp4"]})
    return answer({"taskId": "task_1", "state": "success", "resultJson": urls})


async def test_the_real_client_on_a_script() -> None:
    """A generation runs through the real client, and what was sent can be looked at."""
    transport = ScriptedTransport(script)
    async with KlingClient("a-key", transport=transport) as kling:
        result = await kling.generate(FOX)
    assert result.result_urls == ("https://example.com/a.mp4",)
    submit, status = transport.requests
    assert (submit.kind, submit.method, submit.path) == (
        "submit",
        "POST",
        "/generateTask/kling-2-1",
    )
    assert json.loads(submit.body or b"")["input"]["prompt"] == "a fox"
    assert status.path == "/statusTask/kling-2-1?taskId=task_1"


async def test_no_key_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a transport of its own the client asks for no key."""
    monkeypatch.delenv("APIXO_API_KEY", raising=False)
    assert await KlingClient(transport=ScriptedTransport(lambda _: answer(1.5))).balance() == 1.5


async def test_a_coroutine_as_script() -> None:
    """The script may take its time."""

    async def slow(_: Request) -> Response:
        await asyncio.sleep(100)
        return answer(1.5)

    transport = ScriptedTransport(slow)
    assert await KlingClient("a-key", transport=transport).balance() == 1.5
    assert asyncio.get_running_loop().time() >= 100


async def test_a_script_that_raises() -> None:
    """What the script raises is what the wire would have shown."""

    def lost(_: Request) -> Response:
        raise AnswerLostError("lost", may_have_charged=True)

    transport = ScriptedTransport(lost)
    with pytest.raises(AnswerLostError, match="lost"):
        await KlingClient("a-key", transport=transport).submit(FOX)
    assert len(transport.requests) == 1


async def test_answers_with_another_status() -> None:
    """An answer's status and message are what the service would have said."""
    transport = ScriptedTransport(lambda _: answer(None, status=503, message="not now"))
    kling = KlingClient("a-key", transport=transport, retry=Retry(attempts=3), polling=Polling())
    with pytest.raises(ServerError, match="not now") as caught:
        await kling.balance()
    assert (caught.value.status, caught.value.code) == (503, 503)
    assert len(transport.requests) == 3
    assert json.loads(answer(7).body) == {"code": 200, "message": "success", "data": 7}


async def test_closing_does_nothing() -> None:
    """A closed scripted transport answers as before."""
    transport = ScriptedTransport(lambda _: answer(1))
    await transport.close()
    assert (await transport.send(Request("balance", "/x"), 1.0)).status == 200
