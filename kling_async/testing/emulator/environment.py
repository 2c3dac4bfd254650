"""The environment variables with which a client uses an emulator."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from kling_async._utils.urls import is_unencrypted

if TYPE_CHECKING:
    from collections.abc import Mapping

USUAL_FIRST_POLL: Final = 60.0
"""Seconds. A client polls then without a setting, since the quickest tasks take as long."""


def client_environment(
    origin: str, key: str, first_poll: float, *, image_store: str | None = None
) -> dict[str, str]:
    """Return the variables, by name.

    Args:
        origin: The emulator's address.
        key: A valid key.
        first_poll: Seconds that the quickest tasks take.
        image_store: The path of its image store, if it has one.
    """
    variables = {"APIXO_BASE_URL": origin, "APIXO_API_KEY": key}
    if is_unencrypted(origin):
        variables["APIXO_ALLOW_HTTP"] = "1"
    if image_store is not None:
        variables["KLING_IMAGE_STORE"] = f"{origin}{image_store}"
    if first_poll != USUAL_FIRST_POLL:
        variables["KLING_FIRST_POLL"] = f"{first_poll:g}"
    return variables


def format_exports(variables: Mapping[str, str]) -> str:
    """Return shell commands that set environment variables, a line each."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())
