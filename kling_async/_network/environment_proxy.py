"""The proxy of the environment, for sessions that are used for a few requests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kling_async._network.proxies import Proxies, route

if TYPE_CHECKING:
    import aiohttp


async def through_environment_proxy(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Send a request through the proxy that the environment names for it: a middleware."""
    proxy = await asyncio.to_thread(Proxies().find, request.url)
    return await route(proxy)(request, handler)
