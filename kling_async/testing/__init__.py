"""What our tests need, and yours may need too: an emulator, its scenarios, virtual time.

The names are loaded when they are first used, so that importing this package stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
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

_HOMES: Final = {
    "Arrival": "emulator",
    "Delivery": "emulator",
    "Emulator": "emulator",
    "Scenario": "scenario",
    "ScriptedTransport": "transport",
    "Submission": "emulator",
    "VirtualLoop": "clock",
}


def __getattr__(name: str) -> object:
    """Load a public name from its module."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
