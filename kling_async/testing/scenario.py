"""The faults that an emulator simulates, and when.

A scenario is a list of rules. Each says: the Nth thing of a kind goes wrong in this way.

Kinds of requests: ``submit``, ``status``, ``balance``, ``file`` (a result video), ``any`` (all
requests but those for sample pictures). `FAULTS` lists what can go wrong with them. The kind
``task`` counts the tasks that have been started; `OUTCOMES` lists how they can end. The kind
``callback`` counts the tasks that have a callback URL, in the order of their submits; `CALLBACKS`
lists what can happen to their callbacks. Counting starts at 1 with the emulator. If two rules
match, the first one applies.

Which ones: ``3``, ``2-4``, ``5-`` (from the fifth on), ``*5`` (every fifth), ``*`` (all of them).
So ``callback:*5=lost`` and then ``callback:*4=double`` lose 20 % of all callbacks and double 20 %.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Self

from attrs import evolve, frozen

from kling_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

REQUESTS: Final = ("submit", "status", "balance", "file", "any")
KINDS: Final = (*REQUESTS, "task", "callback")

FAULTS: Final[Mapping[str, str]] = {
    # Nothing is carried out; the service refuses, or a gateway in front of it answers.
    "401": "key refused",
    "402": "balance too low",
    "403": "content refused",
    "404": "not found",
    "405": "method not allowed",
    "408": "request timeout",
    "409": "conflict",
    "410": "gone",
    "413": "payload too large",
    "422": "unprocessable",
    "423": "locked",
    "425": "too early",
    "429": "too many requests; 429:7 adds the header Retry-After: 7",
    "499": "client closed request",
    "500": "internal error",
    "502": "a gateway's HTML page",
    "503": "unavailable; 503:30 adds the header Retry-After: 30",
    "504": "a gateway's HTML page",
    "page": "an HTML page with this status, as of a gateway or a firewall: page:403, page:200",
    "redirect": "a redirect (302) to a page for logging in; redirect:307 for another status",
    "code": "HTTP 200 with an envelope that says otherwise: code:500",
    "reset": "the connection is reset before anything is done",
    "hang": "no answer until the client goes away",
    # The request is carried out, but later than it came.
    "late": "counted and carried out 10 s after it came; late:2.5 for another number of seconds",
    # The request is carried out, a task starts and is paid for, then the answer is lost or damaged.
    "lost-answer": "carried out, then the connection drops without an answer",
    "garbage": "carried out, then 200 with something that is not JSON",
    "truncated": "carried out, then a complete answer with half of the body",
    "cut": "carried out, then the connection drops in the middle of the body",
    "late-page": "carried out, then an HTML page with this status in place of the answer: "
    "late-page:503",
    "slow": "carried out, but the answer comes 10 s late; slow:2.5 for another number of seconds",
    # The file is served differently. For the kinds file and any.
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
    "unseen": "status answers 404 for its first 5 s; unseen:20 for another number of seconds",
    "urls-late": "says success, and 2 s later where its result is; urls-late:5 for another number",
    "file-late": "its file answers 404 for 3 s after its end; file-late:10 for another number",
}

CALLBACKS: Final[Mapping[str, str]] = {
    # When it comes, and how often. Seconds pass at the emulator's speed.
    "lost": "never sent, not even again",
    "double": "sent twice at one time; double:5 the second time 5 s later",
    "delay": "sent 20 s late; delay:5 for another number of seconds",
    "overtaken": "sent after the next one that falls due, or 60 s late if none does",
    "early": "the task ends at once, and its callback is sent before the submit is answered",
    # What it says, each time that it is sent.
    "garbage": "something that is not JSON",
    "truncated": "half of the body, which looks complete",
    "wrong-task": "names a task that does not exist",
    "unfinished": "says processing, though the task has ended",
    "object-result": "has resultJson as an object instead of a string",
}

# The possible faults depend on a rule's kind; the kinds that are not here are requests.
_TABLES: Final = {"task": OUTCOMES, "callback": CALLBACKS}
_OF_FILES: Final = frozenset({"changed", "no-range", "weak-etag"})
_SECONDS: Final = ("late", "slow", "delay", "double", "unseen", "urls-late", "file-late")
# What a value must be, in words and as a pattern.
_STATUS: Final = ("an HTTP status from 200 to 599", r"[2-5]\d{2}")
_VALUES: Final[Mapping[str, tuple[str, str]]] = {
    "code": ("a number of three digits", r"[1-9]\d{2}"),
    "page": _STATUS,
    "late-page": _STATUS,
    "redirect": ("301, 302, 303, 307 or 308", r"30[12378]"),
    "fail": ("printable text", r".*"),
    "429": ("printable text", r".*"),
    "503": ("printable text", r".*"),
    **dict.fromkeys(_SECONDS, ("a number of seconds", r"\d+(\.\d+)?")),
}
_NEEDS_VALUE: Final = frozenset({"code", "fail", "page", "late-page"})
_OCCURRENCES: Final = re.compile(
    r"\*(?P<step>\d*)|(?P<first>\d+)(?P<dash>-(?P<last>\d*))?", re.ASCII
)


@frozen
class Occurrences:
    """Numbers from `first` on, `step` apart, up to and with `last` (None: no end)."""

    first: int
    last: int | None
    step: int = 1

    def __contains__(self, number: int) -> bool:
        """Whether the number is one of these."""
        inside = number >= self.first and (self.last is None or number <= self.last)
        return inside and (number - self.first) % self.step == 0

    def __str__(self) -> str:
        if self.last is not None:
            step = "" if self.step == 1 else f" by {self.step}"
            return f"{self.first}{'' if self.last == self.first else f'-{self.last}'}{step}"
        if self.first == self.step:
            return "*" if self.step == 1 else f"*{self.step}"
        return f"{self.first}-"


@frozen
class ScenarioRule:
    """One rule: `what`, with its value `detail`, happens to those of a `kind` in `which`."""

    kind: str
    which: Occurrences
    what: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.which}={self.what}{self.detail and f':{self.detail}'}"


@frozen
class Scenario:
    """Rules about what goes wrong. Immutable: `on` returns a scenario with one more rule."""

    rules: tuple[ScenarioRule, ...] = ()

    def on(self, kind: str, which: int | range | str, what: str) -> Scenario:
        """Add a rule: `on("status", range(2, 5), "502")`, `on("task", 3, "fail:NSFW_DETECTED")`.

        Raises ConfigurationError for a kind, number or fault that does not exist; the message
        says which ones do.
        """
        if kind not in KINDS:
            kinds = ", ".join(KINDS)
            raise ConfigurationError(f"scenario: unknown kind {kind!r}; allowed: {kinds}")
        name, _, detail = what.partition(":")
        _check_fault(kind, name, detail)
        rule = ScenarioRule(kind, _parse_occurrences(which), name, detail)
        return evolve(self, rules=(*self.rules, rule))

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
                example = "write KIND:WHICH=WHAT, for example status:2-4=502"
                raise ConfigurationError(f"scenario: {line!r} is not a rule; {example}")
            scenario = evolve(scenario, rules=scenario.on(kind, which, what).rules)
        return scenario

    def find(self, numbers: Mapping[str, int]) -> ScenarioRule | None:
        """Return the first rule that matches, or None: `find({"status": 3, "any": 17})`."""
        for rule in self.rules:
            number = numbers.get(rule.kind)
            if number is not None and number in rule.which:
                return rule
        return None


def faults_of(kind: str) -> dict[str, str]:
    """Return the faults that are possible for a kind, each with what happens."""
    table = _TABLES.get(kind, FAULTS)
    left_out = frozenset() if kind in {"file", "any"} else _OF_FILES
    return {fault: text for fault, text in table.items() if fault not in left_out}


def has_value(fault: str) -> bool:
    """Return whether a fault has a value, or may have one: ``429:7``."""
    return fault in _VALUES


def _check_fault(kind: str, name: str, value: str) -> None:
    allowed = faults_of(kind)
    if name not in allowed:
        message = f"{kind} has no fault {name!r}; allowed: {', '.join(allowed)}"
    elif name in _NEEDS_VALUE and not value:
        message = f"{name!r} needs a value: {allowed[name]}"
    elif value and not has_value(name):
        message = f"{name!r} has no value, got {value!r}"
    elif value and not (value.isprintable() and re.fullmatch(_VALUES[name][1], value, re.ASCII)):
        message = f"the value of {name!r} must be {_VALUES[name][0]}, got {value!r}"
    else:
        return
    raise ConfigurationError(f"scenario: {message}")


def _parse_occurrences(which: int | range | str) -> Occurrences:
    if isinstance(which, range):
        found = Occurrences(which.start, which[-1] if which else 0, which.step)
    elif match := _OCCURRENCES.fullmatch(str(which)):
        first, last = match["first"], match["last"]
        if first is None:
            step = int(match["step"] or 1)
            found = Occurrences(step, None, step)
        elif match["dash"]:
            found = Occurrences(int(first), int(last) if last else None)
        else:
            found = Occurrences(int(first), int(first))
    else:
        forms = "3, 2-4, 5-, *5 (every fifth) or * (all)"
        raise ConfigurationError(f"scenario: {which!r} is not a number; write {forms}")
    backwards = found.last is not None and found.last < found.first
    if found.first < 1 or found.step < 1 or backwards:
        raise ConfigurationError(f"scenario: {which!r} is empty; numbers start at 1 and go up")
    return found
