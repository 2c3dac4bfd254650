from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from kling_async.testing import Scenario
from kling_async.testing.emulator.page import fault_catalogue
from kling_async.testing.scenario import FAULTS, KINDS

if TYPE_CHECKING:
    from tests.testing.emulator.conftest import Peer, Start

HOSTILE = "</script><script>alert(1)</script>"


async def fetch(
    peer: Peer, path: str, method: str = "GET", *, data: str = "", origin: str | None = None
) -> tuple[int, str, str]:
    """Send a request without a key, as a browser or curl; return status, type and text."""
    headers = {} if origin is None else {"Origin": origin}
    url = f"{peer.emulator.origin}{path}"
    async with peer.session.request(method, url, data=data or None, headers=headers) as response:
        return response.status, response.content_type, await response.text(errors="replace")


async def state(peer: Peer) -> Any:  # noqa: ANN401
    """Return what the page shows."""
    return json.loads((await fetch(peer, "/page/state"))[2])


async def test_the_page_is_complete(start: Start) -> None:
    """The page and all that it names comes from the emulator, as its policy demands."""
    peer = await start()
    async with peer.session.get(f"{peer.emulator.origin}/") as response:
        text = await response.text()
        assert "default-src 'self'" in response.headers["Content-Security-Policy"]
    assert not re.findall(r"(?:href|src)=\"(?:https?:)?//", text)
    for name in re.findall(r"(?:href|src)=\"(page/[^\"]+)\"", text):
        status, kind, _ = await fetch(peer, f"/{name}")
        assert (status, kind) == (200, "text/css" if name.endswith("css") else "text/javascript")
    for name in ("index.html", "..%2Fpage.py", "nothing"):
        assert (await fetch(peer, f"/page/{name}"))[0] == 404


async def test_the_state(start: Start) -> None:
    """The page shows tasks, those that run first, money, limits and what clients need."""
    peer = await start("task:1=fail:NSFW", "task:3=stuck", balance=10.0, speed=10.0, video="small")
    for _ in range(3):
        await peer.submit(mode="master-text-to-video", prompt=HOSTILE)
        await asyncio.sleep(2.5)
    shown = await state(peer)
    assert [task["state"] for task in shown["tasks"]] == ["processing", "processing", "failed"]
    progress = [task["progress"] for task in shown["tasks"]]
    assert progress == [None, pytest.approx(0.83, abs=0.05), 1.0]
    assert [task["faults"] for task in shown["tasks"]] == [["stuck"], [], ["fail"]]
    assert shown["tasks"][2]["failure"] == "NSFW: Generation failed: NSFW"
    assert shown["tasks"][0]["prompt"] == HOSTILE
    assert (shown["running"], shown["submitted"], shown["requests"]) == (2, 3, 3)
    assert (shown["balance"], shown["spent"]) == (pytest.approx(6.4), pytest.approx(3.6))
    assert shown["exports"].splitlines() == [
        f"export APIXO_BASE_URL={peer.emulator.origin}",
        f"export APIXO_API_KEY={peer.emulator.key}",
        "export KLING_FIRST_POLL=6",
    ]
    await asyncio.sleep(60)
    shown = await state(peer)
    assert [task["state"] for task in shown["tasks"]] == ["processing", "success", "failed"]
    assert shown["tasks"][1]["seconds"] == 6.0
    assert (await fetch(peer, f"/{shown['tasks'][1]['file']}"))[0] == 200
    assert shown["requests"] == 0


async def test_a_task_without_a_duration(start: Start) -> None:
    """A task that ends when it begins is shown as complete."""
    peer = await start(duration=(0.0, 0.0))
    await peer.submit()
    assert (await state(peer))["tasks"][0]["progress"] == 1.0


async def test_a_chosen_key_is_not_shown(start: Start) -> None:
    """A key that the user has chosen appears nowhere."""
    peer = await start(api_key="sesame-key")
    for path in ("/", "/page/state"):
        assert "sesame-key" not in (await fetch(peer, path))[2]
    assert (await state(peer))["own_key"]
    assert "APIXO_API_KEY" not in (await state(peer))["exports"]


async def test_a_look_changes_nothing(start: Start) -> None:
    """Requests of the page are not recorded, delayed, counted or met by faults."""
    peer = await start("any:*=503", latency=5.0)
    assert (await fetch(peer, "/"))[0] == 200
    assert (await state(peer))["requests"] == 0
    assert asyncio.get_running_loop().time() < 1
    assert peer.emulator.requests == ()


async def test_faults_are_switched(start: Start) -> None:
    """Faults are switched on and off by requests, and count from then on."""
    peer = await start()
    await peer.balance()
    rules = "balance:1=500\n\ntask:*5=fail:NSFW_DETECTED\n"
    status, _, text = await fetch(peer, "/faults", "POST", data=rules)
    assert (status, json.loads(text)) == (200, rules.split())
    assert (await peer.balance())[0] == 500
    assert json.loads((await fetch(peer, "/faults"))[2]) == ["task:*5=fail:NSFW_DETECTED"]
    await fetch(peer, "/faults", "POST", data="balance:*=403")
    assert (await peer.balance())[0] == 403
    assert json.loads((await fetch(peer, "/faults", "DELETE"))[2]) == []
    assert (await peer.balance())[0] == 200


@pytest.mark.parametrize("rules", ["submit:1=boom", "nonsense", "submit:0=500"])
async def test_faults_that_do_not_exist(rules: str, start: Start) -> None:
    """A rule that is wrong is refused with what is right, and nothing is switched on."""
    peer = await start()
    status, _, text = await fetch(peer, "/faults", "POST", data=f"task:1=stuck\n{rules}")
    assert status == 400
    assert json.loads(text)["data"]["error"].startswith("scenario: ")
    assert (await state(peer))["faults"] == []


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_pages_of_other_sites(method: str, start: Start) -> None:
    """A page of another site cannot switch faults; the emulator's own can."""
    peer = await start("task:1=stuck")
    assert (await fetch(peer, "/faults", method, origin="https://evil.example"))[0] == 403
    assert (await state(peer))["faults"] == ["task:1=stuck"]
    assert (await fetch(peer, "/faults", method, origin=peer.emulator.origin))[0] == 200


def test_the_catalogue_is_complete() -> None:
    """Each fault of each kind is listed, and its example is a rule that exists."""
    catalogue = fault_catalogue()
    assert tuple(catalogue) == KINDS
    assert set(catalogue["file"]) == set(FAULTS)
    for kind, faults in catalogue.items():
        for name, about in faults.items():
            value = about["value"] and f":{about['value']}"
            Scenario.parse([f"{kind}:1={name}{value or ''}"])
