"""``kling-async limits``: what it reports of a real server."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest

from kling_async import TaskRef
from kling_async.limits.base import Limits
from kling_async.limits.shared.limiter import SharedLimiter, name_of
from tests.engines.ports import held

if TYPE_CHECKING:
    from tests.cli.conftest import Command

pytestmark = pytest.mark.real_time

LIMITS = Limits(60_000, 14)
REF = TaskRef("kling-2-1", "task_1")
KEY = "a-secret-key-of-the-tests"


@pytest.fixture(params=["redis", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    """Give the address of an engine of each kind."""
    return str(request.getfixturevalue(f"{request.param}_url"))


async def test_limits_in_use(url: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reports the requests, the slots by holder, those that end first, and the pause."""
    monkeypatch.setenv("APIXO_API_KEY", KEY)
    async with (
        SharedLimiter(url, limits=LIMITS, settle=0) as one,
        SharedLimiter(url, limits=LIMITS, settle=0) as other,
    ):
        await one.request()
        permit = await one.request()
        (await one.slot()).confirm(REF)
        await asyncio.gather(*(other.slot() for _ in range(12)))
        await asyncio.sleep(0.1)
        one.pause(300.0, permit)
        await asyncio.sleep(0.1)
        ended = await command("limits", url)
        listed = await command("limits", url, "--json")

    assert (ended.code, ended.err) == (0, "")
    assert (listed.code, listed.err) == (0, "")
    lines = ended.out.splitlines()
    assert re.fullmatch(r"requests in the last minute  \d of 60,000", lines[0])
    assert lines[1] == "slots in use                 13 of 14"
    assert re.fullmatch(r"pause after a refusal        (4 min 5\d s|5 min)", lines[2])
    holders = [line.split() for line in lines[5:7]]
    assert sorted(words[1] for words in holders) == ["1", "12"]
    for words in holders:  # the submits of one are under way
        left = r"(59 min 5\d s|1 h)" if words[1] == "1" else r"(3\d|40) s"
        assert re.fullmatch(rf"[\d.]+ s {left}", " ".join(words[2:]))
    assert lines[8].split() == ["slots", "that", "end", "first", "held", "for", "ends", "in", "by"]
    assert len(lines) == 9 + 10 + 1
    assert lines[-1] == "and 3 more; --json has all of them"

    (fields,) = listed.objects
    leases = fields.pop("leases")
    assert 290 < fields.pop("pause") < 300
    assert 1 <= fields.pop("requests") < 10
    assert fields == {
        "name": name_of(KEY),
        "requests_per_minute": 60_000,
        "slots": 13,
        "concurrent_tasks": 14,
        "effective_tasks": 14,
    }
    (known,) = (lease for lease in leases if lease["ref"])
    assert known.pop("ref") == str(REF)
    assert 0 <= known.pop("held_for") < 10
    assert 3590 < known.pop("ends_in") < 3600.1
    assert list(known) == ["holder"]


async def test_limits_after_refusals(url: str, command: Command) -> None:
    """It reports how many slots there are since the service has refused some."""
    async with SharedLimiter(url, limits=LIMITS, name="studio", settle=0) as limiter:
        for number in range(3):
            (await limiter.slot()).confirm(TaskRef("kling-2-1", f"task_{number}"))
        limiter.refused(await limiter.slot())
        await asyncio.sleep(0.2)
        ended = await command("limits", url, "--name", "studio")
        listed = await command("limits", url, "--name", "studio", "--json")
    assert ended.out.splitlines()[1:3] == [
        "slots in use                 3 of 14",
        "slots after refusals         at most 3 for now",
    ]
    assert listed.objects[0]["effective_tasks"] == 3


async def test_unused_limits(url: str, command: Command) -> None:
    """Limits that were never used are unknown; unused ones have no slots."""
    ended = await command("limits", url, "--name", "studio")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == "There are no limits of the name studio: no process has used them.\n"
    async with SharedLimiter(url, limits=LIMITS, name="studio", settle=0) as limiter:
        await limiter.request()
        ended = await command("limits", url, "--name", "studio")
    assert (ended.code, ended.err) == (0, "")
    assert re.sub(r"\d of", "n of", ended.out).splitlines() == [
        "requests in the last minute  n of 60,000",
        "slots in use                 0",
        "pause after a refusal        none",
    ]
    async with SharedLimiter(url, limits=LIMITS, name="studio", settle=0) as limiter:
        slot = await limiter.slot()
        ended = await command("limits", url, "--name", "studio")
        slot.release()
    assert (ended.code, ended.err) == (0, "")
    assert len(ended.out.splitlines()) == 3 + 3 + 3


async def test_limits_without_a_name(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a name and without a key it is not known whose limits are meant."""
    monkeypatch.delenv("APIXO_API_KEY", raising=False)
    ended = await command("limits", "redis://cache")
    assert (ended.code, ended.out) == (2, "")
    assert "pass --name, or set APIXO_API_KEY" in ended.err


async def test_limits_at_no_engine(command: Command) -> None:
    """An engine that is not there is said so, without its password, and nothing waits."""
    with held() as port:
        ended = await command(
            "limits", f"redis://:c0rrect-h0rse@127.0.0.1:{port}/0", "--name", "me"
        )
    assert (ended.code, ended.out) == (1, "")
    assert f"the limits at redis://127.0.0.1:{port}/0 cannot be read: " in ended.err
    assert "c0rrect-h0rse" not in ended.err
