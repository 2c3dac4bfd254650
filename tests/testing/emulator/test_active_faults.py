from __future__ import annotations

from kling_async.testing import Scenario
from kling_async.testing.emulator.active_faults import ActiveFaults


def submits(faults: ActiveFaults, number: int) -> list[str | None]:
    """Count submits; return what goes wrong with each."""
    rules = [faults.count("submit", "any") for _ in range(number)]
    return [None if rule is None else rule.what for rule in rules]


def test_each_scenario_counts_from_its_addition() -> None:
    """Numbers count from the moment when a scenario was added; the latest takes precedence."""
    faults = ActiveFaults(Scenario.parse(["submit:1=500", "any:4=503"]))
    assert submits(faults, 2) == ["500", None]
    faults.add(Scenario.parse(["submit:1-2=429"]))
    assert submits(faults, 4) == ["429", "429", None, None]


def test_what_is_over_is_dropped() -> None:
    """Rules that can apply no more are not listed, and kept no longer than to the next addition."""
    faults = ActiveFaults(Scenario.parse(["submit:1=500", "status:*=502"]))
    assert [rule.what for rule in faults.pending()] == ["500", "502"]
    submits(faults, 1)
    faults.add(Scenario.parse(["task:2=stuck"]))
    assert [rule.what for rule in faults.pending()] == ["stuck", "502"]


def test_switched_off() -> None:
    """After the end of all faults nothing goes wrong."""
    faults = ActiveFaults(Scenario.parse(["submit:*=500"]))
    assert submits(faults, 1) == ["500"]
    faults.clear()
    assert faults.pending() == []
    assert submits(faults, 1) == [None]
