"""Draw docs/guides/trace.svg: python docs/guides/draw_trace.py.

The trace is that of one request to the example backend, which runs here with an emulator beside it.
The picture is inserted into a page, and uses the colour of the text around it, light or dark.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from kling_async.telemetry import OpenTelemetry

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

FILE = Path(__file__).with_name("trace.svg")
BACKEND = Path(__file__).parents[1] / "examples" / "backend"
PORT = 8765
ADDRESS = f"http://127.0.0.1:{PORT}"
INPUT = {"model": "kling-2-1", "mode": "master-text-to-video", "prompt": "a fox", "duration": 5}

NAMES, LEFT, WIDTH, TOP, ROW = 8, 250, 460, 34, 26  # pixels


def record() -> list[ReadableSpan]:
    """Run the backend and the emulator, make one video, and return the spans."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    command = [sys.executable, "-m", "kling_async", "emulate", "--video", "small", "--speed", "6"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as emulator,  # noqa: S603
        tempfile.TemporaryDirectory() as folder,
    ):
        assert emulator.stdout is not None  # noqa: S101 - it is a pipe
        for _ in range(2):
            line = emulator.stdout.readline().removeprefix("export ").strip()
            name, _, value = line.partition("=")
            os.environ[name] = value
        # The first poll comes before the callback, so that the picture has both.
        os.environ |= {"PORT": str(PORT), "PUBLIC_URL": ADDRESS, "DATA_DIR": folder}
        os.environ["KLING_FIRST_POLL"] = "4"
        run_backend()
        emulator.terminate()
    spans = exporter.get_finished_spans()
    (generation,) = (span for span in spans if span.name.startswith("generate_content"))
    return [span for span in spans if span.context.trace_id == generation.context.trace_id]


def run_backend() -> None:
    """Run the backend until one video is made."""
    sys.path.insert(0, str(BACKEND))
    import app as backend  # type: ignore[import-not-found]

    backend.HOOKS = [OpenTelemetry()]
    threading.Thread(target=make_video).start()
    backend.main()


def make_video() -> None:
    """Make a video as the page of the backend does; then end the backend."""
    body = json.dumps(INPUT).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{ADDRESS}/videos", body, headers)  # noqa: S310 - http
    video: dict[str, str] = {}
    while not video:
        try:
            with urllib.request.urlopen(request) as answer:  # noqa: S310 - http
                video = json.load(answer)
        except OSError:  # the server has not started
            time.sleep(0.1)
    while video["state"] not in {"done", "failed"}:
        time.sleep(0.2)
        with urllib.request.urlopen(f"{ADDRESS}/videos/{video['id']}") as answer:  # noqa: S310
            video = json.load(answer)
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGINT)


def format_time(seconds: float) -> str:
    """Return a duration, short."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def draw(spans: list[ReadableSpan]) -> str:
    """Return the picture of the spans of one trace."""
    parents = {span.context.span_id: span.parent.span_id for span in spans if span.parent}
    # FastAPI traces requests, and what it does for each of them, which is not shown.
    spans = [span for span in spans if not span.name.startswith("fastapi.")]
    spans.sort(key=lambda span: (span.start_time or 0, -(span.end_time or 0)))
    shown = {span.context.span_id for span in spans}
    begin, end = spans[0].start_time or 0, max(span.end_time or 0 for span in spans)
    scale = WIDTH / (end - begin)
    parts = []
    for row, span in enumerate(spans):
        depth, number = 0, span.context.span_id
        while number in parents:
            number = parents[number]
            depth += number in shown
        start, length = span.start_time or 0, (span.end_time or 0) - (span.start_time or 0)
        x, y, width = LEFT + (start - begin) * scale, TOP + row * ROW, max(2.0, length * scale)
        duration = format_time(length / 1e9)
        text_at = x + width + 6 if x + width < LEFT + WIDTH - 60 else LEFT + WIDTH + 6
        parts += [
            f'<text x="{NAMES + 14 * depth}" y="{y + 12}">{escape(span.name)}</text>',
            f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="15" rx="2" fill="#4a90d9"/>',
            f'<text x="{text_at:.1f}" y="{y + 12}" class="small">{duration}</text>',
        ]
        for event in span.events:
            at = LEFT + (event.timestamp - begin) * scale
            parts.append(
                f'<path d="M{at:.1f} {y - 3} v21" stroke="#d9534f" stroke-width="2">'
                f"<title>{escape(event.name)}</title></path>"
            )
    seconds = range(0, int((end - begin) / 1e9) + 1, 2)
    height = TOP + len(spans) * ROW + 6
    for second in seconds:
        at = LEFT + second * 1e9 * scale
        parts.append(f'<path d="M{at:.1f} {TOP - 8} V{height}" class="grid"/>')
        parts.append(f'<text x="{at:.1f}" y="16" class="small middle">{second} s</text>')
    style = (
        "text{font:13px sans-serif;fill:currentColor}.small{font-size:11px}"
        ".middle{text-anchor:middle}.grid{stroke:currentColor;stroke-opacity:.15}"
    )
    total = LEFT + WIDTH + 60
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {height}" role="img"'
        ' aria-label="The spans of one trace over time"><style>'
        f"{style}</style>{''.join(parts)}</svg>\n"
    )


if __name__ == "__main__":
    FILE.write_text(draw(record()), encoding="utf-8")
