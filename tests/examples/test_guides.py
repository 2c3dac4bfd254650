"""The guides about FastAPI, followed word by word: an empty home, and separate processes."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import define

if TYPE_CHECKING:
    from tests.examples.conftest import Service

pytestmark = pytest.mark.slow

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
FOX = {"mode": "master-text-to-video", "prompt": "a fox in fresh snow"}
SHELL = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
TOKEN = re.compile(r"~[\w-]{16,64}~[\w-]{32}")


def page(name: str) -> str:
    """Return the text of a guide."""
    return (GUIDES / name).read_text("utf-8")


@define
class Guided:
    """A backend as a guide builds it: its file, and the commands of a second shell."""

    folder: Path
    environ: Mapping[str, str]
    commands: str
    url: str
    process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Run the commands, and wait until the server answers."""
        log = (self.folder / "log").open("ab")
        with log:
            self.process = subprocess.Popen(
                ["bash", "-ec", self.commands],  # noqa: S607 - as in the guide
                cwd=self.folder,
                env=self.environ,
                stdout=log,
                stderr=log,
            )
        while self.process.poll() is None:
            try:
                self.get("/openapi.json")
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError(self.log)

    def end(self) -> None:
        """End it as a power failure would; bash has replaced itself with the server."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text("utf-8")

    def get(self, path: str, body: object = None) -> Any:  # noqa: ANN401
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data)  # noqa: S310 - our own server
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=40) as response:  # noqa: S310
            return json.load(response)


def guided(name: str, folder: Path, exports: Mapping[str, str]) -> Guided:
    """Return the backend of a page, on a free port in place of 8000."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (code,) = [block for block in PYTHON.findall(page(name)) if "FastAPI(lifespan" in block][:1]
    (folder / "backend.py").write_text(code, "utf-8")
    (folder / "home").mkdir()
    (commands,) = [block for block in SHELL.findall(page("fastapi.md")) if "export P" in block]
    commands = commands.replace(":8000", f":{port}").replace("uvicorn", "exec uvicorn")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {"PATH": path, "HOME": str(folder / "home"), "UVICORN_PORT": str(port), **exports}
    return Guided(folder, environ, commands, f"http://127.0.0.1:{port}")


def test_fastapi_guide(tmp_path: Path, service: Service) -> None:
    """The file and the commands make a video, by a callback, and no token is in the log."""
    (start,) = [block for block in SHELL.findall(page("fastapi.md")) if "emulate" in block]
    options = start.split("kling-async emulate", 1)[1].split()
    backend = guided("fastapi.md", tmp_path, service(*options))
    try:
        backend.begin()
        ref = backend.get("/videos", FOX)
        result = None
        while result is None:
            result = backend.get(f"/videos/{ref}")
        assert result["ref"] == ref
        assert result["result_urls"]
        assert "Uvicorn running" in backend.log
        assert not TOKEN.search(backend.log)
        backend.end()
        backend.commands = backend.commands.replace("--no-access-log", "")
        backend.begin()
        ref = backend.get("/videos", FOX)
        while backend.get(f"/videos/{ref}") is None:
            pass
        assert TOKEN.search(backend.log)  # what the option avoids: it was a callback
    finally:
        backend.end()


def test_database_guide(tmp_path: Path, service: Service) -> None:
    """Killed during a generation, the backend of the guide has the video after its next start."""
    # The commands make a new secret each time: a poll finds the end.
    exports = {**service("--speed", "20"), "KLING_FIRST_POLL": "1"}
    backend = guided("fastapi-with-a-database.md", tmp_path, exports)
    try:
        backend.begin()
        video_id = backend.get("/videos", FOX)
        while backend.get(f"/videos/{video_id}")["state"] != "running":
            pass
        before = backend.get(f"/videos/{video_id}")["ref"]
        backend.end()
        backend.begin()
        while (video := backend.get(f"/videos/{video_id}"))["state"] == "running":
            time.sleep(0.05)
        assert (video["state"], video["ref"]) == ("done", before), backend.log
        assert (tmp_path / "videos" / video["file"]).stat().st_size > 0
    finally:
        backend.end()
