from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web

from kling_async._network.environment_proxy import through_environment_proxy

if TYPE_CHECKING:
    import pytest

    from tests.conftest import ServeApp


async def test_requests_use_the_proxy_of_the_environment(
    serve_app: ServeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request for another machine is sent to the proxy; one for this machine is not."""
    seen = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(str(request.url))
        return web.Response()

    origin = await serve_app(handler)
    monkeypatch.setenv("HTTP_PROXY", origin)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with aiohttp.ClientSession(middlewares=(through_environment_proxy,)) as session:
        for url in ("http://kling.invalid/a", f"{origin}/b"):
            async with session.get(url) as response:
                assert response.status == 200
    assert [url.rpartition("/")[2] for url in seen] == ["a", "b"]
