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
from kling_async.webhooks import _adapter, asgi

try:
    from fastapi import APIRouter, FastAPI
    from fastapi.requests import HTTPConnection, Request  # noqa: TC002 - the same
    from fastapi.responses import Response
except ModuleNotFoundError:
    raise missing_extra("fastapi", "this adapter needs FastAPI") from None

if TYPE_CHECKING:
    from kling_async.webhooks.inbox import Inbox
    from kling_async.webhooks.relay.relay import Relay


def router(inbox: Inbox) -> APIRouter:
    """Return the router that receives callbacks, for ``include_router`` with its own prefix.

    It accepts every method and is not part of the OpenAPI schema. Dependencies of the application
    do not apply to it, since the service cannot log in.
    """
    callbacks = APIRouter()
    endpoint = cast("Callable[[Request], Response]", asgi.app(inbox))  # or an ASGI application
    callbacks.add_route("/{token}", endpoint, name="kling_callbacks")
    return callbacks


def lifespan(
    client: _adapter.Client, *, relay: Relay | None = None
) -> Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, object]]]:
    """Return a lifespan for ``FastAPI(lifespan=…)`` that opens and closes the client.

    In a lifespan of your own, enter it and yield its state::

        async with fastapi.lifespan(kling)(app) as state:
            yield {**state, "mine": ...}

    ``client`` may be a function that creates one, called when the server starts. A ``relay`` is
    open as long as the client is.
    """

    @asynccontextmanager
    async def client_context(app: FastAPI) -> AsyncIterator[Mapping[str, object]]:
        del app  # mounted applications, too, find the client in the state of a request
        async with _adapter.open_client(client, relay) as kling:
            yield {asgi.STATE: kling}

    return client_context


async def client(connection: HTTPConnection) -> KlingClient:
    """Return the client that :func:`lifespan` has opened, else raise `ConfigurationError`.

    Use it as a dependency: ``Depends(client)``.
    """
    remedy = "use FastAPI(lifespan=fastapi.lifespan(kling)), or yield its state"
    return asgi.find_client(connection.scope, remedy)


def answer_errors(app: FastAPI) -> None:
    """Respond to errors as ``webhooks.problem_details`` defines."""
    app.add_exception_handler(KlingError, _respond_to_error)


async def _respond_to_error(request: Request, error: Exception) -> Response:
    del request
    response = _adapter.error_response(cast("KlingError", error))
    return Response(response.body, response.status, dict(response.headers))
