from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

APP = Path(__file__).parents[2] / "docs" / "examples" / "backend" / "app.py"


@frozen
class Running:
    """A backend in a process of its own."""

    url: str
    process: subprocess.Popen[str]


class Start(Protocol):
    def __call__(self, **environ: str) -> Running: ...


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Start backends as users do, without a key, on a free port; they are ended at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(**environ: str) -> Running:
        own = {name: value for name, value in os.environ.items() if not name.startswith("APIXO")}
        process = subprocess.Popen(
            [sys.executable, str(APP)],
            env={**own, "PORT": "0", **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        url = re.search(r"http://\S+", process.stdout.readline())
        assert url is not None, process.communicate()
        return Running(url[0], process)

    yield start
    for process in started:
        process.kill()
        process.communicate()
