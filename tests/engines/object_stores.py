"""Object stores as real servers: moto's for S3, an emulator of Google's, and Azurite for Azure.

Each is a URL for ``KLING_IMAGE_STORE``; the credentials are in the environment. Tests are skipped
where a server is not installed.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.parse import unquote

import pytest
from aiohttp import web

from tests.patience import HANGS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ACCOUNT = "devstoreaccount1"
# Azurite's own key, which is in its documentation.
AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
KINDS = ("s3", "gs", "az")


def send(method: str, url: str, headers: dict[str, str] | None = None) -> int:
    """Send a request; return the status."""
    request = urllib.request.Request(url, method=method, headers=headers or {})  # noqa: S310 - ours
    try:
        with urllib.request.urlopen(request, timeout=HANGS) as response:  # noqa: S310 - ours
            return int(response.status)
    except HTTPError as error:
        error.close()
        return error.code


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Start moto's server with a bucket; the value is its endpoint."""
    pytest.importorskip("moto.server")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://127.0.0.1:{port}"
    assert host
    send("PUT", f"{endpoint}/bucket")
    yield endpoint
    server.stop()


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[str]:
    """Start the emulator of Google Cloud Storage, behind a server that adds what it lacks."""
    pytest.importorskip("gcp_storage_emulator")
    from gcp_storage_emulator.server import create_server

    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket")
    server.start()
    port = server._api._httpd.server_address[1]  # noqa: SLF001 - no public name
    with google_front(f"http://127.0.0.1:{port}") as endpoint:
        yield endpoint
    server.stop()


@contextmanager
def google_front(inner: str) -> Iterator[str]:  # noqa: C901 - a class with its methods
    """Serve the emulator with ETags, types, HEAD, and the precondition that creates only."""
    lock = threading.Lock()
    types: dict[str, str] = {}

    class Front(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.forward("GET", None)

        do_HEAD = do_GET  # noqa: N815 - the name that is called

        def do_PUT(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:  # the emulator does not know this precondition
                create = self.headers.get("x-goog-if-generation-match") == "0"
                if create and send("GET", f"{inner}{self.path}") == 200:
                    self.answer(412, b"")
                else:
                    types[unquote(self.path)] = self.headers["Content-Type"]
                    self.forward("PUT", content)

        def do_DELETE(self) -> None:
            _, bucket, name = self.path.split("/", 2)  # it deletes at its JSON interface only
            self.path = f"/storage/v1/b/{bucket}/o/{name}"
            self.forward("DELETE", None)

        def forward(self, method: str, content: bytes | None) -> None:
            headers = {"Content-Type": self.headers.get("Content-Type", "text/plain")}
            url = f"{inner}{self.path.partition('?')[0]}"
            request = urllib.request.Request(url, content, headers, method=method)  # noqa: S310
            try:
                with urllib.request.urlopen(request, timeout=HANGS) as response:  # noqa: S310
                    self.answer(*self.in_range(response.status, response.read()))
            except HTTPError as error:
                self.answer(error.code, error.read())

        def in_range(self, status: int, content: bytes) -> tuple[int, bytes]:
            self.total = len(content)
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            return (206, content[int(found[1]) : int(found[2]) + 1]) if found else (status, content)

        def answer(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("ETag", '"etag"')
            self.send_header("Last-Modified", formatdate(usegmt=True))
            kind = types.get(unquote(self.path.partition("?")[0]), "text/plain")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            if status == 206:
                place = self.headers["Range"].replace("=", " ")
                self.send_header("Content-Range", f"{place}/{self.total}")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Front)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def azure_server() -> Iterator[str]:
    """Start Azurite with a container; the value is its endpoint."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite is not installed: npm install -g azurite")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "--blobPort", str(port), "--inMemoryPersistence", "--disableTelemetry"]
    command += ["--skipApiVersionCheck", "--silent"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
        for _ in range(300):
            with suppress(URLError, ConnectionError):
                if send("GET", endpoint):
                    break
            time.sleep(0.1)
        date = formatdate(usegmt=True)
        text = f"PUT{chr(10) * 12}x-ms-date:{date}\nx-ms-version:2021-08-06\n"
        text += f"/{ACCOUNT}/{ACCOUNT}/bucket\nrestype:container"
        digest = hmac.digest(base64.b64decode(AZURE_KEY), text.encode(), "sha256")
        signature = base64.b64encode(digest).decode()
        headers = {"x-ms-date": date, "x-ms-version": "2021-08-06"}
        headers["Authorization"] = f"SharedKey {ACCOUNT}:{signature}"
        assert send("PUT", f"{endpoint}/bucket?restype=container", headers) == 201
        yield endpoint
        process.terminate()


@pytest.fixture
def s3_url(s3_server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Return the URL of a folder in S3, for this test alone."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "no secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return f"s3://bucket/{id(request)}?endpoint={s3_server}"


@pytest.fixture
def gs_url(
    gcs_server: str,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> str:
    """Return the URL of a folder in Google Cloud Storage, for this test alone."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    account = {
        "type": "service_account",
        "client_email": "tester@example.com",
        "private_key": key.decode(),
        "private_key_id": "1",
        "gcs_base_url": gcs_server,
    }
    path = tmp_path / "account.json"
    path.write_text(json.dumps(account), encoding="utf-8")
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(path))
    return f"gs://bucket/{id(request)}?endpoint={gcs_server}"


@pytest.fixture
def az_url(
    azure_server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:
    """Return the URL of a folder in Azure, for this test alone."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", AZURE_KEY)
    return f"az://bucket/{id(request)}?account={ACCOUNT}&endpoint={azure_server}"


@pytest.fixture(params=KINDS)
def store_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of a folder in each kind of store."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


async def forward(request: web.Request, endpoint: str) -> web.StreamResponse:
    """Send a request on to a store; return its answer."""
    names = ("ETag", "Last-Modified", "Content-Length", "Content-Type", "Content-Range")
    content = await request.content.read()
    sent = urllib.request.Request(  # noqa: S310 - ours
        f"{endpoint}{request.raw_path}",
        content or None,
        dict(request.headers),
        method=request.method,
    )

    def send_on() -> web.Response:
        try:
            answer = urllib.request.urlopen(sent, timeout=HANGS)  # noqa: S310 - ours
        except HTTPError as error:
            answer = error
        with answer:
            kept = {name: answer.headers[name] for name in names if name in answer.headers}
            return web.Response(status=answer.status, body=answer.read(), headers=kept)

    return await asyncio.to_thread(send_on)


async def fetch(url: str) -> tuple[int, str, bytes]:
    """Fetch a URL as the service would; return the status, the type and the content."""

    def get() -> tuple[int, str, bytes]:
        try:
            with urllib.request.urlopen(url, timeout=HANGS) as response:  # noqa: S310 - of a store
                return response.status, response.headers["Content-Type"], response.read()
        except HTTPError as error:
            with error:
                return error.code, "", b""

    return await asyncio.to_thread(get)
