"""One trace over two processes: the first is killed, and the second continues its batch."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from typing import TYPE_CHECKING, Any

import pytest

from kling_async.testing import Emulator

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

PROGRAM = """
import asyncio, sys, time
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from kling_async import Batch, KlingClient, MasterTextToVideo, Polled, Polling
from kling_async.telemetry import OpenTelemetry

url, key, journal, folder, spans, role = sys.argv[1:]
file = open(spans, "w")
provider = TracerProvider()
exporter = ConsoleSpanExporter(out=file, formatter=lambda span: span.to_json(None) + "\\n")
provider.add_span_processor(SimpleSpanProcessor(exporter))

def report(event):
    if isinstance(event, Polled) and role == "first":
        print("polled", flush=True)
        time.sleep(1000)  # until it is killed

async def main():
    hooks = [OpenTelemetry(tracer_provider=provider), report]
    polling = Polling(first=0.1, shortest=0.1, longest=0.1)
    async with (
        KlingClient(key, base_url=url, hooks=hooks, polling=polling) as kling,
        Batch(kling, journal=journal, download_to=folder) as batch,
    ):
        async for outcome in batch.run([MasterTextToVideo("a fox")]):
            print(outcome.error or "saved", flush=True)

asyncio.run(main())
"""


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Return the exported spans by name."""
    spans = [json.loads(line) for line in path.read_text().splitlines()]
    return {span["name"]: span for span in spans}


async def test_a_batch_that_is_continued(tmp_path: Path) -> None:
    """The process that continues a batch continues the trace of its task, to the download."""
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    async with Emulator(video="small", duration=(60.0, 60.0), speed=60) as emulator:
        folders = (str(tmp_path / "journal"), str(tmp_path / "videos"))
        arguments = (emulator.base_url, emulator.key, *folders)

        async def start(spans: Path) -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-c", PROGRAM, *arguments, str(spans), spans.stem, stdout=PIPE
            )

        killed = await start(first)
        assert killed.stdout is not None
        assert await killed.stdout.readline() == b"polled\n"
        killed.kill()
        await killed.communicate()
        done = await start(second)
        output, _ = await done.communicate()
        assert output == b"saved\n"
        assert len(emulator.ledger) == 1
    submitted, continued = read(first), read(second)
    assert set(submitted) == {"wait for a slot", "POST /generateTask/{model}"}  # it was killed
    assert set(continued) == {"generate_content kling-2-1", "download"}
    generation = continued["generate_content kling-2-1"]
    parents = {span["parent_id"] for span in submitted.values()} | {generation["parent_id"]}
    assert len(parents) == 1
    assert continued["download"]["parent_id"] == generation["context"]["span_id"]
    spans = [*submitted.values(), *continued.values()]
    assert len({span["context"]["trace_id"] for span in spans}) == 1
