from __future__ import annotations

import pickle

import pytest

from kling_async.errors import ConfigurationError
from kling_async.testing.scenario import (
    CALLBACKS,
    FAULTS,
    OUTCOMES,
    Occurrences,
    Scenario,
    ScenarioRule,
)


def test_on_gives_a_new_scenario() -> None:
    """A scenario is a value: adding a rule leaves the old one as it was."""
    one = Scenario()
    two = one.on("submit", 1, "reset")
    assert one.rules == ()
    assert two.rules == (ScenarioRule("submit", Occurrences(1, 1), "reset"),)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("3", [3]),
        ("2-4", [2, 3, 4]),
        ("7-", [7, 8, 9, 10]),
        ("*5", [5, 10]),
        ("*", list(range(1, 11))),
    ],
)
def test_which_as_text(text: str, numbers: list[int]) -> None:
    """Text names one, a span, all from one on, every so many, or all."""
    scenario = Scenario().on("status", text, "500")
    found = [n for n in range(1, 11) if scenario.find({"status": n}) is not None]
    assert found == numbers


def test_which_as_range() -> None:
    """A range means what it means in Python."""
    scenario = Scenario().on("status", range(2, 9, 3), "502")
    assert [n for n in range(1, 12) if scenario.find({"status": n})] == [2, 5, 8]


def test_parse_reads_what_on_builds() -> None:
    """The text face and the Python face say the same."""
    parsed = Scenario.parse(
        ["submit:1=lost-answer", " status:2-4=502 ", "task:3=fail:NSFW_DETECTED", "any:*=slow:2.5"]
    )
    built = (
        Scenario()
        .on("submit", 1, "lost-answer")
        .on("status", range(2, 5), "502")
        .on("task", 3, "fail:NSFW_DETECTED")
        .on("any", "*", "slow:2.5")
    )
    assert parsed == built


def test_first_rule_wins() -> None:
    """Where two rules fit, the one that was added first counts, whatever its kind."""
    scenario = Scenario().on("any", 4, "503").on("status", 1, "500")
    rule = scenario.find({"status": 1, "any": 4})
    assert rule is not None
    assert rule.what == "503"
    assert scenario.find({"balance": 1, "any": 9}) is None


def test_shares() -> None:
    """Two rules lose a fifth of all callbacks and double another fifth, in any hundred of them."""
    scenario = Scenario.parse(["callback:*5=lost", "callback:*4=double"])
    rules = [scenario.find({"callback": number}) for number in range(101, 201)]
    found = [rule.what for rule in rules if rule is not None]
    assert (found.count("lost"), found.count("double")) == (20, 20)


def test_detail_may_hold_colons_and_commas() -> None:
    """A Retry-After date can be written down."""
    date = "Fri, 31 Dec 1999 23:59:59 GMT"
    rule = Scenario.parse([f"status:1=429:{date}"]).rules[0]
    assert (rule.what, rule.detail) == ("429", date)


@pytest.mark.parametrize(
    "line",
    [
        "submit=500",
        "submit:1",
        "",
        "sumbit:1=500",
        "submit:0=500",
        "submit:4-2=500",
        "submit:*0=500",
        "submit:one=500",
        "submit:1=501",
        "submit:1=stuck",
        "submit:1=changed",
        "status:1=no-range",
        "balance:1=weak-etag",
        "task:1=500",
        "task:1=fail",
        "task:1=stuck:forever",
        "status:1=code",
        "status:1=code:12",
        "status:1=slow:soon",
        "status:1=late:soon",
        "status:1=page",
        "status:1=page:99",
        "status:1=late-page",
        "status:1=late-page:600",
        "status:1=redirect:304",
        "task:1=unseen:x",
        "submit:1=unseen:5",
        "task:1=late",
        "status:1=reset:now",
        "status:1=429:a\r\nb",
        "callback:1=502",
        "callback:1=stuck",
        "callback:1=delay:soon",
        "callback:1=double:twice",
        "callback:1=lost:5",
        "status:1=lost",
    ],
)
def test_wrong_rules_are_refused(line: str) -> None:
    """What cannot be carried out is a ConfigurationError when the scenario is built."""
    with pytest.raises(ConfigurationError, match="scenario"):
        Scenario.parse([line])


def test_messages_name_what_is_allowed() -> None:
    """A wrong name is answered with the right ones."""
    with pytest.raises(ConfigurationError) as caught:
        Scenario().on("file", 1, "nonsense")
    assert all(name in str(caught.value) for name in FAULTS)
    with pytest.raises(ConfigurationError) as caught:
        Scenario().on("task", 1, "nonsense")
    assert all(name in str(caught.value) for name in OUTCOMES)
    with pytest.raises(ConfigurationError) as caught:
        Scenario().on("callback", 1, "nonsense")
    assert all(name in str(caught.value) for name in CALLBACKS)


@pytest.mark.parametrize("which", [range(0), range(5, 2), range(3), range(5, 1, -1), -1])
def test_numbers_that_name_nothing(which: range | int) -> None:
    """Empty, backward and zero-based numbers are refused."""
    with pytest.raises(ConfigurationError, match=r"is empty|is not a number"):
        Scenario().on("submit", which, "500")


def test_scenarios_pickle() -> None:
    """A scenario can be handed to another process."""
    scenario = Scenario.parse(["submit:*2=hang"])
    assert pickle.loads(pickle.dumps(scenario)) == scenario  # noqa: S301


@pytest.mark.parametrize(
    "rule",
    ["submit:3=503", "status:2-4=502", "any:5-=page:403", "task:*5=fail:X", "callback:*=lost"],
)
def test_rules_as_text(rule: str) -> None:
    """A rule is written as it is read."""
    assert [str(one) for one in Scenario.parse([rule]).rules] == [rule]


def test_ranges_with_a_step_as_text() -> None:
    """A range with a step, which only a program can give, is readable."""
    assert str(Scenario().on("submit", range(1, 8, 3), "503").rules[0]) == "submit:1-7 by 3=503"
