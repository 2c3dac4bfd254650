from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
from attrs import frozen

from tests.processes import unmeasured

if TYPE_CHECKING:
    from collections.abc import Iterator

APP = Path(__file__).parents[2] / "docs" / "examples" / "backend" / "app.py"


@frozen
class Running:
    """A backend in a process of its own."""

    url: str
    process: subprocess.Popen[str]
    environ: Mapping[str, str]


class Start(Protocol):
    def __call__(self, environ: Mapping[str, str], **more: str) -> Running: ...


class Service(Protocol):
    def __call__(self, *options: str) -> Mapping[str, str]: ...


@pytest.fixture(scope="module")
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    """Collect processes, which are ended at the end."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def spawn(*command: str, environ: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start a Python process with these variables of the service and the backend only."""
    own = {
        name: value
        for name, value in unmeasured().items()
        if not name.startswith(("APIXO", "KLING"))
    }
    return subprocess.Popen(
        [sys.executable, *command],
        env={**own, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def service(processes: list[subprocess.Popen[str]]) -> Service:
    """Run ``kling-async emulate``, as the guides do; return the variables that it prints.

    Every video is the small one, unless options say otherwise: to render and to play others takes
    seconds.
    """

    def service(*options: str) -> Mapping[str, str]:
        small = ("--video", "small")
        command = ("-m", "kling_async", "emulate", "--json", "--port", "0", *small, *options)
        process = spawn(*command, environ={})
        processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()
        variables: dict[str, str] = json.loads(line)
        return variables

    return service


@pytest.fixture(scope="module")
def start(
    processes: list[subprocess.Popen[str]], tmp_path_factory: pytest.TempPathFactory
) -> Start:
    """Start backends as users do, on a free port and with a new database."""

    def start(environ: Mapping[str, str], **more: str) -> Running:
        data = str(tmp_path_factory.mktemp("backend"))
        environ = {"PORT": "0", "DATA_DIR": data, "KLING_SECRET": "s" * 16, **environ, **more}
        process = spawn(str(APP), environ=environ)
        processes.append(process)
        assert process.stdout is not None
        url = re.search(r"http://\S+", process.stdout.readline())
        assert url is not None, process.communicate()
        return Running(url[0], process, environ)

    return start
