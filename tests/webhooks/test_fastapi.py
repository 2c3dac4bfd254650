from __future__ import annotations

import logging
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response

from kling_async import KlingClient
from kling_async._utils.extras import install_command
from kling_async.errors import ConfigurationError
from kling_async.webhooks import fastapi
from tests.patience import HANGS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from tests.webhooks.conftest import Connect, Run, Site

pytestmark = pytest.mark.virtual_time

Kling = Annotated[KlingClient, Depends(fastapi.client)]


def idle() -> KlingClient:
    """Return a client that sends nothing."""
    return KlingClient("key", base_url="http://127.0.0.1:9")


def test_callbacks_do_not_show_in_the_schema(site: Site) -> None:
    """Readers of the OpenAPI schema see nothing of the callback route."""
    app = FastAPI()
    app.include_router(fastapi.router(site.inbox()), prefix="/kling")
    assert app.openapi()["paths"] == {}


async def test_callbacks_need_no_login(site: Site, run: Run, connect: Connect) -> None:
    """Dependencies that lock the application do not lock the service out."""

    def locked() -> None:
        raise HTTPException(401)

    app = FastAPI(dependencies=[Depends(locked)])
    app.include_router(fastapi.router(site.inbox()), prefix="/kling")
    await run(app)
    peer = await connect()
    await peer.post(site.path, b"no JSON")
    assert (await peer.answer()).status == 400


async def test_routers_within_routers(site: Site, run: Run, connect: Connect) -> None:
    """The router may be included in another one; prefixes add up."""
    outer = APIRouter()
    outer.include_router(fastapi.router(site.inbox()), prefix="/kling")
    app = FastAPI()
    app.include_router(outer, prefix="/hooks")
    await run(app)
    peer = await connect()
    await peer.post(f"/hooks{site.path}", b"no JSON")
    assert (await peer.answer()).status == 400


async def test_a_lifespan_of_ones_own(site: Site, run: Run, connect: Connect) -> None:
    """The lifespan may be entered in another one; mounted applications have the client, too."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, object]]:
        async with fastapi.lifespan(idle())(app) as state:
            yield {**state, "mine": "mine"}

    inner, app = FastAPI(), FastAPI(lifespan=lifespan)

    @inner.get("/who")
    async def who(kling: Kling, request: Request) -> str:
        return f"{type(kling).__name__} {request.state.mine}"

    app.mount("/inner", inner)
    await run(app)
    assert (await (await connect()).get("/inner/who")).body == b'"KlingClient mine"'


def who_app(**options: Any) -> FastAPI:  # noqa: ANN401 - of FastAPI
    """Return an application that answers who its client is, and errors as problems."""
    app = FastAPI(**options)
    fastapi.answer_errors(app)

    @app.get("/who")
    async def who(kling: Kling) -> str:
        return repr(kling)

    return app


async def test_no_client(
    site: Site, run: Run, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the lifespan, the error says what to do."""
    await run(who_app())
    assert (await (await connect()).get("/who")).status == 500
    assert "use FastAPI(lifespan=fastapi.lifespan(kling))" in caplog.text
    assert "not uvicorn --lifespan off" in caplog.text


async def test_server_without_lifespan_is_named(
    site: Site, run: Run, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """With uvicorn's lifespan off, the error names that."""
    await run(who_app(lifespan=fastapi.lifespan(idle())), lifespan="off")
    assert (await (await connect()).get("/who")).status == 500
    assert "not uvicorn --lifespan off" in caplog.text


async def test_lifespan_of_a_mounted_application_is_named(
    site: Site, run: Run, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """Where only a mounted application has the lifespan, the error says that it never runs."""
    app = FastAPI()
    app.mount("/inner", who_app(lifespan=fastapi.lifespan(idle())))
    await run(app)
    assert (await (await connect()).get("/inner/who")).status == 500
    assert "this application is mounted" in caplog.text


@pytest.mark.filterwarnings("ignore:Using `httpx`")  # newer versions want another package
def test_testclient_without_with_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """A TestClient outside a `with` statement is named; inside one, the client is open."""
    from fastapi.testclient import TestClient

    tester = TestClient(who_app(lifespan=fastapi.lifespan(idle())))
    assert tester.get("/who").status_code == 500
    assert "only in a `with` statement" in caplog.text
    assert "--lifespan" not in caplog.text
    with tester:
        assert tester.get("/who").status_code == 200


async def test_httpx_without_lifespan_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """The transport of httpx runs no lifespan, and the error names it."""
    import httpx

    transport = httpx.ASGITransport(who_app(lifespan=fastapi.lifespan(idle())))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as tester:
        assert (await tester.get("/who")).status_code == 500
    assert "httpx.ASGITransport" in caplog.text


async def test_a_client_that_cannot_be_made() -> None:
    """The application does not start without the client."""

    def make() -> KlingClient:
        raise ConfigurationError("there is no key")

    app = FastAPI(lifespan=fastapi.lifespan(make))
    with pytest.raises(ConfigurationError):
        async with app.router.lifespan_context(app):
            pass


async def test_middleware_meets_clients_that_go(
    site: Site, run: Run, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """A middleware that waits for an answer has one, though the client has gone."""
    caplog.set_level(logging.WARNING)
    app = FastAPI()
    app.include_router(fastapi.router(site.inbox()), prefix="/kling")
    seen = []

    @app.middleware("http")
    async def watch(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        response = await call_next(request)
        seen.append(response.status_code)
        return response

    await run(app)
    peer = await connect()
    await peer.post(site.path, b"{", length=10)
    await peer.leave()
    assert seen == [400]
    assert not caplog.records


def test_without_fastapi() -> None:
    """Where FastAPI is not installed, the error says how to install it."""
    script = """
import sys
sys.modules["fastapi"] = None
from kling_async import MissingExtraError
try:
    import kling_async.webhooks.fastapi
except MissingExtraError as error:
    print(error)
import kling_async.webhooks.aiohttp, kling_async.webhooks.asgi
assert "pydantic" not in sys.modules
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=HANGS
    )
    assert ran.stdout == f"this adapter needs FastAPI: {install_command('fastapi')}\n"
