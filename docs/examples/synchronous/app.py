"""A synchronous web application (plain WSGI, as Flask and Django are) that makes videos."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from kling_async import KlingError, MasterTextToVideo
from kling_async.blocking import KlingClient

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

kling = KlingClient()  # one for all threads; its own thread starts with the first call


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer ``POST /?prompt=...`` with a reference, and ``GET /?ref=...`` with the result."""
    query = {key: values[0] for key, values in parse_qs(environ["QUERY_STRING"]).items()}
    try:
        if environ["REQUEST_METHOD"] == "POST":
            task = kling.submit(MasterTextToVideo(query["prompt"]))
            status, answer = "202 Accepted", {"ref": str(task.ref)}
        else:
            snapshot = kling.status(query["ref"])
            status, answer = "200 OK", snapshot.to_dict()
    except KlingError as error:
        status, answer = "502 Bad Gateway", {"detail": type(error).__name__}
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
