from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from kling_async.testing import sample_files as samples

if TYPE_CHECKING:
    from tests.testing.emulator.conftest import Start

TEXT = {"input": {"mode": "master-text-to-video", "prompt": "a fox"}}


@pytest.mark.parametrize(
    "status", [401, 402, 403, 404, 405, 408, 409, 410, 413, 422, 423, 425, 429, 499, 500, 503]
)
async def test_refusals_in_the_envelope(status: int, start: Start) -> None:
    """A refusal of the service is an envelope, and nothing is carried out."""
    peer = await start(f"submit:1={status}")
    found, body, response = await peer.post(TEXT)
    assert found == body["code"] == status
    assert "Retry-After" not in response.headers
    assert peer.emulator.ledger == ()
    assert (await peer.post(TEXT))[0] == 200


@pytest.mark.parametrize("status", [502, 504])
async def test_gateways_speak_html(status: int, start: Start) -> None:
    """A gateway answers with a page instead of JSON."""
    peer = await start(f"balance:1={status}")
    with pytest.raises(json.JSONDecodeError):
        await peer.balance()
    assert peer.emulator.requests[0].status == status


async def test_retry_after(start: Start) -> None:
    """429 and 503 carry the Retry-After that they were given."""
    peer = await start("balance:1=429:7", "balance:2=503:Fri, 31 Dec 1999 23:59:59 GMT")
    assert (await peer.balance())[2].headers["Retry-After"] == "7"
    assert (await peer.balance())[2].headers["Retry-After"].startswith("Fri, 31 Dec")


@pytest.mark.parametrize("code", [500, 418])
async def test_envelope_that_disagrees(code: int, start: Start) -> None:
    """HTTP can say 200 while the envelope says otherwise."""
    peer = await start(f"balance:1=code:{code}")
    status, body, _ = await peer.balance()
    assert (status, body["code"]) == (200, code)


async def test_reset(start: Start) -> None:
    """A reset comes before anything is done."""
    peer = await start("submit:1=reset")
    with pytest.raises(aiohttp.ClientOSError):
        await peer.post(TEXT)
    assert peer.emulator.ledger == ()
    assert peer.emulator.requests[0].status is None


async def test_hang(start: Start) -> None:
    """A request that hangs is not answered, and the emulator can still be left."""
    peer = await start("submit:1=hang")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3600):
            await peer.post(TEXT)
    assert peer.emulator.ledger == ()
    waiting = asyncio.create_task(start("balance:1=hang"))
    other = await waiting
    call = asyncio.create_task(other.balance())
    await asyncio.sleep(1)
    await other.emulator.__aexit__(None, None, None)
    with pytest.raises(aiohttp.ClientError):
        await call


async def test_lost_answer(start: Start) -> None:
    """The task starts and is paid for, but the client gets no answer."""
    peer = await start("submit:1=lost-answer")
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await peer.post(TEXT)
    assert len(peer.emulator.ledger) == 1
    assert peer.emulator.balance < 1000
    assert peer.emulator.requests[0].status is None


async def test_garbage(start: Start) -> None:
    """The request is carried out, and the answer is not JSON."""
    peer = await start("submit:1=garbage")
    with pytest.raises(ValueError, match="codec"):
        await peer.post(TEXT)
    assert len(peer.emulator.ledger) == 1


async def test_truncated(start: Start) -> None:
    """A complete answer holds half a JSON document."""
    peer = await start("submit:1=truncated")
    with pytest.raises(json.JSONDecodeError):
        await peer.post(TEXT)
    assert len(peer.emulator.ledger) == 1


async def test_cut(start: Start) -> None:
    """The connection drops in the middle of the body."""
    peer = await start("submit:1=cut")
    with pytest.raises(aiohttp.ClientPayloadError):
        await peer.post(TEXT)
    assert len(peer.emulator.ledger) == 1


@pytest.mark.parametrize(("rule", "seconds"), [("slow", 10), ("slow:2.5", 2.5)])
async def test_slow(rule: str, seconds: float, start: Start) -> None:
    """The answer is right and late."""
    peer = await start(f"submit:1={rule}")
    loop = asyncio.get_running_loop()
    before = loop.time()
    status, _, _ = await peer.post(TEXT)
    assert status == 200
    assert loop.time() - before == pytest.approx(seconds, abs=0.5)


@pytest.mark.parametrize(("rule", "seconds"), [("late", 10), ("late:2.5", 2.5)])
async def test_late(rule: str, seconds: float, start: Start) -> None:
    """A request that arrives late is counted and carried out only then."""
    peer = await start(f"submit:1={rule}")
    call = asyncio.create_task(peer.post(TEXT))
    await asyncio.sleep(seconds - 0.5)
    assert list(peer.emulator.ledger) == []
    assert (await call)[0] == 200
    request, paid = peer.emulator.requests[0], peer.emulator.ledger[0]
    assert request.at == pytest.approx(0, abs=0.3)
    assert request.counted_at == pytest.approx(seconds, abs=0.3)
    assert paid.at == request.counted_at


async def test_late_and_the_limit(start: Start) -> None:
    """What is late is counted into the minute in which it arrives."""
    peer = await start("balance:1=late:30", requests_per_minute=1)
    late = asyncio.create_task(peer.balance())
    await asyncio.sleep(1)
    assert (await peer.balance())[0] == 200
    assert (await late)[0] == 429
    assert [request.counted_at is None for request in peer.emulator.requests] == [True, False]


@pytest.mark.parametrize("status", [200, 403, 503, 599])
async def test_pages_in_place_of_an_answer(status: int, start: Start) -> None:
    """A gateway's page comes with any status, and nothing is carried out or counted."""
    peer = await start(f"submit:1=page:{status}")
    url = f"{peer.emulator.base_url}/generateTask/kling-2-1"
    async with peer.session.post(url, json=TEXT, headers=peer.headers) as response:
        assert (response.status, response.content_type) == (status, "text/html")
        assert f"<title>{status}</title>" in await response.text()
    assert peer.emulator.ledger == ()
    assert peer.emulator.requests[0].counted_at is None


async def test_a_page_after_the_work(start: Start) -> None:
    """A gateway may answer with a page though the request was carried out."""
    peer = await start("submit:1=late-page:503")
    url = f"{peer.emulator.base_url}/generateTask/kling-2-1"
    async with peer.session.post(url, json=TEXT, headers=peer.headers) as response:
        assert (response.status, response.content_type) == (503, "text/html")
    assert len(peer.emulator.ledger) == 1


@pytest.mark.parametrize(("rule", "status"), [("redirect", 302), ("redirect:307", 307)])
async def test_redirect(rule: str, status: int, start: Start) -> None:
    """A portal redirects to its page, and nothing is carried out."""
    peer = await start(f"submit:*={rule}")
    url = f"{peer.emulator.base_url}/generateTask/kling-2-1"
    options: dict[str, Any] = {"json": TEXT, "headers": peer.headers}
    async with peer.session.post(url, **options, allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (status, "/login")
    async with peer.session.post(url, **options) as response:
        assert (response.status, response.content_type) == (200, "text/html")
    assert peer.emulator.ledger == ()


async def test_a_file_that_comes_late(start: Start) -> None:
    """The file of a task can be missing for some seconds after its end."""
    peer = await start("task:1=file-late", "task:2=file-late:10", video="small")
    ids = [await peer.submit() for _ in range(3)]

    async def files() -> list[int]:
        found = []
        for task_id in ids:
            async with peer.session.get(f"{peer.emulator.origin}/files/{task_id}.mp4") as response:
                found.append(response.status)
        return found

    await asyncio.sleep(61)
    assert [(await peer.status(task_id))["state"] for task_id in ids] == ["success"] * 3
    assert await files() == [404, 404, 200]
    await asyncio.sleep(4)
    assert await files() == [200, 404, 200]
    await asyncio.sleep(8)
    assert await files() == [200, 200, 200]


async def test_a_task_that_is_not_seen_at_once(start: Start) -> None:
    """The status of a task can be 404 for the first seconds."""
    peer = await start("task:1=unseen", "task:2=unseen:20")
    ids = [await peer.submit() for _ in range(2)]

    async def statuses() -> list[int]:
        paths = [f"/statusTask/kling-2-1?taskId={task_id}" for task_id in ids]
        return [(await peer.call("GET", path))[0] for path in paths]

    assert await statuses() == [404, 404]
    await asyncio.sleep(6)
    assert await statuses() == [200, 404]
    await asyncio.sleep(15)
    assert await statuses() == [200, 200]


async def test_slow_does_not_hold_up_the_end(start: Start) -> None:
    """Leaving the emulator does not wait for a slow answer."""
    peer = await start("balance:1=slow:5000")
    call = asyncio.create_task(peer.balance())
    await asyncio.sleep(1)
    await peer.emulator.__aexit__(None, None, None)
    assert asyncio.get_running_loop().time() < 100
    await asyncio.gather(call, return_exceptions=True)


async def test_a_refusal_can_suffer_too(start: Start) -> None:
    """A fault of the answer also meets an answer that says no."""
    peer = await start("submit:1=truncated")
    with pytest.raises(json.JSONDecodeError):
        await peer.post({})
    assert peer.emulator.requests[0].status == 400


async def test_samples_do_not_count(start: Start) -> None:
    """The emulator's own reading of sample pictures disturbs no scenario."""
    peer = await start("any:*2=500", samples=samples.FOLDER)
    url = f"{peer.emulator.origin}/samples/fox.jpg"
    task_id = await peer.submit(prompt="x", image_urls=[url])
    await asyncio.sleep(30)
    assert (await peer.balance())[0] == 500
    assert (await peer.status(task_id))["state"] == "processing"


async def test_every_kind_counts_for_itself(start: Start) -> None:
    """Requests are counted by kind, and `any` counts them all."""
    peer = await start("balance:2=503", "any:4=500")
    task_id = await peer.submit()
    assert (await peer.balance())[0] == 200
    assert (await peer.balance())[0] == 503
    assert (await peer.balance())[0] == 500
    assert (await peer.status(task_id))["state"] == "pending"
