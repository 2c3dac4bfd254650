"""What the client does, for operators: its log, and traces and metrics for OpenTelemetry.

Everything here is derived from the events of :mod:`kling_async.events`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kling_async._utils.lazy import lazy_names

if TYPE_CHECKING:
    from collections.abc import Callable

    from kling_async.telemetry.opentelemetry import OpenTelemetry

__all__ = ["OpenTelemetry"]

__getattr__: Callable[[str], object]
__dir__: Callable[[], list[str]]
__getattr__, __dir__ = lazy_names(__name__, {"opentelemetry": ("OpenTelemetry",)})
