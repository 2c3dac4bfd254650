"""Tools for tests: an emulator of the service, its scenarios, virtual time.

The names are loaded when they are first used, so that importing this package stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kling_async._utils.lazy import lazy_names

if TYPE_CHECKING:
    from collections.abc import Callable

    from kling_async.testing.clock import VirtualLoop
    from kling_async.testing.emulator.emulator import Emulator
    from kling_async.testing.emulator.records import Arrival, Delivery, Submission
    from kling_async.testing.scenario import Scenario
    from kling_async.testing.transport import ScriptedTransport

__all__ = [
    "Arrival",
    "Delivery",
    "Emulator",
    "Scenario",
    "ScriptedTransport",
    "Submission",
    "VirtualLoop",
]

__getattr__: Callable[[str], object]
__dir__: Callable[[], list[str]]
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "clock": ("VirtualLoop",),
        "emulator": ("Arrival", "Delivery", "Emulator", "Submission"),
        "scenario": ("Scenario",),
        "transport": ("ScriptedTransport",),
    },
)
