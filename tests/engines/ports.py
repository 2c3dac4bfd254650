"""Ports that no other test gets, while a server starts or where none may be.

A port that was free a moment ago may be another test's when a slow server opens it, and then a
client that connects reaches the wrong server. A held port stays bound.
"""

from __future__ import annotations

import socket
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["held"]


@contextmanager
def held() -> Iterator[int]:
    """Hold a port of this machine: only a server that knows its number may listen there."""
    with socket.socket() as holder:
        # With it Linux lets one socket listen where others are only bound, if they all have it, as
        # every server that is started here. Elsewhere the port is let go.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        if sys.platform != "linux":
            holder.close()
        yield port
