"""The faults that are switched on, and the numbers by which they choose what goes wrong."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

from attrs import define, field

from kling_async.testing.scenario import Scenario

if TYPE_CHECKING:
    from kling_async.testing.scenario import ScenarioRule


@define
class _CountedScenario:
    """A scenario, and how many of each kind there have been since it was added."""

    scenario: Scenario
    counts: Counter[str] = field(factory=Counter, init=False)

    def count(self, kinds: tuple[str, ...]) -> ScenarioRule | None:
        """Count one of these kinds; return the rule that applies to it, if there is one."""
        for kind in kinds:
            self.counts[kind] += 1
        return self.scenario.find({kind: self.counts[kind] for kind in kinds})

    def pending(self) -> list[ScenarioRule]:
        """Return the rules that may still apply."""
        return [
            rule
            for rule in self.scenario.rules
            if rule.which.last is None or rule.which.last > self.counts[rule.kind]
        ]


class ActiveFaults:
    """Scenarios in effect; of several rules that apply, one of the latest scenario does.

    Each scenario counts from the moment when it was added. May be used from several threads.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._lock = threading.Lock()
        self._scenarios: list[_CountedScenario] = []
        self.add(scenario)

    def add(self, scenario: Scenario) -> None:
        """Add a scenario; drop those whose rules cannot apply any more."""
        with self._lock:
            scenarios = [_CountedScenario(scenario), *self._scenarios]
            self._scenarios = [one for one in scenarios if one.pending()]

    def clear(self) -> None:
        """End all of them."""
        with self._lock:
            self._scenarios = []

    def count(self, *kinds: str) -> ScenarioRule | None:
        """Count one thing, which is of these kinds; return the rule that applies to it."""
        with self._lock:
            found = [scenario.count(kinds) for scenario in self._scenarios]
        return next((rule for rule in found if rule is not None), None)

    def pending(self) -> list[ScenarioRule]:
        """Return the rules that may still apply, in the order in which they take precedence."""
        with self._lock:
            return [rule for scenario in self._scenarios for rule in scenario.pending()]
