from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kling_async.errors import ConfigurationError, ServerError
from kling_async.events import (
    Retrying,
    SlotAcquired,
    SubmitFailed,
    SubmitStarted,
    Submitted,
    TaskAttached,
    TaskEnded,
)
from kling_async.inputs import MasterTextToVideo, RawInput
from kling_async.results import TaskRef
from kling_async.tasks.abandoned import log_warning
from kling_async.telemetry import logs
from kling_async.telemetry.logs import EventLog, parse_level, write_to_stderr
from tests.clients import FOX
from tests.telemetry.events import EVENTS, INPUT, REF, SECRET, SUCCESS, answered

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kling_async.inputs import Input
    from tests.conftest import Connect, Emulate

pytestmark = pytest.mark.virtual_time

LOG = logging.getLogger("kling_async")
STANDARD = set(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime"}


@pytest.fixture
def restored() -> Iterator[None]:
    """Restore the logger."""
    level, handlers = LOG.level, LOG.handlers[:]
    yield
    LOG.setLevel(level)
    LOG.handlers[:] = handlers


async def log_all(caplog: pytest.LogCaptureFixture, level: str, *, prompts: bool = False) -> str:
    """Log all events, and return the messages and fields."""
    caplog.clear()
    with caplog.at_level(level, "kling_async"):
        log = EventLog(prompts)
        for event in EVENTS:
            log(event)
    return "\n".join(f"{one.getMessage()} {vars(one)}" for one in caplog.records)


async def test_the_fields(caplog: pytest.LogCaptureFixture) -> None:
    """Every field begins with kling_, and each record has the name of its event."""
    await log_all(caplog, "DEBUG")
    assert len(caplog.records) == len(EVENTS) - 1
    for record in caplog.records:
        added = set(vars(record)) - STANDARD - {"taskName"}
        assert "kling_event" in added
        assert all(name.startswith("kling_") for name in added)


async def test_info_is_for_operators(caplog: pytest.LogCaptureFixture) -> None:
    """INFO has no requests, polls and waits."""
    text = await log_all(caplog, "INFO")
    assert "GET" not in text
    assert "slot" not in text
    assert {one.levelname for one in caplog.records} == {"INFO", "WARNING"}


async def test_prompts_are_logged_on_request(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only with KLING_LOG_PROMPTS=1 the log has prompts."""
    assert SECRET not in await log_all(caplog, "DEBUG")
    assert f": 'a fox {SECRET}'" in await log_all(caplog, "DEBUG", prompts=True)
    monkeypatch.setenv("KLING_LOG_PROMPTS", "1")
    assert EventLog().prompts
    monkeypatch.setenv("KLING_LOG_PROMPTS", "0")
    assert not EventLog().prompts


@pytest.mark.parametrize(
    "sent",
    [
        MasterTextToVideo("a secret fox", negative_prompt="hidden"),
        RawInput("other", {"prompt": "a secret fox", "negative_prompt": "hidden"}),
    ],
)
@pytest.mark.parametrize("prompts", [True, False])
async def test_an_answer_that_repeats_the_prompt(
    sent: Input, caplog: pytest.LogCaptureFixture, *, prompts: bool
) -> None:
    """The prompts of an input are not in the log as a part of the service's messages either."""
    error = ServerError("'a secret fox' without hidden is refused")
    log = EventLog(prompts)
    with caplog.at_level("DEBUG", "kling_async"):
        log(SubmitStarted(sent, submit_id=7))
        log(answered(error=error))
        log(Retrying("submit", error, 1, 0.5, submit_id=7))
        log(SubmitFailed(sent, error, submit_id=7))
    assert ("secret" in caplog.text) is ("hidden" in caplog.text) is prompts
    assert "'…' without … is refused" in caplog.text or prompts
    assert vars(caplog.records[-1]).get("kling_prompt") == ("a secret fox" if prompts else None)
    assert not log._inputs  # noqa: SLF001 - nothing else shows it


async def test_the_waits_of_a_submit(caplog: pytest.LogCaptureFixture) -> None:
    """The line of a submit has the wait for its slot beside that for its permit."""
    log = EventLog()
    with caplog.at_level("DEBUG", "kling_async"):
        log(SlotAcquired(INPUT, 1.5, submit_id=7))
        log(answered())
        log(Submitted(REF, INPUT, submit_id=7))
        log(answered())
    texts = [one.getMessage() for one in caplog.records]
    assert texts[1].endswith("waited 0.250 s for a permit, 1.500 s for a slot")
    assert vars(caplog.records[1])["kling_slot_wait"] == 1.5
    assert vars(caplog.records[1])["kling_permit_wait"] == 0.25
    assert vars(caplog.records[1])["kling_ms"] == 500.0
    assert texts[3].endswith("0.000 s for a slot")


async def test_a_generation(
    caplog: pytest.LogCaptureFixture, emulate: Emulate, connect: Connect
) -> None:
    """A program that enables INFO gets two lines for a generation, with its duration."""
    with caplog.at_level("INFO", "kling_async"):
        kling = await connect(await emulate())
        result = await kling.generate(FOX)
    lines = [one for one in caplog.records if one.name == "kling_async"]
    submitted, finished = lines
    assert submitted.getMessage() == f"submitted {result.ref} (kling-2-1 master-text-to-video)"
    assert finished.getMessage().startswith(f"finished {result.ref} after 6")
    assert 60 < vars(finished)["kling_seconds"] < 70


@pytest.mark.parametrize(("age", "text"), [(90, " after 90."), (None, "")])
async def test_an_attached_task(
    age: int | None, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The duration of a task that was submitted elsewhere is logged if its beginning is known."""
    log = EventLog()
    submitted_at = None if age is None else datetime.now(UTC) - timedelta(seconds=age)
    with caplog.at_level("INFO", "kling_async"):
        log(TaskAttached(REF, submitted_at=submitted_at))
        log(TaskEnded(SUCCESS))
    assert caplog.messages[1].startswith(f"finished {REF}{text}")
    assert hasattr(caplog.records[1], "kling_seconds") is (age is not None)


async def test_memory_is_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The beginnings of tasks that never end are forgotten, the oldest first."""
    monkeypatch.setattr(logs, "_REMEMBERED", 2)
    caplog.set_level("DEBUG", "kling_async")
    log = EventLog()
    for number in range(5):
        log(Submitted(TaskRef("kling-2-1", f"task_{number}"), INPUT, submit_id=number))
        log(SlotAcquired(INPUT, 0.0, submit_id=100 + number))
    assert len(log._began) == len(log._slot_waits) == 2  # noqa: SLF001 - nothing else shows it
    log(TaskEnded(SUCCESS))  # one that is not known


@pytest.mark.parametrize("text", ["debug", " INFO ", "Warning"])
def test_levels(text: str) -> None:
    """KLING_LOG has the name of a level, in any case."""
    assert logging.getLevelName(parse_level(text)) == text.strip().upper()


def test_an_invalid_level() -> None:
    """Any other value raises an error that names the valid ones."""
    with pytest.raises(ConfigurationError, match="must be debug, info, warning, not 'yes'"):
        parse_level("yes")


def test_stderr(monkeypatch: pytest.MonkeyPatch, restored: None) -> None:
    """Records go to stderr once, as it is at that time, unless the program shows them itself."""
    root, stream = logging.getLogger(), io.StringIO()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(sys, "stderr", stream)
    write_to_stderr(logging.INFO)
    write_to_stderr(logging.INFO)
    LOG.info("first")
    LOG.debug("hidden")
    root.addHandler(logging.NullHandler())
    LOG.info("second")
    root.handlers.clear()
    LOG.addHandler(logging.NullHandler())
    LOG.info("third")
    LOG.handlers.pop()
    monkeypatch.setattr(sys, "stderr", None)
    LOG.info("fourth")
    assert stream.getvalue().splitlines()[0].endswith("INFO    kling_async: first")
    assert len(stream.getvalue().splitlines()) == 1


def test_a_stream_that_fails(monkeypatch: pytest.MonkeyPatch, restored: None) -> None:
    """A stream that cannot be written does not raise."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging, "raiseExceptions", False)
    broken = io.StringIO()
    broken.close()
    monkeypatch.setattr(sys, "stderr", broken)
    write_to_stderr(logging.INFO)
    LOG.info("first")


PROGRAM = """
import asyncio, logging, sys
from kling_async import KlingClient, MasterTextToVideo
from kling_async.testing import Emulator

async def main():
    async with Emulator(video="small", speed=1000, api_key="sk-key-of-the-test") as emulator:
        url = emulator.base_url
        async with KlingClient(emulator.key, base_url=url) as kling:
            await kling.generate(MasterTextToVideo("a fox in the fog"))

if "configured" in sys.argv:
    logging.basicConfig(format="mine: %(message)s", level=logging.ERROR)
asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("level", "argument", "expected"),
    [
        ("debug", "", "kling_async: POST /generateTask/kling-2-1: 200 in "),
        ("info", "", "INFO    kling_async: submitted kling-2-1/task_"),
        ("debug", "configured", "mine: POST /generateTask/kling-2-1: 200 in "),
        ("", "", ""),
        ("", "configured", ""),
    ],
)
def test_a_program(level: str, argument: str, expected: str) -> None:
    """KLING_LOG shows the log of a program, through its own handlers if it has any, and once."""
    env = {**os.environ, "KLING_LOG": level, "KLING_FIRST_POLL": "0.1"}
    command = [sys.executable, "-c", PROGRAM, argument]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert expected in done.stderr
    assert bool(done.stderr) is bool(level)
    assert done.stderr.count(": POST /generateTask") == (level == "debug")
    for secret in ("sk-key", "fog"):
        assert secret not in done.stderr


async def test_the_guide_has_all_fields(caplog: pytest.LogCaptureFixture) -> None:
    """The table of the guide names the fields that records have, and no others."""
    page = Path(__file__).parents[2] / "docs" / "guides" / "observability.md"
    section = page.read_text(encoding="utf-8").partition("### Fields")[2].partition("\n## ")[0]
    documented = set(re.findall(r"`(kling_\w+)`", section))
    await log_all(caplog, "DEBUG", prompts=True)
    log = EventLog()
    with caplog.at_level("DEBUG", "kling_async"):
        log(Submitted(REF, INPUT))
        log(TaskEnded(SUCCESS))
        log_warning((REF,))
    fields = {name for one in caplog.records for name in vars(one)} - STANDARD - {"taskName"}
    assert fields == documented
