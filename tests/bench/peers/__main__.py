"""``python -m tests.bench.peers``: other services' clients and this one, doing the same.

Each runs in a process of its own, one after another, against a server in a third process. The
other clients are installed into a temporary environment first. It takes five to six minutes.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from tests.bench import figures
from tests.bench.peers import environment
from tests.bench.peers.client import CLIENTS, OURS, PATIENCE, TASKS
from tests.bench.peers.messages import Counts, Lost, Waited

# Seconds. The longest client is stopped far earlier by itself.
HUNG = 120.0

Show = Callable[[str, Iterable[str], dict[str, list[str]]], None]
Column = Callable[[Counts, Waited], str]

ALWAYS: dict[str, Column] = {
    "started": lambda counts, _: f"{counts.started:,}",
    "raised": lambda _, waited: f"{waited.failed:,} {'/'.join(waited.errors)}".rstrip(),
    "polls": lambda counts, _: f"{counts.polls:,}",
    "CPU": lambda _, waited: f"{waited.cpu:.1f} s",
    "lag 95 %": lambda _, waited: f"{waited.late_p95 * 1000:,.0f} ms",
    "lag max": lambda _, waited: f"{waited.latest * 1000:,.0f} ms",
    "memory": lambda _, waited: f"{waited.peak_bytes / 1e6:.0f} MB",
}

# Of tasks that end while they are watched.
ENDS: dict[str, Column] = {
    "ends found": lambda counts, _: f"{counts.found:,} of {counts.ended:,}",
    "late": lambda counts, _: f"{counts.late:.1f} s" if counts.found else "–",
}


def run(python: str, name: str, part: str, *server: str) -> tuple[bytes, Counts]:
    """Let one client do its part against a server of its own; return what both reported."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.peers.server", *server],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        origin = f"http://127.0.0.1:{int(process.stdout.readline())}"
        client = sys.executable if name.startswith(OURS) else python
        reported = subprocess.run(
            # One of the clients announces on standard error that its video API will end.
            [client, "-W", "ignore", "-m", "tests.bench.peers.client", name, part, origin],
            check=True,
            stdout=subprocess.PIPE,
            env=environment.plain(),
            timeout=HUNG,
        )
        counts, _ = process.communicate()
    return reported.stdout, Counts(*json.loads(counts))


def wait(
    python: str, columns: Mapping[str, Column], shortest: int, longest: int
) -> dict[str, list[str]]:
    """Let each client wait for tasks that take so many seconds; return the rows."""
    rows = {}
    for name in CLIENTS:
        reported, counts = run(
            python, name, "waiting", f"--shortest={shortest}", f"--longest={longest}"
        )
        waited = Waited(*json.loads(reported))
        rows[name] = [cell(counts, waited) for cell in columns.values()]
    return rows


def lose(python: str) -> dict[str, list[str]]:
    """Let each client submit once to a server that hangs up; return the rows."""

    def one(name: str) -> list[str]:
        reported, counts = run(python, name, "lost", "--lose")
        return [f"{counts.started}", f"{counts.keyed}", Lost(*json.loads(reported)).error]

    names = [name for name in CLIENTS if "," not in name]  # that one only waits in another way
    with ThreadPoolExecutor() as threads:  # most of it is pauses between attempts
        return dict(zip(names, threads.map(one, names), strict=True))


def as_text(title: str, columns: Iterable[str], rows: dict[str, list[str]]) -> None:
    """Print a table for the terminal."""
    figures.title(title)
    for name, cells in {"": columns, **rows}.items():
        figures.row(name, *cells)


def as_markdown(title: str, columns: Iterable[str], rows: dict[str, list[str]]) -> None:
    """Print a table for the documentation."""
    print(f"\n{title}\n")
    for name, cells in {"": columns, "---": ["---:" for _ in columns], **rows}.items():
        print("|", " | ".join((name, *cells)), "|", flush=True)


def compare(python: str, show: Show) -> None:
    """Do all parts."""
    print("Python", ", ".join((platform.python_version(), *environment.versions(python))), end="; ")
    print(f"{datetime.now(UTC):%Y-%m-%d}")
    for columns, shortest, longest in ((ALWAYS, 60, 90), (ALWAYS | ENDS, 8, 12)):
        show(
            f"{TASKS:,} tasks at once that take {shortest}–{longest} s, watched for"
            f" {PATIENCE:.0f} s",
            columns,
            wait(python, columns, shortest, longest),
        )
    show(
        "One submit; the server starts the task and closes the connection",
        ("tasks started", "with idempotency key", "raised"),
        lose(python),
    )


def main() -> None:
    """Build the environment and compare."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers", description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="print tables for the docs")
    parser.add_argument("--python", help="of an environment that has the clients already")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        python = asked.python or environment.build(Path(folder))
        compare(python, as_markdown if asked.markdown else as_text)


if __name__ == "__main__":
    main()
