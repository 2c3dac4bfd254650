"""What an emulator is told to do wrong, and when.

A scenario is a list of rules. Each says: the Nth thing of a kind goes wrong in this way.

Kinds of requests: ``submit``, ``status``, ``balance``, ``file`` (a result video), ``any`` (all that
arrive, but for sample pictures). What can go wrong with them stands in `FAULTS`. The kind ``task``
counts the tasks that were really started; what can become of them stands in `OUTCOMES`. Counting
starts at 1 with the emulator. Where two rules fit, the first one wins.

Which ones: ``3``, ``2-4``, ``5-`` (from the fifth on), ``*5`` (every fifth), ``*`` (all of them).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Self

from attrs import evolve, frozen

from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["FAULTS", "KINDS", "OUTCOMES", "Rule", "Scenario", "Which"]

KINDS: Final = ("submit", "status", "balance", "file", "any", "task")

FAULTS: Final[Mapping[str, str]] = {
    # Nothing is carried out; the service refuses, or a gateway in front of it answers.
    "401": "key refused",
    "402": "balance too low",
    "403": "content refused",
    "404": "not found",
    "410": "gone",
    "429": "too many requests; 429:7 adds the header Retry-After: 7",
    "500": "internal error",
    "502": "a gateway's HTML page",
    "503": "unavailable; 503:30 adds the header Retry-After: 30",
    "504": "a gateway's HTML page",
    "code": "HTTP 200 with an envelope that says otherwise: code:500",
    "reset": "the connection is reset before anything is done",
    "hang": "no answer until the client goes away",
    # The request is carried out, a task starts and is paid for, and then the answer suffers.
    "lost-answer": "carried out, then the connection drops without an answer",
    "garbage": "carried out, then 200 with something that is not JSON",
    "truncated": "carried out, then a complete answer with half of the body",
    "cut": "carried out, then the connection drops in the middle of the body",
    "slow": "carried out, but the answer comes 10 s late; slow:2.5 for another number of seconds",
    # The file is served, but otherwise than before. For the kinds file and any.
    "changed": "a file: it has other content and another ETag; file:2-=changed from the second on",
    "no-range": "a file: comes whole, though a part of it was asked for",
    "weak-etag": "a file: its ETag is a weak one, which proves no part",
}

OUTCOMES: Final[Mapping[str, str]] = {
    "fail": "fails at its end with this code: fail:NSFW_DETECTED",
    "stuck": "never ends",
    "no-urls": "succeeds with an empty list of URLs",
    "object-result": "succeeds with resultJson as an object instead of a string",
    "no-cost-time": "succeeds without costTime",
    "unknown-state": "says processing_r2 while it runs",
}

_OF_FILES: Final = frozenset({"changed", "no-range", "weak-etag"})
_NEEDS_DETAIL: Final = frozenset({"code", "fail"})
_TAKES_DETAIL: Final = _NEEDS_DETAIL | {"429", "503", "slow"}
_WHICH: Final = re.compile(r"(?P<every>\*\d*)|(?P<first>\d+)(?P<dash>-(?P<last>\d*))?", re.ASCII)


@frozen
class Which:
    """Numbers from `first` on, `step` apart, up to and with `last` (None: no end)."""

    first: int
    last: int | None
    step: int = 1

    def __contains__(self, number: int) -> bool:
        """Say whether the `number`-th is meant."""
        inside = number >= self.first and (self.last is None or number <= self.last)
        return inside and (number - self.first) % self.step == 0


@frozen
class Rule:
    """One line of a scenario: the `which` of a `kind` meet `what`, with its `detail`, if any."""

    kind: str
    which: Which
    what: str
    detail: str = ""


@frozen
class Scenario:
    """Rules about what goes wrong. Immutable: `on` gives a new scenario with one rule more."""

    rules: tuple[Rule, ...] = ()

    def on(self, kind: str, which: int | range | str, what: str) -> Scenario:
        """Add a rule: `on("status", range(2, 5), "502")`, `on("task", 3, "fail:NSFW_DETECTED")`.

        Raises ConfigurationError for a kind, number or fault that does not exist; the message
        says which ones do.
        """
        if kind not in KINDS:
            message = f"scenario: unknown kind {kind!r}; allowed: {', '.join(KINDS)}"
            raise ConfigurationError(message)
        name, _, detail = what.partition(":")
        _check(kind, name, detail)
        return evolve(self, rules=(*self.rules, Rule(kind, _which(which), name, detail)))

    @classmethod
    def parse(cls, lines: Iterable[str]) -> Self:
        """Read rules as text: ``submit:1=lost-answer``, ``status:2-4=502``, ``task:*5=stuck``.

        Raises ConfigurationError as `on` does.
        """
        scenario = cls()
        for line in lines:
            head, equals, what = line.strip().partition("=")
            kind, colon, which = head.partition(":")
            if not (equals and colon):
                message = (
                    f"scenario: {line!r} is not a rule; write KIND:WHICH=WHAT, "
                    "for example status:2-4=502"
                )
                raise ConfigurationError(message)
            scenario = evolve(scenario, rules=scenario.on(kind, which, what).rules)
        return scenario

    def find(self, numbers: Mapping[str, int]) -> Rule | None:
        """Give the first rule that fits, or None: `find({"status": 3, "any": 17})`."""
        for rule in self.rules:
            number = numbers.get(rule.kind)
            if number is not None and number in rule.which:
                return rule
        return None


def _check(kind: str, name: str, detail: str) -> None:
    allowed = OUTCOMES if kind == "task" else FAULTS
    if kind not in {"file", "any"}:
        allowed = {fault: text for fault, text in allowed.items() if fault not in _OF_FILES}
    if name not in allowed:
        message = f"scenario: {kind} knows no {name!r}; allowed: {', '.join(allowed)}"
        raise ConfigurationError(message)
    if name in _NEEDS_DETAIL and not detail:
        message = f"scenario: {name!r} needs a value: {allowed[name]}"
        raise ConfigurationError(message)
    if detail and name not in _TAKES_DETAIL:
        message = f"scenario: {name!r} takes no value, got {detail!r}"
        raise ConfigurationError(message)
    if name == "code" and not re.fullmatch(r"[1-9]\d{2}", detail, re.ASCII):
        message = f"scenario: code takes a number of three digits, got {detail!r}"
        raise ConfigurationError(message)
    if name == "slow" and detail and not re.fullmatch(r"\d+(\.\d+)?", detail, re.ASCII):
        message = f"scenario: slow takes a number of seconds, got {detail!r}"
        raise ConfigurationError(message)
    if not detail.isprintable():
        message = f"scenario: {detail!r} holds characters that cannot be sent"
        raise ConfigurationError(message)


def _which(which: int | range | str) -> Which:
    if isinstance(which, range):
        found = Which(which.start, which[-1] if which else 0, which.step)
    elif isinstance(which, int):
        found = Which(which, which)
    else:
        found = _read_which(which)
    backwards = found.last is not None and found.last < found.first
    if found.first < 1 or found.step < 1 or backwards:
        message = f"scenario: {which!r} names nothing; numbers start at 1 and go up"
        raise ConfigurationError(message)
    return found


def _read_which(text: str) -> Which:
    match = _WHICH.fullmatch(text)
    if match is None:
        message = f"scenario: {text!r} says not which: 3, 2-4, 5-, *5 (every fifth) or * (all)"
        raise ConfigurationError(message)
    if match["every"]:
        step = int(match["every"][1:] or 1)
        return Which(step, None, step)
    first = int(match["first"])
    if match["dash"]:
        return Which(first, int(match["last"]) if match["last"] else None)
    return Which(first, first)
