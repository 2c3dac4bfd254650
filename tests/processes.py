"""The environment of processes that tests start."""

from __future__ import annotations

import os


def unmeasured() -> dict[str, str]:
    """Return the environment without coverage, for processes that run what others cover.

    Measured, they take about twice the time; those that are killed would save nothing.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
