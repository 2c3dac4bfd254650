"""What people see of running tasks and of their videos."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kling_async._utils.lazy import lazy_names

if TYPE_CHECKING:
    from collections.abc import Callable

    from kling_async.progress.contact_sheet import ContactSheet
    from kling_async.progress.hook import Progress

__all__ = ["ContactSheet", "Progress"]

__getattr__: Callable[[str], object]
__dir__: Callable[[], list[str]]
__getattr__, __dir__ = lazy_names(
    __name__, {"contact_sheet": ("ContactSheet",), "hook": ("Progress",)}
)
