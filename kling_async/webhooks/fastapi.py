"""The inbox in a FastAPI application.

::

    kling = KlingClient(inbox=inbox)
    app = FastAPI(lifespan=fastapi.lifespan(kling))
    app.include_router(fastapi.router(inbox), prefix="/kling")
    fastapi.answer_errors(app)

    Kling = Annotated[KlingClient, Depends(fastapi.client)]

Needs the extra ``fastapi``: ``pip install "kling-async[fastapi]"``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, cast

from kling_async._utils.extras import missing_extra
from kling_async.client import KlingClient  # noqa: TC001 - FastAPI reads annotations
from kling_async.errors import KlingError
from kling_async.webhooks import _adapter as _edge
from kling_async.webhooks import asgi

try:
    from fastapi import APIRouter, FastAPI
    from fastapi.requests import HTTPConnection, Request  # noqa: TC002 - the same
    from fastapi.responses import Response
except ModuleNotFoundError:
    raise missing_extra("fastapi", "this edge needs FastAPI") from None

if TYPE_CHECKING:
    from kling_async.webhooks.inbox import Inbox
    from kling_async.webhooks.relay.relay import Relay


def router(inbox: Inbox) -> APIRouter:
    """Return the router that takes callbacks; give ``include_router`` a prefix of its own.

    It answers every method, does not show in the OpenAPI schema, and dependencies of the
    application do not apply to it: the service cannot log in.
    """
    callbacks = APIRouter()
    endpoint = cast("Callable[[Request], Response]", asgi.app(inbox))  # ASGI is understood, too
    callbacks.add_route("/{token}", endpoint, name="kling_callbacks")
    return callbacks


def lifespan(
    client: _edge.Client, *, relay: Relay | None = None
) -> Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, object]]]:
    """Return a lifespan for ``FastAPI(lifespan=…)`` that opens and closes the client.

    In a lifespan of your own, enter it and yield what it gives::

        async with fastapi.lifespan(kling)(app) as state:
            yield {**state, "mine": ...}

    Args:
        client: A client, or a function that makes one, to be called when the server starts.
        relay: What shares the inbox's callbacks with other processes meanwhile.
    """

    @asynccontextmanager
    async def live(app: FastAPI) -> AsyncIterator[Mapping[str, object]]:
        del app  # the client is in the state of each request: mounted applications find it there
        async with _edge.opened(client, relay) as kling:
            yield {asgi.STATE: kling}

    return live


async def client(connection: HTTPConnection) -> KlingClient:
    """Give the client that :func:`lifespan` has opened: ``Depends(client)``.

    Raises:
        ConfigurationError: There is none.
    """
    state = connection.scope.get("state", {})
    if (kling := state.get(asgi.STATE)) is None:
        raise _edge.missing("use FastAPI(lifespan=fastapi.lifespan(kling)), or yield its state")
    return cast("KlingClient", kling)


def answer_errors(app: FastAPI) -> None:
    """Let errors of this package become answers, as ``webhooks.errors`` says."""
    app.add_exception_handler(KlingError, _answer)


async def _answer(request: Request, error: Exception) -> Response:
    del request
    answer = _edge.answered(cast("KlingError", error))
    return Response(answer.body, answer.status, dict(answer.headers))
